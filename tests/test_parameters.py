"""What stands on a command line, read before anything is done with it."""

from types import SimpleNamespace

import IPython
import nbformat
import papermill as pm
import pytest

from cilkit.study.parameters import check_injected, parse, several


def test_a_list_is_its_items_and_whole_numbers_are_numbers():
    assert several("SEEDS", "0, 1,12") == [0, 1, 12]
    assert several("SEEDS", 3) == [3]
    assert several("METHODS", "CIL (w/o weights),CIL") == ["CIL (w/o weights)", "CIL"]
    assert several("DATA", "toyscapes,../my data") == ["toyscapes", "../my data"]
    assert several("SEEDS", "-1,1.5") == ["-1", "1.5"]  # for check_seed to refuse


@pytest.mark.parametrize("given", ["", ",", "0,", ",0", "0,,1", "0, ,1"])
def test_a_list_with_nothing_between_two_commas_is_refused(given):
    with pytest.raises(ValueError, match="with an empty item; wanted SEEDS=a,b"):
        several("SEEDS", given)


@pytest.mark.parametrize("given", ["1,0,1", "1,01", "1, 1"])
def test_a_list_with_an_item_there_twice_is_refused(given):
    with pytest.raises(ValueError, match="with 1 in it twice; give it once"):
        several("SEEDS", given)


def test_parameters_are_read_as_make_takes_them():
    assert parse(["SEED=7", "DATA=my=data", "PRESET=smoke"]) == {
        "SEED": 7,
        "DATA": "my=data",
        "PRESET": "smoke",
    }
    assert parse([]) == {}


# what papermill was given, and a notebook that runs with something else

DEFAULTS = 'DATA = "toyscapes"\nRUNS = "data/runs"\nPRESET = "smoke"\nSEED = 0'
ASK = "from cilkit.study.parameters import check_injected\ncheck_injected()\nprint(SEED)"
TAG = "parameters"


def run(folder, cells, given):
    """What the last cell prints when papermill runs these cells: pairs of a text and its tag."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text, _ in cells]
    )
    for cell, (_, tag) in zip(notebook.cells, cells, strict=True):
        cell.metadata["tags"] = [tag] if tag else []
    nbformat.write(notebook, folder / "in.ipynb")
    files = (folder / "in.ipynb", folder / "out.ipynb")
    settings = {"kernel_name": "python3", "language": "python", "progress_bar": False}
    return pm.execute_notebook(*files, given, **settings).cells[-1].outputs[0].text


def test_papermill_runs_a_notebook_with_a_parameters_cell(tmp_path):
    cells = [("%matplotlib inline", None), (DEFAULTS.replace("SEED", "SEED: int"), TAG)]
    assert run(tmp_path, [*cells, (ASK, None)], {"SEED": 3}) == "3\n"


@pytest.mark.parametrize(
    ("cells", "given", "again"),
    [
        ([(DEFAULTS, None)], {"SEED": 3}, "SEED"),  # the tag was lost
        ([(DEFAULTS, None)], {"SEEED": 3}, "DATA, PRESET, RUNS, SEED"),
        ([(DEFAULTS, TAG), ("DATA, SEED = 'toyscapes', 0", TAG)], {"SEED": 3}, "SEED"),
        ([("EPOCHS = 1", TAG), (DEFAULTS, None)], {"SEED": 3, "EPOCHS": 2}, "SEED"),
    ],
)
def test_papermill_is_refused_a_notebook_whose_own_values_would_count(
    tmp_path, cells, given, again
):
    message = f"papermill was given {', '.join(sorted(given))}, and a later cell sets {again}, so"
    with pytest.raises(pm.PapermillExecutionError, match=message + r".* tag `parameters`"):
        run(tmp_path, [*cells, (ASK, None)], given)


def test_a_person_may_set_a_parameter_again(monkeypatch):
    cells = ["", DEFAULTS, "# Parameters\nSEED = 3", "SEED = 4"]
    asked = {"content": {"allow_stdin": True}}  # as JupyterLab asks a kernel
    shell = SimpleNamespace(user_ns={"In": cells}, parent_header=asked)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    check_injected()
    asked["content"]["allow_stdin"] = False
    with pytest.raises(ValueError, match="papermill was given SEED, and a later cell sets SEED"):
        check_injected()
