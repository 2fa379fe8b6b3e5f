"""MiB: a pixel without a new label is background or any old class, and nobody knows which.

Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR
2020. Their data label as background whatever has no new label. In this kit these pixels are HIDDEN,
those of classes to come among them. Where a split names no background (`Split.background`), the old
classes together play its part in the cross-entropy, all old classes follow the distillation for
classes other than the background, and new channels start as in other methods.
"""

import torch
from torch import Tensor

from cilkit.classes import HIDDEN, restrict
from cilkit.losses import cross_entropy, masked_distillation
from cilkit.methods.background import start_as_background
from cilkit.methods.base import Context, Method, Step, StepLoss

# lambda of the authors' released code. There the distillation of a pixel is the mean over the old
# classes; eq. (3) of Klingner et al. has their sum, so lambda is divided by their number below
DISTILLATION_WEIGHT = 10.0


def mib_loss(step: Step) -> dict[str, Tensor]:
    """Unbiased cross-entropy and unbiased distillation: both add up what nobody can tell apart."""
    old, new = step.by_task(step.logits.log_softmax(dim=1))  # (B, O, H, W), (B, N, H, W), joint
    unlabelled = [c for c in range(step.old.stop) if c not in step.again]
    some_old = old[:, unlabelled].logsumexp(dim=1, keepdim=True)  # (B, 1, H, W), one of these
    labels = restrict(step.labels, step.labelled).where(step.labels != HIDDEN, new.shape[1])
    if (background := step.background) is not None:  # to the teacher, new classes are background
        taken_in = torch.cat([old[:, [background]], new], dim=1).logsumexp(dim=1, keepdim=True)
        old = torch.cat([old[:, :background], taken_in, old[:, background + 1 :]], dim=1)
    weight = DISTILLATION_WEIGHT / step.old.stop
    return {
        "ce": cross_entropy(torch.cat([new, some_old], dim=1), labels),
        "kd": weight * masked_distillation(old, step.teacher),
    }


def mib_prepare(context: Context) -> StepLoss:
    """The loss; before, new channels start as the background's where there is one."""
    start_as_background(context)
    return mib_loss


MIB = Method("MiB", equation=9, prepare=mib_prepare, hidden=True)
