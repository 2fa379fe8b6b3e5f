from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ipywidgets import IntSlider
from matplotlib.figure import Figure
from PIL import Image

from cilkit.classes import belongs
from cilkit.data.augmentation import Augmentation
from cilkit.explore import widgets
from cilkit.explore.widgets import (
    Explorer,
    entropy_explorer,
    following,
    pixel_explorer,
    show_training,
    split_explorer,
)
from cilkit.methods import METHODS, NEW_TEACHER
from cilkit.study.study import Study


def picture(explorer: Explorer) -> np.ndarray:
    return np.array(Image.open(BytesIO(explorer.picture.value)))


def told(explorer: Explorer, message: dict) -> list[dict]:
    """What the browser is answered after it has sent this message of the picture."""
    answers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer.picture, "send", answers.append)
        explorer.picture._handle_custom_msg(message, [])
    return answers


def values(explorer: Explorer) -> dict:
    return {name: control.value for name, control in explorer.controls.items()}


@pytest.fixture
def drawn(monkeypatch):
    """drawn(explorer) is the list that gets the values of each picture that is drawn from now."""

    def watch(explorer: Explorer) -> list[dict]:
        seen, draw = [], explorer.draw
        monkeypatch.setattr(
            explorer, "draw", lambda figure, **given: seen.append(given) or draw(figure, **given)
        )
        return seen

    return watch


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
    def draw(_, n):
        figure = Figure(figsize=(2, 1))
        figure.text(0.5, 0.5, str(n))
        return figure, f"{n} < {n + 1}"

    explorer = Explorer("n", "", draw, {"n": IntSlider(3, min=0, max=9)})
    before = picture(explorer)
    assert explorer.text.value == '<span role="status">3 &lt; 4</span>'
    explorer.controls["n"].value = 4
    assert not np.array_equal(before, picture(explorer))
    assert explorer.sentence == "4 < 5"


def test_an_error_takes_the_place_of_the_picture_and_the_next_move_mends_it():
    def draw(_, n):
        if n == 1:
            raise ValueError("no <1> here")
        return Figure(figsize=(1, 1)), "fine"

    explorer = Explorer("n", "", draw, {"n": IntSlider(0, min=0, max=2)}, clickable=True)
    explorer.controls["n"].value = 1
    assert explorer.text.value == '<b role="alert">ValueError: no &lt;1&gt; here</b>'
    assert explorer.picture.value == b"" and explorer.picture.layout.display == "none"
    content, metadata = explorer._repr_mimebundle_()
    assert content["text/plain"] == "ValueError: no <1> here" and "image/png" not in content
    told(explorer, {"click": [0.5, 0.5]})  # there is nothing to click
    explorer.controls["n"].value = 2
    assert explorer.sentence == "fine" and picture(explorer).size
    assert explorer.picture.layout.display is None


def test_a_drawing_gets_the_figure_of_the_last_answer_but_not_of_one_that_failed():
    given = []

    def draw(figure, n):
        given.append(figure)
        return Figure(figsize=(1, 1 / (2 - n))), ""

    explorer = Explorer("n", "", draw, {"n": IntSlider(0, min=0, max=3)})
    figures = [explorer.figure]
    for n in (1, 2, 3):
        explorer.controls["n"].value = n
        figures.append(explorer.figure)
    assert given == [None, figures[0], figures[1], None] and figures[2] is None


def test_a_page_without_a_kernel_gets_the_picture_and_its_sentence(entropy):
    content, metadata = entropy._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in content
    assert content["image/png"].startswith("iVBOR")  # a PNG in base64
    assert content["text/plain"] == entropy.sentence == metadata["image/png"]["alt"]


@pytest.mark.parametrize(
    ("make", "moves"),
    [
        ("entropy", [("image", 1), ("focus", "road"), ("teacher", "T2"), ("temperature", 0.2)]),
        ("entropy", [("strength", 4), ("opacity", 0.1), ("focus", "")]),
        ("pixel", [("method", "LWOF"), ("row", 3), ("student", "FT"), ("column", 0)]),
        ("pixel", [("method", "FT"), ("image", 1), ("method", "CIL (w/o weights)")]),
    ],
)
def test_a_figure_drawn_on_again_equals_a_new_one_and_the_name_of_the_picture_follows(
    request, make, moves
):
    explorer = request.getfixturevalue(make)
    for name, value in moves:
        kept, before = explorer.figure, explorer.picture.alt
        explorer.controls[name].value = value
        assert explorer.figure is kept and explorer.picture.alt == explorer.sentence
        assert explorer.sentence != before or name in ("focus", "opacity")
        new, _ = explorer.draw(None, **values(explorer))
        assert new is not kept
        fresh = np.array(Image.open(BytesIO(widgets._png(new))))
        assert np.array_equal(picture(explorer), fresh), (name, value)


def test_the_picture_travels_as_bytes_together_with_its_text_and_name(entropy, monkeypatch):
    sent = []
    monkeypatch.setattr(entropy.picture, "send_state", lambda names: sent.append({*names}))
    entropy.controls["image"].value = 1
    assert sent == [{"value", "alt", "file_name"}]
    state = entropy.picture.get_state()
    assert state["value"].startswith(b"\x89PNG")
    assert all(len(value) < 10_000 for value in state.values() if isinstance(value, str))


def test_the_name_of_a_saved_picture_says_explorer_image_and_settings(entropy, pixel, study):
    with entropy.hold():
        entropy.controls["temperature"].value = 0.6000000000000001  # as a browser adds
        entropy.controls["focus"].value = "traffic light"
    assert entropy.picture.file_name == (
        "entropy_tinyscapes_teacher-T1_image-0_temperature-0.6_strength-1_focus-traffic-light_"
        "opacity-0.7.png"
    )
    pixel.controls["method"].value = "CIL (w/o weights)"
    assert pixel.picture.file_name == (
        "pixel_tinyscapes_T2_image-0_method-CIL-w-o-weights_student-CIL_row-16_column-32.png"
    )
    explorer = split_explorer(study)
    explorer.controls["image"].value = 1
    assert explorer.picture.file_name == "split_tinyscapes_stage-T1_method-FT_image-1.png"


def test_reset_goes_back_to_what_the_cell_showed_and_draws_once(pixel, drawn):
    with pixel.hold():  # as notebook 11 does
        pixel.controls["row"].value = 5
    pixel._repr_mimebundle_()  # the cell shows it
    shown, start = picture(pixel), values(pixel)
    for name, value in (("image", 1), ("method", "FT"), ("student", "FT"), ("row", 9)):
        pixel.controls[name].value = value
    seen = drawn(pixel)
    pixel.back.click()
    assert values(pixel) == start and start["row"] == 5 and len(seen) == 1
    assert np.array_equal(picture(pixel), shown)


def test_reset_mends_an_error(pixel):
    pixel.controls["method"].value = "LWM"
    assert pixel.picture.value == b""
    pixel.back.click()
    assert pixel.sentence.startswith("CIL at row 16, column 32: ") and picture(pixel).size


def test_every_explorer_explains_its_picture_and_only_the_pixel_explorer_takes_keys(
    entropy, pixel, study
):
    about = [explorer.picture.about for explorer in (entropy, pixel, split_explorer(study))]
    assert len(set(about)) == 3 and min(map(len, about)) > 100
    assert "arrow keys" in pixel.picture.hint and not entropy.picture.hint


def test_a_page_learns_where_the_front_end_of_the_picture_lies(pixel, monkeypatch):
    colab = {"widget": {"colab": {"custom_widget_manager": {"url": "there"}}}}
    monkeypatch.setattr(pixel.picture, "_repr_mimebundle_", lambda: ({}, dict(colab)))
    _, metadata = pixel._repr_mimebundle_()
    assert metadata == colab | {"image/png": {"alt": pixel.sentence}}


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
    assert "Error" not in entropy.sentence
    assert not np.array_equal(before, picture(entropy))


def test_the_sentence_tells_mean_weight_and_the_share_of_the_mask(entropy):
    entropy.controls["strength"].value = 0
    assert entropy.sentence.startswith(
        "Mean weight 1.00. By class, over the set, it goes from 1.00 "
    )
    assert " In T2 the mask leaves " in entropy.sentence
    entropy.controls["teacher"].value = "T2"
    assert " In T3 the mask leaves " in entropy.sentence


def test_a_class_that_the_image_does_not_show_is_named(entropy, study):
    labels = study.data.test_set("T3", 32, native_labels=False)[0][1]
    names = study.split.names()
    shown, absent = names[int(labels.min())], names[next(c for c in range(19) if c not in labels)]
    entropy.controls["focus"].value = absent
    assert entropy.sentence.startswith(f"This image shows no {absent}. Mean weight")
    entropy.controls["focus"].value = shown
    assert entropy.sentence.startswith("Mean weight")


def test_the_sliders_end_at_the_last_image_and_at_the_temperatures_of_the_table(entropy, study):
    assert entropy.controls["image"].max == len(study.data.test) - 1
    slider = entropy.controls["temperature"]
    slider.value = 99
    assert slider.value == slider.max == widgets.TEMPERATURES[-1]
    assert "Error" not in entropy.sentence


def test_every_temperature_of_the_slider_is_in_the_table(entropy):
    slider = entropy.controls["temperature"]
    for k in range(20):
        slider.value = slider.min + k * slider.step
        assert "Error" not in entropy.sentence, slider.value


def test_a_teacher_of_other_classes_is_named_in_the_widget(study, make_network):
    with pytest.raises(ValueError, match=r"knows 7 classes, but .* end with 5 \(T1\), 11 \(T2\)"):
        following(study, 7)
    assert following(study, 5).name == "T2" and following(study, 19) is None


@pytest.mark.parametrize(
    ("classes", "bias", "message"),
    [(7, 0.0, "knows 7 classes, but"), (5, float("nan"), "NaN or infinite scores for image 0")],
)
def test_what_is_wrong_with_a_teacher_is_said_in_the_widget(
    study, make_network, classes, bias, message
):
    network = make_network(classes)
    network.decoder.output_conv.bias.data[0] += bias
    wrong = SimpleNamespace(folder=Path("wrong"), network=lambda: network)
    for explorer, control in (
        (entropy_explorer(study, {"wrong": wrong}), "strength"),
        (pixel_explorer(study, {"CIL": study.run("T2", "CIL")}, wrong), "row"),
    ):
        for _ in range(2):  # each move says it again
            assert explorer.picture.value == b""
            assert message in explorer.sentence
            explorer.controls[control].value += 1


def test_an_image_that_is_not_there_is_said_in_the_widget(entropy, pixel):
    for explorer in (entropy, pixel):
        slider = explorer.controls["image"]
        there = slider.max + 1
        slider.max = 99
        slider.value = 99
        assert explorer.sentence == (
            f"IndexError: image 99 of {there}; wanted a number from 0 to {there - 1}"
        )
        assert explorer.picture.value == b""


def test_the_scale_of_the_weights_stays_while_sliders_move(entropy):
    def scales():
        *_, scale, bars = entropy.figure.axes
        return [(ax.get_xlim(), [text.get_text() for text in ax.get_xticklabels()]) for ax in
                (scale, bars)]  # fmt: skip

    before, weights = scales(), entropy.figure.axes[3].images[0].get_array().copy()
    entropy.controls["strength"].value = 4
    assert entropy.figure.axes[3].images[0].get_array().sum() > weights.sum()  # brighter
    entropy.controls["teacher"].value = "T2"
    assert scales() == before


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
    assert "Error" not in pixel.sentence
    assert not np.array_equal(before, picture(pixel))


def test_a_click_into_any_picture_moves_both_sliders_and_draws_once(pixel, drawn):
    seen = drawn(pixel)
    pictures = [ax for ax in pixel.figure.axes if ax.images]
    assert len(pictures) == 4
    for ax, (row, column) in zip(pictures, [(0, 0), (31, 63), (7, 40), (20, 11)], strict=True):
        place = pixel.figure.transFigure.inverted().transform(ax.transData.transform((column, row)))
        seen.clear()
        assert told(pixel, {"click": [place[0], 1 - place[1]]}) == [{"done": True}]
        assert (pixel.controls["row"].value, pixel.controls["column"].value) == (row, column)
        assert len(seen) == 1
        assert f"row {row}, column {column}:" in pixel.sentence


def test_a_click_beside_the_pictures_does_nothing(pixel):
    before = pixel.picture.value
    assert told(pixel, {"click": [0.001, 0.999]}) == [{"done": True}]
    assert pixel.picture.value == before


def test_arrow_keys_move_the_pixel_up_to_the_border_and_draw_once(pixel, drawn):
    seen = drawn(pixel)
    for keys, place in (
        ([1, 0], (17, 32)),
        ([0, -10], (17, 22)),
        ([-40, 3], (0, 25)),  # several keys that were pressed while a picture was drawn
        ([-1, 0], (0, 25)),
        ([100, 100], (31, 63)),
    ):
        seen.clear()
        assert told(pixel, {"move": keys}) == [{"done": True}]
        assert (pixel.controls["row"].value, pixel.controls["column"].value) == place
        assert len(seen) == 1 and "row {}, column {}:".format(*place) in pixel.sentence


def test_the_browser_is_answered_even_if_a_key_cannot_be_obeyed(pixel, monkeypatch):
    def interrupted(**values):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixel, "_set", interrupted)
    answers = []
    monkeypatch.setattr(pixel.picture, "send", answers.append)
    with pytest.raises(KeyboardInterrupt):
        pixel.picture._handle_custom_msg({"move": [1, 0]}, [])
    assert answers == [{"done": True}]


def test_a_method_with_a_second_teacher_says_how_to_get_it(pixel, study):
    assert not study.exists("T2", NEW_TEACHER.name)
    pixel.controls["method"].value = "LWM"
    assert "run 08_lwm.ipynb" in pixel.sentence
    pixel.controls["method"].value = "Michieli"
    assert pixel.sentence.startswith("Michieli at row 16, column 32: ")


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("FT", "hidden from it|this method has no teacher", "it sees|this method has no teacher"),
        ("LWOF", "hidden from it|mu = 1, the teacher speaks with weight 1.00", "it sees|mu = 1"),
        ("Michieli", "it sees|mu = 1, the teacher speaks with weight 1.00", "it sees|mu = 0"),
        ("CIL (w/o weights)", "hidden from it|mu = 1, the teacher speaks with weight 1.00",
         "it sees|mu = 0, the teacher is silent"),
        ("CIL", "hidden from it|mu = 1, the teacher speaks", "it sees|mu = 0, the teacher is"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_label_and_teacher_are_to_the_method(pixel, study, method, old, new):
    stage = study.stage("T2")
    labels = study.data.stage("T2", "all", 32)[0][1]
    pixel.controls["method"].value = method
    for classes, words in ((stage.old, old), (stage.new, new)):
        row, column = belongs(labels, classes).nonzero()[0].tolist()
        with pixel.hold():
            pixel.controls["row"].value, pixel.controls["column"].value = row, column
        name = study.split.names()[labels[row, column]]
        assert f"row {row}, column {column}: labelled {name}, " in pixel.sentence
        for part in words.split("|"):
            assert part in pixel.sentence, pixel.sentence


def test_the_sentence_names_the_bars_that_stand_out(pixel):
    says, pushed, _ = pixel.figure.axes[4:]
    names = [text.get_text() for text in pushed.get_xticklabels()]
    teacher, student, push = (
        np.array([bar.get_height() for bar in bars])
        for bars in (*says.containers, *pushed.containers)
    )
    assert f"The model before says {names[teacher.argmax()]} (" in pixel.sentence
    assert f"the student {names[student.argmax()]} (" in pixel.sentence
    assert f"pushed up most {names[push.argmax()]} ({push.max():+.2f})" in pixel.sentence
    assert f"down most {names[push.argmin()]} ({push.min():+.2f})" in pixel.sentence


# the split


def test_the_split_explorer_shows_each_method_what_it_may_see(study):
    explorer = split_explorer(study)
    explorer.controls["stage"].value = "T2"
    before = picture(explorer)
    assert "FT sees labels of building, wall" in explorer.sentence
    explorer.controls["method"].value = "Michieli"
    assert "Michieli sees labels of road, sidewalk" in explorer.text.value
    assert not np.array_equal(before, picture(explorer))
    assert list(explorer.controls["method"].options) == list(METHODS)


# other stages than the paper's


@pytest.mark.parametrize("stages", [["A", "B"], ["A", "B", "C", "D", "E"]])
def test_the_explorers_open_on_a_split_of_ones_own(
    stages, write_split, write_cityscapes, tmp_path, make_network
):
    split = write_split(tmp_path / "own", *stages)
    data = write_cityscapes(tmp_path / "own", 1, split)
    own = Study(data, tmp_path / "runs", "smoke", height=32)

    def untrained(classes: int) -> SimpleNamespace:
        return SimpleNamespace(folder=tmp_path, network=lambda: make_network(classes))

    first, second = (untrained(stage.seen.stop) for stage in split.stages[:2])
    entropy = entropy_explorer(own, {"A": first, "B": second})
    assert " In B the mask leaves " in entropy.sentence
    entropy.controls["teacher"].value = "B"
    assert (" In C the mask leaves " in entropy.sentence) == (len(stages) > 2)
    pixel = pixel_explorer(own, {"CIL": second}, first)
    assert pixel.sentence.startswith("CIL at row 16, column 32: ")
    explorer = split_explorer(own)
    assert list(explorer.controls["stage"].options) == stages
    explorer.controls["stage"].value = stages[-1]
    assert f"FT sees labels of {stages[-1]}_0, {stages[-1]}_1" in explorer.sentence


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
