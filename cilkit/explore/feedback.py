"""What the check of an exercise says about an answer: right, or where it differs first and how."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from cilkit.classes import Split

_AXES = {2: ["row", "column"], 3: ["first index", "row", "column"]}
_AXES |= {0: [], 1: ["place"], 4: ["image", "channel", "row", "column"]}


class NotYet(AssertionError):
    """An answer that is not right. A notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython calls it
        return [f"Not yet: {self}"]


def answer_of(function: Callable, *arguments: object) -> object:
    """What a function of the reader returns; it gets copies of the tensors among its arguments.

    Raises NotYet if it changes such a copy in place. Gradients pass through the copies.
    """
    copies = [given.clone() if isinstance(given, Tensor) else given for given in arguments]
    answer = function(*copies)
    for number, (before, after) in enumerate(zip(arguments, copies, strict=True), start=1):
        if isinstance(before, Tensor) and _difference(after, before, 0, None, None):
            raise NotYet(f"argument {number} was changed in place; work on a copy of it: x.clone()")
    return answer


def same(
    mine: object,
    right: object,
    labels: Tensor | None = None,
    split: Split | None = None,
    hints: Mapping[str, object] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Print "right" if an answer is; None, of an exercise that is not filled in, is no answer yet.

    Raises NotYet for a wrong one: which shape came, or how many values differ and where the first
    of them is, in which class if `labels` and their `split` are given (the last axes of both are
    H and W). `hints` are sentences about typical mistakes, each with the answer that it leads to.
    Numbers may come as tensor, array, list or number. Those of dictionaries are compared by name,
    whole numbers and masks exactly, others within `tolerance`, absolute plus relative.

        wrong = belongs(labels, stage.old)
        right = ~belongs(labels, stage.new)
        same(answer_of(my_mask, labels, stage.new), right, labels, split,
             hints={"The teacher may speak at VOID pixels, too.": wrong})

    may say: Not yet: 12 of 32 values differ, the first at row 0, column 3 (void): yours is False,
    wanted True. The teacher may speak at VOID pixels, too.
    """
    if mine is None:
        print("no answer yet (None)")
    elif found := _difference(mine, right, tolerance, labels, split):
        wrong = (hints or {}).items()
        meant = [hint for hint, w in wrong if not _difference(mine, w, tolerance, labels, split)]
        raise NotYet(" ".join([found, *meant[:1]]))
    else:
        print("right")


def _difference(
    mine: object, right: object, tolerance: float, labels: Tensor | None, split: Split | None
) -> str:
    """The first difference in words; "" if there is none."""
    if isinstance(right, Mapping):
        if not isinstance(mine, Mapping) or mine.keys() != right.keys():
            came = list(mine) if isinstance(mine, Mapping) else type(mine).__name__
            return f"wanted a dictionary with the names {list(right)}, yours is {came}."
        pairs = ((name, mine[name], right[name]) for name in right)
        found = ((name, _difference(*pair, tolerance, labels, split)) for name, *pair in pairs)
        return next((f"{name}: {text}" for name, text in found if text), "")
    wanted, came = _numbers(right), _numbers(mine)
    if wanted is None:
        return "" if mine == right else f"yours is {mine!r}."
    shape = tuple(wanted.shape)
    if came is None:
        return f"yours is of type {type(mine).__name__}, wanted numbers of shape {shape}."
    if came.numel() == wanted.numel() == 1:
        came = came.reshape(shape)
    if came.shape != wanted.shape:
        return f"yours has the shape {tuple(came.shape)}, wanted {shape}."
    near = tolerance if wanted.is_floating_point() else 0
    differs = ~torch.isclose(came.double(), wanted.double(), near, near, equal_nan=True)
    if not differs.any():
        return ""
    place = tuple(differs.nonzero()[0].tolist())
    a, b = came[place].item(), wanted[place].item()
    if not place:  # a prediction: the number itself stays the reader's to find
        way = "too low" if a < b else "too high" if a > b else "not it"
        return f"yours is {_shown(a)}, {way}."
    where = ", ".join(f"{n} {i}" for n, i in zip(_AXES[len(place)], place, strict=True))
    if labels is not None:
        where += f" ({split.label_name(int(labels[(place[0], *place[-2:])[-labels.ndim :]]))})"
    return (
        f"{differs.sum()} of {differs.numel()} values differ, the first at {where}: "
        f"yours is {_shown(a)}, wanted {_shown(b)}."
    )


def _numbers(answer: object) -> Tensor | None:
    """An answer as a tensor; None if it is not made of numbers."""
    if isinstance(answer, Tensor):
        return answer.detach().cpu()
    try:
        array = np.asarray(answer)
    except (RuntimeError, TypeError, ValueError):
        return None
    return torch.tensor(array) if array.dtype.kind in "biuf" else None


def _shown(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
