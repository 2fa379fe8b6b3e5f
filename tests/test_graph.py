"""The Snakefile: what is done is not done again, and a change redoes what depends on it."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {f"notebook_{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}

TRAININGS = ["T1", "SS_T2", "SS_T3", "FT", "CIL_wo_weights", "CIL"]
EVERYTHING = NOTEBOOKS | {"data"} | {f"train_{job}" for job in TRAININGS}


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what the graph is made of."""
    for name in ("cilkit", "notebooks", "data/splits"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tmp_path)
    return tmp_path


def planned(project: Path, *config: str) -> set[str]:
    """The jobs that a dry run announces."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--nolock"]
    done = subprocess.run(
        [*command, "--config", *config],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE)) - {"all"}


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


def test_a_fresh_clone_does_everything_and_a_finished_one_nothing(project):
    assert planned(project) == EVERYTHING
    finish(project)
    assert planned(project) == set()
    assert planned(project, "SEED=1") == EVERYTHING


def test_a_changed_notebook_redoes_itself_and_the_tables(project):
    finish(project)
    change(project / "notebooks" / "10_cil.ipynb")
    assert planned(project) == {"notebook_10_cil", "notebook_12_results"}


def test_a_changed_source_redoes_what_is_made_with_it(project):
    finish(project)
    change(project / "cilkit" / "losses.py")
    assert planned(project) == EVERYTHING
