"""The order of the rooms: imports point one way, and a method is a value, never a name compared."""

import ast
import io
import tokenize
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from cilkit.methods import FIRST_STAGE, trainable

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "cilkit").rglob("*.py"))
}
ORDER = [  # a room imports from itself and from those before it
    *("checks", "subnormals", "limits", "files", "classes", "splits", "toyscapes", "data"),
    *("networks", "losses", "metrics", "fast_metrics", "methods", "training", "study", "results"),
    *("explore", "predict"),
]
METHOD_NAMES = {FIRST_STAGE.name, *trainable()}


def imported(source: str, package: str = "cilkit") -> set[str]:
    """The modules of the kit that a source imports anywhere in it, in functions as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            # what is imported from a package may be a module of it
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else module for name in names}
    return {name for name in found if name.split(".")[0] == "cilkit"}


def room(module: str) -> str:
    """The room of a module: "training" of "cilkit.training.loop"; "" of the package itself."""
    return module.split(".")[1] if "." in module else ""


IMPORTS = {
    module: imported(
        file.read_text(), module if file.stem == "__init__" else module.rpartition(".")[0]
    )
    for module, file in MODULES.items()
}


def test_imports_are_found_wherever_they_stand():
    source = """
    import cilkit.losses, torch
    from cilkit import files, METHODS
    from cilkit.training import loop as training_loop
    from . import stage
    from ..data.images import LabelledImages
    if TYPE_CHECKING:
        from cilkit.study.study import Study
    def late():
        from cilkit.explore.plots import views
    """
    found = imported("\n".join(line[4:] for line in source.splitlines()), "cilkit.training")
    assert found == {f"cilkit.{name}" for name in (
        "losses", "files", "training.loop", "training.stage", "data.images", "study.study",
        "explore.plots",
    )} | {"cilkit"}  # fmt: skip


def test_every_module_is_in_a_room_that_has_its_place():
    rooms = {room(module) for module in MODULES} - {"", "resources"}
    assert rooms <= set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_room_and_earlier_ones_alone(module):
    here = room(module)
    allowed = {"resources", *ORDER[: ORDER.index(here) + 1]} if here in ORDER else set()
    wrong = {name for name in IMPORTS[module] if room(name) not in allowed}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}; the order is {ORDER}"


def test_no_modules_import_each_other():
    graph = {
        module: {name for name in names if name not in ("cilkit", module)}
        for module, names in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def compared(source: str) -> list[str]:
    """The comparisons of something with the name of a method as a text."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if _compares(node)]


def _compares(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(map(_is_name, [node.left, *node.comparators]))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("startswith", "endswith") and any(map(_is_name, node.args))
    return isinstance(node, ast.MatchValue) and _is_name(node.value)


def _is_name(node: ast.AST) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_is_name, node.elts))
    return isinstance(node, ast.Constant) and node.value in METHOD_NAMES


def statements(snakefile: str) -> list[str]:
    """The lines of a Snakefile that are Python, each as a source of its own.

    A rule's entries are arguments of a call: `params: stage=..., method=...`.
    """
    found, line = [], []
    for token in tokenize.generate_tokens(io.StringIO(snakefile).readline):
        if token.type == tokenize.NEWLINE:
            found.append(" ".join(line))
            line = []
        elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            line.append(token.string)
    return found


def parsed(statement: str) -> str | None:
    """A statement, or the head of a block, or the entry of a rule as Python; None if it is none."""
    for form in ("{}", "{} pass", "if 1: pass\n{} pass", "call({})"):
        try:
            ast.parse(form.format(statement))
        except SyntaxError:
            continue
        return form.format(statement)
    return None


@pytest.mark.parametrize(
    "source",
    [
        "method == 'SS'",
        "'CIL' != run.method",
        "method in ('SS', *METHODS)",
        "run.method not in ['T1', 'SS']",
        "name.startswith('LWM')",
        "name == 'LWM teacher'",
    ],
)
def test_a_comparison_with_the_name_of_a_method_is_found(source):
    assert compared(source) == [source]
    snakefile = f"""
rule train:
    input:
        lambda wildcards: [] if {source} else [1],
    params:
        data=lambda wildcards: {source},
    shell:
        "a {{input}}"
for x in [y for y in z if {source}]:
    if {source}:
        a = 3
"""
    found = [parsed(line) for line in statements(snakefile)]
    assert sum(map(len, map(compared, filter(None, found)))) == 4


def test_what_is_no_comparison_with_a_name_is_not_found():
    for source in (
        "METHODS['CIL']",
        "method == SS",
        "name == 'ss'",
        "x = {'CIL': 'red'}",
        "'a' < b",
    ):
        assert not compared(source)


@pytest.mark.parametrize("module", MODULES)
def test_no_name_of_a_method_is_compared_in(module):
    assert not compared(MODULES[module].read_text())


@pytest.fixture(scope="module")
def graph() -> list[str]:
    """The Python of the Snakefile."""
    found = list(map(parsed, statements((ROOT / "Snakefile").read_text())))
    assert found.count(None) < len(found) / 3  # such as `rule train:` and `input:`
    return [source for source in found if source is not None]


def test_no_name_of_a_method_is_compared_in_the_graph(graph):
    assert not [found for source in graph for found in compared(source)]


def test_the_graph_draws_nothing(graph):
    assert "explore" not in {room(module) for source in graph for module in imported(source)}
