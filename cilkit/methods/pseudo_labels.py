"""Pseudo-labels: the class that a teacher predicts, where it is surer than usual of that class.

Eq. (10) looks at the same entropy and does the opposite: the more a teacher doubts, the more weight
it has there. Here it is not heard where it doubts.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from cilkit.classes import HIDDEN, VOID
from cilkit.losses import entropy

BINS = 1000  # of the entropy, in which its medians are found


def pseudo_labels(teacher_y: Tensor, thresholds: Tensor) -> Tensor:
    """The teacher's class at each pixel; VOID unless its entropy is below the threshold of it.

    teacher_y (B, O, H, W) probabilities, thresholds (O,) in bits -> (B, H, W) long
    """
    predicted = teacher_y.argmax(dim=1)  # (B, H, W)
    sure = entropy(teacher_y) < thresholds.to(teacher_y.device)[predicted]
    return predicted.where(sure, VOID)


def median_entropies(answers: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """For each class (O,) the median entropy, in bits, of hidden pixels where it is predicted.

    answers: pairs of a teacher's probabilities (B, O, H, W) and labels (B, H, W); HIDDEN counts.
    A median is the upper end of its bin, a thousandth of log2 O, so it is above 0 even for a class
    of which the teacher is certain everywhere; so is that of a class that is never predicted.
    (PLOP's released code divides the entropy by O once more and has 100 bins, so that nearly all
    values fall into the first few: its thresholds are about half a bin, and more pixels pass.)
    """
    counts = 0
    for y, labels in answers:
        classes = y.shape[1]
        widest = math.log2(max(2, classes))  # of one class the entropy is 0
        bins = (entropy(y) * (BINS / widest)).long().clamp(max=BINS - 1)  # (B, H, W)
        places = (y.argmax(dim=1) * BINS + bins)[labels == HIDDEN]
        counts = counts + torch.bincount(places.cpu(), minlength=classes * BINS)
    below = counts.view(-1, BINS).cumsum(dim=1)  # (O, BINS)
    return ((2 * below < below[:, -1:]).sum(dim=1) + 1) * (widest / BINS)
