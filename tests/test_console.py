"""The line of `make study`: drawn in its place on a terminal, elsewhere printed for each job."""

import io
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("snakemake_interface_logger_plugins", reason="snakemake is not installed")

from snakemake_interface_logger_plugins.common import LogEvent

from cilkit.study import console, job
from cilkit.study.progress import Job, Progress

COUNTS = {"data": 1, "train": 2, "notebook": 2, "results": 1, "all": 1, "total": 7}
KINDS = {
    "data": "data",
    "T1": "training",
    "00_start_here": "notebook",
    "02_erfnet": "notebook",
    "SS_T2": "training",
    "12_results": "notebook",
}
RULES = {"data": "data", "training": "train", "notebook": "notebook"}
PATH = os.path.join("done", "00_start_here.ipynb")


class Stream(io.StringIO):
    """What was written to a terminal, or to a file."""

    def __init__(self, is_terminal: bool):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def lines(self) -> list[str]:
        """The lines that a terminal shows: what follows a carriage return is written over them."""
        shown = []
        for written in self.getvalue().split("\n"):
            line = ""
            for text in written.split("\r"):
                line = text + line[len(text) :]
            shown.append(line.rstrip())
        return shown


class Study:
    """A handler, and the records that Snakemake would send it."""

    def __init__(self, folder: Path, stream: Stream):
        self.folder, self.stream = folder / "done", stream
        self.folder.mkdir()
        self.handler = console.LogHandler(SimpleNamespace(stdout=True), None)

    def tell(self, event=None, text: str = "", level: int = logging.INFO, **facts) -> None:
        record = logging.LogRecord("snakemake", level, "", 0, text, (), None)
        vars(record).update(facts if event is None else facts | {"event": event})
        self.handler.handle(record)

    def start(self, **counts: int) -> None:
        jobs = {
            str(self.folder / name): Job(f"{name} (toys)", kind, self.folder / f"{name}.ipynb")
            for name, kind in KINDS.items()
        }
        self.tell(text="Building DAG of jobs...")
        self.tell(LogEvent.RESOURCES_INFO, cores=8)
        self.tell(LogEvent.RUN_INFO, "Job stats:", stats=COUNTS | counts)
        self.tell(progress=Progress(jobs))

    def begin(self, *names: str, threads: int = 4) -> None:
        for name in names:
            facts = {"jobid": list(KINDS).index(name), "threads": threads}
            output = [str(self.folder / name)]
            self.tell(LogEvent.JOB_INFO, rule_name=RULES[KINDS[name]], output=output, **facts)

    def end(self, *names: str) -> None:
        for name in names:
            self.tell(LogEvent.JOB_FINISHED, job_id=list(KINDS).index(name))
            self.tell(LogEvent.PROGRESS, done=1, total=7)


@pytest.fixture
def make_study(tmp_path, monkeypatch):
    """make_study(is_terminal) is a study whose stream is one; only the test draws its line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(console, "EVERY", 1e6)
    monkeypatch.setattr(console, "time", SimpleNamespace(time=lambda: 1e9))  # it stands still

    def make_study(is_terminal: bool) -> Study:
        monkeypatch.setattr(sys, "stdout", Stream(is_terminal))
        return Study(tmp_path, sys.stdout)

    return make_study


def test_off_a_terminal_each_job_that_ends_is_one_line_and_nothing_else_is_printed(make_study):
    study = make_study(False)
    study.start()
    study.begin(*KINDS)
    assert study.stream.getvalue() == ""
    study.end(*KINDS)
    study.handler.close()
    told, soon, look = "time left: not known yet", "about 1 s left", f"look at {PATH}"
    assert study.stream.getvalue().splitlines() == [
        f"data (toys) is done | trainings 0 of 2 | notebooks 0 of 3 | {told}",
        f"T1 (toys) is done | trainings 1 of 2 | notebooks 0 of 3 | {soon}",
        *(
            f"{name} (toys) is done | trainings 1 of 2 | notebooks {k} of 3 | {soon} | {look}"
            for k, name in enumerate(["00_start_here", "02_erfnet"], start=1)
        ),
        f"SS_T2 (toys) is done | trainings 2 of 2 | notebooks 2 of 3 | {soon} | {look}",
        "trainings 2 of 2 | notebooks 3 of 3 | took 1 s",
    ]


def test_on_a_terminal_the_line_is_drawn_in_its_place_and_stays_when_all_is_done(make_study):
    study = make_study(True)
    study.start()
    study.begin("data", "T1", "02_erfnet", "00_start_here", "SS_T2", "12_results")
    study.handler._draw()
    assert study.stream.lines() == [
        "trainings 0 of 2 | notebooks 0 of 3 | time left: not known yet"
    ]
    study.end("data", "T1")
    study.handler._draw()
    shown = "trainings 1 of 2 | notebooks 0 of 3 | about 1 s left"
    assert study.stream.lines() == [shown]  # nothing is left of the longer line
    study.end("02_erfnet", "00_start_here")
    study.handler._draw()
    (first, line) = study.stream.lines()
    assert first == f"Executed, and can be opened: {os.path.join('done', '02_erfnet.ipynb')}"
    assert line == f"trainings 1 of 2 | notebooks 2 of 3 | about 1 s left | look at {PATH}"
    job.say("SS_T2 (toys) was stopped")
    study.handler._draw()
    assert study.stream.lines() == [first, "SS_T2 (toys) was stopped", line]
    study.end("SS_T2", "12_results")
    print("the tables")
    study.handler.close()
    end = "trainings 2 of 2 | notebooks 3 of 3 | took 1 s"
    assert study.stream.lines() == [first, "SS_T2 (toys) was stopped", end, "the tables", ""]


@pytest.mark.parametrize("columns", [20, 60, 80, 100])
def test_a_narrow_terminal_shows_the_end_of_the_path(make_study, monkeypatch, columns):
    study = make_study(True)
    monkeypatch.setenv("COLUMNS", str(columns))
    study.start()
    study.begin("T1", "00_start_here")
    study.end("T1", "00_start_here")
    study.handler._draw()
    drawn = study.stream.getvalue().rpartition("\n")[2].strip("\r")
    assert len(drawn) == columns - 1
    whole = f"trainings 1 of 2 | notebooks 1 of 3 | about 1 s left | look at {PATH}"
    if columns > len(whole):
        assert drawn.rstrip() == whole
    elif columns > 70:
        assert "look at ..." in drawn and drawn.endswith("_here.ipynb")
    else:
        assert whole.startswith(drawn)


def test_a_study_that_is_done_shows_no_line(make_study):
    for is_terminal in (False, True):
        study = make_study(is_terminal)
        study.start(data=0, train=0, notebook=0, results=0)
        study.handler.close()
        assert study.stream.getvalue() == ""
        study.folder.rmdir()


def test_jobs_done_in_an_earlier_call_are_counted(make_study):
    study = make_study(False)
    for name in ("data", "T1", "00_start_here"):
        (study.folder / name).touch()
    study.start(data=0, train=1, notebook=1)
    study.begin("SS_T2")
    study.end("SS_T2")
    assert "| trainings 2 of 2 | notebooks 1 of 3 |" in study.stream.getvalue()
    assert study.stream.getvalue().endswith(f"| look at {PATH}\n")


def test_a_job_that_failed_is_counted_and_the_end_says_how_to_go_on(make_study):
    study = make_study(True)
    study.start()
    study.begin("T1", "SS_T2")
    study.end("T1")
    text = 'RuleException:\nCalledProcessError in file "Snakefile", line 3'  # its job says it
    study.tell(LogEvent.ERROR, text, logging.ERROR, exception="RuleException")
    study.tell(LogEvent.JOB_ERROR, "Error in rule train", logging.ERROR, jobid=4)
    study.tell(text="Exiting because a job execution failed.", level=logging.ERROR)
    study.handler.close()
    study.handler.close()  # as Snakemake does
    assert study.stream.lines() == [
        "Exiting because a job execution failed.",
        "trainings 1 of 2 (1 did not finish) | notebooks 0 of 3 | make study goes on from here",
        "",
    ]


def test_warnings_and_errors_of_snakemake_stay(make_study):
    study = make_study(False)
    study.tell(text="Select jobs to execute...")
    study.tell(text="an old profile", level=logging.WARNING)
    study.tell(LogEvent.ERROR, "no rule to make that", logging.ERROR, exception="MissingRule")
    assert study.stream.getvalue() == "an old profile\nno rule to make that\n"


def test_as_many_jobs_run_side_by_side_as_there_are_cores_for(make_study):
    study = make_study(False)
    study.start()
    study.begin("data", threads=1)
    assert study.handler.progress.slots == 1
    study.begin("T1", threads=3)
    assert study.handler.progress.slots == 2


def test_a_record_that_is_not_understood_ends_no_study(make_study, monkeypatch):
    study = make_study(False)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    study.tell(LogEvent.RUN_INFO)  # without its numbers
    study.start()
    assert study.handler.progress is not None
