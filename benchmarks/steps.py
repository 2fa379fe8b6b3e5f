"""A step of training, compared with the bare network and with a textbook's step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import textbook
from benchmarks.scenes import SPLIT, STAGE, Noise, as_if_large, random_batch, write_samples
from benchmarks.timing import Row, device, now, peak_memory, seconds
from cilkit.classes import Stage
from cilkit.data.augmentation import Augmented
from cilkit.data.images import LabelledImages
from cilkit.methods import METHODS, Method, Step
from cilkit.networks.erfnet import ERFNet
from cilkit.training import distributed
from cilkit.training.config import PRESETS, TrainConfig
from cilkit.training.evaluation import FORMATS, used_memory_format
from cilkit.training.stage import fit_stage
from cilkit.training.timing import timed, way_of, ways

PAPER, QUICK = (6, 192, 640), (2, 96, 192)  # images in a batch, height, width
CIL = METHODS["CIL"]
BARE = "bare step", "bare teacher"


def step(
    shapes: tuple = (QUICK, PAPER), repeats: int = 7, size: tuple[int, int] = (1024, 2048)
) -> list[Row]:
    """Student, teacher, loss and optimiser of CIL in T2, as fit_stage runs them.

    Also with the samples of a batch, from files of `size`: the kit's come from its cache, the
    textbook's are decoded each time.
    """
    rows = []
    for shape in shapes:
        at = "CIL T2 step, {} x 3 x {} x {}".format(*shape)
        with as_if_large() as folder:
            works = references(STAGE, shape) | samples(folder, shape, size)
            taken = way_of(timed(config_of(shape)))
            time = time_step(CIL, STAGE, shape, repeats, works, *taken)
        bare = {way: sum(time[f"{part}, {', '.join(way)}"] for part in BARE) for way in ways()}
        with_samples = (time["textbook step"] + time["textbook samples"]) / (
            time["kit"] + time["kit samples"]
        )
        rows += [
            *(
                Row("bare step + teacher forward, {}, {}".format(*way), 1000 * value, "ms")
                for way, value in bare.items()
            ),
            Row("{} (in {}, {})".format(at, *taken), 1000 * time["kit"], "ms"),
            Row(f"{at} / the fastest bare one", time["kit"] / min(bare.values()), "x", 1.1),
            Row(f"textbook step / {at}", time["textbook step"] / time["kit"], "x", 4, "at least"),
            Row(
                "the same, both with samples of {} x {}".format(*size),
                with_samples, "x", 4, "at least",
            ),
        ]  # fmt: skip
    return rows


def config_of(shape: tuple[int, int, int]) -> TrainConfig:
    """The preset paper with another batch and crop."""
    batch, *crop = shape
    paper = PRESETS["paper"]
    return replace(paper, batch=batch, augmentation=replace(paper.augmentation, crop=tuple(crop)))


def samples(
    folder: Path, shape: tuple[int, int, int], size: tuple[int, int]
) -> dict[str, Callable[[], object]]:
    """A batch of training samples as the kit reads and augments them, and as a textbook does."""
    config = PRESETS["paper"]
    batch, *crop = shape
    augmentation = replace(config.augmentation, crop=tuple(crop))
    images = LabelledImages(write_samples(folder, batch, size), SPLIT, STAGE.new, config.height)
    augmented = Augmented(images, augmentation, seed=0)
    return {
        "kit samples": lambda: [augmented[index] for index in range(batch)],
        "textbook samples": lambda: [
            textbook.training_sample(images, index, augmentation) for index in range(batch)
        ],
    }


def time_step(
    method: Method,
    stage: Stage,
    shape: tuple[int, int, int],
    repeats: int,
    works: Mapping[str, Callable[[], object]] | None = None,
    precision: str = "auto",
    memory_format: str = "auto",
) -> dict[str, float]:
    """Median seconds of the kit's own step and of other works, all in turn.

    fit_stage trains on one random batch again and again. Where it asks for the next one, a step
    has ended, and the others have their turn. The first round is for warming up. Under torchrun
    the processes share the batch.
    """
    batch, *size = shape
    way = {"precision": precision, "memory_format": memory_format}
    config = replace(config_of(shape), epochs=1, workers=0, **way)
    inputs = random_inputs(method, stage, shape)
    works = works or {}
    times: dict[str, list[float]] = {name: [] for name in ["kit", *works]}

    def batches(*_: object) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(repeats + 1):
            for name, work in works.items():
                times[name].append(seconds(work))
            started = now()
            yield tuple(map(distributed.shard, inputs))
            times["kit"].append(now() - started)

    images = Noise(tuple(size), stage, batch * (repeats + 1), method.visible(stage))
    earlier = SPLIT.earlier(stage)
    classes = [len(SPLIT.names(before.new)) for before in earlier]  # of each decoder of FT or FE
    teacher = ERFNet(*classes) if method.second_decoder else ERFNet(stage.old.stop)
    more = {}
    if method.memory is not None:
        count = method.memory.size
        more["memory"] = [Noise(tuple(size), before, count, before.new) for before in earlier]
        more["new_teacher"] = ERFNet(len(SPLIT.names(stage.new)))
    with patch("cilkit.training.loop._batches", batches):
        fit_stage(method, images, stage, teacher, config, **more)
    return {name: median(values[1:]) for name, values in times.items()}


def random_inputs(
    method: Method, stage: Stage, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Pixels and labels of a batch as a method gets it; a memory adds as many old images."""
    batch, *size = shape
    views = [method.visible(stage), *([stage.old] if method.memory is not None else [])]
    parts = [random_batch(batch, tuple(size), visible) for visible in views]
    pixels, labels = map(torch.cat, zip(*parts, strict=True))
    return pixels, labels


def references(stage: Stage, shape: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """The textbook step, and in each way the bare step and teacher, on the batch of `time_step`."""
    pixels, labels = (part.to(device()) for part in random_inputs(CIL, stage, shape))
    gradient = torch.randn(
        len(pixels), stage.seen.stop, *pixels.shape[2:], device=pixels.device
    ) / (labels.numel())  # (B, S, H, W)

    def student() -> ERFNet:
        return ERFNet(stage.seen.stop).to(pixels.device)

    def teacher() -> ERFNet:
        return ERFNet(stage.old.stop).to(pixels.device)

    works = {"textbook step": textbook.textbook_step(student(), teacher(), pixels, labels)}
    for way in ways():
        name = ", ".join(way)
        works[f"{BARE[0]}, {name}"] = textbook.bare_step(student(), pixels, gradient, way)
        works[f"{BARE[1]}, {name}"] = textbook.bare_teacher(teacher(), pixels, way)
    return works


def losses(shape: tuple[int, int, int] = PAPER, repeats: int = 5) -> list[Row]:
    """Each method's step in T3 (19 classes), and what its loss terms, forward and backward, take.

    A memory doubles the batch; the loss is that of the whole batch.
    """
    stage = SPLIT.stage("T3")
    rows = []
    for name, method in METHODS.items():
        at = "{}, T3, {} x {} x {}, 19 classes".format(name, *shape)
        work, tensor = loss_work(method, stage, shape)
        time = time_step(method, stage, shape, repeats, {"loss": work})
        share, peak = 100 * time["loss"] / time["kit"], peak_memory(work) / tensor
        rows += [
            Row(f"step of {at}", 1000 * time["kit"], "ms"),
            Row(f"loss of {name}: share of this step", share, "%", 8),
            Row(f"loss of {name}: peak memory", peak, "tensors B x S x H x W"),
        ]
    return rows


def loss_work(
    method: Method, stage: Stage, shape: tuple[int, int, int]
) -> tuple[Callable[[], None], int]:
    """The loss of a method and its gradient, and the bytes of its logits.

    They are laid out as the network leaves them.
    """
    _, labels = random_inputs(method, stage, shape)
    old, new = stage.old.stop, stage.new.stop - stage.new.start
    layout = FORMATS[used_memory_format(PRESETS["paper"])]
    logits, teacher, new_teacher = (
        torch.randn(len(labels), classes, *shape[1:], device=device()).contiguous(
            memory_format=layout
        )
        for classes in (old + new, old, new)
    )
    logits.requires_grad_()
    given = Step(
        logits,
        labels.to(device()),
        teacher.softmax(dim=1),
        stage.old,
        stage.new,
        new_teacher.softmax(dim=1),
    )

    def work() -> None:
        torch.autograd.grad(sum(method.loss(given).values()), logits)

    return work, logits.nbytes
