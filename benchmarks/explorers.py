"""How fast the explorers answer: milliseconds from a control that moves to the new picture.

    python benchmarks/explorers.py

That is the time in the kernel, without the way to the browser. Networks are untrained: they cost
what trained ones cost. Scenes are a small Toyscapes, drawn at each of the two sizes.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace

import torch
from ipywidgets import Dropdown, ValueWidget

from cilkit import METHODS, Study
from cilkit.erfnet import ERFNet
from cilkit.provenance import environment
from cilkit.toyscapes import write_toyscapes
from cilkit.widgets import Explorer, entropy_explorer, pixel_explorer, split_explorer

GOALS = {(128, 256): 150, (512, 1024): 500}  # ms by size, answers of the networks cached
THREADS = (1, 2)
FRACTION = 40  # of the images of Cityscapes: 11 in the test set
CHANGES = 10


def untrained(*classes: int) -> SimpleNamespace:
    """What an explorer needs of a run; the batch norm is that of noise, so that signals pass."""
    torch.manual_seed(0)
    network = ERFNet(*classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 64, 128))
    return SimpleNamespace(folder=Path("untrained"), network=network.eval)


def explorers(study: Study) -> Iterator[tuple[str, Explorer]]:
    """Each explorer of the notebooks, made when its turn comes."""
    first, second = study.stage("T1").new.stop, study.stage("T2").seen.stop
    teachers = {"T1": untrained(first), "T2": untrained(second)}
    students = {"one": untrained(second), "other": untrained(second)}
    methods = {name: method for name, method in METHODS.items() if method.memory is None}
    yield "entropy", entropy_explorer(study, teachers)
    yield "pixel", pixel_explorer(study, students, teachers["T1"], methods=methods)
    yield "split", split_explorer(study, methods)


def moves(control: ValueWidget) -> list:
    """Values for a control, or numbers for a menu, that are all changes."""
    if isinstance(control, Dropdown):
        now, places = control.index, range(len(control.options))
    else:
        now, last = control.value, round((control.max - control.min) / control.step)
        places = [control.min + k * control.step for k in range(min(last, CHANGES) + 1)]
    return list(islice(cycle([place for place in places if place != now] + [now]), CHANGES))


def times(explorer: Explorer) -> Iterator[tuple[str, list[float]]]:
    """For each control, the milliseconds of each change; images a first and a second time."""
    for name, control in explorer.controls.items():
        for title in (f"{name}, first look", name) if name == "image" else (name,):
            took = []
            for place in moves(control):
                start = time.perf_counter()
                setattr(control, "index" if isinstance(control, Dropdown) else "value", place)
                took.append(1000 * (time.perf_counter() - start))
                if "Error" in explorer.sentence:
                    raise RuntimeError(f"{name} = {place!r}: {explorer.sentence}")
            yield title, took


def measure(study: Study) -> dict[tuple[str, str], str]:
    """(explorer, control) -> median and worst time, as text."""
    return {
        (title, name): f"{statistics.median(took):.0f} / {max(took):.0f}"
        for title, explorer in explorers(study)
        for name, took in times(explorer)
    }


def main() -> None:
    columns, before = {}, torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for size, goal in GOALS.items():
            height, width = size
            data = write_toyscapes(Path(folder) / f"toy{height}", fraction=FRACTION, size=size)
            study = Study(data, folder, "quick", height=height)
            for threads in THREADS:
                torch.set_num_threads(threads)
                title = f"{height} x {width}, {threads} thread{'s' * (threads > 1)}"
                columns[f"{title} (goal {goal})"] = measure(study)
    torch.set_num_threads(before)
    print(f"Median / worst of {CHANGES} changes in ms.\n")
    print("| explorer | control |", " | ".join(columns), "|")
    print("|---|---|" + "---:|" * len(columns))
    for row in next(iter(columns.values())):
        print("|", " | ".join([*row, *(column[row] for column in columns.values())]), "|")
    print("\n" + ", ".join(f"{name} {value}" for name, value in environment(study.config).items()))


if __name__ == "__main__":
    main()
