"""Mean intersection over union, restricted to class sets (Sec. IV-A), counted in one pass."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

MOST_JOINT_PREDICTIONS = (
    2**17
)  # of pixels that are told apart before those that do not occur are left out


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
        predictions = self._predictions(logits.contiguous(), first)
        kind, predicted = _joint_predictions(
            predictions, {k: len(counts) for k, counts in self.counts.items()}
        )
        kinds = len(next(iter(predicted.values())))
        native = _nearest(kind.int(), labels.shape[-2:])  # half the bytes of long
        pairs = torch.add(native, labels, alpha=kinds)  # (B, H, W)
        most = 256 * kinds  # labels are below 256, VOID
        joint = torch.bincount(pairs.flatten(), minlength=most).view(256, kinds).cpu()
        for name, classes in self.class_sets.items():
            self.counts[name].index_add_(1, predicted[name].cpu(), joint[classes])

    def _predictions(self, logits: Tensor, first: int) -> dict[str, Tensor]:
        """The best channel within each class set, (B, h, w) uint8, counted from the set's first.

        Class sets overlap, but the best channel between two of their ends is sought only once,
        and sets that begin alike share the comparisons as far as they go together.
        """
        sets = self.class_sets.items()
        ends = sorted({end for _, classes in sets for end in (classes.start, classes.stop)})
        parts = {
            start: _best(logits[:, start - first : stop - first]) for start, stop in pairwise(ends)
        }
        predictions = {}
        for begin in {classes.start for _, classes in sets}:
            highest, best = (part.clone() for part in parts[begin])
            last = max(classes.stop for _, classes in sets if classes.start == begin)
            for start, stop in pairwise(end for end in ends if begin <= end <= last):
                if start > begin:
                    scores, index = parts[start]
                    _take_higher(highest, best, scores, index + (start - begin))
                for name, classes in sets:
                    if classes == slice(begin, stop):
                        predictions[name] = best.clone()
        return predictions

    def iou(self, name: str) -> Tensor:
        """IoU of each class of the set, (n,) in %; NaN for a class with an empty union."""
        counts = self.counts[name].double()
        hits = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - hits
        return 100 * hits / union  # 0 / 0 is NaN

    def miou(self, name: str) -> float:
        """Mean IoU of the set in %; a class enters unless its union is empty. NaN without any."""
        return self.iou(name).nanmean().item()


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


def _joint_predictions(
    predictions: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pixels that every class set predicts alike are of one kind: one count serves all sets.

    Returns the kind of each pixel, (B, h, w), from 0 to K - 1, and what each set predicts for the
    kinds, (K,), from predictions (B, h, w) below `sizes`.
    """
    kind = torch.zeros_like(next(iter(predictions.values())), dtype=torch.long)
    kinds, predicted = 1, {}
    for name, prediction in predictions.items():
        if kinds * sizes[name] > MOST_JOINT_PREDICTIONS:
            kind, kept = _renumbered(kind, kinds)
            kinds, predicted = len(kept), {k: of_kind[kept] for k, of_kind in predicted.items()}
        kind = torch.add(kind, prediction, alpha=kinds)
        predicted = {other: of_kind.repeat(sizes[name]) for other, of_kind in predicted.items()}
        predicted[name] = torch.arange(sizes[name], device=kind.device).repeat_interleave(kinds)
        kinds *= sizes[name]
    kind, kept = _renumbered(kind, kinds)
    return kind, {name: of_kind[kept] for name, of_kind in predicted.items()}


def _renumbered(kind: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Kinds without those that no pixel is of, in the same order, and the old ones of the new."""
    there = torch.bincount(kind.flatten(), minlength=kinds) > 0  # (kinds,)
    return (there.cumsum(0) - 1).take(kind), there.nonzero()[:, 0]


def _nearest(indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Indices (B, h, w) at another size, (B, H, W), each from its nearest neighbour."""
    h, w = indices.shape[-2:]
    if size[0] % h == 0 and size[1] % w == 0:
        return indices.repeat_interleave(size[0] // h, 1).repeat_interleave(size[1] // w, 2)
    rows = torch.arange(size[0], device=indices.device) * h // size[0]
    columns = torch.arange(size[1], device=indices.device) * w // size[1]
    return indices[:, rows[:, None], columns]
