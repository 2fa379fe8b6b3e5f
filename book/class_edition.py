"""`python -m book.class_edition [DATA=... RUNS=... PRESET=... SEED=...]` makes class/ for a course.

    class/student/     the notebooks without answers, exercises numbered
    class/instructor/  the notebooks with answers and notes open, and a page of minutes
    class/slides/      a lecture of 90 minutes as one HTML file that needs no network

What the cells of a notebook are is told by their tags: `solution` (an answer, code or text) and
`instructor` (a note for the teacher, text). The minutes stand in the first cell of a notebook
(`TIME`) and in the first line of a note (`MINUTES`).
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from textwrap import indent

import nbformat
from nbformat import NotebookNode

from book import slides
from book.__main__ import parse
from cilkit.files import ROOT, write_atomic

CLASS = ROOT / "class"
SUMS = "SHA256SUMS"  # of what was made; `sha256sum --check SHA256SUMS` reads it, too
ANSWER, NOTE = "solution", "instructor"  # tags of cells
STUB = re.compile(r"# exercise\b( \d+)?")
TIME = re.compile(r"\*\*Time\*\*: (\d+) minutes? to read, (\d+)( minutes?)? to run")
MINUTES = re.compile(r"\*\*Instructor\*\*: (\d+) minutes?\b")
LEFT_OUT = "*This is the student edition: the answers are left out.*"
OVERVIEW = """# Instructor edition

Answers and notes are open here. The minutes to read and to run are those at the head of each
notebook; *notes* counts the notes for you, with the minutes that they take in class.

| notebook | minutes to read | minutes to run | exercises | notes | minutes of the notes |
|---|---|---|---|---|---|
{}
"""


def main() -> None:
    try:
        study = parse(sys.argv[1:])
        notebooks = read()
        for name, edition in {"student": student_files, "instructor": instructor_files}.items():
            files = {f"{name}/{file}": content for file, content in edition(notebooks).items()}
            write(files, CLASS)
            print(f"{name}: {CLASS / name}")
        write({"slides/index.html": slides.deck(study)}, CLASS)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print(f"slides: {CLASS / 'slides' / 'index.html'}")


def read() -> dict[str, NotebookNode]:
    """The notebooks by file name, in their order."""
    files = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return {file.name: nbformat.read(file, as_version=4) for file in files}


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def student(notebook: NotebookNode, number: str) -> NotebookNode:
    """A notebook without answers, notes and outputs; its stubs are numbered `number`.1, .2, ..."""
    found = _without_outputs(notebook)
    found.cells = [c for c in found.cells if not tagged(c, ANSWER) and not tagged(c, NOTE)]
    for count, cell in enumerate(filter(_is_stub, found.cells), start=1):
        cell.source = STUB.sub(f"# exercise {number}.{count}", cell.source)
    found.cells[0].source += f"\n\n{LEFT_OUT}"
    return found


def instructor(notebook: NotebookNode) -> NotebookNode:
    """A notebook without outputs in which nothing is folded away; notes and answers are quotes."""
    found = _without_outputs(notebook)
    for cell in found.cells:
        cell.metadata.pop("jupyter", None)
        if cell.cell_type == "markdown" and (tagged(cell, ANSWER) or tagged(cell, NOTE)):
            cell.source = indent(cell.source, "> ", lambda line: True)
    return found


def _without_outputs(notebook: NotebookNode) -> NotebookNode:
    found = deepcopy(notebook)
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return found


def _is_stub(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and not tagged(cell, ANSWER) and bool(STUB.search(cell.source))


def student_files(notebooks: Mapping[str, NotebookNode]) -> dict[str, bytes]:
    """The student edition: file name -> content."""
    return {name: _as_file(student(notebook, name[:2])) for name, notebook in notebooks.items()}


def instructor_files(notebooks: Mapping[str, NotebookNode]) -> dict[str, bytes]:
    """The instructor's edition, and a page of its minutes: file name -> content."""
    found = {name: _as_file(instructor(notebook)) for name, notebook in notebooks.items()}
    rows = "\n".join(_row(name, notebook) for name, notebook in notebooks.items())
    return found | {"README.md": OVERVIEW.format(rows).encode()}


def _as_file(notebook: NotebookNode) -> bytes:
    return (nbformat.writes(notebook) + "\n").encode()


def _row(name: str, notebook: NotebookNode) -> str:
    of_notes = note_minutes(notebook)
    cells = [
        f"[{Path(name).stem}]({name})",
        *(time_of(notebook, name) or ("", "")),
        sum(map(_is_stub, notebook.cells)),
        len(of_notes),
        sum(of_notes),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def time_of(notebook: NotebookNode, name: str) -> tuple[int, int] | None:
    """Minutes to read and to run, from the line "**Time**: ..." of the first cell; None without.

    Raises ValueError for a line of another form.
    """
    for line in notebook.cells[0].source.splitlines():
        if line.startswith("**Time**"):
            if (found := TIME.match(line)) is None:
                raise ValueError(
                    f"{name} says {line!r}; wanted '**Time**: 20 minutes to read, 3 to run'"
                )
            return int(found[1]), int(found[2])
    return None


def note_minutes(notebook: NotebookNode) -> list[int]:
    """The minutes of each note for the instructor; a ValueError names one that does not say."""
    minutes = []
    for cell in notebook.cells:
        if tagged(cell, NOTE):
            first = cell.source.partition("\n")[0]
            if (found := MINUTES.match(first)) is None:
                raise ValueError(
                    f"a note begins with {first!r}; wanted '**Instructor**: 5 minutes'"
                )
            minutes.append(int(found[1]))
    return minutes


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of an edition, by path in a folder, in place of what was made there before.

    Files that were not made here stay, also those that only lie beside them. One that is in the
    way of a new file, and was not made here or was changed since, is a ValueError, and nothing is
    written.
    """
    old = _made(folder)
    new = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name in files:
        _check_place(folder / name, old.get(name, set()) | {new[name]})
    parts = {name.partition("/")[0] for name in files}
    kept = {name: sums for name, sums in old.items() if name.partition("/")[0] not in parts}
    both = {name: old.get(name, set()) | {new[name]} for name in new}
    _note(folder, old | both)  # whatever is written when this stops, the next call knows it
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, content)
    for name in old.keys() - kept.keys() - new.keys():
        if (folder / name).is_file() and _sum(folder / name) in old[name]:
            (folder / name).unlink()  # made here once, and no longer part of the edition
    _note(folder, kept | {name: {of_one} for name, of_one in new.items()})


def _check_place(place: Path, ours: set[str]) -> None:
    """A ValueError if a file cannot be written at a place, or would replace one of somebody else.

    ours: the checksums of files of ours that may lie there
    """
    if above := [folder for folder in place.parents if folder.exists() and not folder.is_dir()]:
        raise ValueError(f"{above[0]} is a file; wanted a folder: move it away, then repeat")
    if place.exists() and (not place.is_file() or _sum(place) not in ours):
        raise ValueError(
            f"{place} was changed since, or make class did not make it; nothing was written. Move "
            "it away, then repeat"
        )


def _made(folder: Path) -> dict[str, set[str]]:
    """The checksums of what was made in a folder, by name; two of one that was being replaced."""
    found: dict[str, set[str]] = {}
    if (folder / SUMS).is_file():
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
            of_one, _, name = line.partition("  ")
            found.setdefault(name, set()).add(of_one)
    return found


def _note(folder: Path, made: Mapping[str, set[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{of_one}  {name}\n" for name in sorted(made) for of_one in sorted(made[name])]
    write_atomic(folder / SUMS, "".join(lines).encode())


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
