"""Fine-tuning (FT) and feature extraction (FE), eq. (4): a new decoder learns the new classes."""

from torch import Tensor

from cilkit.classes import restrict, within
from cilkit.losses import cross_entropy
from cilkit.methods.base import Method, Step


def finetune_loss(step: Step) -> dict[str, Tensor]:
    """Cross-entropy of the new decoder's own softmax, eq. (4)."""
    of_stage = step.logits[:, within(step.labelled)]  # (B, N, H, W), other classes take no part
    log_y = of_stage.log_softmax(dim=1)
    return {"ce": cross_entropy(log_y, restrict(step.labels, step.labelled))}


FT = Method("FT", equation=4, loss=finetune_loss, teacher=False, second_decoder=True)
FE = Method(
    "FE", equation=4, loss=finetune_loss, teacher=False, second_decoder=True, freeze_encoder=True
)
