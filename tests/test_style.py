"""The house rules that a machine can check: pre-commit's hooks and the notebooks' form."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from rattler import MatchSpec, Version, VersionSpec

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LECTURE = ROOT / "book" / "lecture.ipynb"
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PARAMETERS = ["DATA", "RUNS", "PRESET", "SEED"]


@pytest.mark.parametrize("hook", HOOKS, ids=[hook["id"] for hook in HOOKS])
def test_the_hook_of_pre_commit_finds_nothing(hook):
    command = [sys.executable, *hook["entry"].split()[1:]]
    if hook.get("pass_filenames", True):
        command += map(str, [*NOTEBOOKS, LECTURE])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def cells(notebook: Path, tag: str) -> list:
    content = nbformat.read(notebook, as_version=4)
    return [cell for cell in content.cells if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_has_the_form_that_the_style_asks_for(notebook):
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    assert content.cells[0].source.startswith(f"# {notebook.stem[:2]} · ")
    (parameters,) = cells(notebook, "parameters")
    assert content.cells.index(parameters) == 1
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    assert names == PARAMETERS
    assert "## What you saw" in content.cells[-1].source
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    assert lengths[len(lengths) // 2] <= 6
    assert lengths[-1] <= 25
    words = sum(len(c.source.split()) for c in content.cells if c.cell_type == "markdown")
    assert words >= 5 * sum(lengths)


TIME = re.compile(r"^\*\*Time\*\*: (\d+) minutes? to read, (\d+) to run", re.MULTILINE)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)


def texts(notebook: Path) -> list[str]:
    """The Markdown of a notebook that everybody reads: no questions, no notes, nothing folded."""
    content = nbformat.read(notebook, as_version=4)
    aside = {"quiz", "instructor"}
    cells = [cell for cell in content.cells if cell.cell_type == "markdown"]
    shown = [cell for cell in cells if aside.isdisjoint(cell.metadata.get("tags", []))]
    return [FOLDED.sub("", cell.source) for cell in shown]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_read_and_run_in_25_minutes(notebook):
    shown = texts(notebook)
    assert sum(len(text.split()) for text in shown) <= 1800
    reading, running = map(int, TIME.search(shown[0]).groups())
    assert reading + running <= 25


def minutes_to_read(notebook: Path) -> float:
    """At 150 words a minute, questions included, and 20 seconds a figure, without exercises."""
    content = nbformat.read(notebook, as_version=4)
    asked = [re.sub("<[^>]+>", " ", cell.source) for cell in cells(notebook, "quiz")]
    words = sum(len(text.split()) for text in [*texts(notebook), *asked])
    drawn = re.compile(r"\b(plots|widgets)\.\w|_explorer\(|_figure\(")
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    figures = [c for c in code if "solution" not in c.metadata.get("tags", [])]
    return words / 150 + sum(bool(drawn.search(cell.source)) for cell in figures) / 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_readme_says_as_many_minutes_as_the_notebook_and_its_words(notebook):
    reading, running = TIME.search(texts(notebook)[0]).groups()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| `{notebook.stem}` | {reading} + {running} |" in readme
    assert abs(int(reading) - minutes_to_read(notebook)) <= 1.5


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_stages_are_upright_in_formulas(notebook):
    for text in texts(notebook):
        for formula in re.findall(r"\$+[^$]+\$+", text):
            assert not re.search(r"(?<!mathrm )(?<!mathrm\{)\bT_", formula), formula


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_solutions_are_folded_with_their_output_and_notes_with_their_source(notebook):
    for cell in cells(notebook, "solution"):
        assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
    for cell in cells(notebook, "instructor"):
        assert cell.metadata.jupyter.source_hidden and cell.source.startswith("**Instructor**")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_has_two_or_three_exercises_with_hidden_solutions(notebook):
    solutions = cells(notebook, "solution")  # in code, and what is said about them
    assert 2 <= len([cell for cell in solutions if cell.cell_type == "code"]) <= 3
    assert all(cell.metadata.jupyter.source_hidden for cell in solutions)


def test_the_conda_environment_leaves_the_dependency_list_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    *specs, pip = environment["dependencies"]
    assert environment["name"] == "cilkit"
    assert environment["channels"] == ["conda-forge"]
    python = MatchSpec(specs[0])
    running = Version(".".join(map(str, sys.version_info[:3])))
    assert VersionSpec(str(python.version)).matches(running)
    assert str(python.version) == project["requires-python"]
    assert [str(MatchSpec(spec)) for spec in specs[1:]] == ["pip"]
    (editable,) = pip["pip"]
    extras = editable.removeprefix("-e .[").removesuffix("]").split(",")
    assert editable.startswith("-e .[") and set(extras) <= set(project["optional-dependencies"])


def test_the_dev_container_has_a_python_that_the_kit_accepts_and_installs_pinned_packages():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = Version(container["image"].rpartition(":")[2])
    assert VersionSpec(project["requires-python"]).matches(python)
    assert container["postCreateCommand"] == "pip install -c constraints.txt -e ."


def test_constraints_pin_every_dependency_and_name_no_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines}
    missing = {spec.split(">=")[0] for spec in wanted} - pinned
    assert not missing, f"run `make constraints`; not pinned: {sorted(missing)}"
    assert all("==" in line and "//" not in line and "@" not in line for line in lines)


def unpickles(source: str) -> list[str]:
    """The lines of a source that may run code that is hidden in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            bad = {name.split(".")[0] for name in names} & PICKLES
        elif isinstance(node, ast.Call):
            what, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            switches = {
                name
                for name, value in given.items()
                if isinstance(value, ast.Constant) and value.value
            }
            bad = what.endswith(("read_pickle", "jit.load")) or "allow_pickle" in given
            bad |= what == "torch.load" and "weights_only" not in switches
        else:
            continue
        if bad:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib as j",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, map_location='cpu', weights_only=safe)",
        "torch.jit.load(file)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
    ],
)
def test_a_line_that_unpickles_is_found(source):
    assert unpickles(source) == [source]
    assert unpickles("torch.load(f, weights_only=True)\nnp.load(f)\nload_file(f)") == []


@pytest.mark.parametrize("file", sorted((ROOT / "cilkit").rglob("*.py")), ids=lambda f: f.stem)
def test_no_file_is_ever_unpickled(file):
    assert unpickles(file.read_text(encoding="utf-8")) == []


@pytest.mark.xdist_group("style")
def test_a_group_of_tests_stays_in_one_process(request, worker_id):
    """Otherwise what its tests share is made in each of them, and nobody is told."""
    if worker_id == "master":
        pytest.skip("these tests run in one process")
    assert request.node.nodeid.endswith("@style")  # how pytest-xdist sorts them
