"""The package without its clone: built as a wheel, installed elsewhere, and used from there."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import nbformat
import papermill as pm
import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # one build serves all

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("cilkit", "pyproject.toml", "README.md", "LICENSE")  # what a wheel is made from
USE = """
import contextlib, sys
from functools import partial
from unittest.mock import patch
import cilkit
from cilkit.data.scenes import open_data
from cilkit.data.store import cache_folder
from cilkit.results.__main__ import main
from cilkit.splits import load_split
from cilkit.toyscapes.write import write_toyscapes

small = partial(write_toyscapes, fraction=1000, size=(64, 128))
with patch("cilkit.data.scenes.write_toyscapes", small), contextlib.redirect_stdout(sys.stderr):
    drawn = open_data("toyscapes")
print(cilkit.__file__, load_split().name, load_split("camvid").name, sep="\\n")
print(drawn.root, cache_folder(), sep="\\n")
for name in ("nowhere", "."):
    try:
        open_data(name)
    except FileNotFoundError as error:
        print(error)
main("data/runs")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that nothing is written into the project."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", built]
        command += ["--no-build-isolation"] * bool(find_spec("setuptools"))
    elif uv := shutil.which("uv"):  # which makes environments without pip
        command = [uv, "build", "--wheel", "--out-dir", built]
    else:
        pytest.skip("neither pip nor uv is there to build a wheel")
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the package in it, and nothing else."""
    target = tmp_path_factory.mktemp("target")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def environment(installed) -> dict[str, str]:
    """The variables of somebody who has installed it so."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CILKIT")}
    return own | {"PYTHONPATH": str(installed)}


@pytest.fixture(scope="module")
def data(write_cityscapes, tmp_path_factory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("wheel") / "tinyscapes", images=3)


def python(*arguments: str, cwd: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(data, environment, tmp_path_factory) -> Path:
    """A folder in which a T1 was trained."""
    folder = tmp_path_factory.mktemp("project")
    said = python(
        *("-m", "cilkit.study", "T1", "SS", "PRESET=smoke", f"DATA={data}"),
        cwd=folder,
        environment=environment,
    )
    assert said.splitlines()[-2].startswith(str(folder)) and "task1" in said
    return folder


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (file for file in (ROOT / "cilkit").rglob("*") if file.is_file())
    wanted = {file.relative_to(ROOT).as_posix() for file in files if file.suffix != ".pyc"}
    assert names == wanted
    assert {"cilkit/resources/paper_tables.csv", "cilkit/resources/splits/camvid.toml"} <= names


def test_a_run_of_the_installed_package_lies_under_the_current_folder(project):
    run = project / "data" / "runs" / "tinyscapes" / "smoke" / "seed0" / "T1"
    assert list(json.loads((run / "scores.json").read_text())["miou"]) == ["task1"]
    assert [entry.name for entry in project.iterdir() if entry.name != "notebook.ipynb"] == ["data"]


def test_split_files_published_tables_and_drawn_scenes_need_no_clone(
    installed, environment, project
):
    said = python("-c", USE, cwd=project, environment=environment).splitlines()
    assert said[:3] == [str(installed / "cilkit" / "__init__.py"), "cityscapes", "camvid"]
    assert said[3:5] == [str(project / "data" / name) for name in ("toyscapes", "cache")]
    assert (project / "data" / "toyscapes" / "gtFine" / "val").is_dir()
    for error in said[5:7]:
        assert "data/README.md in the repository of cilkit" in error
    assert any(re.search(r"\bCIL\b.* 57\.\d", line) for line in said[7:]), said


def test_a_folder_may_be_named_for_all_that_the_kit_writes(environment, tmp_path):
    code = "from cilkit.files import resolve; print(resolve('data/runs'))"
    for name, place in (("", tmp_path), ("home", tmp_path / "home")):
        said = python("-c", code, cwd=tmp_path, environment=environment | {"CILKIT_HOME": name})
        assert said.strip() == str(place / "data" / "runs")


def test_a_notebook_runs_with_the_installed_package(
    project, data, installed, environment, monkeypatch
):
    content = nbformat.read(ROOT / "notebooks" / "04_metrics.ipynb", as_version=4)
    content.cells.append(nbformat.v4.new_code_cell("import cilkit\nprint(cilkit.__file__)"))
    nbformat.write(content, project / "notebook.ipynb")
    before = {file: file.stat().st_mtime_ns for file in (project / "data").rglob("*.*")}
    for name in {*os.environ} - {*environment}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    executed = pm.execute_notebook(
        project / "notebook.ipynb",
        project / "notebook.ipynb",
        {"DATA": str(data), "RUNS": "data/runs", "PRESET": "smoke", "SEED": 0},
        cwd=project,
        kernel_name="python3",
        progress_bar=False,
    )
    used = executed.cells[-1].outputs[0].text.strip()
    assert used == str(installed / "cilkit" / "__init__.py")
    after = {file: file.stat().st_mtime_ns for file in (project / "data").rglob("*.*")}
    assert after == before  # it loaded the run that was there


def test_only_one_text_says_where_the_guide_to_the_data_lies():
    for file in (ROOT / "cilkit").rglob("*.py"):
        lines = [line for line in file.read_text().splitlines() if "data/README.md" in line]
        told = [line for line in lines if '"' in line or "'" in line]
        assert not told or file.name == "files.py", f"{file.name}: write cilkit.files.GUIDE: {told}"
