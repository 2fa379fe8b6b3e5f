"""Classes, class sets and stages (Table I), read from a split file; rules for single pixels."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

VOID = 255  # the label of a pixel that must not be seen: unlabelled, or forbidden in this stage
UNKNOWN = 254  # only inside Split.lookup: an id that the split file does not name

ROOT = Path(__file__).resolve().parent.parent  # the project folder
SPLITS = ROOT / "data" / "splits"


@dataclass(frozen=True)
class LabelClass:
    """One semantic class: its name, its id in the label images, its colour in figures (0-255)."""

    name: str
    label_id: int
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """One training stage: the classes it adds and the cities whose images it sees (Table I).

    `old`, `new` and `seen` are slices of the channels, because channels are ordered S1, S2, ...
    """

    name: str
    number: int
    old: slice
    new: slice
    cities: tuple[str, ...]

    @property
    def seen(self) -> slice:
        """Old and new classes together."""
        return slice(0, self.new.stop)

    def visible(self, labels: Literal["new", "all"]) -> slice:
        """The classes that such labels show: the new ones, or those of earlier stages too."""
        if labels not in ("new", "all"):
            raise ValueError(f"labels={labels!r}; choose 'new' or 'all'")
        return self.new if labels == "new" else self.seen


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

    def names(self, classes: slice = slice(None)) -> list[str]:
        """Class names of some channels, all by default."""
        return [label_class.name for label_class in self.classes[classes]]

    def channel(self, name: str) -> int:
        """The channel of the class called `name`."""
        if name not in self.names():
            raise ValueError(unknown("class", name, self.names()))
        return self.names().index(name)

    def class_sets(self, stage: Stage) -> dict[str, slice]:
        """The class sets scored after `stage`, in the order of the paper's tables (Sec. IV-A).

        T1: task1. T2: task1, task2, task12. T3: task1, task2, task12, task3, task123.
        """
        sets = {"task1": self.stages[0].new}
        for seen in self.stages[1 : stage.number]:
            sets[f"task{seen.number}"] = seen.new
            sets["task" + "".join(str(k + 1) for k in range(seen.number))] = seen.seen
        return sets

    def lookup(self) -> np.ndarray:
        """Table from label id to channel, (256,) uint8; void ids to VOID, other ids to UNKNOWN."""
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[list(self.void)] = VOID
        for channel, label_class in enumerate(self.classes):
            table[label_class.label_id] = channel
        return table

    def palette(self) -> np.ndarray:
        """Colour of each channel, (256, 3) uint8; VOID and everything unused is black."""
        colours = np.zeros((256, 3), dtype=np.uint8)
        colours[: len(self.classes)] = [label_class.colour for label_class in self.classes]
        return colours


def belongs(labels: Tensor, classes: slice) -> Tensor:
    """True where a pixel is labelled with one of `classes`. labels (...) -> bool (...)"""
    return (labels >= classes.start) & (labels < classes.stop)


def restrict(labels: Tensor, classes: slice) -> Tensor:
    """Labels counted from the first of `classes`, VOID everywhere else. labels (...) -> (...)"""
    return torch.where(belongs(labels, classes), labels - classes.start, VOID)


def unknown(kind: str, name: object, known: list[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    folded = {option.lower(): option for option in known}
    near = [folded[match] for match in get_close_matches(str(name).lower(), folded, n=1)]
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {name!r}{hint}; choose one of: {', '.join(known)}"


def load_split(source: str | Path = "cityscapes") -> Split:
    """Read a split: "cityscapes", "camvid", or the path of a file of your own like theirs.

    Every class must be in exactly one stage, and no city in two places; anything else is a
    ValueError that names the file, what came and what was wanted.
    """
    path = Path(source)
    if path.suffix != ".toml":
        path = SPLITS / f"{source}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SPLITS.glob("*.toml")))
        raise FileNotFoundError(
            f"no split file {path}; use one of: {known}, or the path of your own .toml "
            f"written like {SPLITS.name}/cityscapes.toml"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    try:
        return _split(table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"split file {path}: {what}") from error


def _split(table: dict) -> Split:
    entries = table["classes"]
    stages, start = [], 0
    for number, entry in enumerate(table["stages"], start=1):
        stop = start + len(entry["classes"])
        if stop == start:
            raise ValueError(f"stage {entry['name']!r} has no class; give it at least one")
        cities = tuple(entry["cities"])
        stages.append(Stage(entry["name"], number, slice(0, start), slice(start, stop), cities))
        start = stop
    order = [name for entry in table["stages"] for name in entry["classes"]]
    for name in order:
        if name not in entries:
            raise ValueError(unknown("class", name, list(entries)))
    _all_different("class", order, "give each class to one stage")
    if homeless := [name for name in entries if name not in order]:
        raise ValueError(
            f"class {', '.join(map(repr, homeless))} is in no stage; add it to the `classes` of a "
            "[[stages]] entry, or list its id under `void`"
        )
    _all_different("stage", [stage.name for stage in stages], "name each stage once")
    ids = [entries[name]["id"] for name in order] + list(table["void"])
    _all_different("id", ids, "an id is one class or void")
    if bad := [i for i in ids if not (isinstance(i, int) and 0 <= i <= 255)]:
        raise ValueError(f"id {bad[0]!r} does not fit an 8-bit label image; use 0 to 255")
    if len(order) > UNKNOWN:
        raise ValueError(f"{len(order)} classes; at most {UNKNOWN} fit an 8-bit label image")
    for what, entry in [("test", table["test"]), *((e["name"], e) for e in table["stages"])]:
        if not (isinstance(entry["cities"], list) and entry["cities"]):
            raise ValueError(f"cities of {what} are {entry['cities']!r}; wanted a list of names")
    held_back = tuple(table.get("held_back", {}).get("cities", ()))
    test_cities = tuple(table["test"]["cities"])
    cities = [city for stage in stages for city in stage.cities] + list(held_back)
    if table["layout"] == "cityscapes":  # in camvid, a sequence may have frames in both folders
        cities += test_cities
    _all_different("city", cities, "a city belongs to one stage, or to test, or is held back")
    return Split(
        name=table["name"],
        layout=_layout(table["layout"]),
        classes=tuple(
            LabelClass(name, entries[name]["id"], _colour(name, entries[name])) for name in order
        ),
        void=tuple(table["void"]),
        stages=tuple(stages),
        test_cities=test_cities,
        held_back=held_back,
        images=tuple(table.get("images", {}).items()),
        parts=table.get("parts", 1),
    )


def _colour(name: str, entry: dict) -> tuple[int, int, int]:
    colour = tuple(entry["colour"])
    if len(colour) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour):
        raise ValueError(f"colour of {name!r} is {list(colour)}; wanted three numbers 0 to 255")
    return colour


def _layout(layout: str) -> str:
    if layout not in ("cityscapes", "camvid"):
        raise ValueError(unknown("layout", layout, ["cityscapes", "camvid"]))
    return layout


def _all_different(kind: str, values: list, rule: str) -> None:
    twice = sorted({value for value in values if values.count(value) > 1}, key=str)
    if twice:
        raise ValueError(f"{kind} {', '.join(map(repr, twice))} appears twice; {rule}")
