"""The losses of the paper, eqs (1), (3), (7) and (10), on log-probabilities; one on features.

They take log-probabilities, not logits. Over which classes the softmax runs is the choice that
distinguishes the methods, so each method takes its own. All sums are in float32, or in float64 for
float64 input.
"""

import torch
from torch import Tensor

from cilkit.classes import VOID


def cross_entropy(log_y: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy J^ce, eq. (1), over the labelled pixels I_S of the whole batch.

    B images, S classes, H x W pixels:

        log_y    (B, S, H, W)  log-probabilities
        labels   (B, H, W)     long, 0 ... S-1, or VOID for a pixel without label
        returns  ()            0 if no pixel is labelled

    Raises ValueError if the shapes do not match or a label has no channel.
    """
    return mean_over(labels != VOID, -true_log_y(log_y, labels))


def true_log_y(log_y: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of the labelled class, which y-bar selects in eq. (1): (B, H, W).

    Arguments and errors are those of `cross_entropy`. A pixel without label gets that of channel
    0; `mean_over` leaves it out.
    """
    if log_y.dim() != 4 or labels.shape != (log_y.shape[0], *log_y.shape[2:]):
        raise ValueError(
            f"log-probabilities have shape {tuple(log_y.shape)} and labels {tuple(labels.shape)}; "
            "wanted (B, S, H, W) and (B, H, W)"
        )
    labelled = labels != VOID  # (B, H, W)
    if (foreign := labels[labelled & ((labels < 0) | (labels >= log_y.shape[1]))]).numel():
        raise ValueError(
            f"label {foreign[0].item()} for {log_y.shape[1]} channels; count labels from the first "
            "class of the slice: restrict(labels, classes)"
        )
    index = labels.where(labelled, 0)[:, None]  # (B, 1, H, W)
    return _at_least_float32(log_y.gather(1, index)[:, 0])  # (B, H, W)


def mean_over(mask: Tensor, per_pixel: Tensor) -> Tensor:
    """The mean over the pixels of a mask, both (B, H, W); 0 if it is empty."""
    return per_pixel.where(mask, 0).sum() / mask.sum().clamp(min=1)


def masked_distillation(
    log_y: Tensor, teacher_y: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Masked knowledge distillation J^mkd, eq. (7); without mask and weight it is J^kd, eq. (3).

    B images, S old classes, H x W pixels:

        log_y      (B, S, H, W)  student log-probabilities over the old classes
        teacher_y  (B, S, H, W)  teacher probabilities, sum to 1 over S
        mask       (B, H, W)     bool, the pixels I_mu that enter the loss; all if None
        weight     (B, H, W)     alpha of eq. (10); 1 everywhere if None
        returns    ()            0 if the mask is empty

    The sum is divided by the number of masked pixels, not by the sum of the weights.
    Raises ValueError if the shapes do not match.
    """
    _refuse_none(teacher_y)
    if log_y.shape != teacher_y.shape:
        raise ValueError(
            f"student has shape {tuple(log_y.shape)} but teacher has {tuple(teacher_y.shape)}; "
            "slice the student to the old classes first: log_y[:, step.old]"
        )
    for name, given in (("mask", mask), ("weight", weight)):
        if given is not None and given.shape != (log_y.shape[0], *log_y.shape[2:]):
            raise ValueError(
                f"{name} has shape {tuple(given.shape)} for a student of {tuple(log_y.shape)}; "
                "wanted one value a pixel: (B, H, W)"
            )
    product = _at_least_float32(teacher_y) * _at_least_float32(log_y)
    per_pixel = -product.sum(dim=1)  # (B, H, W)
    if per_pixel.isnan().any():  # 0 log 0 = 0, but 0 times minus infinity is not a number
        per_pixel = -product.where(teacher_y > 0, 0).sum(dim=1)
    if weight is not None:
        per_pixel = weight * per_pixel
    if mask is None:
        return per_pixel.mean()
    return mean_over(mask, per_pixel)


def entropy_weight(teacher_y: Tensor) -> Tensor:
    """Pixel weight alpha, eq. (10): 1 plus the teacher's entropy in bits.

    teacher_y (B, S, H, W) probabilities -> (B, H, W), from 1 (certain) to 1 + log2 S (uniform)
    """
    return 1 + entropy(teacher_y)


def entropy(teacher_y: Tensor) -> Tensor:
    """The teacher's entropy in bits, the sum of eq. (10).

    teacher_y (B, S, H, W) probabilities -> (B, H, W), from 0 (certain) to log2 S (uniform)
    """
    _refuse_none(teacher_y)
    y = _at_least_float32(teacher_y)
    return torch.special.entr(y).sum(dim=1) / torch.log(torch.tensor(2.0, dtype=y.dtype))


def local_pod(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Local POD of Douillard et al. (2021): the distance of what the stripes of two layers hold.

    Each layer is cut into 1 x 1, 2 x 2 and 4 x 4 regions, as far as it has so many pixels. The
    squares in a region are averaged along its rows and along its columns. All these means of an
    image are one vector; the loss is the distance of student's and teacher's, mean over the images.

        features          (B, C, h, w)  of the student
        teacher_features  (B, C, h, w)
        returns           ()

    As in the released code the distance is not squared. Raises ValueError if the shapes differ.
    """
    if features.shape != teacher_features.shape:
        raise ValueError(
            f"student's features have shape {tuple(features.shape)} and the teacher's "
            f"{tuple(teacher_features.shape)}; wanted the same layer of both: (B, C, h, w)"
        )
    difference = features.square() - teacher_features.square()  # its means are theirs
    means = []
    for parts in (n for n in (1, 2, 4) if n <= min(features.shape[2:])):
        for rows in difference.tensor_split(parts, dim=2):
            for region in rows.tensor_split(parts, dim=3):
                means += [region.mean(dim=3).flatten(1), region.mean(dim=2).flatten(1)]
    return torch.linalg.vector_norm(torch.cat(means, dim=1), dim=1).mean()


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _refuse_none(teacher_y: Tensor | None) -> None:
    if teacher_y is None:
        raise ValueError("nothing to distil from: step.teacher (for LWM also new_teacher) is None")
