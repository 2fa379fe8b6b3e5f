"""Explorers for the notebooks: sliders, menus and clicks that call a figure of `plots`.

Each is a widget: the last line of a cell shows it. An error is shown in the widget itself, and a
page without a kernel shows the picture as it was.
"""

import math
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from io import BytesIO

import pandas as pd
from ipyevents import Event
from IPython.display import DisplayHandle, display
from ipywidgets import HTML, Box, Dropdown, FloatSlider, Image, IntSlider, Layout, ValueWidget, VBox
from matplotlib.figure import Figure

from cilkit import plots
from cilkit.classes import VOID, Stage, belongs
from cilkit.methods import METHODS, Method, Step
from cilkit.pixels import Answers, ask, class_entropy, weights, what_the_label_says
from cilkit.runs import NEW_TEACHER, NOTEBOOKS, Run, score_columns
from cilkit.study import Study
from cilkit.tables import TASK_TITLES

TEMPERATURES = [round(0.2 * k, 1) for k in range(1, 21)]  # 0.2 to 4


class Explorer(VBox):
    """Controls, a line of text and a picture that answers to them.

    draw(**values) gets the value of each control by name and returns a figure and a sentence
    that says in words what the figure shows. Whatever goes wrong in it is shown in the widget.
    """

    def __init__(
        self,
        draw: Callable[..., tuple[Figure, str]],
        controls: Mapping[str, ValueWidget],
        clickable: bool = False,
    ):
        """If `clickable`, a click on a picture sets the sliders "row" and "column"."""
        self.draw, self.controls, self.figure = draw, dict(controls), None
        self.picture = Image(format="png", layout=Layout(max_width="100%"))
        self.text = HTML()
        for part, name in ((self.picture, "picture"), (self.text, "text")):
            part.add_class(f"cilkit-{name}")
        for name, control in self.controls.items():
            control.add_class(f"cilkit-{name}")
            control.observe(self._update, "value")
        row = Box(list(self.controls.values()), layout=Layout(flex_flow="row wrap"))
        super().__init__([row, self.text, self.picture])
        if clickable:
            self._event = Event(source=self.picture, watched_events=["click"])
            self._event.on_dom_event(lambda event: self.click(event["dataX"], event["dataY"]))
        self._clickable = clickable
        self._update()

    def click(self, x: float, y: float) -> None:
        """A click at a pixel of the picture, counted from its upper left corner."""
        if self.figure is None or not self._clickable:
            return
        place = (x, self.figure.bbox.height - y)
        for ax in self.figure.axes:
            if ax.images and ax.bbox.contains(*place):
                column, row = ax.transData.inverted().transform(place)
                at = {"row": int(row + 0.5), "column": int(column + 0.5)}
                with self.hold():
                    for name, value in at.items():
                        slider = self.controls[name]
                        slider.value = min(max(value, slider.min), slider.max)
                return

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Within this context several controls change, and the picture once, at its end."""
        for control in self.controls.values():
            control.unobserve(self._update, "value")
        try:
            yield
        finally:
            for control in self.controls.values():
                control.observe(self._update, "value")
            self._update()

    def _update(self, change: dict | None = None) -> None:
        try:
            values = {name: control.value for name, control in self.controls.items()}
            self.figure, sentence = self.draw(**values)
            self.picture.value = _png(self.figure)
            self.text.value = escape(sentence)
        except Exception as error:  # a callback has nobody else to tell
            self.text.value = f"<b>{type(error).__name__}: {escape(str(error))}</b>"

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        bundle = super()._repr_mimebundle_(**kwargs)
        picture = b64encode(self.picture.value).decode()
        return {**bundle, "image/png": picture} if picture else bundle


def entropy_explorer(study: Study, teachers: Mapping[str, Run]) -> Explorer:
    """How much each pixel weighs, eq. (10): image, teacher, temperature, strength, class, opacity.

    teachers: title -> the run of a teacher, such as {"T1": study.run("T1")}
    """
    split, last = study.split, study.split.stages[-1]
    images = study.data.test_set(last.name, study.config.height, native_labels=False)
    answers: dict[str, Answers] = {}
    entropies: dict[str, object] = {}

    def draw(teacher, image, temperature, strength, focus, opacity):
        if teacher not in answers:
            network = teachers[teacher].network()
            following(study, network.num_classes)
            answers[teacher] = Answers(network, images, study.config)
            entropies[teacher] = class_entropy(answers[teacher], split, TEMPERATURES)
        logits = answers[teacher][image]
        pixels, labels = images[image]
        over_set = 1 + strength * entropies[teacher].loc[round(temperature, 1)]
        alpha = weights(logits, temperature, strength)  # (H, W)
        top = 1 + strength * math.log2(len(logits))  # of a teacher without any idea
        prediction = logits.argmax(dim=0)
        figure = plots.entropy_weights(
            pixels, labels, prediction, alpha, top, split, over_set, focus or None, opacity
        )
        sentence = f"Mean weight {alpha.mean():.2f}."
        if focus and not (labels == split.channel(focus)).any():
            sentence = f"This image shows no {focus}. {sentence}"
        if (stage := following(study, len(logits))) is not None:
            mask = ~belongs(labels, stage.new)
            sentence += (
                f" In {stage.name} the mask leaves {100 * mask.float().mean():.0f} % of the pixels "
                f"of this image to distillation, with mean weight {alpha[mask].mean():.2f}."
            )
        return figure, sentence

    controls = {
        "teacher": _menu("teacher", list(teachers)),
        "image": _number("image", 0, len(images) - 1, 0),
        "temperature": _slider("temperature", TEMPERATURES[0], TEMPERATURES[-1], 0.2, 1.0),
        "strength": _slider("strength λ", 0, 4, 0.25, 1.0),
        "focus": _menu("class", [("all", ""), *((name, name) for name in split.names())]),
        "opacity": _slider("opacity", 0, 1, 0.1, 0.7),
    }
    return Explorer(draw, controls)


def following(study: Study, classes: int) -> Stage | None:
    """The stage that a model of so many classes teaches; None after the last one."""
    for stage in study.split.stages:
        if stage.seen.stop == classes:
            later = study.split.stages[stage.number :]
            return later[0] if later else None
    known = ", ".join(f"{stage.seen.stop} ({stage.name})" for stage in study.split.stages)
    raise ValueError(
        f"the teacher knows {classes} classes, but the stages of {study.data.name} end with "
        f"{known}; open the study on whose data it was trained"
    )


def pixel_explorer(
    study: Study,
    students: Mapping[str, Run],
    teacher: Run,
    stage: str = "T2",
    methods: Mapping[str, Method] = METHODS,
) -> Explorer:
    """What each method asks of one pixel of a training image; click it, or move two sliders.

    students: title -> a run in this stage whose answers are shown; teacher: the run before it
    """
    at, split, height = study.stage(stage), study.split, study.config.height
    views = {kind: study.data.stage(stage, kind, height) for kind in ("new", "all")}
    networks = {
        name: Answers(run.network(), views["new"], study.config) for name, run in students.items()
    }
    of_teacher = Answers(teacher.network(), views["new"], study.config)
    second: list[Answers] = []

    def new_teacher() -> Answers:
        if not second:
            if not study.exists(stage, NEW_TEACHER):
                raise ValueError(
                    f"this method has a second teacher, which is not there yet; run "
                    f"{NOTEBOOKS[NEW_TEACHER]}.ipynb, or study.new_teacher({stage!r})"
                )
            network = study.new_teacher(stage).network()
            second.append(Answers(network, views["new"], study.config))
        return second[0]

    def draw(image, method, student, row, column):
        chosen = methods[method]
        pixels, labels = views[chosen.labels][image]
        logits, teacher_y = networks[student][image], of_teacher[image].softmax(dim=0)
        new_y = None
        if chosen.memory is not None:
            new_y = new_teacher()[image].softmax(dim=0)[None]
        step = Step(logits[None], labels[None], teacher_y[None], at.old, at.new, new_y)
        asked = ask(chosen, step, row, column)
        figure = plots.pixel(
            pixels, labels, teacher_y, logits, split, row, column, asked.terms, asked.push
        )
        label = int(labels[row, column])
        alpha = weights(of_teacher[image][:, row : row + 1, column : column + 1]).item()
        terms = ", ".join(f"{name} {value:.2f}" for name, value in asked.terms.items())
        return figure, (
            f"{chosen.name} at row {row}, column {column}: the label it may see is "
            f"{what_the_label_says(label, split)}; the teacher's weight alpha, eq. (10), would be "
            f"{alpha:.2f}; terms: {terms}."
        )

    h, w = views["new"][0][1].shape
    controls = {
        "image": _number("image", 0, len(views["new"]) - 1, 0),
        "method": _menu("method", list(methods), start=len(methods) - 1),
        "student": _menu("student", list(students)),
        "row": _number("row", 0, h - 1, h // 2),
        "column": _number("column", 0, w - 1, w // 2),
    }
    return Explorer(draw, controls, clickable=True)


def split_explorer(study: Study, methods: Mapping[str, Method] = METHODS) -> Explorer:
    """The images of each stage with exactly the labels that a method sees there (Table I)."""
    stages = {stage.name: stage for stage in study.split.stages}
    most = max(len(study.data.images(stage)) for stage in stages.values())

    def draw(stage, method, image):
        at, chosen = stages[stage], methods[method]
        images = study.data.stage(stage, chosen.labels, 256)
        index = min(image, len(images) - 1)
        pixels, labels = images[index]
        seen = ", ".join(study.split.names(chosen.visible(at)))
        share = 100 * (labels != VOID).float().mean()
        figure = plots.views(pixels, {f"{method} in {stage}": labels}, study.split, columns=2)
        return figure, (
            f"Image {index} of {stage}, from {images.samples[index].city}: {method} sees labels of "
            f"{seen}; {share:.0f} % of the pixels have one."
        )

    controls = {
        "stage": _menu("stage", list(stages)),
        "method": _menu("method", list(methods)),
        "image": _number("image", 0, most - 1, 0),
    }
    return Explorer(draw, controls)


def show_training() -> Callable[[str, pd.DataFrame], None]:
    """What a Study shows of its trainings: Study(..., show=show_training()).

    In JupyterLab a figure grows with each epoch, elsewhere (papermill, a script) a line is
    printed for each epoch that is scored.
    """
    handles: dict[str, DisplayHandle] = {}

    def show(name: str, history: pd.DataFrame) -> None:
        last = history.iloc[-1]
        line = _in_words(name, history)
        if "JPY_SESSION_NAME" not in os.environ:  # Jupyter's server names the notebook it shows
            if last[score_columns(history)].notna().any():
                print(line)
            return
        picture = b64encode(_png(plots.training(name, history))).decode()
        shown = {"image/png": picture, "text/plain": line}
        if name in handles and len(history) > 1:
            handles[name].update(shown, raw=True)
        else:
            handles[name] = display(shown, raw=True, display_id=True)

    return show


def _in_words(name: str, history: pd.DataFrame) -> str:
    last, scores = history.iloc[-1], score_columns(history)
    terms = last.drop(["epoch", "learning_rate", "seconds", *scores])
    parts = [f"{term} {value:.3f}" for term, value in terms.items()]
    parts += [f"{TASK_TITLES.get(task, task)} {last[task]:.1f} %" for task in scores]
    return f"{name}, epoch {last['epoch']:.0f}: {', '.join(parts)}"


def _slider(name: str, low: float, high: float, step: float, value: float) -> FloatSlider:
    return FloatSlider(value, min=low, max=high, step=step, description=name, **_SETTINGS)


def _number(name: str, low: int, high: int, value: int) -> IntSlider:
    return IntSlider(value, min=low, max=high, description=name, **_SETTINGS)


def _menu(name: str, options: list, start: int = 0) -> Dropdown:
    if not options:
        raise ValueError(f"no {name} to choose from; give at least one")
    return Dropdown(options=options, index=start, description=name)


# one picture a move, not one for each step on the way; names in full
_SETTINGS = {"continuous_update": False, "style": {"description_width": "initial"}}


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return buffer.getvalue()
