"""ILT, the method of [15] as its authors have it: eq. (8), and distillation of the features too.

Michieli and Zanuttigh, "Incremental Learning Techniques for Semantic Segmentation", ICCV Workshops
2019. Their loss has three terms: the cross-entropy, L'_D on the output and L''_D on the features of
the encoder. The paper's Michieli, eq. (8), has the first two, and is what stands here for them.
"""

from torch import Tensor

from cilkit.methods.base import Method, Step
from cilkit.methods.michieli import michieli_loss

# Of L''_D, a mean over all entries: the weight that the released code of MiB and of PLOP gives it,
# which both compare with ILT. Their L'_D is a mean over classes, times 100; eq. (8) has weight 1.
FEATURE_WEIGHT = 100.0


def ilt_loss(step: Step) -> dict[str, Tensor]:
    """Eq. (8), and L''_D: the squared distance of the encoder's features to the teacher's.

    It is the mean over all entries of each layer (B, C, h, w), summed over the layers.
    """
    apart = [step.features[name] - y for name, y in step.teacher_features.items()]
    return {**michieli_loss(step), "fd": FEATURE_WEIGHT * sum(x.square().mean() for x in apart)}


ILT = Method("ILT", equation=8, loss=ilt_loss, labels="all", features=("encoder",))
