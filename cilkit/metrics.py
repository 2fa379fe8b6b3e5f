"""Mean intersection over union, restricted to class sets (Sec. IV-A), counted in one pass."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cilkit.classes import restrict


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
        for name, classes in self.class_sets.items():
            n = classes.stop - classes.start
            channels = slice(classes.start - first, classes.stop - first)
            prediction = logits[:, channels].argmax(dim=1)  # (B, h, w)
            prediction = _nearest(prediction, labels.shape[-2:])  # (B, H, W)
            truth = restrict(labels, classes)
            seen = truth < n
            pairs = n * truth[seen] + prediction[seen]
            self.counts[name] += torch.bincount(pairs.cpu(), minlength=n * n).view(n, n)

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
