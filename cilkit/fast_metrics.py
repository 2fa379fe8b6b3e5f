"""The twin of `metrics.best_channels` for a CPU: the same predictions in a tenth of the time."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from cilkit import subnormals  # noqa: F401  these count as zero from here on
from cilkit.classes import Classes, within


def best_channels(
    logits: Tensor, class_sets: Mapping[str, Classes], first: int = 0
) -> dict[str, Tensor]:
    """What a network predicts within each class set: logits (B, S, h, w) -> (B, h, w) by name.

    Class sets overlap, but the best channel between two of their ends is sought only once, and
    sets that begin alike share the comparisons as far as they go together.
    """
    logits = logits.contiguous()
    sets = [(name, classes) for name, classes in class_sets.items() if isinstance(classes, slice)]
    ends = sorted({end for _, classes in sets for end in (classes.start, classes.stop)})
    found = {
        start: _best(logits[:, start - first : stop - first]) for start, stop in pairwise(ends)
    }
    predictions = {
        name: _best(logits[:, within(classes, first)])[1]
        for name, classes in class_sets.items()
        if not isinstance(classes, slice)  # classes that are labelled again: a set of its own
    }
    for begin in {classes.start for _, classes in sets}:
        highest, best = (tensor.clone() for tensor in found[begin])
        last = max(classes.stop for _, classes in sets if classes.start == begin)
        for start, stop in pairwise(end for end in ends if begin <= end <= last):
            if start > begin:
                scores, index = found[start]
                _take_higher(highest, best, scores, index + (start - begin))
            for name, classes in sets:
                if classes == slice(begin, stop):
                    predictions[name] = best.clone()
    return predictions


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of the channels (B, S, h, w) and its index, (B, h, w) each; of equals the first.

    That is `logits.max(dim=1)`, in a fifth of its time on a CPU.
    """
    highest = logits[:, 0].clone()
    best = torch.zeros_like(highest, dtype=torch.uint8)  # there are at most 255 classes
    for index in range(1, logits.shape[1]):
        _take_higher(highest, best, logits[:, index], index)
    return highest, best


def _take_higher(highest: Tensor, best: Tensor, scores: Tensor, index: Tensor | int) -> None:
    """Put scores and their index where they are higher; no index in `best` is above these."""
    higher = (scores > highest).to(torch.uint8)
    torch.maximum(highest, scores, out=highest)
    torch.maximum(best, higher * index, out=best)
