"""Mean intersection over union, restricted to class sets (Sec. IV-A), counted in one pass."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cilkit import subnormals  # noqa: F401  these count as zero from here on
from cilkit.classes import Classes, channels_of, within

MOST_JOINT_PREDICTIONS = 2**62  # of class sets that are counted together: a number of 64 bits


def best_channels(
    logits: Tensor, class_sets: Mapping[str, Classes], first: int = 0
) -> dict[str, Tensor]:
    """What a network predicts within each class set: logits (B, S, h, w) -> (B, h, w) by name.

    The index of the highest channel, counted from the first of the set; of equals the first one.
    `first` is the class of channel 0. fast_metrics.best_channels is a faster twin for a CPU.
    """
    return {
        name: logits[:, within(classes, first)].max(dim=1).indices
        for name, classes in class_sets.items()
    }


class MeanIoU:
    """mIoU over several class sets at once, such as task1, task2 and task12.

    For each set, only its channels compete in the argmax and only pixels labelled with one of
    its classes count, so mIoU of Task 1 and of Task 1u2 of one model differ in both.
    All values are in %, as in the paper's tables.
    """

    def __init__(
        self,
        class_sets: Mapping[str, Classes],
        predictions: Callable[..., dict[str, Tensor]] = best_channels,
    ):
        """`predictions` is `best_channels`, or a function that gives the same."""
        self.class_sets = dict(class_sets)
        self.predictions = predictions
        self.counts = {}  # confusion matrices: rows are labels, columns are predictions
        for name, classes in self.class_sets.items():
            n = len(channels_of(classes))
            self.counts[name] = torch.zeros(n, n, dtype=torch.long)

    def update(self, logits: Tensor, labels: Tensor, first: int = 0) -> None:
        """Count one batch: logits (B, S, h, w), labels (B, H, W) at their native size.

        `first` is the class of the first channel: not 0 for a model of later classes alone.

        The prediction is upsampled, nearest, to the labels. Taking the argmax before that gives
        the same classes as upsampling all the logits, for a fraction of time and memory.
        """
        start = min(min(channels_of(classes)) for classes in self.class_sets.values())
        stop = 1 + max(max(channels_of(classes)) for classes in self.class_sets.values())
        if start < first or stop > first + logits.shape[1]:
            raise ValueError(
                f"logits are of classes {first} to {first + logits.shape[1] - 1} but the class "
                f"sets reach from {start} to {stop - 1}; score a model only on classes that it has "
                "learned"
            )
        self._count(self.predictions(logits, self.class_sets, first), labels)

    def _count(self, predictions: Mapping[str, Tensor], labels: Tensor) -> None:
        """Add pixels to the confusion matrices of some sets: (B, h, w) each, labels (B, H, W)."""
        names, sizes = list(predictions), {name: len(self.counts[name]) for name in predictions}
        if math.prod(sizes.values()) > MOST_JOINT_PREDICTIONS and len(names) > 1:
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                self._count({name: predictions[name] for name in half}, labels)
            return
        # Each pixel's predictions for all class sets at once are one joint prediction, a number
        # with one digit for each set. Few of the possible ones occur. They are counted once for
        # each label, and each set's confusion matrix is a sum of these counts.
        joint = torch.zeros_like(predictions[names[0]], dtype=torch.long)  # (B, h, w)
        for name in names:
            joint = sizes[name] * joint + predictions[name]
        occurring, joint = torch.unique(joint, return_inverse=True)  # (K,), (B, h, w) below K
        native = _nearest(joint.int(), labels.shape[-2:])  # (B, H, W)
        pairs = torch.add(native, labels, alpha=len(occurring))  # (B, H, W), native + K labels
        most = 256 * len(occurring)  # labels are below 256, VOID
        counts = torch.bincount(pairs.flatten(), minlength=most).view(256, -1).cpu()  # (256, K)
        occurring = occurring.cpu()
        for name in reversed(names):
            predicted, occurring = occurring % sizes[name], occurring // sizes[name]  # (K,)
            self.counts[name].index_add_(1, predicted, counts[within(self.class_sets[name])])

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
    """Indices (B, h, w) at another size, (B, H, W), each from its nearest neighbour."""
    h, w = indices.shape[-2:]
    rows = torch.arange(size[0], device=indices.device) * h // size[0]
    columns = torch.arange(size[1], device=indices.device) * w // size[1]
    return indices[:, rows[:, None], columns]
