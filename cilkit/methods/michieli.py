"""Michieli's method [15] as the paper has it, eq. (8): one softmax, and labels for all classes."""

from torch import Tensor

from cilkit.classes import belongs
from cilkit.losses import cross_entropy, masked_distillation
from cilkit.methods.base import Method, Step


def michieli_loss(step: Step) -> dict[str, Tensor]:
    """Cross-entropy over all classes, and distillation where an old label is, eq. (8)."""
    log_y = step.logits.log_softmax(dim=1)  # (B, O+N, H, W), old and new compete
    is_old = belongs(step.labels, step.old)  # mu-tilde: needs old labels
    return {
        "ce": cross_entropy(log_y, step.labels),
        "mkd": masked_distillation(log_y[:, step.old], step.teacher, is_old),
    }


MICHIELI = Method("Michieli", equation=8, loss=michieli_loss, labels="all")
