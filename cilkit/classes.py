"""Classes, class sets and stages (Table I), read from a split file; rules for single pixels."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cilkit import subnormals  # noqa: F401  these count as zero from here on
from cilkit.checks import unknown

VOID = 255  # the label of a pixel that must not be seen: unlabelled, or forbidden in this stage
HIDDEN = 254  # instead of VOID where the label is forbidden, for methods that tell the two apart
UNLISTED_ID = 254  # only inside Split.lookup: an id that the split file does not name

Classes = slice | tuple[int, ...]  # channels that follow each other, or a set, in order

# whether a stage sees an image, by the label ids in it, those of the stage and those of later ones
Rule = Callable[[set[int], set[int], set[int]], bool]
RULES: dict[str, Rule | None] = {  # None: it sees all images of its groups, and no label is asked
    "partitioned": None,  # of the paper: no image is in two stages
    "disjoint": lambda shown, new, later: bool(shown & new) and not shown & later,
    "overlapped": lambda shown, new, later: bool(shown & new),
}


@dataclass(frozen=True)
class LabelClass:
    """One semantic class: its name, its id in the label images, its colour in figures (0-255)."""

    name: str
    label_id: int
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """One training stage: the classes it adds and the cities whose images it sees (Table I).

    A "city" is any group of images: a city in the paper, else a sequence, a folder or a list.
    `old`, `new` and `seen` are slices of the channels, because channels are ordered S1, S2, ...
    Class sets need not be distinct (Sec. III): `again` are channels of earlier stages whose
    classes this stage labels again.
    """

    name: str
    number: int
    old: slice
    new: slice
    cities: tuple[str, ...]
    again: tuple[int, ...] = ()

    @property
    def seen(self) -> slice:
        """Old and new classes together."""
        return slice(0, self.new.stop)

    @property
    def labelled(self) -> Classes:
        """The classes that this stage labels, its class set: `new`, and those labelled again."""
        return joined_classes(self.again, self.new)

    @property
    def task(self) -> str:
        """The class set that it labels: "task2", and from stage 10 on "task_10".

        "task12" is Task 1∪2 of every split, so stage 12 has to be called otherwise.
        """
        return f"task{self.number}" if self.number < 10 else f"task_{self.number}"

    @property
    def joint_task(self) -> str:
        """The class set of all classes seen: "task12", and from stage 10 on "task1to10"."""
        if self.number >= 10:
            return f"task1to{self.number}"
        return "task" + "".join(str(number) for number in range(1, self.number + 1))

    def visible(self, labels: Literal["new", "all"]) -> Classes:
        """The classes that labels of this kind contain: those of the stage, or old and new."""
        if labels not in ("new", "all"):
            raise ValueError(f"labels={labels!r}; choose 'new' or 'all'")
        return self.labelled if labels == "new" else self.seen


@dataclass(frozen=True)
class Split:
    """A data set's classes in channel order, its stages, and which cities are for testing."""

    name: str
    layout: str
    classes: tuple[LabelClass, ...]
    void: tuple[int, ...]
    stages: tuple[Stage, ...]
    test_cities: tuple[str, ...]
    held_back: tuple[str, ...] = ()
    images: tuple[tuple[str, int], ...] = ()  # (city, images) in the full data set, if known
    parts: int = 1  # camvid layout: into how many parts a sequence is cut
    absent: tuple[str, ...] = ()  # classes that may lack in the images of their stage or the test
    background: str | None = None  # the class of the first stage that means "everything else"
    rule: str = "partitioned"  # which images of its groups a stage sees, a name in RULES

    @property
    def train_cities(self) -> tuple[str, ...]:
        """The cities of all stages, in their order, each once."""
        return tuple(dict.fromkeys(city for stage in self.stages for city in stage.cities))

    @property
    def cities(self) -> tuple[str, ...]:
        """All cities that the split names: of the stages, of the test, and held back."""
        return tuple(dict.fromkeys((*self.train_cities, *self.test_cities, *self.held_back)))

    def stage(self, name: str) -> Stage:
        """The stage called `name`, such as "T2"."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ValueError(unknown("stage", name, [stage.name for stage in self.stages]))

    def before(self, stage: Stage) -> Stage:
        """The stage whose model is the teacher of `stage`."""
        if stage.number == 1:
            raise ValueError(f"{stage.name} is the first stage: nothing was learned before it")
        return self.stages[stage.number - 2]

    def earlier(self, stage: Stage) -> tuple[Stage, ...]:
        """All stages before `stage`, oldest first."""
        return self.stages[: stage.number - 1]

    def names(self, classes: Classes = slice(None)) -> list[str]:
        """Class names of some channels, all by default."""
        if isinstance(classes, slice):
            return [label_class.name for label_class in self.classes[classes]]
        return [self.classes[channel].name for channel in classes]

    def label_name(self, label: int) -> str:
        """A label in words: the name of a class, "hidden" or "void"."""
        return {HIDDEN: "hidden", VOID: "void"}.get(label) or self.classes[label].name

    def channel(self, name: str) -> int:
        """The channel of the class called `name`."""
        if name not in self.names():
            raise ValueError(unknown("class", name, self.names()))
        return self.names().index(name)

    def sees(self, stage: Stage, ids: Collection[int]) -> bool:
        """Whether the rule lets a stage see an image of its groups with these label ids in it."""
        rule = RULES[self.rule]
        if rule is None:
            return True
        new, later = (
            {self.classes[c].label_id for c in channels if self.classes[c].name != self.background}
            for channels in (channels_of(stage.labelled), range(stage.new.stop, len(self.classes)))
        )
        return rule(set(ids), new, later)

    def class_sets(self, stage: Stage) -> dict[str, Classes]:
        """The class sets scored after `stage`, in the order of the paper's tables (Sec. IV-A).

        T1: task1. T2: task1, task2, task12. T3: task1, task2, task12, task3, task123.
        """
        sets: dict[str, Classes] = {}
        for seen in self.stages[: stage.number]:
            sets[seen.task] = seen.labelled
            sets[seen.joint_task] = seen.seen  # of the first stage, both are one
        return sets

    @property
    def tasks(self) -> list[str]:
        """The names of all class sets, which are those scored after the last stage."""
        return list(self.class_sets(self.stages[-1]))

    def lookup(self) -> np.ndarray:
        """Table from label id to channel, (256,) uint8; void ids to VOID, others to UNLISTED_ID."""
        table = np.full(256, UNLISTED_ID, dtype=np.uint8)
        table[list(self.void)] = VOID
        for channel, label_class in enumerate(self.classes):
            table[label_class.label_id] = channel
        return table

    def palette(self) -> np.ndarray:
        """Colour of each channel, (256, 3) uint8; HIDDEN is white, VOID and all else is black."""
        colours = np.zeros((256, 3), dtype=np.uint8)
        colours[HIDDEN] = 255
        colours[: len(self.classes)] = [label_class.colour for label_class in self.classes]
        return colours


def task_title(task: str) -> str:
    """A class set in words: "Task 1∪2" for "task12"; any other text as it is."""
    if single := re.fullmatch(r"task(\d)|task_(\d+)", task):
        return f"Task {single[1] or single[2]}"
    if joint := re.fullmatch(r"task(12\d*)|task1to(\d+)", task):
        last = int(joint[2] or len(joint[1]))  # in "task123" each digit is a stage
        return "Task " + joined([str(number) for number in range(1, last + 1)], "∪")
    return task


def joined(names: Sequence[str], sign: str) -> str:
    """Names with a sign between them: "1∪2∪3"; of more than three the ends, "1∪…∪12"."""
    return sign.join(names if len(names) <= 3 else [names[0], "…", names[-1]])


def channels_of(classes: Classes) -> Sequence[int]:
    """The channels of some classes, in order."""
    return range(classes.start, classes.stop) if isinstance(classes, slice) else classes


def within(classes: Classes, first: int = 0) -> slice | list[int]:
    """Where some classes are among channels that begin with class `first`, as an index."""
    if isinstance(classes, slice):
        return slice(classes.start - first, classes.stop - first)
    return [channel - first for channel in classes]


def joined_classes(again: tuple[int, ...], new: slice) -> Classes:
    """New classes, and old ones that are labelled again: a slice if there are none of these."""
    return (*again, *channels_of(new)) if again else new


def belongs(labels: Tensor, classes: Classes) -> Tensor:
    """True where a pixel is labelled with one of `classes`. labels (...) -> bool (...)"""
    if isinstance(classes, slice):
        return (labels >= classes.start) & (labels < classes.stop)
    return torch.isin(labels, torch.tensor(classes, dtype=labels.dtype, device=labels.device))


def restrict(labels: Tensor, classes: Classes) -> Tensor:
    """Labels counted within `classes`, VOID elsewhere and for HIDDEN. (...) -> (...)"""
    if isinstance(classes, slice):
        return torch.where(belongs(labels, classes), labels - classes.start, VOID)
    place = torch.full((256,), VOID, dtype=labels.dtype, device=labels.device)
    for k, channel in enumerate(classes):
        place[channel] = k
    return place[labels.long()]
