"""A step of training: against the network's own speed and a textbook's, and what it grows with."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import textbook
from benchmarks.scenes import SPLIT, STAGE, Noise, random_batch
from benchmarks.timing import Row, device, interleaved, now, peak_memory, seconds
from cilkit.classes import Stage
from cilkit.config import PRESETS, TrainConfig
from cilkit.erfnet import ERFNet
from cilkit.evaluation import used_precision
from cilkit.methods import METHODS, Step
from cilkit.train import fit_stage

PAPER, QUICK = (6, 192, 640), (2, 96, 192)  # images in a batch, height, width
CIL = METHODS["CIL"]


def step(shapes: tuple = (QUICK, PAPER), repeats: int = 7) -> list[Row]:
    """Student, teacher, loss and optimiser of CIL in T2, as fit_stage runs them."""
    rows = []
    for shape in shapes:
        at = "CIL T2 step, {} x 3 x {} x {}".format(*shape)
        time = time_step(STAGE, shape, repeats, textbook_too=True)
        bare = time["bare step"] + time["bare teacher"]
        rows += [
            Row(at, 1000 * time["kit"], "ms"),
            Row(f"{at} / (bare step + teacher forward)", time["kit"] / bare, "x", 1.1),
            Row(f"textbook step / {at}", time["textbook step"] / time["kit"], "x", 4, "at least"),
        ]
    return rows


def time_step(
    stage: Stage, shape: tuple[int, int, int], repeats: int, textbook_too: bool = False
) -> dict[str, float]:
    """Median seconds of the kit's own step and of its references, all in turn.

    fit_stage trains on one random batch again and again. Where it asks for the next one, a step
    has ended, and the references have theirs. The first round is for warming up.
    """
    batch, *size = shape
    config = replace(PRESETS["paper"], epochs=1, batch=batch, workers=0)
    pixels, labels = random_batch(batch, tuple(size), stage.new)
    works = references(stage, pixels.to(device()), labels.to(device()), config)
    works = works if textbook_too else {}
    times: dict[str, list[float]] = {name: [] for name in ["kit", *works]}

    def batches(*_: object) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(repeats + 1):
            for name, work in works.items():
                times[name].append(seconds(work))
            started = now()
            yield pixels, labels
            times["kit"].append(now() - started)

    images = Noise(tuple(size), stage, batch * (repeats + 1))
    with patch("cilkit.loop._batches", batches):
        fit_stage(CIL, images, stage, ERFNet(stage.old.stop), config)
    return {name: median(values[1:]) for name, values in times.items()}


def references(
    stage: Stage, pixels: Tensor, labels: Tensor, config: TrainConfig
) -> dict[str, Callable[[], object]]:
    """The bare step, the bare teacher and the textbook step, on one batch."""
    students = [ERFNet(stage.seen.stop).to(pixels.device) for _ in range(2)]
    teachers = [ERFNet(stage.old.stop).to(pixels.device) for _ in range(2)]
    gradient = torch.randn(
        len(pixels), stage.seen.stop, *pixels.shape[2:], device=pixels.device
    ) / (labels.numel())  # (B, S, H, W)
    bf16 = used_precision(config) == "bf16-mixed"
    return {
        "bare step": textbook.bare_step(students[0], pixels, gradient, bf16),
        "bare teacher": textbook.bare_teacher(teachers[0], pixels, bf16),
        "textbook step": textbook.textbook_step(students[1], teachers[1], pixels, labels),
    }


def losses(shape: tuple[int, int, int] = PAPER, repeats: int = 5) -> list[Row]:
    """The loss terms of each method in T3 (19 classes), forward and backward, of its step."""
    batch, *size = shape
    stage = SPLIT.stage("T3")
    whole = time_step(stage, shape, repeats)["kit"]
    works = {name: loss_work(name, stage, batch, tuple(size)) for name in METHODS}
    time = interleaved(works, repeats)
    tensor = 4 * batch * stage.seen.stop * size[0] * size[1]  # bytes of (B, S, H, W) in float32
    at = "{} x {} x {}, 19 classes".format(*shape)
    rows = [Row(f"CIL T3 step, {at}", 1000 * whole, "ms")]
    for name, work in works.items():
        rows += [
            Row(f"loss of {name}, {at}: share of the CIL step", 100 * time[name] / whole, "%", 8),
            Row(
                f"loss of {name}: peak memory", peak_memory(work) / tensor, "tensors B x S x H x W"
            ),
        ]
    return rows


def loss_work(name: str, stage: Stage, batch: int, size: tuple[int, int]) -> Callable[[], None]:
    """The loss of a method and its gradient, on logits laid out as the network leaves them."""
    old, new = stage.old.stop, stage.new.stop - stage.new.start
    bf16 = used_precision(PRESETS["paper"]) == "bf16-mixed"
    layout = torch.channels_last if bf16 else torch.contiguous_format
    logits, teacher, new_teacher = (
        torch.randn(batch, classes, *size, device=device()).contiguous(memory_format=layout)
        for classes in (old + new, old, new)
    )
    logits.requires_grad_()
    visible = METHODS[name].visible(stage)
    _, labels = random_batch(batch, size, visible)
    given = Step(
        logits,
        labels.to(device()),
        teacher.softmax(dim=1),
        stage.old,
        stage.new,
        new_teacher.softmax(dim=1),
    )

    def work() -> None:
        torch.autograd.grad(sum(METHODS[name].loss(given).values()), logits)

    return work
