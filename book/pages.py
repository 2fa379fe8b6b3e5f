"""How notebooks, docstrings and the tables of the README are prepared for the site."""

import ast
import re
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from itertools import groupby
from pathlib import Path

import nbformat
from docutils import nodes
from nbformat import NotebookNode
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from cilkit.files import ROOT

WIDGET = "application/vnd.jupyter.widget-view+json"
SLIDERS = (
    "*Here a picture of the explorer; in JupyterLab, in the notebook itself, its sliders move.*"
)
NOT_EXECUTED = "**Not executed here, so without results: `make study` executes it.**"
FOLDED = {"solution": "Solution", "instructor": "For the instructor"}  # by tag
LONG = 24  # characters; a longer formula may be wider than a phone


def on_source(app: Sphinx, document: str, source: list[str]) -> None:
    """Prepare a notebook that Sphinx has read; the file itself stays as it is, for the download."""
    if document in _notebooks(app):
        name = document.removeprefix("notebooks/")
        source[0] = nbformat.writes(as_page(nbformat.reads(source[0], as_version=4), name))


def as_page(notebook: NotebookNode, name: str) -> NotebookNode:
    """A notebook with a download link, folded answers and notes, and what explorers are."""
    title, _, text = notebook.cells[0].source.partition("\n")
    above = f"{{download}}`Download this notebook <{name}.ipynb>`"
    if not was_executed(notebook):
        above += f"\n\n{NOT_EXECUTED}"
    notebook.cells[0].source = f"{title}\n\n{above}\n\n{text}"
    for cell in notebook.cells:
        for tag in FOLDED.keys() & set(cell.metadata.get("tags", [])):
            _fold(cell, FOLDED[tag])
    explorers = [
        k
        for k, cell in enumerate(notebook.cells)
        if any(WIDGET in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    if explorers:
        notebook.cells.insert(explorers[0] + 1, nbformat.v4.new_markdown_cell(SLIDERS))
    return notebook


def _fold(cell: NotebookNode, title: str) -> None:
    """Fold a cell away; a click on its title opens it."""
    if cell.cell_type == "code":
        cell.metadata.tags.append("hide-cell")
        cell.metadata["mystnb"] = {"code_prompt_show": title, "code_prompt_hide": title}
    else:
        head = f'<details class="folded"><summary>{title}</summary>'
        cell.source = f"{head}\n\n{cell.source}\n\n</details>"


def was_executed(notebook: NotebookNode) -> bool:
    """Whether every cell of code was reached."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    return all(cell.execution_count for cell in cells)


def on_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    lines[:] = as_rest(lines)


def as_rest(lines: list[str]) -> list[str]:
    """A docstring of the kit for Sphinx: plain text, `code`, and blocks that keep their columns.

    A line is of a block if it is indented, or holds two spaces side by side.
    """
    rest: list[str] = []
    for block, part in groupby(lines, lambda line: bool(re.search(r"^ |\S {2,}\S", line))):
        if block:
            rest += ["", "::", "", *(f"    {line}" for line in part), ""]
        else:
            rest += map(_escape, part)
    return rest


def _escape(line: str) -> str:
    """Plain text with `code` as reStructuredText."""
    texts = re.split(r"`([^`]+)`", line)
    texts[::2] = (re.sub(r"([\\*_|`])", r"\\\1", text) for text in texts[::2])
    texts[1::2] = (f"``{code}``" for code in texts[1::2])
    return "".join(texts)


def on_doctree(app: Sphinx, doctree: nodes.document) -> None:
    """Link names in code and numbers of notebooks; prepare formulas and pictures."""
    notebooks = [name.removeprefix("notebooks/") for name in _notebooks(app)]
    for table in doctree.findall(nodes.table):
        _link_numbers(table, {name[:2]: name for name in notebooks})
    for code in list(doctree.findall(nodes.literal)):
        if not isinstance(code.parent, nodes.reference | pending_xref):
            _link_code(code, notebooks)
    for formula in doctree.findall(nodes.math):
        if len(re.sub(r"\\[a-z]+|[{}_^ ]", "", formula.astext())) >= LONG:
            formula["classes"].append("long")
    for formula in doctree.findall(nodes.math_block):  # Sphinx would wrap it so that \tag fails
        formula["no-wrap"] = True
        formula.children = [nodes.Text(rf"\[{formula.astext()}\]")]
    for image in doctree.findall(nodes.image):
        section = _section(image)
        if "alt" not in image and section is not None:
            image["alt"] = f"Picture in “{section.next_node(nodes.title).astext()}”"


def _notebooks(app: Sphinx) -> list[str]:
    """The documents that are notebooks; beside them lies a text."""
    return [d for d in app.env.found_docs if app.env.doc2path(d).suffix == ".ipynb"]


def _link_code(code: nodes.literal, notebooks: Sequence[str]) -> None:
    """Make the name of a notebook, or one that begins with `cilkit.`, a link."""
    named = code.astext()
    if named in notebooks:
        code.replace_self(_link(code, named))
    elif re.fullmatch(r"cilkit(\.\w+)+", named):
        target = {"refdomain": "py", "reftype": "obj", "reftarget": named}
        code.replace_self(pending_xref("", code.deepcopy(), refwarn=True, **target))


def _link_numbers(table: nodes.table, notebooks: dict[str, str]) -> None:
    """Make "03, 05" in a column called notebook two links."""
    titles = [entry.astext() for entry in table.next_node(nodes.thead).findall(nodes.entry)]
    if "notebook" not in titles:
        return
    column = titles.index("notebook")
    for row in table.next_node(nodes.tbody).findall(nodes.row):
        for text in list(row.children[column].findall(nodes.Text)):
            parts = re.split(r"\b(\d\d)\b", text.astext())
            parts[::2] = map(nodes.Text, parts[::2])
            parts[1::2] = [_link(nodes.Text(p), notebooks.get(p, p)) for p in parts[1::2]]
            text.parent.replace(text, parts)


def _link(shown: nodes.Node, notebook: str) -> pending_xref:
    """A link to a notebook, which Sphinx complains about if it is not there."""
    target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/notebooks/{notebook}"}
    inner = nodes.inline("", "", shown.deepcopy())
    return pending_xref("", inner, refwarn=True, refexplicit=True, **target)


def _section(node: nodes.Node) -> nodes.section | None:
    while node is not None and not isinstance(node, nodes.section):
        node = node.parent
    return node


def modules() -> dict[str, str]:
    """The modules of cilkit, each after those that it imports, with their first line."""
    files = {_module(file): file for file in sorted((ROOT / "cilkit").rglob("*.py"))}
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in files.items()}
    imports = {name: set(_imports(tree)) & files.keys() for name, tree in trees.items()}
    packages: dict[str, set[str]] = {}
    for name, found in imports.items():
        packages.setdefault(_package(name), set()).update(map(_package, found))
    for package, found in packages.items():
        found.discard(package)
    place = {package: i for i, package in enumerate(TopologicalSorter(packages).static_order())}
    order = [name for name in TopologicalSorter(imports).static_order() if name != "cilkit"]
    order.sort(key=lambda name: (place[_package(name)], name != _package(name)))
    return {name: ast.get_docstring(trees[name]).splitlines()[0] for name in order}


def _package(name: str) -> str:
    """The package of a module, or a module that lies beside the packages."""
    return ".".join(name.split(".")[:2])


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def reference() -> dict[str, str]:
    """The pages of the API reference in Markdown, by name."""
    found = modules()
    rows = [f"| `{name}` | {line} |" for name, line in found.items()]
    pages = {
        "index": "\n".join(
            [
                "# API reference\n",
                "The modules of the package, each below those that it imports.\n",
                "| module | what it holds |",
                "|---|---|",
                *rows,
                "\n```{toctree}\n:hidden:\n",
                *found,
                "```\n",
            ]
        )
    }
    for name in found:
        pages[name] = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
    return pages
