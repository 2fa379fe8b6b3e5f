"""How fast the explorers answer: milliseconds from a control that moves to the new picture.

That is the time in the kernel, without the way to the browser. Networks are untrained: they cost
what trained ones cost. Scenes are a small Toyscapes, drawn at each size.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace

from ipywidgets import SelectionSlider, ValueWidget

from benchmarks.scenes import make_network
from benchmarks.timing import Row, seconds
from cilkit import METHODS, Study
from cilkit.explore.widgets import Explorer, entropy_explorer, pixel_explorer, split_explorer
from cilkit.toyscapes.write import write_toyscapes

GOALS = {(128, 256): 150, (512, 1024): 500}  # ms by size, answers of the networks cached
FRACTION = 40  # of the images of Cityscapes: 11 in the test set


def untrained(*classes: int) -> SimpleNamespace:
    """What an explorer needs of a run."""
    return SimpleNamespace(folder=Path("untrained"), network=partial(make_network, *classes))


def opened(study: Study) -> Iterator[tuple[str, Explorer]]:
    """Each explorer of the notebooks, made when its turn comes."""
    first, second = study.stage("T1").new.stop, study.stage("T2").seen.stop
    teachers = {"T1": untrained(first), "T2": untrained(second)}
    students = {"one": untrained(second), "other": untrained(second)}
    methods = {name: method for name, method in METHODS.items() if method.memory is None}
    yield "entropy", entropy_explorer(study, teachers)
    yield "pixel", pixel_explorer(study, students, teachers["T1"], methods=methods)
    yield "split", split_explorer(study, methods)


def moves(control: ValueWidget, changes: int) -> list:
    """Values for a control, or numbers for a menu, that are all changes."""
    if isinstance(control, SelectionSlider):
        now, places = control.index, range(len(control.options))
    else:
        now, last = control.value, round((control.max - control.min) / control.step)
        places = [control.min + k * control.step for k in range(min(last, changes) + 1)]
    return list(islice(cycle([place for place in places if place != now] + [now]), changes))


def answers(explorer: Explorer, changes: int) -> dict[str, float]:
    """Median milliseconds by control; each place is visited first, so networks have answered."""
    found = {}
    for name, control in explorer.controls.items():
        took = []
        for place in 2 * moves(control, changes):
            attribute = "index" if isinstance(control, SelectionSlider) else "value"
            took.append(1000 * seconds(partial(setattr, control, attribute, place)))
            if "Error" in explorer.sentence:
                raise RuntimeError(f"{name} = {place!r}: {explorer.sentence}")
        found[name] = statistics.median(took[changes:])
    return found


def explorers(changes: int = 10, goals: Mapping[tuple[int, int], int] = GOALS) -> list[Row]:
    """The slowest control of each explorer at each size, once the networks have answered."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, goal in goals.items():
            data = write_toyscapes(Path(folder) / f"toy{size[0]}", fraction=FRACTION, size=size)
            study = Study(data, folder, "quick", height=size[0])
            for title, explorer in opened(study):
                times = answers(explorer, changes)
                name = max(times, key=times.get)
                figure = f"{title} explorer at {size[0]} x {size[1]}: slowest control ({name})"
                rows.append(Row(figure, times[name], "ms", goal))
    return rows
