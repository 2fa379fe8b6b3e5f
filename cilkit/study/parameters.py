"""The parameters of notebooks and commands, read as they were typed."""

import ast
import sys
from collections.abc import Sequence
from itertools import pairwise

from cilkit.checks import unknown

PARAMETERS = ("DATA", "RUNS", "PRESET", "SEED")  # of every notebook


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
        found[name] = _plain(value) if name == "SEED" else value
    return found


def several(name: str, given: object) -> list[str | int]:
    """The items of a list as make takes it, such as "0,1,2"; whole numbers as numbers.

    A ValueError if an item is empty, or there twice.
    """
    items = [_plain(item.strip()) for item in str(given).split(",")]
    if "" in items:
        raise ValueError(f"{name} is {given!r}, with an empty item; wanted {name}=a,b")
    if twice := [item for item in items if items.count(item) > 1]:
        raise ValueError(f"{name} is {given!r}, with {twice[0]!r} in it twice; give it once")
    return items


def _plain(item: str) -> str | int:
    return int(item) if item.isdecimal() else item


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
