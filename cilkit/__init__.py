"""cilkit: class-incremental learning for semantic segmentation, to study and to reproduce."""

from importlib import import_module

_ROOMS = {  # what a notebook imports from here, and where it lives; a room is opened when needed
    "METHODS": "methods",
    "PRESETS": "config",
    "VOID": "classes",
    "ERFNet": "erfnet",
    "MeanIoU": "metrics",
    "Method": "methods",
    "Step": "methods",
    "Study": "study",
    "TrainConfig": "config",
    "belongs": "classes",
    "cross_entropy": "losses",
    "entropy_weight": "losses",
    "get_method": "methods",
    "masked_distillation": "losses",
    "restrict": "classes",
}
__all__ = list(_ROOMS)


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'cilkit' has no attribute {name!r}")
    return getattr(import_module(f"cilkit.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
