"""cilkit: class-incremental learning for semantic segmentation, to study and to reproduce."""

from importlib import import_module

_EXPORTS = {  # what a notebook imports from here, and the module it is in, imported when needed
    "METHODS": "methods",
    "NETWORKS": "networks",
    "PRESETS": "training.config",
    "VOID": "classes",
    "ERFNet": "networks.erfnet",
    "MeanIoU": "metrics",
    "Method": "methods",
    "Segmenter": "networks",
    "Step": "methods",
    "Study": "study.study",
    "TrainConfig": "training.config",
    "belongs": "classes",
    "cross_entropy": "losses",
    "entropy_weight": "losses",
    "get_method": "methods",
    "masked_distillation": "losses",
    "restrict": "classes",
}
_MODULES = {  # modules that notebooks use by name
    "claims": "results.claims",
    "feedback": "explore.feedback",
    "machine": "study.machine",
    "pixels": "explore.pixels",
    "plots": "explore.plots",
    "reference": "results.reference",
    "runs": "study.runs",
    "tables": "results.tables",
    "widgets": "explore.widgets",
}
__all__ = [*_EXPORTS, *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"cilkit.{_MODULES[name]}")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'cilkit' has no attribute {name!r}")
    return getattr(import_module(f"cilkit.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
