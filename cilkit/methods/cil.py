"""The paper's method (CIL), eq. (9): one softmax; each pixel has a label or a teacher."""

from functools import partial

from torch import Tensor

from cilkit.classes import belongs, restrict
from cilkit.losses import cross_entropy, entropy_weight, masked_distillation
from cilkit.methods.base import Method, Step


def cil_loss(step: Step, weighted: bool) -> dict[str, Tensor]:
    """Cross-entropy where a new label is, masked distillation everywhere else, eq. (9)."""
    log_y = step.logits.log_softmax(dim=1)  # (B, O+N, H, W), old and new compete
    log_y_old, log_y_new = step.by_task(log_y)
    not_new = ~belongs(step.labels, step.labelled)  # mu-bar: pixels without a label of this stage
    weight = entropy_weight(step.teacher) if weighted else None  # alpha, eq. (10)
    return {
        "ce": cross_entropy(log_y_new, restrict(step.labels, step.labelled)),
        "mkd": masked_distillation(log_y_old, step.teacher, not_new, weight),
    }


CIL = Method("CIL", equation=9, loss=partial(cil_loss, weighted=True))
CIL_UNWEIGHTED = Method("CIL (w/o weights)", equation=9, loss=partial(cil_loss, weighted=False))
