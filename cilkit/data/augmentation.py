"""The augmentation of Sec. IV-A, on image and label together, seeded per sample."""

import hashlib
from dataclasses import dataclass
from functools import partial
from math import ceil, cos, floor, radians, sin

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as colours

from cilkit.checks import check, is_number, is_switch, is_whole
from cilkit.classes import VOID
from cilkit.data.images import LabelledImages


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
    hue: float = 0.1  # of the colour circle

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

    def apply(
        self, image: Tensor, labels: Tensor, crop: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Image (3, H, W), labels (H, W), uint8 -> image (3, h, w) in [0, 1], labels (h, w) long.

        Both are as large as the crop. Where rotation or a smaller image leaves nothing, the image
        is black and the label VOID.
        """
        draws = torch.rand(9, generator=generator).tolist()
        affine = self._affine(tuple(labels.shape), crop, *draws[:5])
        image, labels = warp(image, labels, crop, affine)
        return self._jitter(image, *draws[5:]), labels

    def _affine(
        self,
        size: tuple[int, int],
        crop: tuple[int, int],
        turn: float,
        flip: float,
        rescale: float,
        down: float,
        right: float,
    ) -> Tensor:
        """Where the crop lies in the image: rotation, flip, rescaling and crop in one map, (2, 3).

        It takes (x, y, 1) with x, y in pixels from the middle of the crop to pixels from the
        middle of the image. The draws are uniform in [0, 1).
        """
        low, high = self.rescale
        factor = low + (high - low) * rescale
        factor = 1 / factor if self.rescale_divides else factor
        rescaled = [round(side * factor) for side in size]
        middle = []  # of the crop, in the rescaled image and from its middle
        for side, wanted, draw in zip(rescaled, crop, (down, right), strict=True):
            spare = side - wanted  # below 0 the image lies somewhere in the crop
            start = min(0, spare) + floor(draw * (abs(spare) + 1))
            middle.append(start - spare / 2)
        step_y, step_x = (side / new for side, new in zip(size, rescaled, strict=True))
        step_x = -step_x if flip < self.flip else step_x
        angle = radians(self.rotation * (2 * turn - 1))
        turned = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
        steps = turned * torch.tensor([step_x, step_y])  # (2, 2)
        return torch.cat([steps, steps @ torch.tensor(middle).flip(0)[:, None]], dim=1)

    def _jitter(
        self, image: Tensor, brightness: float, contrast: float, saturation: float, hue: float
    ) -> Tensor:
        """The colours of an image (3, h, w) changed; the draws are uniform in [0, 1)."""
        for adjust, most, draw in (
            (colours.adjust_brightness, self.brightness, brightness),
            (colours.adjust_contrast, self.contrast, contrast),
            (colours.adjust_saturation, self.saturation, saturation),
        ):
            image = adjust(image, 1 + most * (2 * draw - 1)) if most else image
        return adjust_hue(image, self.hue * (2 * hue - 1)) if self.hue else image


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def warp(
    image: Tensor, labels: Tensor, size: tuple[int, int], affine: Tensor
) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and labels (H, W), uint8, at other points: (3, h, w) in [0, 1], (h, w) long.

    `affine` (2, 3) takes (x, y, 1), in pixels from the middle of the crop, to pixels from the
    middle of the image. Colours are interpolated once, labels are those of the nearest pixel.
    Outside the image it is black and VOID.
    """
    (h, w), (in_h, in_w) = size, labels.shape
    # affine_grid counts from -1 to 1, from border to border, in the crop and in the image
    theta = affine / torch.tensor([[in_w / 2], [in_h / 2]]) * torch.tensor([w / 2, h / 2, 1])
    points = affine_grid(theta[None], [1, 1, h, w], align_corners=False)  # (1, h, w, 2) as x, y
    image, labels = image.float() / 255, labels.float()
    at_labels = _at(points, labels[None], "nearest")[0].long()  # (h, w)
    # so many points on each side of a pixel that no pixel of the image is left out: an image made
    # smaller would flicker
    supersampling = max(1, ceil(affine[:, :2].norm(dim=0).max().item() - 1e-3))
    if supersampling == 1:
        at_image = _at(points, image, "bilinear")  # (3, h, w)
    else:
        finer = [1, 1, supersampling * h, supersampling * w]
        finer_points = affine_grid(theta[None], finer, align_corners=False)
        at_image = avg_pool2d(_at(finer_points, image, "bilinear"), supersampling)  # (3, h, w)
    outside = points[0].abs().amax(dim=-1) > 1  # (h, w)
    at_image.clamp_(0, 1)  # the four weights of a point sum to 1 but for the last digit
    return at_image.masked_fill_(outside, 0), at_labels.masked_fill_(outside, VOID)


def _at(points: Tensor, picture: Tensor, mode: str) -> Tensor:
    """A picture (C, H, W) at points (1, h, w, 2); beyond its border it goes on as it ends."""
    return grid_sample(picture[None], points, mode, "border", align_corners=False)[0]


def adjust_hue(image: Tensor, turn: float) -> Tensor:
    """An image (3, h, w) in [0, 1] with its hues turned by a part of the colour circle.

    As torchvision's adjust_hue, to the last digits, in a sixth of its time. Value and chroma
    stay. Red, green and blue lie at 0, 2 and 4 of a circle of 6: a channel is full up to 1 from
    the hue, and empty from 2.
    """
    red, green, blue = image
    high, low = image.amax(dim=0), image.amin(dim=0)
    chroma = high - low
    # what the largest channel is not, as 0 or 1: lerp picks by it faster than where does
    not_red = (high - red).sign()
    is_blue = (high - green).sign() * not_red  # the last one left
    beside = (green - blue).lerp(blue - red, not_red).lerp(red - green, is_blue)
    nearest = 2 * not_red + 2 * is_blue  # 0, 2 or 4
    hue = (nearest + 6 * turn).addcdiv(beside, chroma.clamp(min=1e-9))  # 0 for grey
    apart = (hue - torch.tensor([0.0, 2.0, 4.0], device=image.device)[:, None, None]).abs()
    apart = apart.minimum((6 - apart).abs())  # the shorter way round
    return low + chroma * (2 - apart).clamp(0, 1)


class Augmented(Dataset):
    """A data set seen through an augmentation; the same (seed, epoch, index) gives the same item.

    Set `epoch` before each epoch. Neither the order of access nor the number of workers matters.
    """

    def __init__(
        self,
        images: LabelledImages,
        augmentation: Augmentation,
        seed: int,
        name: str = "new",
        progress: bool = True,
    ):
        """`name` tells data sets apart that are used side by side, so that each draws its own.

        All images are decoded first, with a `progress` bar if that takes long.
        """
        self.images, self.seed, self.name, self.epoch = images, seed, name, 0
        self.augmentation = augmentation
        images.prepare(progress)
        self.crop = augmentation.crop_within(tuple(images.load(0)[1].shape))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, "augmentation", self.name, self.epoch, index)
        )
        image, labels = self.images.load(index)
        return self.augmentation.apply(image, labels, self.crop, generator)


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ("order", 3), independent of those for others."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
