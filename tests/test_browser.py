"""JupyterLab in a real browser: Run All, then the explorers by key and click, as a student would.

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

pytestmark = pytest.mark.xdist_group("browser")  # they share a server
expect.set_options(timeout=PATIENCE * 1000)


@dataclass(frozen=True)
class Lab:
    url: str  # http://127.0.0.1:port/
    token: str
    folder: Path  # of the notebooks
    log: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A JupyterLab for this machine only, with folders of its own, ended whatever happens."""
    folder = tmp_path_factory.mktemp("lab")
    own = {name: str(folder / name.lower()) for name in OWN_FOLDERS}
    settings = Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    (folder / "notebooks").mkdir()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", "--port=0", f"--notebook-dir={folder / 'notebooks'}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | own | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        about = _about(server, Path(own["JUPYTER_RUNTIME_DIR"]), folder / "log")
        yield Lab(about["url"], about["token"], folder / "notebooks", folder / "log")
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
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture
def run_all(browser, lab, toys) -> Iterator[Callable[[str, Path], Page]]:
    """run_all("11_entropy_weights", runs) is the page after Run All on a few toy scenes.

    When the test is over, neither the page nor the server nor a kernel may have complained.
    """
    page = browser.new_page(viewport={"width": 1500, "height": 1200})
    page.set_default_timeout(PATIENCE * 1000)
    problems = _watch(page, lab.url)

    def run_all(notebook: str, runs: Path) -> Page:
        parameters = {"DATA": str(toys), "RUNS": str(runs), "PRESET": "smoke", "SEED": 0}
        source, copy = (folder / f"{notebook}.ipynb" for folder in (NOTEBOOKS, lab.folder))
        pm.execute_notebook(source, copy, parameters, prepare_only=True, kernel_name="python3")
        content = nbformat.read(copy, as_version=4)
        content.cells.append(nbformat.v4.new_code_cell("print('the', 'end')"))
        nbformat.write(content, copy)
        page.goto(f"{lab.url}doc/tree/{copy.name}?token={lab.token}&reset")
        page.get_by_text("| Idle").wait_for()
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
    assert "Traceback" not in lab.log.read_text()


def _watch(page: Page, url: str) -> list[str]:
    """The list that gets whatever the page and its kernel complain of from now on."""
    problems: list[str] = []

    def allowed(address: str) -> bool:
        return address.startswith((url, url.replace("http", "ws", 1), "blob:", "data:"))

    def note(kind: str, text: str) -> None:
        problems.append(f"{kind}: {text}")

    page.on("pageerror", lambda error: note("error in the page", str(error)))
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
        self.picture = self.box.locator("img.cilkit-picture")
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


def test_notebook_11_by_key_and_click(run_all, toys, tmp_path):
    page = run_all("11_entropy_weights", tmp_path)
    study = Study(toys, tmp_path, "smoke", 0)
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


def test_notebook_01_by_key(run_all, tmp_path):
    explorer = OnPage(run_all("01_split_cityscapes", tmp_path), "stage")
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
    page = run_all("03_losses", tmp_path)
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
