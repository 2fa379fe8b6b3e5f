"""The class edition: what students and the instructor get, what is written where, and the plan."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from book import class_edition as edition
from cilkit.files import ROOT

NOTEBOOKS = edition.read()
HIDDEN = {"source_hidden": True}
new = nbformat.v4


@pytest.fixture
def notebook() -> NotebookNode:
    """A tiny notebook with all that the editions tell apart."""
    tags = {"tags": ["solution"], "jupyter": HIDDEN}
    return new.new_notebook(
        cells=[
            new.new_markdown_cell("# 10 · CIL\n\n**Time**: 20 minutes to read, 3 to run"),
            new.new_markdown_cell("Predict."),
            new.new_markdown_cell(
                "**Instructor**: 4 minutes\n\nOften *no*.",
                metadata={"tags": ["instructor"], "jupyter": HIDDEN},
            ),
            new.new_code_cell("def mine(x):  # exercise: twice x\n    ..."),
            new.new_code_cell("assert 2 * 2 == 4", metadata=tags),
            new.new_markdown_cell("**Answer**\n\nSince $2x$.", metadata=tags),
            new.new_code_cell(
                "A = None  # exercise 2: a\nB = None  # exercise: b",
                execution_count=3,
                outputs=[new.new_output("stream", text="4")],
            ),
        ]
    )


def sources(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells]


def test_the_student_edition_has_no_answer_and_no_note_and_numbers_its_stubs(notebook):
    assert sources(edition.student(notebook, "10")) == [
        f"# 10 · CIL\n\n**Time**: 20 minutes to read, 3 to run\n\n{edition.LEFT_OUT}",
        "Predict.",
        "def mine(x):  # exercise 10.1: twice x\n    ...",
        "A = None  # exercise 10.2: a\nB = None  # exercise 10.2: b",
    ]


def test_the_instructors_edition_has_all_cells_and_hides_none(notebook):
    found = edition.instructor(notebook)
    assert sources(found)[2] == "> **Instructor**: 4 minutes\n> \n> Often *no*."
    assert sources(found)[4:6] == ["assert 2 * 2 == 4", "> **Answer**\n> \n> Since $2x$."]
    assert len(found.cells) == len(notebook.cells)
    assert not any("jupyter" in cell.metadata for cell in found.cells)


def test_both_editions_are_without_outputs_and_leave_the_notebook_as_it_is(notebook):
    before = nbformat.writes(notebook)
    for found in (edition.student(notebook, "10"), edition.instructor(notebook)):
        nbformat.validate(found)
        assert found.cells[-1].outputs == [] and found.cells[-1].execution_count is None
    assert nbformat.writes(notebook) == before


def test_the_instructors_page_adds_up_minutes_exercises_and_notes(notebook):
    page = edition.instructor_files({"10_cil.ipynb": notebook})["README.md"].decode()
    assert "| [10_cil](10_cil.ipynb) | 20 | 3 | 2 | 1 | 4 |" in page
    notebook.cells[0].source = "# 10 · CIL"
    page = edition.instructor_files({"10_cil.ipynb": notebook})["README.md"].decode()
    assert "| [10_cil](10_cil.ipynb) |  |  | 2 | 1 | 4 |" in page


@pytest.mark.parametrize(
    ("cell", "source", "message"),
    [
        (
            0,
            "**Time**: an hour",
            "10_cil.ipynb says .*Time.*an hour.*; wanted .*20 minutes to read",
        ),
        (2, "Often no.", "a note begins with 'Often no.'; wanted .*Instructor.*: 5 minutes"),
    ],
)
def test_minutes_of_another_form_are_refused(notebook, cell, source, message):
    notebook.cells[cell].source = source
    with pytest.raises(ValueError, match=message):
        edition.instructor_files({"10_cil.ipynb": notebook})


# the notebooks of the kit


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_edition_is_the_notebook_without_its_answers(name):
    notebook = NOTEBOOKS[name]
    kept = [
        c
        for c in notebook.cells
        if not {"solution", "instructor"} & set(c.metadata.get("tags", []))
    ]
    found = edition.student(notebook, name[:2])
    assert [c.id for c in found.cells] == [c.id for c in kept] and len(kept) < len(notebook.cells)
    stubs = re.findall(r"# exercise (\d\d)\.(\d)", "\n".join(sources(found)))
    assert {number for number, _ in stubs} == {name[:2]}
    assert [int(k) for _, k in dict.fromkeys(stubs)] == list(range(1, len(set(stubs)) + 1))
    assert "# exercise:" not in "\n".join(sources(found))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_of_a_notebook_uses_what_an_answer_has_set(name):
    """So the student edition runs, and what an answer changes is seen nowhere else."""
    set_by_answers: set[str] = set()
    for cell in NOTEBOOKS[name].cells:
        if cell.cell_type != "code":
            continue
        given, used = names(cell.source)
        if edition.tagged(cell, "solution"):
            set_by_answers |= given
        else:
            assert not used & set_by_answers, f"{cell.id} uses {used & set_by_answers}"
            set_by_answers -= given


def names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell sets, and those of cells above that it reads, in functions as well."""
    given, used = set(), set()
    for line in ast.parse(source).body:
        read, arguments = set(), set()
        for node in ast.walk(line):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                read.add(node.id)
            elif isinstance(node, ast.Name):
                given.add(node.id)
            elif isinstance(node, ast.arg):
                arguments.add(node.arg)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                given.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                given |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        used |= read - given - arguments
    return given, used


def test_names_that_a_cell_reads_from_above_are_found():
    source = "a = b\nfor c in d:\n    c + a\ndef e(f):\n    return f + g\nimport h.i as j"
    assert names(source) == ({*"acej"}, {*"bdg"})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_answers_in_words_and_notes_are_folded_without_a_heading_and_minutes_are_said(name):
    assert edition.time_of(NOTEBOOKS[name], name) and edition.note_minutes(NOTEBOOKS[name])
    for cell in NOTEBOOKS[name].cells:
        tags = {"solution", "instructor"} & set(cell.metadata.get("tags", []))
        assert bool(tags) == bool(cell.metadata.get("jupyter", {}).get("source_hidden")), cell.id
        if "instructor" in tags:
            assert cell.cell_type == "markdown"
        if tags and cell.cell_type == "markdown":
            assert not re.search(r"^#", cell.source, re.MULTILINE), cell.id
            # JupyterLab shows the first line of a folded cell
            assert "instructor" in tags or cell.source.startswith("**Answer**\n\n"), cell.id


# what is written


def test_an_edition_takes_the_place_of_the_one_before(tmp_path):
    edition.write({"student/a": b"1", "student/b": b"2", "slides/index.html": b"3"}, tmp_path)
    edition.write({"student/a": b"4"}, tmp_path)
    assert (tmp_path / "student" / "a").read_bytes() == b"4"
    assert not (tmp_path / "student" / "b").exists()  # no longer part of it
    assert (tmp_path / "slides" / "index.html").read_bytes() == b"3"  # another part
    lines = (tmp_path / edition.SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["slides/index.html", "student/a"]


def test_files_of_others_stay(tmp_path):
    edition.write({"student/a": b"1", "student/old": b"2"}, tmp_path)
    (tmp_path / "student" / "old").write_bytes(b"worked on")
    (tmp_path / "student" / "mine").write_bytes(b"mine")
    edition.write({"student/a": b"3"}, tmp_path)
    assert (tmp_path / "student" / "old").read_bytes() == b"worked on"
    assert (tmp_path / "student" / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("made_before", [True, False])
def test_a_file_that_somebody_changed_or_made_is_not_replaced(tmp_path, made_before):
    if made_before:
        edition.write({"student/a": b"1", "student/b": b"2"}, tmp_path)
    (tmp_path / "student").mkdir(exist_ok=True)
    (tmp_path / "student" / "b").write_bytes(b"worked on")
    with pytest.raises(ValueError, match=r"student/b was changed.*nothing was written. Move it"):
        edition.write({"student/a": b"3", "student/b": b"4"}, tmp_path)
    assert (tmp_path / "student" / "b").read_bytes() == b"worked on"
    left = (tmp_path / "student" / "a").read_bytes() if made_before else None
    assert left == (b"1" if made_before else None)


def test_what_a_stopped_call_has_written_is_known_to_the_next(tmp_path, monkeypatch):
    edition.write({"student/a": b"1", "student/b": b"2"}, tmp_path)
    write_atomic = edition.write_atomic

    def stop_at_b(file: Path, content: bytes) -> None:
        if file.name == "b":
            raise KeyboardInterrupt
        write_atomic(file, content)

    monkeypatch.setattr(edition, "write_atomic", stop_at_b)
    with pytest.raises(KeyboardInterrupt):
        edition.write({"student/a": b"3", "student/b": b"4"}, tmp_path)
    monkeypatch.setattr(edition, "write_atomic", write_atomic)
    edition.write({"student/a": b"5", "student/b": b"6"}, tmp_path)
    assert (tmp_path / "student" / "a").read_bytes() == b"5"


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "class").write_bytes(b"notes")
    with pytest.raises(ValueError, match="class is a file; wanted a folder: move it away"):
        edition.write({"student/a": b"1"}, tmp_path / "class")


def test_without_runs_the_notebooks_are_written_and_the_slides_say_what_is_missing(
    tmp_path, toys, monkeypatch, capsys
):
    monkeypatch.setattr(edition, "CLASS", tmp_path / "class")
    words = [f"DATA={toys}", f"RUNS={tmp_path / 'runs'}", "PRESET=smoke", "SEED=0"]
    monkeypatch.setattr("sys.argv", ["book.class_edition", *words])
    with pytest.raises(SystemExit, match="no slides: .* T1, SS_T2.*make study DATA=.*make unpack"):
        edition.main()
    said = capsys.readouterr().out
    for part in ("student", "instructor"):
        assert {f.name for f in (tmp_path / "class" / part).glob("*.ipynb")} == set(NOTEBOOKS)
        assert f"{part}: {tmp_path / 'class' / part}" in said
    assert not (tmp_path / "class" / "slides").exists()


# the plan of a course


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows of the tables of a page by heading, each a dictionary by column."""
    found = {}
    for part in re.split(r"\n(?=#)", text):
        heading, *lines = part.splitlines()
        rows = [
            [c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"
        ]
        if rows:
            found[heading] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def test_the_minutes_of_each_plan_are_those_of_its_heading():
    page = tables((ROOT / "notebooks" / "README.md").read_text(encoding="utf-8"))
    plans = {h: rows for h, rows in page.items() if "minutes" in rows[0]}
    assert len(plans) == 6
    for heading, rows in plans.items():
        wanted = re.search(r"(\d+) minutes", heading)
        wanted = int(wanted[1]) if wanted else 90  # a session
        assert sum(int(row["minutes"]) for row in rows) == wanted, heading


def test_the_plans_name_notebooks_that_are_there():
    page = tables((ROOT / "notebooks" / "README.md").read_text(encoding="utf-8"))
    named = {row["notebook"] for rows in page.values() for row in rows if row.get("notebook")}
    assert named == {name[:2] for name in NOTEBOOKS if name[:2] != "13"}
