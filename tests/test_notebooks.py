"""Every notebook, executed by papermill on a few toy scenes; then what it left behind is read."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import papermill as pm
import pytest

from book import class_edition, slides
from cilkit.methods import METHODS
from cilkit.results.scores import methods_of
from cilkit.results.tables import comparison, missing_runs
from cilkit.splits import load_split
from cilkit.study.runs import FILES, SUMS, find, load
from cilkit.study.study import Study

pytestmark = pytest.mark.xdist_group("notebooks")  # they share their runs

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
T2_SETS, T3_SETS = ["task1", "task2", "task12"], ["task1", "task2", "task12", "task3", "task123"]
TABLES = [
    "scores",
    "table_II",
    "table_III",
    "field",
    "differences",
    "claims",
    "forgetting",
    "between_tasks",
    "decision_gap",
]
FIGURES = ["figure_4", "seed_dots", "claim_margins", "iou_by_class", "confusion"]
LEAVES = {  # the runs that a notebook must have made or found
    "00_start_here": [],
    "01_split_cityscapes": [],
    "02_erfnet": ["T1"],
    "03_losses": [],
    "04_metrics": ["T1"],
    "05_train_t1": ["T1", "SS_T2", "SS_T3"],
    "06_ft_fe": ["T1", "FT_T2", "FE_T2"],
    "07_lwof": ["LWOF_T2"],
    "08_lwm": ["LWM_T2", "LWM_teacher_T2"],
    "09_michieli": ["Michieli_T2"],
    "10_cil": ["CIL_T2", "CIL_T3", "CIL_wo_weights_T2", "CIL_wo_weights_T3"],
    "11_entropy_weights": ["CIL_T3", "CIL_wo_weights_T3"],
    "12_results": [],
    "13_after_the_paper": ["CIL_T2", "Michieli_T2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def every_run(toys, runs) -> None:
    """All runs of the tables, those that no notebook has made yet as well."""
    study = Study(toys, runs, "smoke")
    for method in ("SS", *METHODS):
        for stage in ("T2", "T3"):
            study.run(stage, method)


@pytest.fixture(scope="module")
def two_seeds(every_run, runs, tmp_path_factory) -> Path:
    """All runs with a method of one's own, and a second seed in which all scores are 1 higher."""
    other = shutil.copytree(runs, tmp_path_factory.mktemp("two") / "runs")
    seed0 = other / "toys" / "smoke" / "seed0"
    for stage in ("T2", "T3"):
        copy = shutil.copytree(seed0 / f"CIL_{stage}", seed0 / f"CIL_mine_{stage}")
        rewrite(copy, "config.json", method="CIL (mine)")
    seed1 = shutil.copytree(seed0, seed0.with_name("seed1"))
    for found in find(seed1):
        rewrite(found.folder, "config.json", seed=1)
        higher = {task: value + 1 for task, value in found.scores["miou"].items()}
        rewrite(found.folder, "scores.json", miou=higher)
    return other


def rewrite(folder: Path, name: str, **changes) -> None:
    """Change a file of a run, and the checksums, as if it had been saved so."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))
    contents = {file: (folder / file).read_bytes() for file in FILES if file != SUMS}
    sums = [f"{hashlib.sha256(c).hexdigest()}  {file}\n" for file, c in contents.items()]
    (folder / SUMS).write_text("".join(sums))


def run(notebook: str, data: Path, runs: Path, out: Path, folder: Path = NOTEBOOKS):
    """Execute a notebook of a folder, and return it."""
    path = folder / f"{notebook}.ipynb"
    parameters = {"DATA": str(data), "RUNS": str(runs), "PRESET": "smoke", "SEED": 0}
    missing = parameters.keys() - pm.inspect_notebook(path).keys()
    assert not missing, f"parameters cell of {path.name} lacks {', '.join(sorted(missing))}"
    here = Path.cwd()
    os.chdir(out)  # a notebook must not care where it is started
    try:
        return pm.execute_notebook(
            path, out / path.name, parameters, kernel_name="python3", progress_bar=False
        )
    finally:
        os.chdir(here)


def test_every_notebook_is_tested():
    assert sorted(LEAVES) == sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", LEAVES)
def test_notebook(notebook, toys, runs, tmp_path, request):
    if notebook == "12_results":  # it trains nothing
        runs = request.getfixturevalue("two_seeds")
    executed = run(notebook, toys, runs, tmp_path)
    errors = [
        output.get("text", "")
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr" and "Warning" in output.get("text", "")
    ]
    assert not errors, errors
    shown = [
        output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])
    ]
    figures = [data for data in shown if data.get("text/plain", "").startswith("<Figure")]
    assert all("image/png" in data for data in figures), "a figure is not shown as a picture"
    folder = runs / "toys" / "smoke" / "seed0"
    for name in LEAVES[notebook]:
        scores = json.loads((folder / name / "scores.json").read_text())
        stage = load_split("cityscapes").stage(name[-2:])
        sets = {"T1": ["task1"], "T2": T2_SETS, "T3": T3_SETS}[stage.name]
        learned = stage.seen
        if "teacher" in name:  # it knows the new classes alone
            sets, learned = [f"task{stage.number}"], stage.new
        assert list(scores["miou"]) == sets
        assert all(0 <= value <= 100 for value in scores["miou"].values())
        assert len(scores["confusion"][sets[-1]]) == learned.stop - learned.start
    if notebook == "12_results":
        check_results(folder.parent / "results")
        assert not (folder / "results").exists()


def check_results(results: Path) -> None:
    """Tables and figures of two seeds, the second one 1 point above the first throughout."""
    wanted = {f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "tex")}
    wanted |= {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    assert wanted == {file.name for file in results.iterdir()}
    table = pd.read_csv(results / "table_III.csv", header=[0, 1], index_col=[0, 1])
    assert table[("Task 1", "ours")].notna().all()  # no method is missing
    assert table[("Task 1", "±")].tolist() == pytest.approx([0.5**0.5] * len(table))
    assert table.loc[("T1, T2", "CIL (mine)")].xs("paper", level=1).isna().all()
    gaps = pd.read_csv(results / "differences.csv", header=[0, 1], index_col=[0, 1])
    mine = gaps.xs("CIL (mine)", level=1)["minus CIL"]  # a copy of CIL: no difference in any seed
    assert mine.to_numpy().tolist() == [[0, 0, 0, 2]] * 2
    verdicts = set(pd.read_csv(results / "claims.csv")["verdict"])
    assert verdicts <= {"holds", "does not hold", "undecided"}


@pytest.mark.parametrize("notebook", ["04_metrics", "10_cil"])
def test_the_student_edition_runs_with_its_stubs(notebook, toys, every_run, runs, tmp_path):
    """Of the other notebooks test_class_edition.py says that no cell needs an answer."""
    files = class_edition.student_files(class_edition.read())
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / f"{notebook}.ipynb").write_bytes(files[f"{notebook}.ipynb"])
    executed = run(notebook, toys, runs, tmp_path, tmp_path / "student")
    texts = [o.get("text", "") for cell in executed.cells for o in cell.get("outputs", [])]
    assert texts and not any("Error" in text for text in texts)


@pytest.fixture(scope="module")
def deck(toys, every_run, runs, tmp_path_factory) -> Path:
    """The slides of a few toy scenes, and nothing that was not trained for them."""
    before = {file: file.stat().st_mtime_ns for file in (runs / "toys").rglob("*")}
    study = {"DATA": str(toys), "RUNS": str(runs), "PRESET": "smoke", "SEED": "0"}
    file = tmp_path_factory.mktemp("slides") / "index.html"
    file.write_bytes(slides.deck(study))
    assert before == {file: file.stat().st_mtime_ns for file in (runs / "toys").rglob("*")}
    return file


@pytest.fixture
def shown(browser, deck):
    """The slides on a screen of 1280 x 720 without a network; nothing may go wrong there."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
    page = context.new_page()
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.goto(deck.as_uri())
    page.wait_for_function("() => deck.isReady()")
    yield page
    context.close()
    assert problems == []


# what stands out of the screen, or lies on something else, in the slide in sight
OVER_THE_EDGE = """() => [...deck.getCurrentSlide().querySelectorAll("*")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && box.height && !element.closest("mjx-assistive-mml")
        && (box.left < 0 || box.top < 0 || box.right > 1280 || box.bottom > 720);
}).map(element => element.outerHTML.slice(0, 200))"""
ONE_ABOVE_THE_OTHER = """() => {
    const kinds = "h1, h2, p, ul, ol, table, img, pre";
    const parts = [...deck.getCurrentSlide().querySelectorAll(kinds)];
    const boxes = parts.filter(part => part.getClientRects().length && !part.closest("aside, li"))
        .map(part => part.getBoundingClientRect());
    return boxes.slice(1).every((box, k) => box.top >= boxes[k].bottom - 1);
}"""


def test_every_slide_fits_on_the_screen_and_its_formulas_and_pictures_are_there(shown):
    count = shown.evaluate("deck.getTotalSlides()")
    assert count == len(slides.minutes(nbformat.read(slides.LECTURE, as_version=4)))
    for number in range(1, count + 1):
        slide = shown.locator("section.present section.present")
        shown.wait_for_function("() => deck.getCurrentSlide().dataset.typeset === 'done'")
        assert shown.evaluate(OVER_THE_EDGE) == [], number
        assert shown.evaluate(ONE_ABOVE_THE_OTHER), number
        assert "$" not in slide.inner_text() and not slide.locator("mjx-merror").count()
        assert "<Figure" not in slide.inner_text()
        for picture in slide.locator("img").all():
            assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
            assert picture.get_attribute("alt").startswith("Picture of the slide")
            assert picture.bounding_box()["height"] > 150
        shown.keyboard.press("ArrowRight")
    assert slide.locator("h2").inner_text() == "Take home"


def test_the_speaker_sees_notes_and_minutes(shown):
    shown.keyboard.press("ArrowRight")
    with shown.context.expect_page() as opened:
        shown.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("4 minutes").wait_for()
    assert opened.value.locator(".pacing").first.is_visible()


def test_the_results_of_one_seed_say_how_to_get_more(toys, every_run, runs, tmp_path):
    only = shutil.copytree(runs, tmp_path / "runs")
    executed = run("12_results", toys, only, tmp_path)
    texts = [o.get("text", "") for cell in executed.cells for o in cell.get("outputs", [])]
    assert sum("make study SEEDS=0,1,2" in text for text in texts) == 2  # to fill, and to pair
    table = pd.read_csv(only / "toys/smoke/results/table_II.csv", header=[0, 1], index_col=[0, 1])
    assert set(table.columns.get_level_values(1)) == {"ours", "paper"}


def test_the_results_of_a_seed_of_older_code_show_which_seeds_match(toys, two_seeds, tmp_path):
    mixed = shutil.copytree(two_seeds, tmp_path / "runs")
    for found in find(mixed / "toys" / "smoke" / "seed0"):
        code = found.config["code"] | {"shared": "older"}
        rewrite(found.folder, "config.json", code=code)
    with pytest.raises(pm.PapermillExecutionError, match="differ in code; a table holds") as error:
        run("12_results", toys, mixed, tmp_path)
    assert "by_configuration(found)[0]" in str(error.value)
    executed = nbformat.read(tmp_path / "12_results.ipynb", as_version=4)
    tables = [
        output["data"]["text/plain"]
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "differs in" in output.get("data", {}).get("text/plain", "")
    ]
    assert len(tables) == 1 and tables[0].count("code") == 1


def test_what_10_trains_only_on_demand_is_trained_once_its_switch_is_set(
    toys, every_run, runs, tmp_path
):
    mine = shutil.copytree(runs, tmp_path / "runs")
    content = nbformat.read(NOTEBOOKS / "10_cil.ipynb", as_version=4)
    for name in ("TRAIN_MINE", "TRAIN_AGAIN"):
        (switch,) = [cell for cell in content.cells if f"{name} = False" in cell.source]
        switch.source = switch.source.replace(f"{name} = False", f"{name} = True")
    (tmp_path / "edited").mkdir()
    nbformat.write(content, tmp_path / "edited" / "10_cil.ipynb")
    executed = run("10_cil", toys, mine, tmp_path, tmp_path / "edited")
    (again,) = [cell for cell in executed.cells if "TRAIN_AGAIN = True" in cell.source]
    printed = "".join(output.get("text", "") for output in again["outputs"])
    assert "sidewalk" in printed and "nan" not in printed.lower()
    found = find(mine / "toys" / "smoke")
    assert methods_of(found)[-1] == "CIL (mine)"
    ours = comparison("II", found).xs("ours", axis=1, level=1).xs("CIL (mine)", level="method")
    assert ours.notna().sum(axis=1).tolist() == [3, 5]
    assert not any("CIL (mine)" in line for line in missing_runs(found))


@pytest.mark.parametrize("trained", [False, True])
def test_00_asks_the_first_model_if_it_is_there_and_trains_nothing(
    trained, toys, runs, tmp_path, request
):
    mine = tmp_path / "runs"
    if trained:
        request.getfixturevalue("every_run")
        shutil.copytree(runs / "toys/smoke/seed0/T1", mine / "toys/smoke/seed0/T1")
    executed = run("00_start_here", toys, mine, tmp_path)
    (cell,) = [cell for cell in executed.cells if "entropy_explorer" in cell.source]
    pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
    texts = "".join(o.get("text", "") for o in cell.outputs)
    assert len(pictures) == trained
    assert ("No run T1 yet" in texts) == (not trained)
    assert [found.folder.name for found in find(mine)] == ["T1"] * trained


def test_a_notebook_trains_what_a_program_trains_to_the_last_bit(toys, tmp_path):
    run("02_erfnet", toys, tmp_path / "papermill", tmp_path)
    mine = Study(toys, tmp_path / "here", "smoke").run("T1")
    other = load(tmp_path / "papermill" / mine.folder.relative_to(tmp_path / "here"))
    assert mine.digest() == other.digest() and mine.scores == other.scores
    assert mine.config == other.config
    histories = [found.history.drop(columns="seconds") for found in (mine, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
