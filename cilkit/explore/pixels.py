"""What a teacher predicts at each pixel of a test set, and the loss of a method at one pixel."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cilkit.classes import Split
from cilkit.data.images import LabelledImages, evenly_spaced
from cilkit.losses import entropy_weight
from cilkit.methods import Method, Step
from cilkit.networks import Segmenter
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import predict

GRID = 64 * 128  # pixels that stand for an image where a set of images is averaged


class Answers:
    """The logits of a network for the images of a data set, each computed once and kept.

    `answers[index]` is (S, H, W). The last `keep` images stay in memory. Raises IndexError for an
    image that is not there, ValueError for scores that are no numbers.
    """

    def __init__(
        self, network: Segmenter, images: LabelledImages, config: TrainConfig, keep: int = 64
    ):
        self.images = images
        self.network, self.config = network, config
        self._of = lru_cache(keep)(self._ask)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(
                f"image {index} of {len(self)}; wanted a number from 0 to {len(self) - 1}"
            )
        return self._of(index)

    def _ask(self, index: int) -> Tensor:
        logits = predict(self.network, self.images[index][0][None], self.config)[0]
        if not logits.isfinite().all():
            raise ValueError(
                f"the network gives NaN or infinite scores for image {index}; its training went "
                "wrong, train it again (move its run folder away, or change the seed)"
            )
        return logits


def weights(logits: Tensor, temperature: float = 1.0, strength: float = 1.0) -> Tensor:
    """The weights alpha of eq. (10) of one image, for a softer teacher and another strength.

    logits (S, H, W) -> (H, W): 1 + strength * entropy in bits of softmax(logits / temperature);
    eq. (10) itself has temperature 1 and strength 1.
    """
    alpha = entropy_weight((logits / temperature).softmax(dim=0)[None])[0]  # (H, W)
    return 1 + strength * (alpha - 1)


def class_entropy(
    answers: Answers, split: Split, temperatures: Sequence[float], most: int = 60
) -> pd.DataFrame:
    """Mean entropy of a teacher in bits by class of the label: a row for each temperature.

    Counted on at most `most` images, evenly spread, and in each on a grid of about `GRID` pixels.
    A class that does not occur is NaN. From here, mean alpha is 1 + strength * entropy.
    """
    sums = torch.zeros(len(temperatures), 256, dtype=torch.float64)
    counts = torch.zeros(256, dtype=torch.float64)
    shown = {"desc": "entropy", "unit": "image", "leave": False, "delay": 2}
    # on stderr Jupyter would leave a red line where the bar was
    for index in tqdm(evenly_spaced(len(answers), most), file=sys.stdout, **shown):
        labels = answers.images[index][1]  # (H, W)
        stride = max(1, round((labels.numel() / GRID) ** 0.5))
        labels = labels[::stride, ::stride].reshape(-1)  # (P,)
        logits = answers[index][:, ::stride, ::stride]  # (S, h, w)
        counts += torch.bincount(labels, minlength=256)
        for row, temperature in enumerate(temperatures):
            entropy = weights(logits, temperature) - 1  # (h, w)
            sums[row] += torch.bincount(labels, entropy.reshape(-1).double(), minlength=256)
    means = (sums / counts)[:, : len(split.classes)]  # 0 / 0 is NaN
    return pd.DataFrame(means.numpy(), index=list(temperatures), columns=split.names())


@dataclass(frozen=True)
class Pixel:
    """The loss of a method at one pixel: its terms by name, and the gradient for each channel.

    terms              name -> the term's value with this pixel alone, in nats; 0 if not used
    negative_gradient  (S,)  of their sum: positive for a channel that shall rise
    teacher_weight     mu * alpha of eq. (7): 0 without distillation, 1 if it is not weighted
    """

    terms: dict[str, float]
    negative_gradient: Tensor
    teacher_weight: float


def loss_at_pixel(method: Method, step: Step, row: int, column: int) -> Pixel:
    """The loss of a method at one pixel of the first image of a step, as if it were alone.

    In the loss of a whole batch each term is divided by the number of its pixels. Raises
    ValueError for a pixel outside the image, and for a method whose loss needs more than one pixel.
    """
    if method.loss is None or method.features:
        raise ValueError(
            f"the loss of {method.name} needs a training: it is prepared or reads features. Choose "
            "a method that has neither prepare nor features"
        )
    height, width = step.labels.shape[1:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"pixel ({row}, {column}) is outside the image of {height} x {width}; count from 0"
        )

    def here(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:1, ..., row : row + 1, column : column + 1]

    logits = here(step.logits).detach().clone().requires_grad_()
    seen = {name: here(getattr(step, name)) for name in ("labels", "teacher", "new_teacher")}
    alone = replace(step, logits=logits, **seen)
    terms = method.loss(alone)
    sum(terms.values()).backward()
    values = {name: term.item() for name, term in terms.items()}
    return Pixel(values, -logits.grad[0, :, 0, 0], _teacher_weight(method, alone))


def _teacher_weight(method: Method, alone: Step) -> float:
    """mu * alpha at the only pixel of a step, measured with a student of uniform output.

    For such a student, distillation from any probabilities costs the same, times mu * alpha. A
    teacher that is certain has alpha = 1, and one of zeros costs nothing.
    """
    if alone.teacher is None:
        return 0.0
    nothing = torch.zeros_like(alone.teacher)
    sure = nothing.index_fill(1, torch.tensor(0), 1)
    blank = torch.zeros_like(alone.logits)
    free, price, asked = (
        sum(method.loss(replace(alone, logits=blank, teacher=y)).values()).item()
        for y in (nothing, sure, alone.teacher)
    )
    return 0.0 if price == free else (asked - free) / (price - free)
