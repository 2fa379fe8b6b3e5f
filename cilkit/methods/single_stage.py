"""Trainings on labels alone: the first stage, eq. (1), SS, eq. (2), and LWM's second teacher."""

from torch import Tensor

from cilkit.losses import cross_entropy
from cilkit.methods.base import Method, Step


def supervised_loss(step: Step) -> dict[str, Tensor]:
    """Cross-entropy over all classes that the labels show, eqs (1) and (2)."""
    return {"ce": cross_entropy(step.logits.log_softmax(dim=1), step.labels)}


# the first stage, whatever its name: all methods share it
FIRST_STAGE = Method("T1", equation=1, loss=supervised_loss, teacher=False, extends=False)
SS = Method(
    "SS", equation=2, loss=supervised_loss, labels="all", images="all", teacher=False, extends=False
)
# one training a stage, on its new classes alone
NEW_TEACHER = Method("LWM teacher", equation=6, loss=supervised_loss, teacher=False, extends=False)
