"""The lecture as it is written; test_notebooks.py executes it and looks at its slides."""

import re

import nbformat
import pytest

from book import slides
from cilkit.study.parameters import PARAMETERS

LECTURE = nbformat.read(slides.LECTURE, as_version=4)
new = nbformat.v4


def kind(cell: nbformat.NotebookNode) -> str | None:
    return cell.metadata.get("slideshow", {}).get("slide_type")


def test_the_lecture_takes_90_minutes_and_each_slide_says_how_many_of_them():
    times = slides.minutes(LECTURE)
    assert len(times) <= 25 and all(time for _, time in times)
    assert sum(time for _, time in times) == 90


def test_the_lecture_has_the_parameters_of_every_notebook():
    (cell,) = [cell for cell in LECTURE.cells if "parameters" in cell.metadata.get("tags", [])]
    names = [line.split(" = ")[0] for line in cell.source.splitlines()]
    assert names == list(PARAMETERS) and kind(cell) == "skip"
    assert LECTURE.metadata.kernelspec.name == "python3"


def test_a_slide_is_a_title_with_at_most_one_output_and_notes():
    assert {kind(cell) for cell in LECTURE.cells} == {"skip", "slide", "-", "notes"}
    shown = [cell for cell in LECTURE.cells if kind(cell) != "skip"]
    parts = "".join(
        {"slide": "s", "notes": "n", "-": cell.cell_type[0]}[kind(cell)] for cell in shown
    )
    assert re.fullmatch(r"(sc?m?n)+", parts)
    assert all(re.match("##? ", cell.source) for cell in shown if kind(cell) == "slide")


def test_no_cell_of_the_lecture_asks_for_a_training():
    assert not re.search(r"study\.(run|memory|new_teacher|ratings)\(", nbformat.writes(LECTURE))


def a_lecture() -> nbformat.NotebookNode:
    data = {"image/png": "AAAA", "text/plain": "<Figure>"}
    stream = new.new_output("stream", name="stderr", text="50 %")
    picture = new.new_output("display_data", data=data)
    cells = [
        (new.new_code_cell("x = '</script>'"), "skip"),
        (new.new_markdown_cell("## Where is $a < b$?"), "slide"),
        (new.new_code_cell("plot(x)", outputs=[stream, picture]), "-"),
        (new.new_markdown_cell("**2 minutes**\n\nSay *this*."), "notes"),
        (new.new_markdown_cell("## Then"), "slide"),
        (new.new_markdown_cell("Nothing about time."), "notes"),
    ]
    injected = new.new_code_cell("DATA = 'secret'", metadata={"tags": ["injected-parameters"]})
    for cell, slide_type in cells:
        cell.metadata["slideshow"] = {"slide_type": slide_type}
    return new.new_notebook(cells=[cells[0][0], injected, *(cell for cell, _ in cells[1:])])


def test_a_page_has_slides_notes_and_pictures_and_no_code_and_loads_nothing():
    assert slides.minutes(a_lecture()) == [("Where is $a < b$?", 2), ("Then", 0)]
    page = slides.page(a_lecture()).decode()
    body = page[page.index("<body>") : page.index("const deck")]
    assert body.count('data-timing="120"') == 2  # of the slide, and of the column it stands in
    assert 'alt="Picture of the slide “Where is $a &lt; b$?”"' in body
    assert "Say <em>this</em>." in body and body.count('<aside class="notes">') == 2
    for hidden in ("plot(x)", "50 %", "&lt;Figure", "secret"):
        assert hidden not in body
    assert page.count("</script>") == 5 and "<!--" not in page
    html = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert not re.search(r"""@import|url\(["']?(?!data:|["')])""", html)


@pytest.mark.parametrize("seed", ["one", "-1", ""])
def test_a_seed_that_is_no_number_is_refused(seed):
    with pytest.raises(ValueError, match="SEED is .*; wanted a whole number from 0"):
        slides.deck({"DATA": "toyscapes", "RUNS": "data/runs", "PRESET": "quick", "SEED": seed})


def test_a_cell_that_fails_is_named(tmp_path, monkeypatch):
    lecture = new.new_notebook(cells=[new.new_code_cell("1"), new.new_code_cell("1 / 0")])
    lecture.metadata["kernelspec"] = LECTURE.metadata.kernelspec
    nbformat.write(lecture, tmp_path / "lecture.ipynb")
    monkeypatch.setattr(slides, "LECTURE", tmp_path / "lecture.ipynb")
    with pytest.raises(ValueError, match="no slides: cell 1 of lecture.ipynb failed with ZeroDivi"):
        slides.executed({})
