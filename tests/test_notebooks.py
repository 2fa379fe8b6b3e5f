"""Every notebook, executed by papermill on a few toy scenes; then what it left behind is read."""

import json
import os
from pathlib import Path

import nbformat
import pandas as pd
import papermill as pm
import pytest

from cilkit.classes import load_split
from cilkit.methods import METHODS
from cilkit.runs import load
from cilkit.study import Study

pytestmark = pytest.mark.xdist_group("notebooks")  # they share their runs

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
T2_SETS, T3_SETS = ["task1", "task2", "task12"], ["task1", "task2", "task12", "task3", "task123"]
TABLES = ["scores", "table_II", "table_III", "claims", "forgetting", "between_tasks"]
FIGURES = ["figure_4", "claim_margins", "iou_by_class", "confusion"]
LEAVES = {  # the runs that a notebook must have made or found
    "00_start_here": [],
    "01_split_cityscapes": [],
    "02_erfnet": ["T1"],
    "03_losses": [],
    "04_metrics": ["T1"],
    "05_train_t1": ["T1", "SS_T2", "SS_T3"],
    "06_ft_fe": ["T1", "FT_T2", "FT_T3", "FE_T2", "FE_T3"],
    "07_lwof": ["LWOF_T2", "LWOF_T3"],
    "08_lwm": ["LWM_T2", "LWM_T3", "LWM_teacher_T2", "LWM_teacher_T3"],
    "09_michieli": ["Michieli_T2", "Michieli_T3"],
    "10_cil": ["CIL_T2", "CIL_T3", "CIL_wo_weights_T2", "CIL_wo_weights_T3"],
    "11_entropy_weights": ["CIL_T3", "CIL_wo_weights_T3", "LWOF_T2"],
    "12_results": [],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def every_run(toys, runs) -> None:
    """All runs of the tables, those that no notebook has made yet as well."""
    study = Study(toys, runs, "smoke")
    for method in ("SS", *METHODS):
        for stage in ("T2", "T3"):
            study.run(stage, method)


def run(notebook: str, data: Path, runs: Path, out: Path) -> nbformat.NotebookNode:
    path = NOTEBOOKS / f"{notebook}.ipynb"
    parameters = {"DATA": str(data), "RUNS": str(runs), "PRESET": "smoke", "SEED": 0}
    missing = parameters.keys() - pm.inspect_notebook(path).keys()
    assert not missing, f"parameters cell of {path.name} lacks {', '.join(sorted(missing))}"
    here = Path.cwd()
    os.chdir(out)  # a notebook must not care where it is started
    try:
        return pm.execute_notebook(
            path, out / path.name, parameters, kernel_name="python3", progress_bar=False
        )
    finally:
        os.chdir(here)


def test_every_notebook_is_tested():
    assert sorted(LEAVES) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", LEAVES)
def test_notebook(notebook, toys, runs, tmp_path, request):
    if notebook == "12_results":  # it trains nothing
        request.getfixturevalue("every_run")
    executed = run(notebook, toys, runs, tmp_path)
    errors = [
        output.get("text", "")
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr" and "Warning" in output.get("text", "")
    ]
    assert not errors, errors
    folder = runs / "toys" / "smoke" / "seed0"
    for name in LEAVES[notebook]:
        scores = json.loads((folder / name / "scores.json").read_text())
        stage = load_split("cityscapes").stage(name[-2:])
        sets = {"T1": ["task1"], "T2": T2_SETS, "T3": T3_SETS}[stage.name]
        learned = stage.seen
        if "teacher" in name:  # it knows the new classes alone
            sets, learned = [f"task{stage.number}"], stage.new
        assert list(scores["miou"]) == sets
        assert all(0 <= value <= 100 for value in scores["miou"].values())
        assert len(scores["confusion"][sets[-1]]) == learned.stop - learned.start
    if notebook == "12_results":
        results = folder / "results"
        assert {f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "tex")} | {
            f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")
        } == {file.name for file in results.iterdir()}
        table = pd.read_csv(results / "table_III.csv", header=[0, 1], index_col=[0, 1])
        assert table["Task 1"].notna().all(axis=None)  # no method is missing
        assert set(pd.read_csv(results / "claims.csv")["verdict"]) <= {"holds", "does not hold"}


def test_a_notebook_trains_what_a_program_trains_to_the_last_bit(toys, tmp_path):
    run("02_erfnet", toys, tmp_path / "papermill", tmp_path)
    mine = Study(toys, tmp_path / "here", "smoke").run("T1")
    other = load(tmp_path / "papermill" / mine.folder.relative_to(tmp_path / "here"))
    assert mine.digest() == other.digest() and mine.scores == other.scores
    assert mine.config == other.config
    histories = [found.history.drop(columns="seconds") for found in (mine, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
