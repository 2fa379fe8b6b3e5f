"""What benchmarks/gpu.sh does within its budget, here on a CPU and with tiny images."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from forked import PROCESSES
from PIL import Image

from benchmarks import gpu, gpu_data, gpu_steps, steps
from benchmarks.gpu import Options
from cilkit.methods import METHODS
from cilkit.results import reference, report
from cilkit.study import __main__ as one_run
from cilkit.study import runs
from cilkit.training.config import PRESETS, TrainConfig

ROOT = Path(__file__).resolve().parent.parent
TINY = 2, 16, 32


@pytest.fixture
def options(tmp_path, toys) -> Options:
    """Smoke on a few toy scenes, with one seed."""
    out = tmp_path / "out"
    out.mkdir()
    return Options(tmp_path / "work", out, studies=(f"{toys}:smoke:0",), device="cpu")


@pytest.fixture
def log(options) -> gpu.Log:
    return gpu.Log(options.out / "log.txt")


@pytest.fixture
def jobs(options) -> list[gpu.Job]:
    return gpu.jobs_of(options.studies[0], options)


def finish(job: gpu.Job, weights: bytes | None = b"weights", seconds: float = 1.0, **changes):
    """Write the files of a run as if it had been trained."""
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job._wanted | changes
    contents = {
        "config.json": json.dumps(config).encode(),
        "history.csv": f"epoch,seconds\n1,{seconds}\n".encode(),
        "scores.json": json.dumps({"miou": {"task1": 50.0}}).encode(),
    }
    if weights is not None:
        contents[runs.WEIGHTS] = weights
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
    for name, content in contents.items():
        (job.folder / name).write_bytes(content)
    (job.folder / runs.SUMS).write_text("\n".join(sums) + "\n")


def names(jobs) -> list[str]:
    return [job.folder.name for job in jobs]


# the plan


def test_a_method_reaches_its_last_stage_before_another_one_begins(jobs):
    order = names(jobs)
    assert len(order) == 19 and order[0] == "T1"
    assert order[1:5] == ["LWM_teacher_T2", "LWM_T2", "LWM_teacher_T3", "LWM_T3"]  # the longest
    rest = order[5:]
    assert [name[:-3] for name in rest[::2]] == [name[:-3] for name in rest[1::2]]
    assert all(name.endswith("_T2") for name in rest[::2])


def test_a_training_begins_when_the_weights_of_all_its_teachers_are_there(jobs):
    def may_begin():
        return {job.folder.name for job in gpu.left(jobs) if gpu._may_begin(job, jobs)}

    by_name = dict(zip(names(jobs), jobs, strict=True))
    without_teacher = {"LWM_teacher_T2", "LWM_teacher_T3", "SS_T2", "SS_T3"}
    assert may_begin() == {"T1", *without_teacher}
    finish(by_name["T1"])
    second = {f"{name[:-3]}_T2" for name in by_name if name.endswith("_T2")}
    assert may_begin() == second - {"LWM_T2"} | without_teacher
    finish(by_name["CIL_T2"])
    finish(by_name["LWM_teacher_T2"])
    assert may_begin() >= {"CIL_T3", "LWM_T2"}


def test_what_is_finished_is_trained_again_only_to_teach(jobs):
    for job in jobs:
        finish(job, weights=None)
    assert gpu.left(jobs) == []
    by_name = dict(zip(names(jobs), jobs, strict=True))
    (by_name["CIL_T3"].folder / "scores.json").unlink()
    assert names(gpu.left(jobs)) == ["T1", "CIL_T2", "CIL_T3"]
    finish(by_name["T1"])
    assert names(gpu.left(jobs)) == ["CIL_T2", "CIL_T3"]
    assert gpu._may_begin(by_name["CIL_T2"], jobs)


@pytest.mark.parametrize("change", ["train", "files", "code"])
def test_a_run_of_other_settings_data_or_code_is_not_finished(jobs, change):
    finish(jobs[0])
    assert jobs[0].found() is not None
    time.sleep(0.01)  # for another time of change
    finish(jobs[0], **{change: {"shared": "other"}})
    assert jobs[0].found() is None and jobs[0] in gpu.left(jobs)


def test_only_weights_that_are_still_needed_come_back_and_the_most_urgent_first(jobs):
    for job in jobs:
        finish(job)
    assert gpu.still_needed(jobs) == []
    by_name = dict(zip(names(jobs), jobs, strict=True))
    for name in ("CIL_T3", "LWM_T3"):
        (by_name[name].folder / "scores.json").unlink()
    wanted = ["T1", "LWM_teacher_T2", "LWM_T2", "LWM_teacher_T3", "CIL_T2"]
    assert names(gpu.still_needed(jobs)) == wanted


def test_weights_fill_few_files_and_those_without_room_are_left_out(
    jobs, options, log, monkeypatch
):
    rng = np.random.default_rng(0)
    for job in jobs[:5]:
        finish(job, rng.bytes(100_000))
    (jobs[4].folder / "scores.json").unlink()
    monkeypatch.setattr(gpu, "MOST_BYTES", 220_000)  # two runs in a file
    gpu.export_weights(jobs, options, log)
    files = sorted(file.name for file in options.out.glob("weights-*"))
    assert files == ["weights-1.tar", "weights-2.tar"]
    assert all(file.stat().st_size <= 220_000 for file in options.out.glob("weights-*"))
    assert "of 4 runs; no room for those of 0" in (options.out / "log.txt").read_text()
    monkeypatch.setattr(gpu, "MOST_TOGETHER", 220_000)
    gpu.export_weights(jobs, options, log)
    assert [file.name for file in options.out.glob("weights-*")] == ["weights-1.tar"]
    assert "of 2 runs; no room for those of 2" in (options.out / "log.txt").read_text()


def test_a_longer_training_is_expected_to_take_longer(jobs):
    assert gpu.expected(jobs[1], {}) == 0  # nothing was timed yet
    by_name = dict(zip(names(jobs), jobs, strict=True))
    finish(by_name["T1"], seconds=3 * by_name["T1"].steps)
    rates = gpu.seconds_a_step(jobs)
    assert rates == pytest.approx({"smoke": 3, "": 3})
    assert by_name["LWM_T2"].steps == pytest.approx(gpu.MEMORY_STEPS * by_name["CIL_T2"].steps)
    assert by_name["SS_T3"].steps > 2.5 * by_name["CIL_T3"].steps
    longer = gpu.expected(by_name["CIL_T2"], rates)
    assert longer == pytest.approx(gpu.OVERHEAD + 3 * by_name["CIL_T2"].steps)
    assert gpu.expected(by_name["CIL_T2"], {"": 3}) == longer  # of another preset


def test_no_training_begins_that_would_not_end_in_time(jobs, options, log, monkeypatch):
    monkeypatch.setattr(gpu, "start", lambda *_: pytest.fail("it begins"))
    finish(jobs[0], seconds=1000 * jobs[0].steps)
    gpu.train(jobs, options, log, os.environ)
    assert "would not have ended in time: 10 trainings" in (options.out / "log.txt").read_text()


def test_a_training_that_fails_is_told_and_not_begun_again(jobs, options, log, monkeypatch):
    monkeypatch.setattr(gpu.Job, "command", [sys.executable, "-c", "raise SystemExit('broken')"])
    failed = gpu.train(jobs, options, log, os.environ)
    assert set(names(failed)) == {
        "T1", "LWM_teacher_T2", "LWM_teacher_T3", "SS_T2", "SS_T3",
    }  # fmt: skip
    assert (options.out / "log.txt").read_text().count("broken") == 5


def test_a_process_is_ended_with_those_that_it_started(tmp_path):
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); "
    process = gpu.start([sys.executable, "-c", f"{code}time.sleep(60)"], tmp_path / "a", os.environ)
    deadline = time.monotonic() + 20
    while not (text := (tmp_path / "a").read_text()).endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.05)
    gpu.stop([process])
    assert process.returncode == -signal.SIGTERM
    status = Path(f"/proc/{int(text)}/stat")
    while status.exists() and status.read_text().split()[2] != "Z":  # nobody waits for it
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PARTS": "train sleep"}, "PARTS or DEVICE is sleep; wanted PARTS out of data"),
        ({"DEVICE": "tpu"}, "PARTS or DEVICE is tpu"),
    ],
)
def test_unknown_options_are_refused(tmp_path, given, message):
    given = {"WORK": str(tmp_path), "OUT": str(tmp_path), "RESUME": "", "BUDGET": "9"} | given
    with pytest.raises(ValueError, match=message):
        Options.read(given)
    read = Options.read(given | {"PARTS": "", "DEVICE": ""})
    assert (read.resume, read.budget, read.parts) == (None, 9, gpu.PARTS)


def test_a_study_is_named_by_data_preset_and_seed(options):
    for name in ("toyscapes:quick", "toyscapes:quick:first"):
        with pytest.raises(ValueError, match="wanted DATA:PRESET:SEED"):
            gpu.jobs_of(name, options)


# from beginning to end


class Forked:
    """Stands for a process that `gpu.start` starts, without its seconds of imports."""

    def __init__(self, command, log, *_):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = PROCESSES.Process(target=_train, args=(command[3:], log, PRESETS["smoke"]))
        self.process.start()
        self.pid = self.process.pid
        while self.process.is_alive() and os.getpgid(self.pid) != self.pid:
            time.sleep(0.01)  # it leads its group first, as a process of `gpu.start` does at once

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        self.process.join(0)
        return self.process.exitcode

    def wait(self, timeout=None) -> None:
        self.process.join(timeout)


def _train(given, log: Path, smoke: TrainConfig) -> None:
    os.setpgrp()
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    PRESETS["smoke"] = smoke
    one_run.main(*given)


@pytest.fixture
def call(options, tiny, monkeypatch):
    """call(work, resume, stop_after) runs the script; a signal ends it after some trainings."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(PRESETS, "smoke", tiny)
    monkeypatch.setattr(gpu, "start", Forked)

    def run(work: str, resume: Path | None = None, stop_after: int = 99) -> list[str]:
        said, ended = [], []
        out = options.out.with_name(f"out-{work}")
        given = {"WORK": str(options.work / work), "OUT": str(out), "SIDE_BY_SIDE": "2"}
        given |= {"DEVICE": "cpu", "PARTS": "data train", "STUDIES": options.studies[0]}
        given |= {"CAMVID": str(options.work)}  # no archives
        given |= {} if resume is None else {"RESUME": str(resume)}
        for name, value in given.items():
            monkeypatch.setenv(name, value)

        def note(self, line):
            said.append(line)
            ended.extend(re.findall("finished: .*/(.*),", line))
            running = sum(line.startswith("begun: ") for line in said) - len(ended)
            if len(ended) == stop_after and running:  # two may end at once: then the next begins
                signal.raise_signal(signal.SIGTERM)  # in this thread: nothing more is done first

        with monkeypatch.context() as patch:
            patch.setattr(gpu.Log, "__call__", note)
            if stop_after == 99:
                gpu.main()
            else:
                with pytest.raises(SystemExit):
                    gpu.main()
        return said

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_study_that_was_interrupted_goes_on_elsewhere_and_its_scores_are_recorded(
    call, options, tmp_path, monkeypatch
):
    first = call("first", stop_after=7)
    brought = options.out.with_name("out-first")
    done = {name for line in first for name in re.findall("finished: .*/(.*),", line)}
    begun = {name for line in first for name in re.findall("begun: .*/(.*),", line)}
    stopped = {name for line in first for name in re.findall("stopped: .*/(.*)", line)}
    assert len(done) == 7 and stopped and stopped == begun - done
    files = sorted(file.name for file in brought.iterdir())
    assert "scores.csv" not in files and {"runs.tgz", "weights-1.tar"} <= set(files)
    assert all(file.stat().st_size < 16 * 2**20 for file in brought.iterdir())

    second = call("second", resume=brought)
    again = [name for line in second for name in re.findall("finished: .*/(.*),", line)]
    assert len(again) == 12 and not done & set(again)
    (brought,) = [file.parent for file in tmp_path.rglob("scores.csv")]
    assert sorted(file.name for file in brought.iterdir()) == ["runs.tgz", "scores.csv"]
    with tarfile.open(brought / "runs.tgz") as archive:
        assert len(archive.getnames()) == 19 * len(gpu.SMALL)

    page, file = tmp_path / "RESULTS.md", tmp_path / "reference_scores.csv"
    page.write_text("")
    file.write_text(",".join(reference.COLUMNS) + "\n")
    monkeypatch.setattr(reference, "FILE", file)
    monkeypatch.setattr(report, "PAGE", page)
    report.main(str(brought / "scores.csv"))
    assert reference.measured() == [("toys", "smoke")]
    assert set(METHODS) < set(pd.read_csv(file)["method"])


def test_what_an_earlier_call_brought_back_replaces_no_weights(jobs, options, log):
    for job in jobs[:3]:
        finish(job, b"old")
    (jobs[4].folder).mkdir()
    gpu.export_scores(jobs, options, log)
    gpu.export_weights(jobs, options, log)
    elsewhere = replace(options, work=options.work.with_name("elsewhere"))
    there = gpu.jobs_of(options.studies[0], elsewhere)
    finish(there[0], b"new")
    finish(there[1], None)
    gpu.resume(options.out, elsewhere)
    found = [(job.folder / runs.WEIGHTS).read_bytes() for job in there[:3]]
    assert found == [b"new", b"old", b"old"]
    assert all(job.found() is not None and job.teaches for job in there[:3])


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_the_script_unpacks_and_writes_a_log(tmp_path):
    given = {
        "DEVICE": "cpu",
        "PARTS": "data",
        "WORK": str(tmp_path / "w"),
        "PYTHON": sys.executable,
    }
    given |= {"CAMVID": str(tmp_path)}  # no archives
    own = {name: value for name, value in os.environ.items() if name not in ("OUT", "RESUME")}
    done = subprocess.run(
        ["bash", ROOT / "benchmarks" / "gpu.sh"], env=own | given, cwd=tmp_path,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w" / "out").is_dir()


# CamVid in archives


@pytest.mark.parametrize("quality", [None, 92])
def test_camvid_comes_out_of_its_archives_as_it_went_in(camvid_folder, tmp_path, quality):
    archives = gpu_data.pack(camvid_folder, tmp_path / "packed", quality, most=30_000)
    assert len(archives) > 1 and all(file.stat().st_size <= 30_000 for file in archives)
    last = list(range(2, len(archives) + 1))
    assert gpu_data.unpack(archives[:1], tmp_path / "camvid") == last
    assert gpu_data.unpack(archives[1:], tmp_path / "camvid") == []
    files = sorted(file.relative_to(camvid_folder) for file in camvid_folder.rglob("*.png"))
    assert files == sorted(
        file.relative_to(tmp_path / "camvid") for file in (tmp_path / "camvid").rglob("*.png")
    )
    for file in files:
        before, after = (np.array(Image.open(root / file)).astype(int)
                         for root in (camvid_folder, tmp_path / "camvid"))  # fmt: skip
        is_exact = quality is None or "annot" in str(file)
        assert np.abs(before - after).max() == 0 if is_exact else np.abs(before - after).mean() < 20


def test_archives_that_are_missing_or_foreign_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no archive of CamVid: python -m benchmarks.gpu_data"):
        gpu_data.unpack([], tmp_path / "camvid")
    with pytest.raises(ValueError, match="is no archive of benchmarks.gpu_data"):
        gpu_data.unpack([tmp_path / "other.tar"], tmp_path / "camvid")
    with pytest.raises(ValueError, match="holds '../a.png'; wanted train/NAME.webp"):
        gpu_data._write(tmp_path, "../a.png", b"")


# steps a second


def time_one_step(method, stage, shape, repeats, **way):
    return steps.time_step(method, stage, shape, 1, **way)


def test_steps_are_measured_and_what_needs_cuda_is_left_out_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "SECONDS", 0.01)
    monkeypatch.setattr(gpu_steps, "WORKERS_ON_CUDA", 2)
    monkeypatch.setattr(gpu_steps, "time_step", time_one_step)
    monkeypatch.setattr(gpu_steps, "side_by_side", lambda *_: gpu_steps.Row("together", 1))
    gpu_steps.main(str(tmp_path / "steps.json"), *map(str, TINY))
    rows = json.loads((tmp_path / "steps.json").read_text())
    measured = [row["name"] for row in rows if not row["skipped"]]
    assert (
        "bare step, bf16, channels_last" in measured
        and "bare step, float32, contiguous" in measured
    )
    assert any(name.startswith("LWM T3 step of the kit") for name in measured)
    assert all(row["value"] > 0 for row in rows if not row["skipped"])
    if not torch.cuda.is_available():
        reasons = {row["name"]: row["skipped"] for row in rows if row["skipped"]}
        assert set(reasons.values()) == {"it needs CUDA"}
        assert "bare step, bf16, channels_last, CUDA graph" in reasons


def test_processes_share_a_device(monkeypatch):
    monkeypatch.setattr(gpu_steps.multiprocessing, "get_context", lambda _: PROCESSES)
    row = gpu_steps.side_by_side(2, TINY)
    assert row.value > 0 and row.name.startswith("bare steps of 2 processes together")
