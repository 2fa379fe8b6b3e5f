"""The notebooks on splits of one's own: any number of stages, of any name.

Their cells are run in this process: a kernel for each would take longer than all their trainings.
`test_notebooks.py` runs them as papermill does.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from cilkit.classes import Split
from cilkit.methods import METHODS, SS
from cilkit.results.scores import methods_of
from cilkit.results.tables import missing_runs, one_seed
from cilkit.study import runs
from cilkit.study.plan import plan

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ALL = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SPLITS = {  # the names of the stages, the images of each (LWM keeps 20), and the notebooks
    "two": (["A", "B"], 20, ALL[5:]),
    "three": (["base", "signs", "people"], 4, ["06_ft_fe", "11_entropy_weights"]),
    "five": (["A", "B", "C", "D", "E"], 4, ["05_train_t1", "07_lwof", "12_results"]),
    "twelve": ([f"S{k}" for k in range(1, 13)], 4, ["05_train_t1", "12_results"]),
}


@pytest.fixture
def write_own(tmp_path, write_split, write_cityscapes):
    """write_own(["A", "B"], 20) is a data folder with a split of these stages, and the split."""

    def write_own(stages: list[str], images: int) -> tuple[Path, Split]:
        folder = tmp_path / "own"
        split = write_split(folder, *stages)
        return write_cityscapes(folder, images, split), split

    return write_own


def cells(notebook: str, **parameters: object) -> Iterator[ast.Module]:
    """The code cells of a notebook, with other parameters."""
    content = nbformat.read(FOLDER / f"{notebook}.ipynb", as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            given = "parameters" in cell.metadata.get("tags", [])
            values = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
            yield ast.parse(values if given else cell.source)


def run(notebook: str, data: Path, folder: Path) -> None:
    """Run the cells of a notebook, and make a page of each table that one shows."""
    names = {"__name__": notebook}
    for cell in cells(notebook, DATA=str(data), RUNS=str(folder), PRESET="smoke", SEED=0):
        shown = cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, notebook, "exec"), names)
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), notebook, "eval"), names)
            if hasattr(value, "to_html"):
                value.to_html()


@pytest.mark.parametrize("name", SPLITS)
def test_the_notebooks_run_on_a_split_of_ones_own_and_make_all_its_runs(name, write_own, tmp_path):
    stages, images, notebooks = SPLITS[name]
    data, split = write_own(stages, images)
    for notebook in notebooks:
        run(notebook, data, tmp_path / "runs")
    found = runs.find(tmp_path / "runs")
    made = {run.folder.name for run in found}
    maker = {one.name: runs.NOTEBOOKS[one.method.name] for one in plan(split)}
    promised = {
        one.name
        for one in plan(split)
        if maker[one.name] in notebooks
        and (one.stage.number <= 2 or maker[one.name] not in runs.SECOND_STAGE)
    }
    assert made >= promised
    assert methods_of(found) == [SS.name, *METHODS]
    *missing, last = missing_runs(found)
    assert [last] == one_seed(found)
    assert not [line for line in missing if line.endswith(tuple(notebooks))]
    if notebooks == ALL[5:]:
        assert made == {planned.name for planned in plan(split)} and not missing


@pytest.mark.parametrize("notebook", ALL[2:])
def test_a_notebook_that_needs_two_stages_says_so_before_it_trains(notebook, write_own, tmp_path):
    data, _ = write_own(["A"], 1)
    with pytest.raises(AssertionError, match="needs a split with two stages or more"):
        run(notebook, data, tmp_path / "runs")
    assert not runs.find(tmp_path / "runs")


def test_without_runs_on_another_split_the_results_say_what_to_run_first(write_own, tmp_path):
    data, _ = write_own(["A", "B"], 1)
    with pytest.raises(AssertionError, match="no run in .*run 05 to 10 first, or make study"):
        run("12_results", data, tmp_path / "runs")
