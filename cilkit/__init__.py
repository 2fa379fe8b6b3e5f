"""cilkit: class-incremental learning for semantic segmentation, to study and to reproduce."""

from cilkit.classes import VOID, belongs, restrict
from cilkit.config import PRESETS, TrainConfig
from cilkit.erfnet import ERFNet
from cilkit.losses import cross_entropy, entropy_weight, masked_distillation
from cilkit.methods import METHODS, Method, Step, get_method
from cilkit.metrics import MeanIoU
from cilkit.study import Study

__all__ = [
    "METHODS",
    "PRESETS",
    "VOID",
    "ERFNet",
    "MeanIoU",
    "Method",
    "Step",
    "Study",
    "TrainConfig",
    "belongs",
    "cross_entropy",
    "entropy_weight",
    "get_method",
    "masked_distillation",
    "restrict",
]
