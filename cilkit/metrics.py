"""Mean intersection over union, restricted to class sets (Sec. IV-A), counted in one pass."""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor


class MeanIoU:
    """mIoU over several class sets at once, such as task1, task2 and task12.

    For each set, only its channels compete in the argmax and only pixels labelled with one of
    its classes count, so mIoU of Task 1 and of Task 1u2 of one model differ in both.
    All values are in %, as in the paper's tables.
    """

    def __init__(self, class_sets: Mapping[str, slice]):
        self.class_sets = dict(class_sets)
        self.counts = {}  # confusion matrices: rows are labels, columns are predictions
        for name, classes in self.class_sets.items():
            n = classes.stop - classes.start
            self.counts[name] = torch.zeros(n, n, dtype=torch.long)
        if math.prod(map(len, self.counts.values())) >= 2**63:  # see `codes` below
            raise ValueError(
                f"{len(self.counts)} class sets with {sum(map(len, self.counts.values()))} classes "
                "are too many to count together; give each half of them a MeanIoU of its own"
            )

    def update(self, logits: Tensor, labels: Tensor, first: int = 0) -> None:
        """Count one batch: logits (B, S, h, w), labels (B, H, W) at their native size.

        `first` is the class of the first channel: not 0 for a model of later classes alone.

        The prediction is upsampled, nearest, to the labels. Taking the argmax before that gives
        the same classes as upsampling all the logits, for a fraction of time and memory.
        """
        start = min(classes.start for classes in self.class_sets.values())
        stop = max(classes.stop for classes in self.class_sets.values())
        if start < first or stop > first + logits.shape[1]:
            raise ValueError(
                f"logits are of classes {first} to {first + logits.shape[1] - 1} but the class "
                f"sets reach from {start} to {stop - 1}; score a model only on classes that it has "
                "learned"
            )
        predictions = self._predictions(logits, first)  # set -> (B, h, w)
        # pixels that all sets predict alike share a code, so that one count serves every set
        codes = labels.new_zeros(())
        for name, prediction in predictions.items():
            codes = torch.add(prediction, codes, alpha=len(self.counts[name]))
        kinds, kind = codes.unique(return_inverse=True)  # (K,), (B, h, w)
        pairs = labels * len(kinds) + _nearest(kind, labels.shape[-2:])  # (B, H, W)
        most = 256 * len(kinds)  # labels are below 256, VOID
        joint = torch.bincount(pairs.flatten(), minlength=most).view(256, -1).cpu()  # (256, K)
        kinds = kinds.cpu()
        for name in reversed(predictions):
            classes, n = self.class_sets[name], len(self.counts[name])
            self.counts[name].index_add_(1, kinds % n, joint[classes])
            kinds = kinds // n

    def _predictions(self, logits: Tensor, first: int) -> dict[str, Tensor]:
        """The best channel within each class set, (B, h, w), counted from the set's first class.

        Class sets overlap, but the best channel between two of their ends is sought only once,
        and sets that begin alike share the comparisons as far as they go together.
        """
        sets = self.class_sets.items()
        ends = sorted({end for _, classes in sets for end in (classes.start, classes.stop)})
        best = {
            start: logits[:, start - first : stop - first].max(dim=1)
            for start, stop in pairwise(ends)
        }
        predictions = {}
        for begin in {classes.start for _, classes in sets}:
            last = max(classes.stop for _, classes in sets if classes.start == begin)
            value, prediction = best[begin]
            for start, stop in pairwise(end for end in ends if begin <= end <= last):
                if start > begin:
                    better = best[start].values > value
                    value = torch.where(better, best[start].values, value)
                    other = best[start].indices + (start - begin)
                    prediction = torch.where(better, other, prediction)
                predictions |= {
                    name: prediction for name, classes in sets if classes == slice(begin, stop)
                }
        return {name: predictions[name] for name in self.class_sets}

    def iou(self, name: str) -> Tensor:
        """IoU of each class of the set, (n,) in %; NaN for a class with an empty union."""
        counts = self.counts[name].double()
        hits = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - hits
        return 100 * hits / union  # 0 / 0 is NaN

    def miou(self, name: str) -> float:
        """Mean IoU of the set in %; a class enters unless its union is empty. NaN without any."""
        return self.iou(name).nanmean().item()


def _nearest(indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Class indices (B, h, w) at another size, (B, H, W), each from its nearest neighbour."""
    if indices.shape[-2:] == size:
        return indices
    h, w = indices.shape[-2:]
    rows = torch.arange(size[0], device=indices.device) * h // size[0]
    columns = torch.arange(size[1], device=indices.device) * w // size[1]
    return indices[:, rows[:, None], columns]
