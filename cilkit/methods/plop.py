"""PLOP: the teacher's features, pooled in stripes, and its labels at pixels where it is sure.

Douillard et al., "PLOP: Learning without Forgetting for Continual Semantic Segmentation", CVPR
2021. The constants are of its released code, for the blocks of a ResNet and the output.
"""

import math
from functools import partial

import torch
from torch import Tensor

from cilkit.classes import HIDDEN, VOID
from cilkit.losses import local_pod, true_log_y
from cilkit.methods.background import start_as_background
from cilkit.methods.base import Context, Method, Step, StepLoss
from cilkit.methods.pseudo_labels import median_entropies, pseudo_labels

FEATURE_WEIGHT, OUTPUT_WEIGHT = 0.01, 0.0005  # lambda; the distance grows with the size of a layer
LAYERS = ("encoder.initial_block", "encoder.layers.5", "encoder")  # 1/2, 1/4, 1/8 of the image
LAYERS += ("decoder.layers.2", "decoder.layers.5", "decoder.output_conv")  # 1/4, 1/2, 1/1


def plop_loss(step: Step, thresholds: Tensor) -> dict[str, Tensor]:
    """Cross-entropy with pseudo-labels where labels are HIDDEN, and local POD. thresholds (O,)

    The cross-entropy of an image is a mean over all its pixels, times nu: the part of its hidden
    pixels that got a pseudo-label, 1 if none is hidden. Local POD is a mean over the layers.
    """
    hidden = step.labels == HIDDEN
    labels = torch.where(hidden, pseudo_labels(step.teacher, thresholds), step.labels)
    ce = -true_log_y(step.logits.log_softmax(dim=1), labels).where(labels != VOID, 0)  # (B, H, W)
    doubtful = (hidden & (labels == VOID)).sum(dim=(1, 2))  # (B,)
    nu = 1 - doubtful / hidden.sum(dim=(1, 2)).clamp(min=1)
    pod = [layer_distance(step, step.features[n], y) for n, y in step.teacher_features.items()]
    growth = math.sqrt(step.new.stop / (step.new.stop - step.new.start))  # all by new classes
    return {"ce": (nu * ce.mean(dim=(1, 2))).mean(), "pod": growth * sum(pod) / len(pod)}


def layer_distance(step: Step, y: Tensor, teacher_y: Tensor) -> Tensor:
    """Local POD of a layer times its weight; scores of new classes go to the background."""
    if (y.shape[1], teacher_y.shape[1]) != (step.new.stop, step.old.stop):
        return FEATURE_WEIGHT * local_pod(y, teacher_y)
    old, new = step.by_task(y)
    if step.background is not None:
        is_background = torch.arange(old.shape[1], device=y.device) == step.background
        old = old + is_background[:, None, None] * new.sum(dim=1, keepdim=True)
    return OUTPUT_WEIGHT * local_pod(old, teacher_y)


def plop_prepare(context: Context) -> StepLoss:
    """The loss; a threshold is the median entropy where the class is predicted. See MiB's start."""
    start_as_background(context)
    return partial(plop_loss, thresholds=context.over_images(median_entropies))


PLOP = Method("PLOP", equation=9, prepare=plop_prepare, hidden=True, features=LAYERS)
