"""How far a study is, and the time that is left, against recorded studies and a simulated clock."""

import os
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from pathlib import Path

import pytest
from tqdm import tqdm

from cilkit.methods import FIRST_STAGE, METHODS, SS, Method
from cilkit.splits import load_split
from cilkit.study.plan import plan
from cilkit.study.progress import Job, Progress, effort, makespan, read_steps
from cilkit.training.config import get_config

STUDIES = ["quick", "quick", "long"]  # their presets
TRAINED = {  # seconds of the steps of each training, as their histories have them
    "T1": (32.8, 29.7, 118.0),
    "SS_T2": (62.0, 60.8, 246.3),
    "SS_T3": (97.9, 93.2, 379.7),
    "FT_T2": (39.3, 31.8, 148.5),
    "FT_T3": (39.4, 36.4, 185.9),
    "FE_T2": (16.0, 14.7, 90.8),
    "FE_T3": (18.2, 16.4, 108.3),
    "LWOF_T2": (41.3, 35.7, 168.5),
    "LWOF_T3": (41.3, 38.1, 174.1),
    "LWM_teacher_T2": (40.8, 30.0, 119.7),
    "LWM_teacher_T3": (42.4, 30.9, 160.5),
    "LWM_T2": (81.9, 71.7, 318.2),
    "LWM_T3": (81.6, 80.3, 434.3),
    "Michieli_T2": (37.6, 36.9, 207.5),
    "Michieli_T3": (42.5, 39.6, 213.7),
    "CIL_wo_weights_T2": (37.7, 37.1, 156.9),
    "CIL_wo_weights_T3": (42.5, 40.3, 216.3),
    "CIL_T2": (42.9, 38.7, 149.7),
    "CIL_T3": (44.5, 39.3, 181.6),
}
EXECUTED = {  # seconds of a notebook in the first of them, and whose runs it shows
    "00_start_here": (16.1, []),
    "01_split_cityscapes": (10.1, []),
    "02_erfnet": (11.1, [FIRST_STAGE]),
    "03_losses": (9.1, []),
    "04_metrics": (13.1, [FIRST_STAGE]),
    "05_train_t1": (12.1, [SS]),
    "06_ft_fe": (20.1, [METHODS["FT"], METHODS["FE"]]),
    "08_lwm": (21.1, [METHODS["LWM"]]),
    "09_michieli": (12.1, [METHODS["Michieli"]]),
    "10_cil": (12.1, [SS, *METHODS.values()]),
    "12_results": (15.1, [SS, *METHODS.values()]),
}
NOON = 1_800_000_000.0  # the clock of the simulations starts here
ALL = (SS, *METHODS.values())


def jobs_of(folder: Path, preset: str = "quick", methods: tuple[Method, ...] = ALL) -> dict:
    """The jobs of a study in their order: T1, the notebooks, the other trainings."""
    first, *later = plan(load_split(), methods)
    later.sort(key=lambda run: run.stage.number + 10 * (run.method != SS))
    runs = [first, *later]

    def training(run) -> Job:
        needs = [str(folder / needed.name) for needed in run.needs]
        work = effort(run, get_config(preset))
        return Job(run.name, "training", folder / f"{run.name}.txt", needs, work, preset)

    def notebook(name: str, shown: list[Method]) -> Job:
        last = 2 if name in ("06_ft_fe", "08_lwm", "09_michieli") else 3
        of = [run for run in runs if run.method in shown and run.stage.number <= last]
        needs = [str(folder / run.name) for run in of]
        return Job(name, "notebook", folder / f"{name}.ipynb", needs)

    names = {
        name: shown for name, (_, shown) in EXECUTED.items() if {*shown} <= {*methods, FIRST_STAGE}
    }
    in_order = [training(first), *(notebook(*entry) for entry in names.items())]
    in_order += map(training, later)
    return {str(folder / job.name): job for job in in_order}


def write_log(job: Job, seconds: float, whole: float, now: float, total: int = 420) -> None:
    """The log of a training after some of all its seconds: its bar in the beginning, and now."""
    bars = [(0, 0.0), (int(total * seconds / whole), seconds)]
    bars = [tqdm.format_meter(n, total, spent, unit="step", prefix=job.name) for n, spent in bars]
    job.file.write_text("\r" + "\r".join(bars))
    os.utime(job.file, (now, now))


def simulated(progress: Progress, seconds: Callable[[Job], float], start_up: float) -> Iterator:
    """After each job that ends: the trainings done, the time, and the seconds left as told then."""
    jobs, waiting, ended, running = progress.jobs, list(progress.jobs), set(), []
    now = NOON
    while waiting or running:
        for stamp in list(waiting):
            if len(running) < progress.slots and ended.issuperset(jobs[stamp].needs):
                progress.begin(stamp, now)
                waits = start_up if jobs[stamp].kind == "training" else 0
                heappush(running, (now + waits + seconds(jobs[stamp]), stamp))
                waiting.remove(stamp)
        for _, stamp in running:
            trained = min(running)[0] - progress.begun[stamp] - start_up
            if jobs[stamp].kind == "training" and trained > 0:
                write_log(jobs[stamp], trained, seconds(jobs[stamp]), min(running)[0])
        now, stamp = heappop(running)
        ended.add(stamp)
        progress.end(stamp, now)
        yield progress.count("training")[0], now, progress.seconds_left(now)


def told(progress: Progress, seconds: Callable[[Job], float], start_up: float) -> dict[int, float]:
    """By the number of trainings done, what was told to be left, in shares of what was left."""
    *steps, (_, end, _) = simulated(progress, seconds, start_up)
    return {done: left / (end - now) for done, now, left in reversed(steps) if left is not None}


@pytest.mark.parametrize("start_up", [0.0, 6.0, 30.0])
@pytest.mark.parametrize("study", range(len(STUDIES)), ids=["quick 0", "quick 4", "long 0"])
@pytest.mark.parametrize("slots", [1, 2])
def test_from_the_third_training_on_the_time_left_of_a_recorded_study_is_right_to_30_percent(
    tmp_path, study, start_up, slots
):
    def seconds(job: Job) -> float:
        return EXECUTED[job.name][0] if job.kind == "notebook" else TRAINED[job.name][study]

    progress = Progress(jobs_of(tmp_path, STUDIES[study]), slots)
    shares = told(progress, seconds, start_up)
    with_trainings_left = {done: share for done, share in shares.items() if 3 <= done < 19}
    assert len(with_trainings_left) > 8
    assert {k: share for k, share in with_trainings_left.items() if not 0.7 < share < 1.3} == {}
    assert progress.is_over and progress.seconds_left(NOON) == 0


@pytest.mark.parametrize("methods", [["CIL"], ["LWM"], ["SS", "FE"], ["FT", "CIL"]])
def test_a_chain_of_few_trainings_does_not_become_faster_by_a_second_slot(tmp_path, methods):
    chosen = tuple({SS.name: SS, **METHODS}[name] for name in methods)
    progress = Progress(jobs_of(tmp_path, "quick", chosen), slots=2)
    shares = told(progress, lambda job: TRAINED.get(job.name, [15.0])[0], 6.0)
    assert all(0.7 < share < 1.3 for share in shares.values())


def test_trainings_of_another_preset_are_told_from_their_own_where_one_was_measured(tmp_path):
    quick, paper = ("quick", 1.0), ("paper", 4.0)
    jobs = {
        f"{k} {preset}": Job("T1", "training", tmp_path / f"{k}{preset}", (), effort, preset)
        for preset, effort in (quick, paper)
        for k in range(2)
    }
    progress, taken = Progress(jobs), {"0 quick": 100.0, "0 paper": 1000.0}
    for stamp, seconds in taken.items():
        progress.begin(stamp, NOON)
        write_log(jobs[stamp], seconds, seconds, NOON + seconds)
        progress.end(stamp, NOON + seconds)
        if stamp == "0 quick":  # in the pace of the other preset: all that is known
            assert progress.seconds_left(NOON) == 100 + 400 + 400
    assert progress.seconds_left(NOON) == 100 + 1000


def test_nothing_is_told_before_a_training_was_measured(tmp_path):
    jobs = jobs_of(tmp_path)
    progress = Progress(jobs)
    first, notebook = str(tmp_path / "T1"), str(tmp_path / "00_start_here")
    assert progress.seconds_left(NOON) is None
    progress.begin(notebook, NOON)
    progress.end(notebook, NOON + 10)
    progress.begin(first, NOON)
    assert progress.seconds_left(NOON + 10) is None
    write_log(jobs[first], 10, 40, NOON + 15)
    assert progress.seconds_left(NOON + 15) > 30


def test_the_steps_are_those_of_the_last_bar_that_a_training_wrote(tmp_path):
    log = tmp_path / "T1.txt"
    assert read_steps(log) is None
    log.write_text("T1 was trained with other code: training again.\n")
    assert read_steps(log) is None
    with log.open("w") as file:  # the bar of the training loop; another one comes before it
        for _ in tqdm(range(3), desc="T1: images", unit="image", file=file):
            pass
        with tqdm(
            total=420, initial=40, desc="LWM T2", unit="step", mininterval=0, file=file
        ) as bar:
            bar.update(100)
            bar.set_postfix({"ce": "0.123"})
            bar.start_t -= 3700  # as if it had begun an hour ago
            bar.update(70)
        file.write("data/runs/LWM_T2\ntask1   94.2\n")
    steps = read_steps(log)
    assert (steps.done, steps.total, steps.before) == (210, 420, 40)
    assert 3700 <= steps.seconds < 3800 and steps.share == 170 / 420
    os.utime(log, (NOON, NOON))
    assert read_steps(log, NOON) is not None and read_steps(log, NOON + 1) is None


def test_a_long_log_is_read_at_its_ends(tmp_path):
    log = tmp_path / "T1.txt"
    bars = [
        tqdm.format_meter(n, 10_000, 10 + n / 10, prefix="T1", unit="step")
        for n in range(400, 9000)
    ]
    log.write_text("\r".join(bars))
    steps = read_steps(log)
    assert (steps.before, steps.done, steps.seconds) == (400, 8999, 909)


def test_a_run_that_was_only_loaded_is_no_measure(tmp_path):
    progress = Progress(jobs_of(tmp_path))
    first = str(tmp_path / "T1")
    progress.begin(first, NOON)
    progress.jobs[first].file.write_text("data/runs/T1\n")
    progress.end(first, NOON + 4)
    assert not progress.steps and progress.count("training") == (1, 19)
    assert progress.seconds_left(NOON + 4) == pytest.approx(4 * 29)  # 18 trainings, 11 notebooks


def test_what_is_done_already_counts_and_takes_no_time(tmp_path):
    jobs = jobs_of(tmp_path)
    before = ["T1", "SS_T2", "FT_T2", "01_split_cityscapes", "02_erfnet"]
    for name in before:
        (tmp_path / name).touch()
    progress = Progress(jobs)
    progress.expect({"training": 16, "notebook": 9})
    assert progress.count("training") == (3, 19) and progress.count("notebook") == (2, 11)
    assert progress.executed() == tmp_path / "01_split_cityscapes.ipynb"
    assert not progress.to_do & {str(tmp_path / name) for name in before}
    # all again, as a source changed
    progress.expect({"training": 19, "notebook": 11})
    assert progress.count("training") == (0, 19) and progress.executed() is None
    # a few that were asked for: others are not counted
    for name in before:
        (tmp_path / name).unlink()
    progress.expect({"training": 1, "notebook": 1})
    for name in ("T1", "02_erfnet"):
        progress.begin(str(tmp_path / name), NOON)
        progress.end(str(tmp_path / name), NOON + 9)
    assert progress.count("training") == progress.count("notebook") == (1, 1)
    assert progress.is_over


def test_what_needs_a_failed_training_is_not_waited_for(tmp_path):
    jobs = jobs_of(tmp_path, methods=(METHODS["FT"],))
    progress = Progress(jobs)
    for name in (
        "T1",
        *(name for name, (_, shown) in EXECUTED.items() if FIRST_STAGE in shown or not shown),
    ):
        progress.begin(str(tmp_path / name), NOON)
        progress.end(str(tmp_path / name), NOON + 9)
    assert progress.seconds_left(NOON) == 18
    progress.begin(str(tmp_path / "FT_T2"), NOON)
    progress.fail(str(tmp_path / "FT_T2"))
    assert progress.seconds_left(NOON) == 0 and not progress.is_over


def test_the_effort_of_a_training_follows_from_what_its_method_does():
    of = {run.name: effort(run, get_config("quick")) for run in plan(load_split())}
    assert of["SS_T3"] == 3 * of["T1"] and of["SS_T2"] == 2 * of["T1"] == 2 * of["FT_T3"]
    assert of["FE_T2"] == of["FT_T2"] / 2 and of["LWM_T2"] == 2 * of["CIL_T2"]
    assert of["CIL_T2"] == of["LWOF_T2"] > of["FT_T2"]
    longer = effort(plan(load_split())[0], get_config("long"))
    assert longer / of["T1"] == get_config("long").epochs / get_config("quick").epochs


@pytest.mark.parametrize(
    ("slots", "failed", "wanted"),
    [(1, [], 16), (2, [], 11), (3, [], 11), (9, [], 11), (2, ["x"], 11), (1, ["late"], 10)],
)
def test_jobs_begin_in_their_order_as_soon_as_they_can(slots, failed, wanted):
    rest = {"a": 5.0, "b": 1.0, "after a": 4.0, "after both": 2.0, "late": 3.0, "last": 1.0}
    needs = {name: [] for name in rest} | {
        "after a": ["a", "done before"],
        "after both": ["a", "b"],
        "late": ["after both"],
        "last": ["late"],
    }
    if "late" in failed:
        rest = {name: rest[name] for name in ("a", "b", "after a", "last")}
    assert makespan(rest, needs, slots, failed) == wanted


def test_a_large_batch_is_told_at_once():
    rest = {str(k): 1.0 for k in range(5000)}
    needs = {name: [str(k) for k in range(max(0, int(name) - 20), int(name))] for name in rest}
    assert makespan(rest, needs, 4) == 5000
