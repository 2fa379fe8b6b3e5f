"""How far a study is: which of its jobs are done, and the time that is left.

The time follows from what jobs of this study have taken so far on this machine: a training from
the steps in its log, also while it runs. Trainings that have not begun are told from those by
their effort.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Literal

from cilkit.study.plan import PlannedRun
from cilkit.training.config import TrainConfig

Kind = Literal["data", "training", "notebook"]

ENDS = 10_000  # bytes at each end of a log in which a bar is looked for
BAR = re.compile(r"^(.+?): +\d+%\|.*?\| (\d+)/(\d+) \[((?:\d+:)?\d+:\d+)<.*step", re.MULTILINE)
# what trainings of the preset quick took on a CPU, beside fine-tuning
TEACHER = 0.2  # the forward pass of a teacher
FROZEN = 0.5  # a step without the backward pass of the encoder


@dataclass(frozen=True)
class Job:
    """A job of a study. It is done when its stamp is there.

    name    as the console shows it, such as "CIL_T2 (toyscapes, quick, seed 0)"
    kind    what it makes
    file    the log of a training, the executed notebook, or the log of the data
    needs   the stamps of the jobs before it
    effort  of a training, as `effort` has it
    alike   trainings of one data set and preset have the same text here
    """

    name: str
    kind: Kind
    file: Path
    needs: Sequence[str] = ()
    effort: float = 0.0
    alike: str = ""


def effort(run: PlannedRun, config: TrainConfig) -> float:
    """The work of a training, in pixels: those of all its crops, weighted by passes over them.

    All stages count as equally large, as the paper's nearly are.
    """
    method = run.method
    images = run.stage.number if method.images == "all" else 1
    passes = FROZEN if method.freeze_encoder else 1.0
    passes += TEACHER if method.teacher else 0.0
    if method.memory is not None:
        passes *= 2  # a batch holds as many replayed images
    height, width = config.augmentation.crop
    return images * passes * config.epochs * height * width


@dataclass(frozen=True)
class Steps:
    """What the bar of a training shows: steps until now, and of them those that it began with."""

    done: int
    total: int
    before: int
    seconds: float

    @property
    def share(self) -> float:
        """The share of all steps that were done in these seconds."""
        return (self.done - self.before) / self.total


def read_steps(log: Path, since: float = 0.0) -> Steps | None:
    """The steps of a training by the last bar of its log; None if it has none.

    A log that was last written before `since`, in seconds since the epoch, is of an earlier try.
    """
    try:
        if log.stat().st_mtime < since:
            return None
        with log.open("rb") as file:
            first = file.read(ENDS)
            file.seek(max(0, log.stat().st_size - ENDS))
            last = file.read()
    except OSError:
        return None
    bars = [
        BAR.findall(part.decode(errors="replace").replace("\r", "\n")) for part in (first, last)
    ]
    if not bars[1]:
        return None
    name, done, total, clock = bars[1][-1]
    before = next((int(bar[1]) for bar in bars[0] if bar[0] == name), 0)
    return Steps(int(done), int(total), before, _seconds(clock)) if int(total) else None


def _seconds(clock: str) -> int:
    """Seconds of a time such as 01:30 or 1:01:30."""
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds


class Progress:
    """The jobs of a study, in the order in which they take their turn, and how far they are.

        jobs   all of them by stamp
        slots  how many of them run side by side

    `expect` says how many are to be done now; `begin`, `end` and `fail` follow them by stamp, at
    times in seconds.
    """

    def __init__(self, jobs: Mapping[str, Job], slots: int = 1):
        self.jobs, self.slots = dict(jobs), slots
        self.to_do = set(self.jobs)
        self.begun: dict[str, float] = {}
        self.taken: dict[str, float] = {}  # seconds of each job that has ended now
        self.failed: set[str] = set()
        self.steps: dict[str, Steps] = {}  # of trainings that have ended now

    def expect(self, counts: Mapping[Kind, int]) -> None:
        """Of each kind so many jobs are to be done: those without a stamp first."""
        self.to_do = set()
        for kind, count in counts.items():
            of_kind = [stamp for stamp, job in self.jobs.items() if job.kind == kind]
            of_kind.sort(key=lambda stamp: Path(stamp).exists())
            self.to_do.update(of_kind[:count])

    def begin(self, stamp: str, now: float) -> None:
        """A job begins; if it was not expected, another one was that will not come."""
        if stamp not in self.jobs:
            return
        if stamp not in self.to_do:
            kind = self.jobs[stamp].kind
            others = [one for one in self._waiting() if self.jobs[one].kind == kind]
            self.to_do.difference_update(others[-1:])
            self.to_do.add(stamp)
        self.begun[stamp] = now

    def end(self, stamp: str, now: float) -> None:
        """A job is done."""
        if stamp in self.begun:
            self.taken[stamp] = now - self.begun[stamp]
            if (steps := self._steps(stamp)) is not None:
                self.steps[stamp] = steps

    def fail(self, stamp: str) -> None:
        """A job failed; those that need it will not begin."""
        if stamp in self.jobs:
            self.failed.add(stamp)

    def count(self, kind: Kind) -> tuple[int, int]:
        """How many jobs of a kind are done, and how many there are, with those done earlier."""
        of_kind = [stamp for stamp, job in self.jobs.items() if job.kind == kind]
        earlier = [stamp for stamp in of_kind if stamp not in self.to_do and Path(stamp).exists()]
        now = [stamp for stamp in of_kind if stamp in self.to_do]
        return len(earlier) + len(self.taken.keys() & set(now)), len(earlier) + len(now)

    @property
    def is_over(self) -> bool:
        """Whether all jobs are done."""
        return self.to_do <= self.taken.keys()

    def executed(self) -> Path | None:
        """The first notebook that is executed, in their order; None if there is none yet."""
        for stamp, job in self.jobs.items():
            there = stamp in self.taken or (stamp not in self.to_do and Path(stamp).exists())
            if job.kind == "notebook" and there:
                return job.file
        return None

    def seconds_left(self, now: float) -> float | None:
        """The seconds until all that can be done is done; None before a training was measured."""
        running = {stamp: self._steps(stamp) for stamp in self._running()}
        ended = {one: self.steps.get(one) for one in self.taken if self._is_training(one)}
        measured = {one: steps for one, steps in (ended | running).items() if steps is not None}
        left = [*running, *self._waiting()]
        pace = self._paces(measured)
        if not pace and not ended and any(map(self._is_training, left)):
            return None
        walls = self.taken | {one: now - self.begun[one] for one in running if one in measured}
        start_up = _mean(
            [
                wall - (measured[one].seconds if one in measured else 0)
                for one, wall in walls.items()
                if self._is_training(one)
            ]
        )
        others = [wall for one, wall in self.taken.items() if not self._is_training(one)]
        other = _mean(others) if others else start_up
        rest = {}
        for stamp in left:
            steps = measured.get(stamp)
            if steps is not None and steps.seconds and steps.share:
                rest[stamp] = steps.seconds / steps.share * (1 - steps.done / steps.total)
                continue
            job = self.jobs[stamp]
            work = job.effort * pace.get(job.alike, pace.get(None, 0.0))
            whole = start_up + work if job.kind == "training" else other
            rest[stamp] = max(0.0, whole - (now - self.begun.get(stamp, now)))
        return makespan(rest, {one: self.jobs[one].needs for one in rest}, self.slots, self.failed)

    def _paces(self, measured: Mapping[str, Steps]) -> dict[str | None, float]:
        """Seconds for a unit of effort: by what is alike, and of all together (None)."""
        seconds, work = Counter(), Counter()
        for stamp, steps in measured.items():
            for group in (self.jobs[stamp].alike, None):
                seconds[group] += steps.seconds
                work[group] += self.jobs[stamp].effort * steps.share
        return {group: seconds[group] / work[group] for group in work if seconds[group]}

    def _is_training(self, stamp: str) -> bool:
        return self.jobs[stamp].kind == "training"

    def _steps(self, stamp: str) -> Steps | None:
        if not self._is_training(stamp):
            return None
        return read_steps(self.jobs[stamp].file, self.begun[stamp])

    def _running(self) -> list[str]:
        over = self.taken.keys() | self.failed
        return [stamp for stamp in self.jobs if stamp in self.begun and stamp not in over]

    def _waiting(self) -> list[str]:
        return [one for one in self.jobs if one in self.to_do and one not in self.begun]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def makespan(
    rest: Mapping[str, float],
    needs: Mapping[str, Sequence[str]],
    slots: int,
    failed: Collection[str] = (),
) -> float:
    """When the last of some jobs ends, if each begins as soon as it can, in the order given.

    rest: seconds of each job; it waits for those that it needs, and for one of the slots. What
    needs a failed one never begins.
    """
    order = {job: place for place, job in enumerate(rest)}
    missing = {job: sum(one in rest or one in failed for one in needs[job]) for job in rest}
    followers = {job: [] for job in rest}
    for job in rest:
        for one in rest.keys() & set(needs[job]):
            followers[one].append(job)
    ready, running, now = [(order[job], job) for job in rest if not missing[job]], [], 0.0
    while ready or running:
        while ready and len(running) < slots:
            _, job = heappop(ready)
            heappush(running, (now + rest[job], order[job], job))
        now, _, job = heappop(running)
        for follower in followers[job]:
            missing[follower] -= 1
            if not missing[follower]:
                heappush(ready, (order[follower], follower))
    return now


def in_words(seconds: float) -> str:
    """A time to wait, roughly: "40 s", "12 min", "3 h", "5 days"."""
    if seconds != seconds:
        return "too few images for a batch"
    for size, unit, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds / size < most:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{round(seconds / 86400)} days"
