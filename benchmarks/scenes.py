"""Drawn scenes as large as those of Cityscapes, and networks that react to them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from cilkit.classes import Stage
from cilkit.data.images import LabelledImages
from cilkit.data.layouts import Sample
from cilkit.networks.erfnet import ERFNet
from cilkit.splits import load_split
from cilkit.toyscapes.scene import draw_scene

SPLIT = load_split("cityscapes")
STAGE = SPLIT.stage("T2")


@contextmanager
def as_if_large() -> Iterator[Path]:
    """A folder for samples that are treated like those of a data set of thousands of images.

    They are not kept in memory, but decoded once into the cache on disk, `cache` in the folder.
    """
    with (
        TemporaryDirectory() as name,
        patch.multiple("cilkit.data.store", IN_MEMORY=0, DISK_CACHE_ABOVE=0),
        patch.dict(os.environ, {"CILKIT_CACHE": str(Path(name) / "cache")}),
    ):
        yield Path(name)


def write_samples(folder: Path, count: int, size: tuple[int, int]) -> list[Sample]:
    """That many scenes of `size`, as PNG files; five are drawn, the others are these, shifted.

    At 1024 x 2048 the grain of the drawing makes files of 2.6 MB, a little more than photographs.
    """
    city = STAGE.cities[0]
    drawn = [draw_scene(city, index, size=size) for index in range(min(count, 5))]
    samples = samples_in(folder, count)
    for index, sample in enumerate(samples):
        image, labels = (np.roll(part, 64 * index, axis=1) for part in drawn[index % len(drawn)])
        Image.fromarray(image).save(sample.image, compress_level=3)
        Image.fromarray(labels).save(sample.label)
    return samples


def samples_in(folder: Path, count: int) -> list[Sample]:
    """The first scenes that `write_samples` has written or will write to a folder."""
    city = STAGE.cities[0]
    return [
        Sample(folder / f"{index}_image.png", folder / f"{index}_labels.png", city)
        for index in range(count)
    ]


class Noise(LabelledImages):
    """Images without files, for timing a step of training alone: one picture of noise."""

    def __init__(self, size: tuple[int, int], stage: Stage, count: int, visible: slice):
        super().__init__([Sample(Path(), Path(), stage.cities[0])] * count, SPLIT, visible)
        self.size = size

    def prepare(self, progress: bool = True) -> None:
        """There is nothing to decode."""

    def load(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (3, H, W) and labels (H, W), both uint8."""
        image, labels = random_batch(1, self.size, self.visible)
        return (255 * image[0]).byte(), labels[0].byte()


def random_batch(
    batch: int, size: tuple[int, int], visible: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (B, 3, H, W) in [0, 1] and labels (B, H, W) of the visible classes, all seeded."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(batch, 3, *size, generator=generator)
    labels = torch.randint(visible.start, visible.stop, (batch, *size), generator=generator)
    return pixels, labels


def make_network(
    *classes: int, size: tuple[int, int] = (64, 128), normalise: bool = False, seed: int = 0
) -> ERFNet:
    """Random weights, with the batch-norm statistics of random images, in evaluation mode.

    With fresh statistics every signal would die away, and all pixels get one class.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = ERFNet(*classes, normalise=normalise)
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()(torch.rand(2, 3, *size))
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()
