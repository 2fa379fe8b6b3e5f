from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from ipywidgets import IntSlider
from matplotlib.figure import Figure
from PIL import Image

from cilkit import widgets
from cilkit.methods import METHODS
from cilkit.runs import NEW_TEACHER
from cilkit.study import Study
from cilkit.transforms import Augmentation
from cilkit.widgets import (
    Explorer,
    entropy_explorer,
    following,
    pixel_explorer,
    show_training,
    split_explorer,
)


def picture(explorer: Explorer) -> np.ndarray:
    return np.array(Image.open(BytesIO(explorer.picture.value)))


@pytest.fixture(scope="module")
def study(scenes, tmp_path_factory) -> Study:
    """A study with the runs T1, CIL_T2 and FT_T2, trained for one step."""
    settings = {"height": 32, "augmentation": Augmentation(crop=(16, 32)), "precision": "32-true"}
    study = Study(scenes.root, tmp_path_factory.mktemp("runs"), "smoke", 0, **settings)
    study.run("T2", "CIL")
    study.run("T2", "FT")
    return study


@pytest.fixture
def entropy(study) -> Explorer:
    return entropy_explorer(study, {"T1": study.run("T1"), "T2": study.run("T2", "CIL")})


@pytest.fixture
def pixel(study) -> Explorer:
    students = {"CIL": study.run("T2", "CIL"), "FT": study.run("T2", "FT")}
    return pixel_explorer(study, students, study.run("T1"))


# any explorer


def test_a_picture_and_a_sentence_follow_the_control():
    def draw(n):
        figure = Figure(figsize=(2, 1))
        figure.text(0.5, 0.5, str(n))
        return figure, f"{n} < {n + 1}"

    explorer = Explorer(draw, {"n": IntSlider(3, min=0, max=9)})
    before = picture(explorer)
    assert explorer.text.value == "3 &lt; 4"
    explorer.controls["n"].value = 4
    assert not np.array_equal(before, picture(explorer))
    assert explorer.text.value == "4 &lt; 5"


def test_an_error_is_shown_and_the_next_move_mends_it():
    def draw(n):
        if n == 1:
            raise ValueError("no <1> here")
        return Figure(figsize=(1, 1)), "fine"

    explorer = Explorer(draw, {"n": IntSlider(0, min=0, max=2)})
    explorer.controls["n"].value = 1
    assert explorer.text.value == "<b>ValueError: no &lt;1&gt; here</b>"
    explorer.controls["n"].value = 2
    assert explorer.text.value == "fine"


def test_a_page_without_a_kernel_gets_the_picture(entropy):
    bundle = entropy._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/png"].startswith("iVBOR")  # a PNG in base64


# entropy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher", "T2"),
        ("image", 1),
        ("temperature", 2.0),
        ("strength", 3.0),
        ("focus", "road"),
        ("opacity", 0.3),
    ],
)
def test_every_control_of_the_entropy_explorer_changes_the_picture(entropy, name, value):
    before = picture(entropy)
    entropy.controls[name].value = value
    assert "Error" not in entropy.text.value
    assert not np.array_equal(before, picture(entropy))


def test_the_sentence_tells_mean_weight_and_the_share_of_the_mask(entropy):
    entropy.controls["strength"].value = 0
    assert entropy.text.value.startswith("Mean weight 1.00. In T2 the mask leaves ")
    entropy.controls["teacher"].value = "T2"
    assert " In T3 the mask leaves " in entropy.text.value


def test_a_class_that_the_image_does_not_show_is_named(entropy, study):
    labels = study.data.test_set("T3", 32, native_labels=False)[0][1]
    names = study.split.names()
    shown, absent = names[int(labels.min())], names[next(c for c in range(19) if c not in labels)]
    entropy.controls["focus"].value = absent
    assert entropy.text.value.startswith(f"This image shows no {absent}. Mean weight")
    entropy.controls["focus"].value = shown
    assert entropy.text.value.startswith("Mean weight")


def test_the_sliders_end_at_the_last_image_and_at_the_temperatures_of_the_table(entropy, study):
    assert entropy.controls["image"].max == len(study.data.test) - 1
    slider = entropy.controls["temperature"]
    slider.value = 99
    assert slider.value == slider.max == widgets.TEMPERATURES[-1]
    assert "Error" not in entropy.text.value


def test_every_temperature_of_the_slider_is_in_the_table(entropy):
    slider = entropy.controls["temperature"]
    for k in range(20):
        slider.value = slider.min + k * slider.step
        assert "Error" not in entropy.text.value, slider.value


def test_a_teacher_of_other_classes_is_named_in_the_widget(study, make_network):
    with pytest.raises(ValueError, match=r"knows 7 classes, but .* end with 5 \(T1\), 11 \(T2\)"):
        following(study, 7)
    assert following(study, 5).name == "T2" and following(study, 19) is None


def test_without_a_teacher_there_is_no_explorer(study):
    with pytest.raises(ValueError, match="no teacher to choose from"):
        entropy_explorer(study, {})


# one pixel


@pytest.mark.parametrize(
    ("name", "value"),
    [("image", 1), ("method", "LWOF"), ("student", "FT"), ("row", 3), ("column", 5)],
)
def test_every_control_of_the_pixel_explorer_changes_the_picture(pixel, name, value):
    before = picture(pixel)
    pixel.controls[name].value = value
    assert "Error" not in pixel.text.value
    assert not np.array_equal(before, picture(pixel))


def test_a_click_into_any_picture_moves_both_sliders_and_draws_once(pixel, monkeypatch):
    drawn = []
    draw = pixel.draw
    monkeypatch.setattr(pixel, "draw", lambda **values: drawn.append(values) or draw(**values))
    pictures = [ax for ax in pixel.figure.axes if ax.images]
    assert len(pictures) == 4
    for ax, (row, column) in zip(pictures, [(0, 0), (31, 63), (7, 40), (20, 11)], strict=True):
        x, y = ax.transData.transform((column, row))
        drawn.clear()
        pixel.click(x, pixel.figure.bbox.height - y)
        assert (pixel.controls["row"].value, pixel.controls["column"].value) == (row, column)
        assert len(drawn) == 1
        assert f"row {row}, column {column}:" in pixel.text.value


def test_a_click_beside_the_pictures_does_nothing(pixel):
    before = pixel.picture.value
    pixel.click(1, pixel.figure.bbox.height - 1)
    assert pixel.picture.value == before


def test_a_method_with_a_second_teacher_says_how_to_get_it(pixel, study):
    assert not study.exists("T2", NEW_TEACHER)
    pixel.controls["method"].value = "LWM"
    assert "run 08_lwm.ipynb" in pixel.text.value
    pixel.controls["method"].value = "Michieli"
    assert pixel.text.value.startswith("Michieli at row 16, column 32: the label")


# the split


def test_the_split_explorer_shows_each_method_what_it_may_see(study):
    explorer = split_explorer(study)
    explorer.controls["stage"].value = "T2"
    before = picture(explorer)
    assert "FT sees labels of building, wall" in explorer.text.value
    explorer.controls["method"].value = "Michieli"
    assert "Michieli sees labels of road, sidewalk" in explorer.text.value
    assert not np.array_equal(before, picture(explorer))
    assert list(explorer.controls["method"].options) == list(METHODS)


# training


@pytest.fixture
def shown(monkeypatch) -> list:
    """What is displayed, each time it is."""
    seen = []

    class Handle:
        def update(self, content, raw):
            seen.append(("again", content))

    def display(content, raw, display_id):
        seen.append(("new", content))
        return Handle()

    monkeypatch.setattr(widgets, "display", display)
    return seen


HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "learning_rate": [0.1, 0.05],
        "ce": [1.5, 0.5],
        "task1": [float("nan"), 61.24],
        "task12": [float("nan"), 40.0],
        "seconds": [3.0, 3.0],
    }
)


def test_in_jupyterlab_one_figure_grows_with_the_epochs_of_a_training(shown, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "05_train_t1.ipynb")
    show = show_training()
    for name in ("T1", "FT T2", "T1"):
        show(name, HISTORY[:1])
        show(name, HISTORY)
    assert [how for how, _ in shown] == ["new", "again"] * 3
    assert shown[0][1]["image/png"] != shown[1][1]["image/png"]
    words = "T1, epoch 2: ce 0.500, Task 1 61.2 %, Task 1∪2 40.0 %"
    assert shown[1][1]["text/plain"] == words


def test_elsewhere_a_line_is_printed_for_each_epoch_that_was_scored(shown, monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    show = show_training()
    show("T1", HISTORY[:1])
    show("T1", HISTORY)
    assert not shown
    assert capsys.readouterr().out == "T1, epoch 2: ce 0.500, Task 1 61.2 %, Task 1∪2 40.0 %\n"
