"""The augmentation of Sec. IV-A, on image and label together, seeded per sample."""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from cilkit.classes import VOID
from cilkit.datasets import LabelledImages
from cilkit.parameters import check, is_number, is_switch, is_whole


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, in this order. The defaults are the paper's (Sec. IV-A).

    Where the paper is silent (flip) or its authors' released code does otherwise (rotation,
    rescaling), data/README.md says what is known.
    """

    rotation: float = 2.0  # degrees, drawn from [-rotation, rotation]
    flip: float = 0.0  # probability of a horizontal flip
    rescale: tuple[float, float] = (1.0, 1.5)  # factors to draw from
    rescale_divides: bool = False  # the released code divides by the factor: it shrinks
    crop: tuple[int, int] = (192, 640)  # height, width; less where the image is smaller
    brightness: float = 0.2  # +- this, as are the next three
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1

    def __post_init__(self) -> None:
        for most, names in (
            (180, ["rotation"]),
            (1, ["flip", "brightness", "contrast", "saturation"]),
            (0.5, ["hue"]),
        ):
            check(self, f"a number from 0 to {most}", partial(is_number, most=most), *names)
        check(
            self,
            "(low, high) with 0 < low <= high",
            lambda v: _is_pair(v) and all(map(is_number, v)) and 0 < v[0] <= v[1],
            "rescale",
        )
        check(
            self,
            "height and width in multiples of 8",
            lambda v: _is_pair(v) and all(is_whole(side, 8) and side % 8 == 0 for side in v),
            "crop",
        )
        check(self, "True or False, without quotes", is_switch, "rescale_divides")

    def crop_within(self, size: tuple[int, int]) -> tuple[int, int]:
        """The crop, or what an image of `size` (h, w) has of it at the smallest factor."""
        factor = 1 / self.rescale[1] if self.rescale_divides else self.rescale[0]
        limits = [max(8, int(side * factor) // 8 * 8) for side in size]
        return min(self.crop[0], limits[0]), min(self.crop[1], limits[1])

    def pipeline(self, size: tuple[int, int]) -> v2.Compose:
        """The torchvision pipeline for images of `size` (h, w), or about that.

        uint8 image and mask in, float image in [0, 1] and mask out, both as large as the crop.
        Where rotation or a smaller image leaves nothing, the label is VOID.
        """
        nothing = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}
        return v2.Compose(
            [
                v2.RandomRotation(self.rotation, InterpolationMode.BILINEAR, fill=nothing),
                v2.RandomHorizontalFlip(self.flip),
                RandomRescale(self.rescale, self.rescale_divides),
                v2.RandomCrop(self.crop_within(size), pad_if_needed=True, fill=nothing),
                v2.ColorJitter(brightness=self.brightness),
                v2.ColorJitter(contrast=self.contrast),
                v2.ColorJitter(saturation=self.saturation),
                v2.ColorJitter(hue=self.hue),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


class RandomRescale(v2.Transform):
    """Resize by a factor drawn uniformly from `factors`, or by its inverse."""

    def __init__(self, factors: tuple[float, float], divides: bool = False):
        super().__init__()
        self.factors, self.divides = factors, divides

    def make_params(self, flat_inputs: list) -> dict:
        low, high = self.factors
        factor = low + (high - low) * torch.rand(()).item()
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = 1 / factor if self.divides else factor
        return {"size": [round(height * factor), round(width * factor)]}

    def transform(self, inpt: Tensor, params: dict) -> Tensor:
        return v2.functional.resize(inpt, params["size"])  # masks are resized by nearest


class Augmented(Dataset):
    """A data set seen through an augmentation; the same (seed, epoch, index) gives the same item.

    Set `epoch` before each epoch. Neither the order of access nor the number of workers matters.
    """

    def __init__(
        self, images: LabelledImages, augmentation: Augmentation, seed: int, name: str = "new"
    ):
        """`name` tells data sets apart that are used side by side, so that each draws its own."""
        self.images, self.seed, self.name, self.epoch = images, seed, name, 0
        self.pipeline = augmentation.pipeline(tuple(images.load(0)[0].shape[1:]))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(
                derive_seed(self.seed, "augmentation", self.name, self.epoch, index)
            )
            image, labels = self.pipeline(*self.images.load(index))
        return image.as_subclass(Tensor), labels.as_subclass(Tensor).long()  # (3, H, W), (H, W)


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ("order", 3), independent of those for others."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
