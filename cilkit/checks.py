"""What a person typed, checked before anything is done with it: names, numbers, paths."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path


def unknown(kind: str, name: object, known: list[str]) -> str:
    """The message for a name that does not exist, with the nearest one that does."""
    return f"unknown {kind} {name!r}{nearest(name, known)}; choose one of: {', '.join(known)}"


def nearest(name: object, known: list[str]) -> str:
    """The known name that is nearest, as a question to add to a message; "" if none is near."""
    folded = {option.lower(): option for option in known}
    near = [folded[match] for match in get_close_matches(str(name).lower(), folded, n=1)]
    return f" (did you mean {near[0]!r}?)" if near else ""


def check(chosen: object, wanted: str, fits: Callable[[object], bool], *names: str) -> None:
    """A ValueError if one of these fields does not fit."""
    for name in names:
        if not fits(value := getattr(chosen, name)):
            raise ValueError(f"{name} is {value!r}; wanted {wanted}")


def is_number(value: object, least: float = 0, most: float = math.inf) -> bool:
    """Whether a value is a finite number within these limits; True and False are not."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value) and least <= value <= most


def is_whole(value: object, least: int = 0) -> bool:
    """Whether a value is an int of at least `least`; True, False and 2.0 are not."""
    return isinstance(value, int) and is_number(value, least)


def is_switch(value: object) -> bool:
    """Whether a value is True or False; the text "false" would count as True."""
    return isinstance(value, bool)


def check_path(name: str, path: object) -> None:
    """A ValueError if a parameter is no path; an empty one would be the project folder."""
    if not isinstance(path, str | Path) or not str(path).strip():
        raise ValueError(
            f"{name} is {path!r}; wanted a path as text: {name} = 'data/...' in a notebook, or "
            f"papermill's -r {name} data/..."
        )


def check_seed(seed: object) -> None:
    """A ValueError if a seed is no whole number from 0."""
    if not is_whole(seed):
        raise ValueError(
            f"SEED is {seed!r}; wanted a whole number from 0, without quotes: SEED = 7 in the "
            "parameters cell, or papermill's -p SEED 7"
        )
