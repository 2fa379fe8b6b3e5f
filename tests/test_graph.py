"""The Snakefile: what is done is not done again, and a change redoes what depends on it."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cilkit.methods import METHODS

pytestmark = pytest.mark.xdist_group("graph")  # one dry run serves two tests

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {f"notebook_{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}

TRAININGS = ["T1", "SS_T2", "SS_T3", "FT", "FE", "LWOF", "LWM_teacher_T2", "LWM_teacher_T3", "LWM"]
TRAININGS += ["Michieli", "CIL_wo_weights", "CIL"]
EVERYTHING = NOTEBOOKS | {"data"} | {f"train_{job}" for job in TRAININGS}


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what the graph is made of."""
    return copied(tmp_path)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> dict[str, str]:
    """The jobs of a fresh clone, with their commands."""
    return planned(copied(tmp_path_factory.mktemp("fresh")))


def copied(folder: Path) -> Path:
    for name in ("cilkit", "notebooks", "data/splits"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


def planned(project: Path, *config: str) -> dict[str, str]:
    """The jobs that a dry run announces, with their commands."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "-p", "--cores", "2", "--nolock"]
    done = subprocess.run(
        [*command, "--config", *config],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = re.split(r"^(?:local)?rule (\w+):", done.stdout, flags=re.MULTILINE)
    jobs = dict(zip(parts[1::2], parts[2::2], strict=True))
    jobs.pop("all", None)
    return {
        name: re.search("^Shell command: (.*)$", job, re.MULTILINE)[1] for name, job in jobs.items()
    }


def finish(project: Path) -> None:
    """Leave the stamps of all jobs, as if they had been done now."""
    done = project / "data" / "runs" / "toyscapes" / "quick" / "seed0" / "done"
    done.mkdir(parents=True)
    now = time.time()
    notebooks = [name.removeprefix("notebook_") for name in NOTEBOOKS]
    for name in ["data", *TRAININGS, *notebooks]:
        (done / name).touch()
        os.utime(done / name, (now, now))


def change(file: Path) -> None:
    """Write to a file, a minute from now: Snakemake compares whole seconds."""
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    later = time.time() + 60
    os.utime(file, (later, later))


def test_a_fresh_clone_does_everything_and_a_finished_one_nothing(project, fresh):
    assert fresh.keys() == EVERYTHING
    finish(project)
    assert planned(project).keys() == set()
    assert planned(project, "SEED=1").keys() == EVERYTHING


def test_the_trainings_make_every_run_of_the_tables(fresh):
    """In stage T3, a method brings its run in T2 with it."""
    asked = set()
    for job in TRAININGS:
        *_, code = shlex.split(fresh[f"train_{job}"])
        (call,) = re.findall(r"^from cilkit import Study; Study\(.*, 'quick', 0\)\.(.*)$", code)
        name, arguments = re.fullmatch(r"(\w+)(\(.*\))", call).groups()
        arguments = ast.literal_eval(arguments)
        asked.add((name, *([arguments] if isinstance(arguments, str) else arguments)))
    methods = {("run", "T3", method) for method in METHODS}
    teachers = {("new_teacher", stage) for stage in ("T2", "T3")}
    assert asked == methods | teachers | {("run", stage) for stage in ("T1", "T2", "T3")}


def test_a_changed_notebook_redoes_itself_alone(project):
    finish(project)
    change(project / "notebooks" / "10_cil.ipynb")
    assert planned(project).keys() == {"notebook_10_cil"}


def test_a_training_done_again_redoes_what_waits_for_it(project):
    finish(project)
    change(project / "data" / "runs" / "toyscapes" / "quick" / "seed0" / "done" / "LWM_teacher_T3")
    waiting = {"08_lwm", "09_michieli", "10_cil", "12_results"}
    assert planned(project).keys() == {"train_LWM"} | {f"notebook_{name}" for name in waiting}


def test_a_changed_source_redoes_what_is_made_with_it(project):
    finish(project)
    change(project / "cilkit" / "losses.py")
    assert planned(project).keys() == EVERYTHING


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("SEEED=3", "unknown parameter 'SEEED' (did you mean 'SEED'?); choose one of: DATA, RUNS"),
        ("SEED=7.5", "SEED is 7.5; wanted a whole number from 0"),
        ("SEED=seven", "SEED is 'seven'; wanted a whole number from 0"),
        ("PRESET=smok", "unknown preset 'smok' (did you mean 'smoke'?); choose one of: smoke"),
    ],
)
def test_a_parameter_that_is_wrong_is_refused_before_any_job(project, given, message):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", "--config", given]
    here = {"cwd": project, "env": os.environ | {"PYTHONPATH": str(project)}}
    done = subprocess.run(command, capture_output=True, text=True, **here)
    assert done.returncode != 0 and message in done.stdout + done.stderr
    assert not (project / "data" / "runs").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_refuses_a_variable_that_it_does_not_know(project):
    shutil.copy(ROOT / "Makefile", project)

    def plan(*given: str) -> subprocess.CompletedProcess:
        command = ["make", "--dry-run", "lab", *given]
        return subprocess.run(command, cwd=project, capture_output=True, text=True)

    refused = plan("SED=1", "PRESET=smoke")
    assert refused.returncode != 0
    assert (
        "unknown variable SED; choose from DATA PRESET SEED RUNS FIGURES PYTHON" in refused.stderr
    )
    (project / ".venv").mkdir()
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, project)
    assert plan("SEED=1", "RUNS=my runs").returncode == 0
