"""The lecture as slides: `lecture.ipynb`, executed on finished runs, as one HTML page.

The cells say by `slideshow.slide_type` what they are, as JupyterLab's property inspector sets it
and nbconvert reads it: a slide begins at "slide", "notes" are for the speaker, "skip" is left out.
The first line of the notes says how long the slide takes (`MINUTES`). The page holds reveal.js,
MathJax and all pictures, and loads nothing.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import papermill
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from book.conf import MATHJAX
from cilkit.files import ROOT
from cilkit.methods import NEW_TEACHER
from cilkit.study.plan import plan
from cilkit.study.runs import is_finished
from cilkit.study.study import Study

LECTURE = ROOT / "book" / "lecture.ipynb"
MINUTES = re.compile(r"\*\*(\d+) minutes?\*\*")
PAGE = ROOT / "book" / "slides.html"
CODE = HtmlFormatter(style="default").get_style_defs(".highlight")
REVEAL = files("sphinx_revealjs") / "_static" / "revealjs"
SECTIONS = """\
{%- extends 'reveal/base.html.j2' -%}
{%- block data_png -%}
<img src="data:image/png;base64,{{ output.data['image/png'] | replace('\\n', '') }}"
 alt="{{ cell.metadata.picture | escape_html }}">
{%- endblock -%}
"""  # of nbconvert's slides; what is around them is in PAGE


def deck(study: Mapping[str, str]) -> bytes:
    """The slides of the lecture with the runs of a study, as an HTML page.

    study: DATA, RUNS, PRESET and SEED as text. Raises FileNotFoundError for runs that are not
    there, and ValueError for a cell that fails. Nothing is trained.
    """
    if not study["SEED"].isdecimal():
        raise ValueError(f"SEED is {study['SEED']!r}; wanted a whole number from 0: SEED=0")
    parameters = {**study, "SEED": int(study["SEED"])}
    if lacking := missing_runs(**parameters):
        asked = " ".join(f"{name}={value}" for name, value in study.items())
        raise FileNotFoundError(
            f"no slides: they show runs that are not there: {', '.join(lacking)}. Train them: "
            f"make study {asked}; or take them from a pack: make unpack FILE=..."
        )
    return page(executed(parameters))


def missing_runs(DATA: str, RUNS: str, PRESET: str, SEED: int) -> list[str]:
    """The names of the runs of the paper's tables that a study does not have."""
    study = Study(DATA, RUNS, PRESET, SEED)
    wanted = [run for run in plan(study.split) if run.method is not NEW_TEACHER]
    return [run.name for run in wanted if not is_finished(study.folder / run.name)]


def executed(parameters: Mapping[str, str | int]) -> NotebookNode:
    """The lecture, executed with these parameters; a ValueError names the cell that failed."""
    with TemporaryDirectory() as folder:
        try:
            return papermill.execute_notebook(
                LECTURE,
                Path(folder, LECTURE.name),
                dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],  # its warnings are for servers
            )
        except papermill.PapermillExecutionError as error:
            raise ValueError(
                f"no slides: cell {error.cell_index} of {LECTURE.name} failed with "
                f"{error.ename}: {error.evalue}"
            ) from error


def minutes(lecture: NotebookNode) -> list[tuple[str, int]]:
    """Title and minutes of each slide; 0 minutes where its notes do not say."""
    found: list[tuple[str, int]] = []
    for cell in lecture.cells:
        if _kind(cell) == "slide":
            found.append((cell.source.partition("\n")[0].strip("# "), 0))
        elif found and _kind(cell) == "notes" and (said := MINUTES.match(cell.source)):
            found[-1] = found[-1][0], int(said[1])
    return found


def page(lecture: NotebookNode) -> bytes:
    """An executed lecture as an HTML page."""
    slides, title = iter(minutes(lecture)), ""
    for cell in lecture.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):  # papermill's own
            cell.metadata["slideshow"] = {"slide_type": "skip"}
        if _kind(cell) == "slide":
            title, time = next(slides)
            cell.metadata.slideshow["data"] = {"timing": 60 * time} if time else {}
        cell.metadata["picture"] = f"Picture of the slide “{title}”"
        outputs = cell.get("outputs", [])
        cell["outputs"] = [output for output in outputs if output.get("name") != "stderr"]
    exporter = SlidesExporter(
        raw_template=SECTIONS,
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    sections, _ = exporter.from_notebook_node(lecture)
    parts = {
        "slides": sections,
        "style": _read(REVEAL / "dist" / "reset.css") + _read(REVEAL / "dist" / "reveal.css"),
        "own_style": _read(ROOT / "book" / "slides.css") + CODE,
        "reveal": _script(REVEAL / "dist" / "reveal.js"),
        "notes": _script(REVEAL / "plugin" / "notes" / "notes.js"),
        "mathjax": _script(files("sphinx-mathjax-offline") / "static" / "mathjax" / MATHJAX),
    }
    return Template(_read(PAGE)).substitute(parts).encode()


def _kind(cell: NotebookNode) -> str | None:
    return cell.metadata.get("slideshow", {}).get("slide_type")


def _read(file) -> str:
    return file.read_text(encoding="utf-8")


def _script(file) -> str:
    """A script that may stand in a page: no text in it ends the script, or begins a comment."""
    return _read(file).replace("</script", "<\\/script").replace("<!--", "<\\!--")
