"""The site of `make site`, built from notebooks that look executed, then read and looked at."""

import pkgutil
import re
import shutil
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from PIL import Image

import cilkit
from book import __main__ as book
from book import pages
from cilkit.files import ROOT

pytestmark = [
    pytest.mark.xdist_group("site"),  # they share it
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
LEFT_OUT = "07_lwof"
WIDE = "<table><tr>" + "<td>123456789</td>" * 30 + "</tr></table>"
OVER_THE_EDGE = """() => [...document.querySelectorAll("article *")].filter(element => {
    const outside = e => e.getBoundingClientRect().right > innerWidth + 1;
    if (!element.getClientRects().length || !outside(element)) return false;
    for (let box = element; box.tagName !== "ARTICLE"; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX) && !outside(box))
            return false;
    return true;
}).map(element => element.outerHTML.slice(0, 200))"""
FORMULAS = """() => [...document.querySelectorAll(".math")].map(formula => ({
    text: formula.textContent.trim(), hidden: !formula.getClientRects().length,
    height: formula.querySelector("mjx-container svg")?.getBoundingClientRect().height,
    error: formula.querySelector("[data-mml-node=merror], [data-mml-node] [fill=red]") !== null,
}))"""


def a_wide_picture() -> str:
    file = BytesIO()
    Image.new("RGB", (900, 90), "navy").save(file, "png")
    return b64encode(file.getvalue()).decode()


def as_executed(name: str, folder: Path) -> Path:
    """A notebook of the kit with what papermill might have left in it, in its first cells."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    notebook.metadata["papermill"] = {"output_path": f"{folder}/{name}.ipynb"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
    data = {"image/png": a_wide_picture(), "text/plain": "a picture"}
    widget = data | {pages.WIDGET: {"model_id": "0", "version_major": 2, "version_minor": 0}}
    table = {"text/html": WIDE, "text/plain": "a table"}
    new = nbformat.v4.new_output
    code[1].outputs = [
        new("stream", name="stderr", text="rate: 50%|#####     |"),
        new("stream", name="stdout", text="so it says"),
    ]
    for k, shown in enumerate((data, table, widget, widget), start=2):
        code[k].outputs = [new("execute_result", data=shown, execution_count=k)]
    file = folder / f"{name}.ipynb"
    nbformat.write(notebook, file)
    return file


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("executed")
    return {name: as_executed(name, folder) for name in NOTEBOOKS if name != LEFT_OUT}


@pytest.fixture(scope="module")
def site(executed, tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("built") / "site"
    assert book.build(executed, site) == [LEFT_OUT]
    return site


@dataclass
class Reader(HTMLParser):
    """What a page names, links to and loads."""

    file: Path
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif address := given.get("src") or given.get("href"):
            self.loads.append(address)


@pytest.fixture(scope="module")
def read(site) -> dict[Path, Reader]:
    return {file: Reader(file) for file in site.rglob("*.html")}


def test_every_link_leads_to_a_page_and_to_a_place_on_it(site, read):
    broken = []
    for file, page in read.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            place = unquote(parts.fragment)
            if not target.is_file() or (place and place not in read[target].ids):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert not broken and len(read) > 2 * len(NOTEBOOKS)


def test_nothing_is_loaded_from_elsewhere(site, read):
    for file, page in read.items():
        for address in page.loads:
            parts = urlsplit(address)
            assert not parts.netloc and parts.scheme in ("", "data"), f"{file}: {address}"
            assert not parts.path or (file.parent / unquote(parts.path)).is_file() or parts.scheme


def test_the_table_leads_from_equation_to_function_to_notebook(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    (row,) = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*eq\. \(7\) masked.*?</tr>", text, re.DOTALL)
    links = re.findall(r'href="([^"]*)"', row)
    assert links == [
        "api/cilkit.losses.html#cilkit.losses.masked_distillation",
        *(f"notebooks/{name}.html" for name in NOTEBOOKS if name[:2] in ("03", "09", "10")),
    ]
    table = text[text.index("From equation to function") : text.index("A loss can be called")]
    for code in re.findall(r"`(cilkit\.[\w.]+)`", (ROOT / "README.md").read_text("utf-8")):
        assert f'title="{code}"' in text or f"#module-{code}" in text
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    assert len(rows) > 10 and all('href="notebooks/' in row for row in rows)


def test_a_page_shows_results_and_pictures_and_folds_solutions(site):
    text = (site / "notebooks" / "11_entropy_weights.html").read_text(encoding="utf-8")
    article = text[text.index("<article") : text.index("</article>")]
    assert "so it says" in article and "123456789" in article
    assert "rate: 50%" not in article  # a bar of progress
    assert "widget-view" not in text and "require.js" not in text
    assert article.count("<img") == 3  # the picture, and those of both explorers
    assert article.count("its sliders move") == 1
    solutions = pages.as_page(as_read("11_entropy_weights"), "").cells
    solutions = [c.cell_type for c in solutions if "solution" in c.metadata.get("tags", [])]
    assert {"code", "markdown"} == set(solutions)
    # of code, the title is there for closed and for open
    assert article.count(">Solution<") == 2 * solutions.count("code") + solutions.count("markdown")
    assert "Not executed" not in article


def test_a_note_for_the_instructor_is_folded(browser, site):
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "notebooks" / "10_cil.html").as_uri())
    note = page.locator("article details.folded", has_text="For the instructor").first
    text = note.get_by_text("Often expected")
    assert not text.is_visible()
    note.locator("summary").press("Enter")
    text.wait_for()
    page.close()


def as_read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_a_notebook_that_is_not_there_has_a_page_that_says_so(site):
    text = (site / "notebooks" / f"{LEFT_OUT}.html").read_text(encoding="utf-8")
    assert "Not executed here" in text and "so it says" not in text


def test_the_download_is_the_executed_notebook_without_paths_of_the_machine(site, executed):
    text = (site / "notebooks" / "10_cil.html").read_text(encoding="utf-8")
    (link,) = re.findall(r'href="([^"]*_downloads[^"]*)"', text)
    assert link.endswith("/10_cil.ipynb")
    file = site / "notebooks" / link
    loaded, before = (nbformat.read(f, as_version=4) for f in (file, executed["10_cil"]))
    nbformat.validate(loaded)
    assert loaded.cells == before.cells
    assert str(executed["10_cil"].parent) not in file.read_text(encoding="utf-8")


def test_the_reference_holds_every_module_below_those_it_imports(site):
    found = list(pages.modules())
    walked = {module.name for module in pkgutil.walk_packages(cilkit.__path__, "cilkit.")}
    assert set(found) == walked
    assert found.index("cilkit.classes") < found.index("cilkit.losses")
    assert found.index("cilkit.losses") < found.index("cilkit.methods.cil")
    assert found.index("cilkit.methods") < found.index("cilkit.study")
    for module in found:
        assert (site / "api" / f"{module}.html").is_file()


@pytest.mark.parametrize(
    "text",
    [
        "With *stars*, **more**, under_scores_, |bars| and a \\ it stays as it is.",
        "x_ and __init__, J^ce, 2*3*4, :role:, [1]_ and <a@b.c>_",
    ],
)
def test_plain_text_of_a_docstring_means_nothing_to_sphinx(text):
    assert rendered(text).astext() == text


def test_a_docstring_keeps_code_and_the_columns_of_its_blocks():
    block = ["log_y   (B, S, H, W)  *log*", "", "labels  (B, H, W)"]
    lines = ["Takes `log_y`:", *(f"    {line}" for line in block), "and", "a  b"]
    shown = rendered("\n".join(lines))
    assert [code.astext() for code in shown.findall(nodes.literal)] == ["log_y"]
    blocks = [part.astext() for part in shown.findall(nodes.literal_block)]
    assert "\n\n".join(blocks) == "\n".join([*block, "", "a  b"])


def rendered(docstring: str) -> nodes.document:
    text = "\n".join(pages.as_rest(docstring.splitlines()))
    strict = {"report_level": 1, "warning_stream": False}
    shown = publish_doctree(text, settings_overrides=strict)
    assert not list(shown.findall(nodes.system_message))
    return shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`cilkit.losses.cros_entropy`", "cilkit.losses.cros_entropy"),
        ("[one](nowhere.md)", "nowhere.md"),
        ("[one](#nowhere)", "nowhere"),
        ("| a | notebook |\n|---|---|\n| b | 77 |", "notebooks/77"),
    ],
)
def test_a_broken_reference_stops_the_build(text, complaint, tmp_path, monkeypatch, capfd):
    def stage(_, source: Path) -> list:
        source.mkdir()
        (source / "index.md").write_text(f"# A page\n\n{text}\n")
        return []

    monkeypatch.setattr(book, "stage", stage)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("the old one")
    with pytest.raises(ValueError, match="was not built"):
        book.build({}, tmp_path / "site")
    assert complaint in capfd.readouterr().err
    assert (tmp_path / "site" / "index.html").read_text() == "the old one"


def test_a_notebook_that_failed_or_was_stopped_is_refused_by_name(tmp_path):
    file = as_executed("04_metrics", tmp_path)
    notebook = nbformat.read(file, as_version=4)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    error = {"ename": "KeyError", "evalue": "'road'", "traceback": []}
    last.outputs = [nbformat.v4.new_output("error", **error)]
    nbformat.write(notebook, file)
    with pytest.raises(ValueError, match=r"04_metrics.ipynb failed \(KeyError: 'road'\)"):
        book.build({"04_metrics": file}, tmp_path / "site")
    last.outputs, last.execution_count = [], None
    nbformat.write(notebook, file)
    with pytest.raises(ValueError, match="04_metrics.ipynb was stopped .* make study"):
        book.build({"04_metrics": file}, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_newest_executed_notebooks_of_a_study_are_found(tmp_path):
    study = {"DATA": "some/Toys", "RUNS": str(tmp_path), "PRESET": "smoke", "SEED": "1"}
    with pytest.raises(FileNotFoundError, match="make study DATA=some/Toys RUNS=.* SEED=1"):
        book.find(**study)
    old, new = (tmp_path / "toys" / "smoke" / part for part in ("seed1/notebooks", "results"))
    for folder, name in ((old, "00_start_here"), (old, "12_results"), (new, "12_results")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)
    assert book.find(**study) == {
        "00_start_here": old / "00_start_here.ipynb",
        "12_results": new / "12_results.ipynb",
    }


def test_the_words_of_make_study_name_the_study_that_is_shown():
    assert book.parse([]) == book.STUDY
    words = ["DATA=toyscapes,../camvid", "SEEDS=2,3", "METHODS=CIL,LWOF", "RUNS=a,b"]
    assert book.parse(words) == book.STUDY | {"SEED": "2", "RUNS": "a,b"}
    with pytest.raises(ValueError, match="parameter 'SED'.*SEED"):
        book.parse(["SED=1"])


@pytest.fixture
def visit(browser, site) -> Iterator:
    """visit("index", 390) is that page of the site in the browser, when its formulas are set.

    When the test is over, nothing may have been asked of the outside, or gone wrong in a page.
    """
    problems: list[str] = []
    page = browser.new_page()
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))

    def visit(name: str, width: int):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((site / f"{name}.html").as_uri())
        page.evaluate("async () => window.MathJax && await MathJax.startup.promise")
        return page

    yield visit
    page.close()
    assert problems == []


SHOWN = [
    *("index", "data/README", "benchmarks/README", "notebooks/README", "notebooks/GLOSSARY"),
    "api/index",
    *("api/cilkit.losses", "api/cilkit.explore.plots", "api/cilkit.study"),
    *(f"notebooks/{name}" for name in NOTEBOOKS),
]


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_can_be_read_on_a_phone_and_its_formulas_are_set(visit, name):
    page = visit(name, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(OVER_THE_EDGE) == []
    for formula in page.evaluate(FORMULAS):
        assert formula["hidden"] or formula["height"] > 5, formula["text"]
        assert not formula["error"], formula["text"]
    if name == "notebooks/03_losses":
        assert len(page.evaluate(FORMULAS)) > 10
    assert not re.search(r"\\frac|\\mathcal|\$\$", page.locator("article").inner_text())
    for image in page.locator("article img").all():
        alt = image.get_attribute("alt")
        assert alt and "/" not in alt
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")


def test_the_answers_to_a_question_open_by_key_without_scripts(browser, site):
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "notebooks" / "03_losses.html").as_uri())
    folded = page.locator("article details:not([class])")
    answers = folded.filter(has_not_text="Further:")  # the last part of a notebook
    assert answers.count() == folded.count() - 1 == 12
    for answer, key in zip(answers.all(), ["Enter", "Space"] * 6, strict=True):
        reason = answer.locator("p")
        assert not reason.is_visible()
        answer.locator("summary").focus()
        page.keyboard.press(key)
        reason.wait_for()
        assert reason.inner_text().startswith(("Right. ", "Not quite. "))
    page.close()


def test_the_formulas_of_an_answer_are_set(visit):
    page = visit("notebooks/03_losses", 390)
    page.evaluate("() => document.querySelectorAll('article details').forEach(d => d.open = true)")
    inside = "[...document.querySelectorAll('article details:not([class]) .math')]"
    heights = page.evaluate(f"() => {inside}.map(f => f.getBoundingClientRect().height)")
    assert len(heights) >= 10 and min(heights) > 5
    assert page.evaluate(OVER_THE_EDGE) == []


def test_the_search_finds_a_function_without_a_server(visit):
    page = visit("search", 1280)
    page.goto(page.url + "?q=entropy_weight")
    page.locator("#search-results li a").first.wait_for()
    assert "cilkit.losses" in page.locator("#search-results").inner_text()
