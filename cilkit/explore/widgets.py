"""Explorers for the notebooks: sliders, menus and clicks that call a figure of `plots`.

Each is a widget: the last line of a cell shows it. An error is shown in the widget itself, and a
page without a kernel shows the picture as it was.
"""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from html import escape
from io import BytesIO

import pandas as pd
from IPython.display import DisplayHandle, display
from ipywidgets import (
    HTML,
    Box,
    Button,
    FloatSlider,
    IntSlider,
    Layout,
    SelectionSlider,
    ValueWidget,
    VBox,
)
from matplotlib.figure import Figure
from torch import Tensor

from cilkit import subnormals
from cilkit.classes import VOID, Stage, belongs, channels_of, task_title
from cilkit.explore import plots
from cilkit.explore.picture import Picture
from cilkit.explore.pixels import Answers, Pixel, class_entropy, loss_at_pixel, weights
from cilkit.losses import entropy_weight
from cilkit.methods import METHODS, NEW_TEACHER, Method, Step
from cilkit.study.runs import NOTEBOOKS, Run, score_columns
from cilkit.study.study import Study

LIMITS = (1, 4)  # of the scale of weights, wherever the sliders stand
TEMPERATURES = [round(0.2 * k, 1) for k in range(1, 21)]  # 0.2 to 4
CHOOSE = "Choose a pixel: click, or press arrow keys, with Shift for ten at a time"
BACK = "All controls as they were when the cell ran"


class Explorer(VBox):
    """Controls, a line of text and a picture that answers to them; the picture can be saved.

    name: what it is called in the name of a saved picture; about: the parts of the picture, in
    plain words. draw(figure, **values) gets the figure of its last answer, to draw on again (None
    at first), and the value of each control by name; it returns a figure and a sentence that says
    in words what the figure shows. Whatever goes wrong in it is shown in the widget, in place of
    the picture.
    """

    def __init__(
        self,
        name: str,
        about: str,
        draw: Callable[..., tuple[Figure, str]],
        controls: Mapping[str, ValueWidget],
        clickable: bool = False,
    ):
        """If `clickable`, a click on a picture sets "row" and "column", arrow keys move them."""
        self.name, self.draw, self.controls, self.figure = name, draw, dict(controls), None
        self.picture = Picture(
            self._clicked,
            self._moved,
            about=about,
            hint=CHOOSE if clickable else "",
            layout=Layout(max_width="100%", align_self="flex-start"),
        )
        self.text, self._clickable = HTML(), clickable
        self.back = Button(description="Reset", tooltip=BACK, layout=Layout(width="auto"))
        self.back.on_click(lambda _: self.reset())
        parts = {"picture": self.picture, "text": self.text, "reset": self.back}
        for kind, part in parts.items():
            part.add_class(f"cilkit-{kind}")
        for kind, control in self.controls.items():
            control.add_class(f"cilkit-{kind}")
            control.observe(self._update, "value")
        row = Box([*self.controls.values(), self.back], layout=Layout(flex_flow="row wrap"))
        super().__init__([row, self.text, self.picture])
        self._start = self._values()
        self._update()

    def _values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def reset(self) -> None:
        """All controls as they were when a cell last showed the explorer."""
        self._set(**self._start)

    def _set(self, **values: object) -> None:
        with self.hold():
            for name, value in values.items():
                self.controls[name].value = value

    def _clicked(self, across: float, down: float) -> None:
        if self.figure is not None:
            self.click(across * self.figure.bbox.width, down * self.figure.bbox.height)

    def click(self, x: float, y: float) -> None:
        """A click at a pixel of the picture, counted from its upper left corner."""
        if self.figure is None or not self._clickable:
            return
        place = (x, self.figure.bbox.height - y)
        for ax in self.figure.axes:
            if ax.images and ax.bbox.contains(*place):
                column, row = ax.transData.inverted().transform(place)
                self._set(row=int(row + 0.5), column=int(column + 0.5))
                return

    def _moved(self, rows: int, columns: int) -> None:
        row, column = self.controls["row"].value, self.controls["column"].value
        self._set(row=row + rows, column=column + columns)

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
        subnormals.flush()  # JupyterLab answers in a thread that is older than the kit's import
        try:
            self.figure, sentence = self.draw(self.figure, **self._values())
            self._show(sentence, _png(self.figure))
        except Exception as error:  # a callback has nobody else to tell
            self.figure = None
            self._show(f"{type(error).__name__}: {error}")

    def _show(self, sentence: str, picture: bytes = b"") -> None:
        """A picture and its sentence; without a picture the sentence is an error."""
        self.sentence, tag, role = sentence, *(("span", "status") if picture else ("b", "alert"))
        self.text.value = f'<{tag} role="{role}">{escape(sentence)}</{tag}>'
        with self.picture.hold_sync():  # they travel together
            self.picture.value, self.picture.alt = picture, sentence
            self.picture.file_name = self._file_name()
        self.picture.layout.display = None if picture else "none"

    def _file_name(self) -> str:
        """Such as "pixel_toyscapes_image-0_method-CIL-w-o-weights_row-3.png"."""
        words = [self.name]
        for name, control in self.controls.items():
            value = getattr(control, "label", control.value)  # of a menu, what it shows
            words.append(f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}")
        return "_".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words) + ".png"

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        """For a page without a kernel, the sentence and the picture, with the sentence as "alt"."""
        self._start = self._values()
        _, metadata = self.picture._repr_mimebundle_()  # on Colab, where its front end lies
        bundle = super()._repr_mimebundle_(**kwargs) | {"text/plain": self.sentence}
        if picture := b64encode(self.picture.value).decode():
            bundle["image/png"], metadata["image/png"] = picture, {"alt": self.sentence}
        return bundle, metadata


def entropy_explorer(study: Study, teachers: Mapping[str, Run]) -> Explorer:
    """How much each pixel weighs, eq. (10): image, teacher, temperature, strength, class, opacity.

    teachers: title -> the run of a teacher, such as {"T1": study.run("T1")}
    """
    split, last = study.split, study.split.stages[-1]
    images = study.data.test_set(last.name, study.config.height, native_labels=False)

    @cache
    def asked(title: str) -> tuple[Answers, pd.DataFrame]:
        network = teachers[title].network()
        following(study, network.num_classes)
        answers = Answers(network, images, study.config)
        return answers, class_entropy(answers, split, TEMPERATURES)

    def draw(figure, teacher, image, temperature, strength, focus, opacity):
        answers, entropies = asked(teacher)
        logits = answers[image]
        pixels, labels = images[image]
        over_set = 1 + strength * entropies.loc[round(temperature, 1)]
        alpha = weights(logits, temperature, strength)  # (H, W)
        prediction = logits.argmax(dim=0)
        figure = plots.entropy_weights(
            pixels, labels, prediction, alpha, split, over_set, focus or None, opacity, figure,
            teacher=f"teacher {teacher}", limits=LIMITS,
        )  # fmt: skip
        known = over_set.dropna()
        sentence = (
            f"Mean weight {alpha.mean():.2f}. By class, over the set, it goes from "
            f"{known.min():.2f} ({known.idxmin()}) to {known.max():.2f} ({known.idxmax()})."
        )
        if focus and not (labels == split.channel(focus)).any():
            sentence = f"This image shows no {focus}. {sentence}"
        if (stage := following(study, len(logits))) is not None:
            mask = ~belongs(labels, stage.labelled)
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
    about = (
        "The pictures show a test image, its labels, the class that the teacher gives each pixel, "
        "and the weight alpha of eq. (10), which is high where the teacher is in doubt. A bar is "
        "the mean weight of a class over all test images, a dot that over this image."
    )
    return Explorer(f"entropy_{study.data.name}", about, draw, controls)


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
    stage: str | None = None,
    methods: Mapping[str, Method] = METHODS,
) -> Explorer:
    """The loss of each method at one pixel of a training image; click it, or move two sliders.

    students: title -> a run in this stage, by default the second, whose answers are shown;
    teacher: the run before it
    """
    split, height = study.split, study.config.height
    stage = stage or split.stages[1].name
    at = study.stage(stage)
    views = {kind: study.data.stage(stage, kind, height) for kind in ("new", "all")}

    def answers(run: Run, classes: int) -> Answers:
        network = run.network()
        if network.num_classes != classes:
            raise ValueError(
                f"{run.folder.name} knows {network.num_classes} classes, but here {stage} of "
                f"{study.data.name} wants {classes}; students are runs of {stage} in this study, "
                "the teacher is the run before them"
            )
        return Answers(network, views["new"], study.config)

    of_student = cache(lambda title: answers(students[title], at.seen.stop))
    of_teacher = cache(lambda: answers(teacher, at.old.stop))

    @cache
    def of_new_teacher() -> Answers:
        if not study.exists(stage, NEW_TEACHER.name):
            raise ValueError(
                f"this method has a second teacher, which is not there yet; run "
                f"{NOTEBOOKS[NEW_TEACHER.name]}.ipynb, or study.new_teacher({stage!r})"
            )
        return answers(study.new_teacher(stage), len(channels_of(at.labelled)))

    def draw(figure, image, method, student, row, column):
        chosen = methods[method]
        logits, teacher_y = of_student(student)[image], of_teacher()[image].softmax(dim=0)
        new_y = None
        if chosen.memory is not None:
            new_y = of_new_teacher()[image].softmax(dim=0)[None]
        pixels, labels = views[chosen.labels][image]
        batch = (logits[None], labels[None], teacher_y[None], at.old, at.new, new_y)
        step = Step(*batch, again=at.again)
        asked = loss_at_pixel(chosen, step, row, column)
        figure = plots.pixel(
            pixels,
            labels,
            teacher_y,
            logits,
            split,
            row,
            column,
            asked.terms,
            asked.negative_gradient,
            figure,
        )
        known = views["all"][image][1][row, column]
        label = f"labelled {split.label_name(int(known))}"
        label += ", which it sees" if labels[row, column] == known else ", hidden from it"
        if known == VOID:
            label = f"no label of a class up to {stage}"
        here = [y[:, row, column] for y in (teacher_y, logits.softmax(dim=0))]
        words = _pixel_in_words(asked, *here, chosen.teacher, split.names())
        return figure, f"{chosen.name} at row {row}, column {column}: {label}. {words}"

    h, w = views["new"][0][1].shape
    controls = {
        "image": _number("image", 0, len(views["new"]) - 1, 0),
        "method": _menu("method", list(methods), start=len(methods) - 1),
        "student": _menu("student", list(students)),
        "row": _number("row", 0, h - 1, h // 2),
        "column": _number("column", 0, w - 1, w // 2),
    }
    about = (
        "The pictures show a training image, the labels that the method may see, and the classes "
        "that teacher and student give each pixel; a click, or the arrow keys (with Shift by ten), "
        "move the cross to another pixel. The bars show what both predict there, how the loss "
        "pushes each class up or down, and the terms of the loss."
    )
    return Explorer(f"pixel_{study.data.name}_{stage}", about, draw, controls, clickable=True)


def _pixel_in_words(
    asked: Pixel, teacher_y: Tensor, student_y: Tensor, has_teacher: bool, names: list[str]
) -> str:
    """What the figure of a pixel shows. teacher_y (O,), student_y (S,) probabilities."""
    says = [f"{names[y.argmax()]} ({y.max():.2f})" for y in (teacher_y, student_y)]
    alpha = entropy_weight(teacher_y[None, :, None, None]).item()
    voice = "mu = 0, the teacher is silent"
    if asked.teacher_weight > 0:
        voice = f"mu = 1, the teacher speaks with weight {asked.teacher_weight:.2f}"
    if not has_teacher:
        voice = "this method has no teacher"
    up, down = asked.negative_gradient.argmax(), asked.negative_gradient.argmin()
    push = f"up most {names[up]} ({asked.negative_gradient[up]:+.2f}), down most {names[down]}"
    push = (
        f"pushed {push} ({asked.negative_gradient[down]:+.2f})"
        if asked.negative_gradient.any()
        else "nothing is pushed"
    )
    terms = ", ".join(f"{name} {value:.2f}" for name, value in asked.terms.items())
    return (
        f"The model before says {says[0]}, the student {says[1]}; {voice}, eq. (10) gives alpha = "
        f"{alpha:.2f}. Terms: {terms}; {push}."
    )


def split_explorer(study: Study, methods: Mapping[str, Method] = METHODS) -> Explorer:
    """The images of each stage with exactly the labels that a method sees there (Table I)."""
    stages = {stage.name: stage for stage in study.split.stages}
    most = max(len(study.data.images(stage)) for stage in stages.values())

    def draw(_, stage, method, image):
        at, chosen = stages[stage], methods[method]
        images = study.data.stage(stage, chosen.labels, 256)
        index = min(image, len(images) - 1)
        pixels, labels = images[index]
        seen = ", ".join(study.split.names(chosen.visible(at)))
        share = 100 * (labels != VOID).float().mean()
        figure = plots.views(pixels, {f"{method} in {stage}": labels}, study.split, columns=2)
        return figure, (
            f"Image {index} of {stage}, from {images.samples[index].group}: {method} sees labels "
            f"of {seen}; {share:.0f} % of the pixels have one."
        )

    controls = {
        "stage": _menu("stage", list(stages)),
        "method": _menu("method", list(methods)),
        "image": _number("image", 0, most - 1, 0),
    }
    about = (
        "On the left a training image of the stage, on the right the labels that the method may "
        "see of it, in the colours of the classes below. Black pixels have no label for it."
    )
    return Explorer(f"split_{study.data.name}", about, draw, controls)


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
    parts += [f"{task_title(task)} {last[task]:.1f} %" for task in scores]
    return f"{name}, epoch {last['epoch']:.0f}: {', '.join(parts)}"


def _slider(name: str, low: float, high: float, step: float, value: float) -> FloatSlider:
    return FloatSlider(value, min=low, max=high, step=step, description=name, **_SETTINGS)


def _number(name: str, low: int, high: int, value: int) -> IntSlider:
    return IntSlider(value, min=low, max=high, description=name, **_SETTINGS)


def _menu(name: str, options: list, start: int = 0) -> SelectionSlider:
    """Names to choose from. In a drop-down list JupyterLab would take the arrows and letters."""
    if not options:
        raise ValueError(f"no {name} to choose from; give at least one")
    return SelectionSlider(options=options, index=start, description=name, **_SETTINGS)


# one picture a move, not one for each step on the way; names in full
_SETTINGS = {"continuous_update": False, "style": {"description_width": "initial"}}


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()
