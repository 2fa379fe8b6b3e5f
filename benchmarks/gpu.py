"""The trainings of some studies side by side on one GPU, within a time budget; see gpu.sh.

Trainings come depth first: a method's last stage before another method's second. So few weights
are needed by what is left, and only these are brought back. What an earlier call finished is known
by its configuration and scores, and is not trained again unless it must teach and its weights were
left behind.
"""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from benchmarks import gpu_data
from benchmarks.timing import Row
from cilkit.classes import joined
from cilkit.files import write_atomic
from cilkit.methods import METHODS, SS
from cilkit.results import reference
from cilkit.study import runs
from cilkit.study.machine import trained_images
from cilkit.study.plan import PlannedRun, plan
from cilkit.study.provenance import code_version
from cilkit.study.runs import FILES, SUMS, WEIGHTS, Run
from cilkit.study.study import Study
from cilkit.training.config import differences

PROJECT = Path(__file__).resolve().parent.parent
STUDIES = "camvid:paper:0 toyscapes:long:0 camvid:paper:1 toyscapes:long:1 camvid:paper:2"
TESTS = (
    "tests/test_cuda.py",
    "tests/test_weights.py::test_weights_saved_on_this_gpu_load_on_both_sides",
)
PARTS = "data", "steps", "tests", "train"
SMALL = [name for name in FILES if name != WEIGHTS]  # of a run: what comes back in any case
RESULTS = "scores.csv", "runs.tgz", "steps.json", "log.txt"
MOST_FILES, MOST_BYTES, MOST_TOGETHER = 8, 15.9 * 2**20, 62 * 2**20  # that come back
STEPS_SECONDS = 180  # the figures of steps get at most this
EXPORT_SECONDS = 15  # of the budget, for bringing the results together
OVERHEAD = 20  # seconds of a training that are not in its epochs: imports, decoding, scores
MEMORY_STEPS = 2.4  # steps that one of a method with a memory takes as long as


@dataclass(frozen=True)
class Options:
    """What gpu.sh was asked for, by the environment variables of the same names."""

    work: Path  # data, runs and logs
    out: Path  # results
    budget: float = 660  # seconds from the start to the last result
    side_by_side: int = 4  # trainings at a time
    studies: tuple[str, ...] = tuple(STUDIES.split())  # DATA:PRESET:SEED, in this order
    parts: tuple[str, ...] = PARTS
    resume: Path | None = None  # the results of an earlier call
    camvid: Path | None = None  # the unpacked data set; else the archives in .camvid/ are used
    device: str = "cuda"

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Options":
        """The options in an environment; a ValueError names a part or device that is unknown."""
        kinds = dict.fromkeys(("work", "out", "resume", "camvid"), _path) | {"device": str}
        kinds |= {"budget": float, "side_by_side": int, "studies": _words, "parts": _words}
        chosen = {k: kind(given[k.upper()]) for k, kind in kinds.items() if given.get(k.upper())}
        options = cls(**chosen)
        if wrong := set(options.parts) - set(PARTS) or {options.device} - {"cuda", "cpu"}:
            raise ValueError(
                f"PARTS or DEVICE is {joined(sorted(wrong), ', ')}; wanted PARTS out of "
                f"{' '.join(PARTS)}, and DEVICE=cuda or cpu"
            )
        return options

    @property
    def runs(self) -> Path:
        """Where the runs lie while the machine is there."""
        return self.work / "runs"


def _path(text: str) -> Path:
    return Path(text).resolve()  # the kit would look for it in WORK


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Job:
    """One training of a study: its command, its folder, and whether it is there already."""

    study: Study = field(compare=False, repr=False)
    data: str  # as the command takes it
    run: PlannedRun = field(compare=False, repr=False)
    folder: Path

    @property
    def name(self) -> str:
        return "/".join(self.folder.parts[-4:])

    @property
    def command(self) -> list[str]:
        """The command line that trains it, or loads it if it is there."""
        method = SS.name if self.run.stage.number == 1 else self.run.method.name
        study = self.study
        given = {"DATA": self.data, "RUNS": study.folder.parents[2], "PRESET": study.preset}
        words = [f"{name}={value}" for name, value in (given | {"SEED": study.seed}).items()]
        return [sys.executable, "-m", "cilkit.study", self.run.stage.name, method, *words]

    def found(self) -> Run | None:
        """Its finished run, with or without its weights; None if there is none of today's kit."""
        if not all((self.folder / name).is_file() for name in SMALL):
            return None
        run = _read(self.folder, (self.folder / SUMS).stat().st_mtime_ns)
        return None if differences(run.config, self._wanted) else run

    @cached_property
    def _wanted(self) -> dict:
        """What of a run's configuration is known before its teachers are."""
        files, config = self.study.data.fingerprint(), self.study.settings
        return {"train": config, "files": files, "code": code_version(self.run.method)}

    @property
    def teaches(self) -> bool:
        """Whether it is there as a teacher: with its weights."""
        return runs.is_finished(self.folder)

    @cached_property
    def needs(self) -> list[Path]:
        """The folders of all runs that must be there before it: its teachers, and theirs."""
        return [self.folder.with_name(run.name) for run in _teachers(self.run)]

    @cached_property
    def steps(self) -> float:
        """How long it takes, in steps without a memory."""
        count, config = trained_images(self.study, self.run), self.study.config
        factor = MEMORY_STEPS if self.run.method.memory is not None else 1
        return factor * config.epochs * (count // config.batch)


@cache
def _read(folder: Path, changed: int) -> Run:
    return runs.without_weights(folder)


def _teachers(run: PlannedRun) -> list[PlannedRun]:
    found = {r.name: r for needed in run.needs for r in (*_teachers(needed), needed)}
    return list(found.values())


def jobs_of(name: str, options: Options) -> list[Job]:
    """The trainings of a study DATA:PRESET:SEED, depth first; those that take longest begin."""
    try:
        data, preset, seed = name.rsplit(":", 2)
        number = int(seed)
    except ValueError as error:
        raise ValueError(f"STUDIES has {name!r}; wanted DATA:PRESET:SEED") from error
    if data == "camvid":
        data = str(options.camvid or options.work / "camvid")
    study = Study(data, options.runs, preset, number)
    methods = sorted([*METHODS.values(), SS], key=lambda method: method.memory is None)
    return [Job(study, data, run, study.folder / run.name) for run in plan(study.split, methods)]


def left(jobs: Sequence[Job]) -> list[Job]:
    """What is to be trained, in order: what is not finished, and its teachers without weights."""
    unfinished = [job for job in jobs if job.found() is None]
    needed = {folder for job in unfinished for folder in job.needs}
    again = [job for job in jobs if job.folder in needed and not job.teaches]
    return [job for job in jobs if job in unfinished or job in again]


def still_needed(jobs: Sequence[Job]) -> list[Job]:
    """The finished trainings that what is left needs as teachers; the most urgent come first."""
    wanted = dict.fromkeys(folder for job in left(jobs) for folder in job.needs)
    by_folder = {job.folder: job for job in jobs}
    return [by_folder[folder] for folder in wanted if by_folder[folder].teaches]


def seconds_a_step(jobs: Iterable[Job]) -> dict[str, float]:
    """Of each preset, and of all as "": how long a step took in the trainings that are there."""
    found: dict[str, list[float]] = {}
    for job in jobs:
        if (run := job.found()) is not None:
            for preset in (job.study.preset, ""):
                found.setdefault(preset, []).append(run.history["seconds"].sum() / job.steps)
    return {preset: median(values) for preset, values in found.items()}


def expected(job: Job, rates: Mapping[str, float]) -> float:
    """Seconds that a training will take; 0 if none was timed yet."""
    rate = rates.get(job.study.preset, rates.get(""))
    return 0 if rate is None else OVERHEAD + rate * job.steps


class Log:
    """Prints lines with the seconds since the start, and keeps them in a file."""

    def __init__(self, file: Path):
        self.file, self.started = file, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def __call__(self, line: str) -> None:
        line = f"{self.seconds:6.0f} s  {line}"
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """A process with a group of its own, so that its worker processes end with it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            process_group=0,
        )  # fmt: skip


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """End processes and their groups: politely first."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)
    for process in running:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def train(
    jobs: Sequence[Job], options: Options, log: Log, environment: Mapping[str, str]
) -> set[Job]:
    """Train what is left and fits into the budget, several at a time; returns what failed."""
    deadline = options.budget - EXPORT_SECONDS
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    failed: set[Job] = set()
    waiting, rates, kept_back = left(jobs), seconds_a_step(jobs), set()
    try:
        while log.seconds < deadline:
            for job, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode != 0:
                    failed.add(job)
                    log(f"failed: {job.name}\n{_last_lines(_log_of(job, options))}")
                    continue
                log(f"finished: {job.name}, {log.seconds - began:.0f} s")
                export_scores(jobs, options, log)
                waiting, rates = left(jobs), seconds_a_step(jobs)
            for job in waiting:
                if len(running) == options.side_by_side:
                    break
                if job in running or job in failed or not _may_begin(job, jobs):
                    continue
                if log.seconds + expected(job, rates) > deadline:
                    kept_back.add(job.name)
                    continue
                process = start(job.command, _log_of(job, options), environment)
                running[job] = process, log.seconds
                log(f"begun: {job.name}, {expected(job, rates):.0f} s expected")
            if not running:
                break
            time.sleep(0.2)
    finally:
        stop(process for process, _ in running.values())
        for job in running:
            log(f"stopped: {job.name}")
        if kept_back:
            log(f"would not have ended in time: {len(kept_back)} trainings")
    return failed


def _may_begin(job: Job, jobs: Sequence[Job]) -> bool:
    by_folder = {other.folder: other for other in jobs}
    return all(by_folder[folder].teaches for folder in job.needs)


def _log_of(job: Job, options: Options) -> Path:
    return options.work / "logs" / f"{job.name.replace('/', '-')}.log"


def _last_lines(file: Path, count: int = 15) -> str:
    text = file.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    return "\n".join(text.splitlines()[-count:])


def export_scores(jobs: Sequence[Job], options: Options, log: Log) -> None:
    """Write scores.csv, the rows of all finished seeds, and runs.tgz, all runs without weights."""
    found = {job: run for job in jobs if (run := job.found()) is not None}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for job in found:
            for name in SMALL:
                archive.add(job.folder / name, f"{job.name}/{name}")
    write_atomic(options.out / "runs.tgz", content.getvalue())
    whole = [study for study in _by_seed(jobs) if all(job in found for job in study)]
    rows = []
    for key in dict.fromkeys(_data_and_preset(study) for study in whole):
        seeds = [study for study in whole if _data_and_preset(study) == key]
        try:
            rows.append(reference.rows_of([found[job] for study in seeds for job in study]))
        except ValueError as error:
            log(f"no rows of {' '.join(key)}: {error}")
    if rows:
        write_atomic(options.out / "scores.csv", reference.as_csv(pd.concat(rows)))


def _by_seed(jobs: Sequence[Job]) -> list[list[Job]]:
    folders = dict.fromkeys(job.folder.parent for job in jobs)
    return [[job for job in jobs if job.folder.parent == folder] for folder in folders]


def _data_and_preset(study: Sequence[Job]) -> tuple[str, str]:
    return study[0].study.data.name, study[0].study.preset


def export_weights(jobs: Sequence[Job], options: Options, log: Log) -> None:
    """Bring back the weights that are still needed, in files that are small enough."""
    for old in options.out.glob("weights-*.tar"):
        old.unlink()
    boxes: list[list[tuple[str, bytes]]] = [[] for _ in range(MOST_FILES - len(RESULTS))]
    room = MOST_TOGETHER - sum(
        file.stat().st_size for name in RESULTS if (file := options.out / name).is_file()
    )
    left_out = 0
    for job in still_needed(jobs):
        content = gzip.compress((job.folder / WEIGHTS).read_bytes(), 1)
        box = next((box for box in boxes if _size(box) + _padded(content) <= MOST_BYTES), None)
        if box is None or _padded(content) > room:
            left_out += 1
            continue
        box.append((f"{job.name}/{WEIGHTS}.gz", content))
        room -= _padded(content)
    for number, box in enumerate((box for box in boxes if box), start=1):
        with tarfile.open(options.out / f"weights-{number}.tar", "w") as archive:
            for name, content in box:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    log(f"weights: of {sum(map(len, boxes))} runs; no room for those of {left_out}")


def _size(box: Sequence[tuple[str, bytes]]) -> int:
    return 10240 + sum(_padded(content) for _, content in box)


def _padded(content: bytes) -> int:
    return len(content) + 1024


def resume(folder: Path, options: Options) -> None:
    """Put the runs of an earlier call, and the weights that came with them, where runs lie."""
    found = options.work / "resumed"
    shutil.rmtree(found, ignore_errors=True)
    for file in sorted([*folder.glob("runs.tgz"), *folder.glob("weights-*.tar")]):
        with tarfile.open(file) as archive:
            archive.extractall(found, filter="data")
    for file in sorted(found.rglob(f"{WEIGHTS}.gz")):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    for config in sorted(found.rglob("config.json")):
        target = options.runs / config.parent.relative_to(found)
        if not runs.is_finished(target):
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            config.parent.rename(target)


def bring_data(options: Options, log: Log) -> list[int]:
    """Unpack what came with the script; returns the parts of CamVid that are still to come."""
    if options.resume is not None:
        resume(options.resume, options)
    archives = sorted((PROJECT / ".camvid").glob("*.tar"))
    if options.camvid is not None or not archives:
        return []
    lacking = gpu_data.unpack(archives, options.work / "camvid")
    if lacking:
        log(f"CamVid: parts {joined(list(map(str, lacking)), ' and ')} are still to come")
    return lacking


def measure_steps(options: Options, log: Log, environment: Mapping[str, str]) -> None:
    """Let gpu_steps write its figures; on a CPU of tiny images."""
    figures, said = options.out / "steps.json", options.work / "logs" / "steps.log"
    command = [sys.executable, "-m", "benchmarks.gpu_steps", str(figures)]
    command += [] if options.device == "cuda" else ["2", "16", "32"]
    process = start(command, said, environment)
    try:
        process.wait(min(STEPS_SECONDS, max(1, options.budget - EXPORT_SECONDS - log.seconds)))
    except subprocess.TimeoutExpired:
        log("the figures of steps took too long; those so far are kept")
    finally:
        stop([process])
    if process.returncode != 0:
        log(f"the figures of steps ended early:\n{_last_lines(said)}")
    if figures.is_file():
        rows = [Row(**row) for row in json.loads(figures.read_text())]
        log("\n".join(["steps:", *(": ".join(row.cells()[:2]) for row in rows)]))


def test(options: Options, environment: Mapping[str, str]) -> subprocess.Popen:
    """The tests that need CUDA, beside the trainings."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q"]
    own = {name: value for name, value in environment.items() if name != "CILKIT_HOME"}
    return start([*command, *TESTS], options.work / "logs" / "tests.log", own)


def summary(jobs: Sequence[Job]) -> Iterator[str]:
    """What is finished and what is left, a line a study."""
    rates = seconds_a_step(jobs)
    for study in _by_seed(jobs):
        rest = left(study)
        needed = sum(expected(job, rates) for job in rest)
        names = f"; left, {needed:.0f} s one by one: {', '.join(j.folder.name for j in rest)}"
        done = sum(job.found() is not None for job in study)
        yield f"{study[0].folder.parent}: {done} of {len(study)} finished{names if rest else ''}"


def _exit_once(*_) -> None:
    """End by a signal: another one must not interrupt what is then written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("stopped")


def main() -> None:
    """Do the parts that were asked for, and write what there is at the end in any case."""
    options = Options.read(os.environ)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / "log.txt")
    signal.signal(signal.SIGTERM, _exit_once)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no GPU here; DEVICE=cpu runs everything on the processor, for a test")
    hidden = {} if options.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | hidden
    jobs: list[Job] = []
    tests, failed = None, set()
    try:
        lacking = bring_data(options, log)
        if "train" in options.parts:
            if lacking:
                raise ValueError("CamVid is not whole; bring all parts first, with PARTS=data")
            for name in options.studies:
                jobs += jobs_of(name, options)
            log(f"{len(jobs)} trainings, of which {len(left(jobs))} are left")
        if "steps" in options.parts:
            measure_steps(options, log, environment)
        if "tests" in options.parts:
            tests = test(options, environment)
        if jobs:
            failed = train(jobs, options, log, environment)
        if tests is not None:
            tests.wait(max(1, options.budget - EXPORT_SECONDS - log.seconds))
    except subprocess.TimeoutExpired:
        log("the tests took too long")
    finally:
        if tests is not None:
            stop([tests])
            log(f"tests:\n{_last_lines(options.work / 'logs' / 'tests.log', 40)}")
        if jobs:
            export_scores(jobs, options, log)
            export_weights(jobs, options, log)
            for line in summary(jobs):
                log(line)
    if failed or (tests is not None and tests.returncode != 0):
        sys.exit("a training or a test failed")


if __name__ == "__main__":
    main()
