"""One colour for each method and each stage, the same in all figures; CIL has the accent.

All can be read on white (contrast 3 : 1 or more) and told apart with red-green colour blindness.
"""

import re
from collections.abc import Sequence

import numpy as np
import seaborn as sns

from cilkit.methods import FIRST_STAGE

OF_METHOD = {
    FIRST_STAGE.name: "#545460",
    "FT": "#5490fc",
    "FE": "#0a2a80",
    "LWOF": "#009084",
    "LWM": "#0c5a20",
    "Michieli": "#840cf0",
    "CIL (w/o weights)": "#a81800",  # dark beside the accent
    "CIL": "#fc3018",
    "SS": "#000000",
    "ILT": "#848448",
    "MiB": "#f03cb0",
    "PLOP": "#3c00a8",
}
OF_STAGE = ("#545460", "#b5720a", "#35318f", "#008a5e", "#a0307f")  # of its images and its task
OWN_METHODS = ("#8048a0", "#4f7f95", "#7a5230", "#303040")  # for those that are not the kit's
LINES = ("#0062a8", "#d35400", "#008a5e", "#a0307f", "#6b5b00", "#333333")  # for all else

_METHODS = "|".join(map(re.escape, sorted(OF_METHOD, key=len, reverse=True)))
# "CIL", "CIL T2", "CIL after T2", "SS up to T3"; but "CIL (mine)" is another method
_MODEL = re.compile(rf"({_METHODS})(?:,? (?:(?:after|up to|stage) )?(\w+))?")
_STAGE = re.compile(r"[DST](\d+)|Task (\d+)")
_HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "**")


def colours(names: Sequence[str]) -> list[str]:
    """A colour for each name of a figure: of a model, a stage, its images D1, a task, or other.

    A method keeps its colour with the name of any stage behind it, "Task 2" and "D2" have the
    colour of stage 2, and class sets of several stages are grey to black.
    """
    joint = [name for name in names if "∪" in name]
    greys = dict(zip(joint, map(str, np.linspace(0, 0.42, len(joint))[::-1]), strict=True))
    known = [greys.get(name) or _known(name) for name in names]
    palette = OWN_METHODS if any(map(_MODEL.fullmatch, names)) else LINES
    unknown = known.count(None)
    free = iter(palette if unknown <= len(palette) else sns.husl_palette(unknown, l=0.5).as_hex())
    return [colour or next(free) for colour in known]


def hatches(models: Sequence[str]) -> list[str]:
    """A hatch for each model: none, but of a method in several stages, one for each later stage."""
    found = [_MODEL.fullmatch(model) for model in models]
    pairs = [
        (match[1], match[2]) if match else (model, None)
        for model, match in zip(models, found, strict=True)
    ]
    methods = [method for method, _ in pairs]
    if len(set(methods)) == len(methods):
        return [""] * len(models)
    stages = list(dict.fromkeys(stage for _, stage in pairs if stage))
    return [_HATCHES[stages.index(stage) % len(_HATCHES)] if stage else "" for _, stage in pairs]


def _known(name: str) -> str | None:
    """The colour that belongs to a name in every figure; None for other names."""
    if model := _MODEL.fullmatch(name):
        return OF_METHOD[model[1]]
    stage = _STAGE.fullmatch(name)
    number = int(stage[1] or stage[2]) if stage else 0
    return OF_STAGE[number - 1] if 1 <= number <= len(OF_STAGE) else None
