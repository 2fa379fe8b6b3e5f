"""JupyterLab and Notebook 7 in a real browser: Run All, then the explorers by key and click.

If SCREENSHOTS names a folder, pictures of the explorers before and after use are left there.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill as pm
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cilkit.explore.widgets import pixel_explorer
from cilkit.study.study import Study

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Locator, Page, expect = api.Locator, api.Page, api.expect

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SCREENSHOTS = os.environ.get("SCREENSHOTS")
PATIENCE = 90  # seconds, for a page on a busy machine
OWN_FOLDERS = [  # what Jupyter, and the npm that it asks for language servers, keep at home
    *("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"),
    *("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"),
    "NPM_CONFIG_CACHE",
]
NO_NEWS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}
OUTPUT = ".jp-OutputArea-output"
SHORTCUTS = "reading 'schema'"  # an error of Notebook 7.6 itself, now and then, while it loads
EXPLORERS = """
from cilkit import Study
from cilkit.explore.widgets import entropy_explorer, pixel_explorer, split_explorer

study = Study(DATA, RUNS, PRESET, SEED)
students = {"CIL": study.run("T2", "CIL")}
---
split_explorer(study)
---
entropy_explorer(study, {"T1": study.run("T1")})
---
pixel_explorer(study, students, study.run("T1"))
"""
# decode() fails, too, when another picture takes the place of the one it has begun with
BITMAP = """async picture => {
    for (let address; address !== picture.src;) {
        address = picture.src;
        await picture.decode().catch(error => { if (picture.src === address) throw error; });
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL();
}"""
SENTENCES = """element => {
    const found = [];
    const note = () => {
        const text = element.textContent.trim();
        if (text && text !== found.at(-1)) found.push(text);
    };
    new MutationObserver(note).observe(element, { childList: true, subtree: true });
    return found;
}"""
SEVENTY_KEYS = """element => {
    const key = { key: "ArrowDown", bubbles: true, cancelable: true };
    for (let k = 0; k < 70; k++) element.dispatchEvent(new KeyboardEvent("keydown", key));
}"""

pytestmark = pytest.mark.xdist_group("browser")  # they share a server
expect.set_options(timeout=PATIENCE * 1000)


@dataclass(frozen=True)
class Server:
    url: str  # http://127.0.0.1:port/
    page: str  # the address of a notebook below it
    token: str
    folder: Path  # of the notebooks
    log: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Server]:
    with _served("jupyterlab", "doc/tree/{}?reset&", tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def notebook_7(tmp_path_factory) -> Iterator[Server]:
    """A server of its own: JupyterLab's keeps a workspace that Notebook 7 cannot restore."""
    pytest.importorskip("notebook", minversion="7", reason="Notebook 7 is not installed")
    with _served("notebook", "notebooks/{}?", tmp_path_factory.mktemp("notebook_7")) as server:
        yield server


@pytest.fixture
def server(request) -> Server:
    """JupyterLab, or what a test asks for: parametrize("server", [...], indirect=True)."""
    return request.getfixturevalue(getattr(request, "param", "lab"))


@contextmanager
def _served(module: str, page: str, folder: Path) -> Iterator[Server]:
    """A Jupyter for this machine only, with folders of its own, ended whatever happens."""
    own = {name: str(folder / name.lower()) for name in OWN_FOLDERS}
    settings = Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    (folder / "notebooks").mkdir()
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | own | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        about = _about(server, Path(own["JUPYTER_RUNTIME_DIR"]), folder / "log")
        yield Server(about["url"], page, about["token"], folder / "notebooks", folder / "log")
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _about(server: subprocess.Popen, runtime: Path, log: Path) -> dict:
    """What the server writes about itself once it has a port."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        for file in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text())
            except json.JSONDecodeError:  # half written
                break
        time.sleep(0.1)
    raise RuntimeError(f"Jupyter did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Where the tests of explorers keep their models, so that each is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def explorers(tmp_path_factory) -> Path:
    """A notebook that shows the three explorers and little else."""
    file = tmp_path_factory.mktemp("notebook") / "explorers.ipynb"
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in EXPLORERS.split("---")]
    parameters = nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})
    python = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    content = nbformat.v4.new_notebook(cells=[parameters, *cells], metadata={"kernelspec": python})
    nbformat.write(content, file)
    return file


@pytest.fixture
def run_all(browser, server, toys) -> Iterator[Callable[[Path, Path], Page]]:
    """run_all(notebook, runs) is the page after Run All on a few toy scenes.

    When the test is over, neither the page nor the server nor a kernel may have complained.
    """
    page = browser.new_page(viewport={"width": 1500, "height": 1200})
    page.set_default_timeout(PATIENCE * 1000)
    problems = _watch(page, server.url)

    def run_all(notebook: Path, runs: Path) -> Page:
        parameters = {"DATA": str(toys), "RUNS": str(runs), "PRESET": "smoke", "SEED": 0}
        copy = server.folder / notebook.name
        pm.execute_notebook(notebook, copy, parameters, prepare_only=True, kernel_name="python3")
        content = nbformat.read(copy, as_version=4)
        content.cells.append(nbformat.v4.new_code_cell("print('the', 'end')"))
        nbformat.write(content, copy)
        page.goto(f"{server.url}{server.page.format(copy.name)}token={server.token}")
        page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        end = page.locator(OUTPUT, has_text="the end")
        error = page.locator(f"{OUTPUT}[data-mime-type$=stderr]", has_text="Error")
        end.or_(error).first.wait_for(state="attached", timeout=4 * PATIENCE * 1000)
        assert problems == []
        return page

    yield run_all
    problems += page.locator(".cilkit-text b").all_text_contents()
    page.close()
    assert problems == []
    assert "Traceback" not in server.log.read_text()


def _watch(page: Page, url: str) -> list[str]:
    """The list that gets whatever the page and its kernel complain of from now on."""
    problems: list[str] = []

    def allowed(address: str) -> bool:
        return address.startswith((url, url.replace("http", "ws", 1), "blob:", "data:"))

    def note(kind: str, text: str) -> None:
        problems.append(f"{kind}: {text}")

    page.on("pageerror", lambda e: SHORTCUTS in str(e) or note("error in the page", str(e)))
    page.on("console", lambda m: m.type == "error" and note("console", f"{m.text} {m.location}"))
    page.on("response", lambda r: r.status >= 500 and note(f"status {r.status}", r.url))
    for kind in ("request", "websocket"):
        page.on(kind, lambda r: allowed(r.url) or note("request to the outside", r.url))

    def from_kernel(frame: bytes | str) -> None:
        # a callback's error is in no cell: JupyterLab shows it in its log console alone
        if isinstance(frame, bytes) and re.search(rb'"msg_type": ?"error"', frame):
            note("error in the kernel", frame.rpartition(b'"ename"')[2].decode(errors="replace"))

    page.on("websocket", lambda socket: socket.on("framereceived", from_kernel))
    return problems


class OnPage:
    """An explorer as its user meets it: controls, a sentence and a picture."""

    def __init__(self, page: Page, control: str):
        """`control` is a name that no other explorer of the page has."""
        self.page = page
        here = page.locator(f".cilkit-{control}")
        self.box = page.locator(OUTPUT).filter(has=here)
        self.sentence = self.box.locator(".cilkit-text")
        self.picture = self.box.locator(".cilkit-picture img")
        self.frame = self.box.get_by_role("application")  # around it, where it takes keys
        self.picture.scroll_into_view_if_needed()

    def slider(self, name: str) -> Locator:
        return self.box.locator(f".cilkit-{name} [role=slider]")

    def press(self, name: str, *keys: str) -> None:
        """Press keys on a slider; it keeps the focus."""
        self.slider(name).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def text(self) -> str:
        return self.sentence.text_content().strip()  # inner_text is empty out of sight

    def says(self, start: str) -> None:
        """Wait until the sentence begins so."""
        expect(self.sentence).to_have_text(re.compile(rf"^\s*{re.escape(start)}"))

    def bitmap(self) -> str:
        """The picture's own pixels; its address is new with each picture and says nothing."""
        return self.picture.evaluate(BITMAP)

    def shows(self, bitmap: str, same: bool = True) -> None:
        """Wait until the picture is this one, or another one."""
        end = time.monotonic() + PATIENCE
        while (self.bitmap() == bitmap) != same:  # wait_for_function does not await a promise
            assert time.monotonic() < end, "this picture never came" if same else "no new picture"
            self.page.wait_for_timeout(50)

    @contextmanager
    def another_picture(self) -> Iterator[None]:
        """What happens within must change the picture, and leave no error."""
        before = self.bitmap()
        yield
        self.shows(before, same=False)
        expect(self.sentence.locator("b")).to_have_count(0)

    def screenshot(self, name: str) -> None:
        if SCREENSHOTS:
            self.box.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def test_notebook_11_by_key_and_click(run_all, toys, runs):
    page = run_all(NOTEBOOKS / "11_entropy_weights.ipynb", runs)
    study = Study(toys, runs, "smoke", 0)
    _move_the_entropy_explorer(OnPage(page, "strength"), study)
    pixel = OnPage(page, "row")
    _move_the_pixel_explorer(pixel)
    students = {"CIL": study.run("T2", "CIL")}
    figure = pixel_explorer(study, students, study.run("T1")).figure
    _click_pixels(pixel, figure)


def _move_the_entropy_explorer(explorer: OnPage, study: Study) -> None:
    start, sentence = explorer.bitmap(), explorer.text()
    explorer.screenshot("entropy_before")
    with explorer.another_picture():
        explorer.press("strength", "Home")
        explorer.says("Mean weight 1.00. ")
    expect(explorer.sentence).to_contain_text(" In T2 the mask leaves ")
    expect(explorer.slider("strength")).to_be_focused()
    explorer.press("strength", *["ArrowRight"] * 4)  # by a quarter each
    explorer.says(sentence)
    explorer.shows(start)
    with explorer.another_picture():
        explorer.press("temperature", "Home")
    with explorer.another_picture():
        explorer.press("image", "ArrowRight")
    with explorer.another_picture():
        explorer.press("opacity", "Home")
    test = study.data.test_set("T3", study.config.height, native_labels=False)
    last = study.split.names()[-1]
    shown = (test[2][1] == study.split.channel(last)).any()  # it begins with image 1
    with explorer.another_picture():
        explorer.press("focus", "End")
        explorer.says("Mean weight " if shown else f"This image shows no {last}. Mean weight ")
    with explorer.another_picture():
        explorer.press("teacher", "End")
    expect(explorer.sentence).to_contain_text(" In T3 the mask leaves ")
    explorer.screenshot("entropy_after")


def _move_the_pixel_explorer(explorer: OnPage) -> None:
    explorer.says("CIL at row ")
    explorer.screenshot("pixel_before")
    with explorer.another_picture():
        explorer.press("row", "End")
        explorer.says("CIL at row 63, ")
        explorer.press("row", "ArrowLeft")
        explorer.says("CIL at row 62, ")
        explorer.press("column", "Home")
        explorer.says("CIL at row 62, column 0: ")
    with explorer.another_picture():
        explorer.press("student", "End")
    with explorer.another_picture():
        explorer.press("image", "ArrowRight")
    explorer.press("method", *["ArrowLeft"] * 3)  # LWM, whose runs are not there
    expect(explorer.sentence.locator("b")).to_contain_text("run 08_lwm.ipynb")
    expect(explorer.picture).to_be_hidden()  # the old one would answer another question
    explorer.press("method", "Home")
    explorer.says("FT at row 62, column 0: ")
    expect(explorer.picture).to_be_visible()


def _click_pixels(explorer: OnPage, figure: Figure) -> None:
    """Scaled up in a wide page, down in a narrow one; the browser counts whole pixels of its own.

    figure: of the same explorer, for the places of its pictures
    """
    pictures = [ax for ax in figure.axes if ax.images]
    clicks = [(1500, 40, 100), (1500, 5, 9), (700, 20, 70), (700, 60, 3)]
    for ax, (width, row, column) in zip(pictures, clicks, strict=True):
        explorer.page.set_viewport_size({"width": width, "height": 1200})
        x, y = figure.transFigure.inverted().transform(ax.transData.transform((column, row)))
        box = explorer.picture.bounding_box()
        with explorer.another_picture():
            explorer.picture.click(position={"x": x * box["width"], "y": (1 - y) * box["height"]})
            # in a narrow page, one of its pixels may be two of the picture
            off = (0,) if width == 1500 else (-1, 0, 1)
            near = ["|".join(str(at + d) for d in off) for at in (row, column)]
            wanted = re.compile("row ({}), column ({}):".format(*near))
            expect(explorer.sentence).to_have_text(wanted)
    explorer.screenshot("pixel_after")


@pytest.mark.parametrize("server", ["lab", "notebook_7"], indirect=True)
def test_the_picture_takes_keys_and_clicks_and_is_saved(run_all, explorers, runs, request):
    page = run_all(explorers, runs)
    pixel = OnPage(page, "row")
    _read_by_a_screen_reader(pixel)
    _choose_by_arrow_keys(pixel)
    _click_then_press(pixel)
    _reset(pixel, "CIL at row 32, column 64: ")
    _save(pixel, "pixel_toys_T2_image-0_method-CIL_student-CIL_row-32_column-64.png")
    split = OnPage(page, "stage")
    split.press("method", "End")
    expect(split.sentence).to_contain_text(": CIL sees labels of ")
    _save(split, "split_toys_stage-T1_method-CIL_image-0.png")
    _reset(split, "Image 0 of T1, ")
    entropy = OnPage(page, "strength")
    entropy.press("strength", "Home")
    entropy.says("Mean weight 1.00. ")
    _save(
        entropy,
        "entropy_toys_teacher-T1_image-0_temperature-1_strength-0_focus-all_opacity-0.7.png",
    )
    with entropy.another_picture():
        entropy.box.get_by_role("button", name="Reset").click()
    for explorer, control in ((pixel, "row"), (split, "stage"), (entropy, "strength")):
        explorer.screenshot(f"{request.node.callspec.id}_{control}")


def _read_by_a_screen_reader(explorer: OnPage) -> None:
    """What it is told about the picture of the pixel explorer, and the words that unfold."""
    name = explorer.text()
    expect(explorer.box.get_by_role("img", name=name, exact=True)).to_be_visible()
    expect(explorer.box.get_by_role("status").first).to_have_text(name)
    expect(explorer.frame).to_have_accessible_name(re.compile("^Choose a pixel: click, or press"))
    words = explorer.box.get_by_text("The pictures show a training image")
    expect(words).to_be_hidden()
    explorer.box.get_by_text("What am I looking at?").click()
    expect(words).to_be_visible()
    explorer.box.get_by_text("What am I looking at?").click()
    expect(words).to_be_hidden()


def _choose_by_arrow_keys(explorer: OnPage) -> None:
    """The keys are the picture's as long as it has the focus, and the notebook's otherwise."""
    page, keyboard = explorer.page, explorer.page.keyboard
    expect(explorer.frame).to_have_css("outline-style", "none")
    explorer.box.get_by_role("link", name="Save picture").focus()
    keyboard.press("Tab")
    expect(explorer.frame).to_be_focused()
    expect(explorer.frame).to_have_css("outline-style", "solid")
    cell = page.locator(".jp-Cell", has=explorer.frame)
    expect(cell).to_have_class(re.compile("jp-mod-active"))  # as it has the focus in it
    for key, place in (
        ("ArrowDown", (33, 64)),
        ("ArrowRight", (33, 65)),
        ("Shift+ArrowUp", (23, 65)),
        ("Shift+ArrowLeft", (23, 55)),
        ("ArrowLeft", (23, 54)),
        ("ArrowUp", (22, 54)),
    ):
        with explorer.another_picture():
            keyboard.press(key)
            explorer.says("CIL at row {}, column {}: ".format(*place))
    said = explorer.sentence.evaluate_handle(SENTENCES)
    explorer.frame.evaluate(SEVENTY_KEYS)  # faster than pictures are drawn: added up, no queue
    explorer.says("CIL at row 63, column 54: ")
    assert len(said.json_value()) <= 3  # not one for each key
    expect(explorer.slider("row")).to_have_attribute("aria-valuenow", re.compile("^63"))
    expect(explorer.frame).to_be_focused()
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    expect(page.locator(".jp-Cell.jp-mod-selected")).to_have_count(1)
    cell.focus()
    keyboard.press("ArrowUp")
    expect(cell).not_to_have_class(re.compile("jp-mod-active"))
    explorer.says("CIL at row 63, column 54: ")


def _click_then_press(explorer: OnPage) -> None:
    """After a click the arrow keys move the pixel that was clicked."""
    box = explorer.picture.bounding_box()
    with explorer.another_picture():
        explorer.picture.click(position={"x": 0.15 * box["width"], "y": 0.2 * box["height"]})
    expect(explorer.frame).to_be_focused()
    row, column = map(int, re.search(r"row (\d+), column (\d+):", explorer.text()).groups())
    assert (row, column) != (63, 54)
    with explorer.another_picture():
        explorer.page.keyboard.press("ArrowRight")
        explorer.says(f"CIL at row {row}, column {column + 1}: ")


def _reset(explorer: OnPage, start: str) -> None:
    with explorer.another_picture():
        explorer.box.get_by_role("button", name="Reset").click()
        explorer.says(start)


def _save(explorer: OnPage, name: str) -> None:
    """The file that the browser gets is the picture, under a name that is said."""
    link = explorer.box.get_by_role("link", name="Save picture")
    expect(link).to_have_attribute("download", name)  # it comes after the sentence
    with explorer.page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == name
    expect(explorer.box.get_by_text(f"The browser saves {name}")).to_be_visible()
    with Image.open(download.value.path()) as saved:
        size = explorer.picture.evaluate("picture => [picture.naturalWidth, picture.naturalHeight]")
        assert saved.format == "PNG" and list(saved.size) == size


def test_notebook_01_by_key(run_all, tmp_path):
    explorer = OnPage(run_all(NOTEBOOKS / "01_split_cityscapes.ipynb", tmp_path), "stage")
    explorer.says("Image 0 of T1, ")
    explorer.screenshot("split_before")
    with explorer.another_picture():
        explorer.press("stage", "End")
        explorer.says("Image 0 of T3, ")
    expect(explorer.sentence).to_contain_text(": FT sees labels of person, rider")
    with explorer.another_picture():
        explorer.press("method", *["ArrowRight"] * 3)
    expect(explorer.sentence).to_contain_text(": LWM sees labels of ")
    with explorer.another_picture():
        explorer.press("image", "ArrowRight")
        explorer.says("Image 1 of T3, ")
    explorer.screenshot("split_after")


def test_the_questions_of_notebook_03_by_key(run_all, tmp_path):
    page = run_all(NOTEBOOKS / "03_losses.ipynb", tmp_path)
    question = page.locator(".jp-MarkdownCell", has_text="Question 2.")
    answers = question.locator("details")
    reasons = answers.locator("p")
    expect(reasons).to_have_count(3)
    answers.first.locator("summary").focus()
    for k, key in enumerate(("Enter", "Space", "Enter")):
        expect(answers.nth(k).locator("summary")).to_be_focused()
        expect(reasons.nth(k)).to_be_hidden()
        page.keyboard.press(key)
        expect(reasons.nth(k)).to_be_visible()
        expect(reasons.nth(k)).to_contain_text("Right." if k == 2 else "Not quite.")
        page.keyboard.press("Tab")
    expect(question.locator("mjx-container").last).to_be_visible()
    expect(page.locator(".jp-Notebook.jp-mod-editMode")).to_have_count(0)  # Enter edits no cell
    if SCREENSHOTS:
        question.screenshot(path=Path(SCREENSHOTS) / "question.png")
