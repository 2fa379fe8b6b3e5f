"""Learning without forgetting (LWOF), eq. (5): one output layer, but a softmax for each task."""

from torch import Tensor

from cilkit.classes import restrict
from cilkit.losses import cross_entropy, masked_distillation
from cilkit.methods.base import Method, Step


def lwof_loss(step: Step) -> dict[str, Tensor]:
    """Cross-entropy for the new classes, distillation of the old ones at all pixels, eq. (5)."""
    old, new = step.by_task(step.logits)
    log_y_old = old.log_softmax(dim=1)  # (B, O, H, W), the two slices
    log_y_new = new.log_softmax(dim=1)  # (B, N, H, W)  never compete
    return {
        "ce": cross_entropy(log_y_new, restrict(step.labels, step.labelled)),
        "kd": masked_distillation(log_y_old, step.teacher),
    }


LWOF = Method("LWOF", equation=5, loss=lwof_loss)
