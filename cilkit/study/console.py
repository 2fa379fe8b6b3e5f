"""What `make study` shows of a study: one line, by Snakemake's interface for logger plugins.

    python -m cilkit.study.batch --profile data/profiles/local --logger study --config SEED=1

On a terminal the line is drawn again and again in its place. Elsewhere (a file, CI) it is printed
once for each job that is done. Of what Snakemake says itself, warnings and errors stay; a job that
fails says so itself (`cilkit.study.job`).
"""

import logging
import shutil
import sys
import threading
import time

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from cilkit.study.job import empty_line, short_path
from cilkit.study.progress import Kind, Progress, in_words

RULES: dict[str, Kind] = {  # of the Snakefile, and what they make
    "data": "data",
    "train": "training",
    "notebook": "notebook",
    "results": "notebook",
}
EVERY = 1.0  # seconds from one drawing to the next


class LogHandler(LogHandlerBase):
    """Follows the jobs by the records of Snakemake, and shows how far they are.

    The Snakefile hands over the jobs in a record of its own, with a `Progress` as its attribute
    `progress`.
    """

    def __post_init__(self) -> None:
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.on_terminal = self.stream.isatty()
        self.progress: Progress | None = None  # while there is a line to show
        self.counts, self.cores = {}, 1
        self.stamps: dict[int, str] = {}  # of the jobs that have begun, by Snakemake's number
        self.started, self.closed = time.time(), threading.Event()
        if self.on_terminal:
            threading.Thread(target=self._keep_drawing, daemon=True).start()

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True  # all records come, also those of which the profile wants no text

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Take what a record says of the jobs, or print it if it is a warning or an error."""
        try:
            self._take(record)
        except Exception:  # a study does not end by what is shown of it
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        event, now = getattr(record, "event", None), time.time()
        if hasattr(record, "progress"):
            record.progress.expect(self.counts)
            self.progress = None if record.progress.is_over else record.progress
        elif event == LogEvent.RUN_INFO:
            self.counts = dict.fromkeys(RULES.values(), 0)
            for rule, kind in RULES.items():
                self.counts[kind] += record.stats.get(rule, 0)
        elif event == LogEvent.RESOURCES_INFO:
            self.cores = getattr(record, "cores", self.cores)
        elif event == LogEvent.JOB_INFO:
            stamp = self.stamps[record.jobid] = (record.output or [""])[0]
            if self.progress is not None:
                self.progress.begin(stamp, now)
                if record.rule_name in ("train", "notebook"):
                    self.progress.slots = max(1, self.cores // record.threads)
        elif event == LogEvent.JOB_FINISHED:
            if self.progress is not None:
                self._end(self.stamps.get(record.job_id, ""), now)
        elif event == LogEvent.JOB_ERROR:
            if self.progress is not None:
                self.progress.fail(self.stamps.get(record.jobid, ""))
        elif record.levelno >= logging.WARNING and "CalledProcessError" not in record.getMessage():
            self._print(self.format(record))

    def close(self) -> None:
        """In place of the line, how far a study came that was stopped or failed."""
        with self.lock:
            if self.progress is not None and not self.closed.is_set():
                self._print(f"{counts_of(self.progress)} | make study goes on from here")
            self.closed.set()
        super().close()

    def _end(self, stamp: str, now: float) -> None:
        """A job is done: a line of its own where none is drawn, and for the first notebook."""
        progress = self.progress
        if stamp not in progress.jobs:
            return
        looked = progress.executed()
        progress.end(stamp, now)
        if progress.is_over:
            self.progress = None  # the tables come now
            self._print(f"{counts_of(progress)} | took {in_words(now - self.started)}")
        elif not self.on_terminal:
            self._print(f"{progress.jobs[stamp].name} is done | {self._line(now)}")
        elif looked is None and (file := progress.executed()) is not None:
            self._print(f"Executed, and can be opened: {short_path(file)}")

    def _line(self, now: float, width: int | None = None) -> str:
        """How far the study is; a path that is too long for the width loses its beginning."""
        progress = self.progress
        seconds = progress.seconds_left(now)
        left = "time left: not known yet" if seconds is None else f"about {in_words(seconds)} left"
        line, file = f"{counts_of(progress)} | {left}", progress.executed()
        if file is None:
            return line
        line, path = f"{line} | look at ", short_path(file)
        if width is not None and len(line + path) > width:
            path = f"...{path[len(line + path) + 3 - width :]}"
        return line + path

    def _keep_drawing(self) -> None:
        while not self.closed.wait(EVERY):
            with self.lock:
                if self.progress is not None and not self.closed.is_set():
                    self._draw()

    def _draw(self) -> None:
        """Draw the line, and leave the cursor at its start: what is printed next stands there."""
        width = shutil.get_terminal_size().columns - 1
        self.stream.write(f"\r{self._line(time.time(), width)[:width]:<{width}}\r")
        self.stream.flush()

    def _print(self, text: str) -> None:
        self.stream.write(f"{empty_line(self.stream)}{text}\n")
        self.stream.flush()


def counts_of(progress: Progress) -> str:
    """The jobs that are done and all of them: "trainings 5 of 19 | notebooks 7 of 14"."""
    parts = []
    for kind in ("training", "notebook"):
        done, planned = progress.count(kind)
        failed = sum(progress.jobs[stamp].kind == kind for stamp in progress.failed)
        parts.append(
            f"{kind}s {done} of {planned}" + (f" ({failed} did not finish)" if failed else "")
        )
    return " | ".join(parts)
