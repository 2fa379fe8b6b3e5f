"""What a person typed, checked before anything is done with it: parameters, numbers, paths."""

import ast
import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from cilkit.classes import unknown

PARAMETERS = ("DATA", "RUNS", "PRESET", "SEED")  # of every notebook


def check(chosen: object, wanted: str, fits: Callable[[object], bool], *names: str) -> None:
    """A ValueError if one of these fields does not fit."""
    for name in names:
        if not fits(value := getattr(chosen, name)):
            raise ValueError(f"{name} is {value!r}; wanted {wanted}")


def is_number(value: object, least: float = 0, most: float = math.inf) -> bool:
    """Whether a value is a finite number within these limits; True and False are none."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value) and least <= value <= most


def is_whole(value: object, least: int = 0) -> bool:
    """Whether a value is a whole number from `least`, and of a type that says so."""
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


def parse(given: Sequence[str]) -> dict[str, str | int]:
    """Parameters given as NAME=VALUE, as make and Snakemake take them; SEED as a number.

    A ValueError if one is unknown, given twice, or has no value.
    """
    found: dict[str, str | int] = {}
    for word in given:
        name, _, value = word.partition("=")
        if name not in PARAMETERS:
            raise ValueError(unknown("parameter", name, list(PARAMETERS)))
        if name in found:
            raise ValueError(f"{name} is given twice, {found[name]!r} and {value!r}; give it once")
        if not value.strip():
            raise ValueError(f"{name} has no value; wanted {name}=..., or leave it out")
        found[name] = int(value) if name == "SEED" and value.isdecimal() else value
    return found


def check_injected() -> None:
    """A ValueError if papermill was given a parameter that the notebook does not have.

    papermill only warns, and runs with the value that was to be replaced. What it was given stands
    in a cell of its own behind the parameters cell, and a kernel keeps the text of its cells.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    cells = shell.user_ns.get("In", []) if shell is not None else []
    for before, cell in pairwise(cells):
        known = _assigned(before)
        if not cell.startswith("# Parameters\n") or not known.issuperset(PARAMETERS):
            continue
        for name in sorted(_assigned(cell) - known):
            raise ValueError(
                f"{unknown('parameter', name, sorted(known))}. papermill was given it with -p, -r "
                "or -y: correct it there"
            )


def _assigned(cell: str) -> set[str]:
    try:
        lines = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = [target for line in lines if isinstance(line, ast.Assign) for target in line.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}
