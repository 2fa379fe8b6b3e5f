"""The parameters of notebooks and commands, read as they were typed."""

import ast
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cilkit.checks import check_seed, unknown

PARAMETERS = ("DATA", "RUNS", "PRESET", "SEED")  # of every notebook


def parse(given: Sequence[str], names: Sequence[str] = PARAMETERS) -> dict[str, str | int]:
    """Parameters given as NAME=VALUE, as make and Snakemake take them; SEED as a number.

    A ValueError if one is unknown, given twice, or has no value.
    """
    found: dict[str, str | int] = {}
    for word in given:
        name, _, value = word.partition("=")
        if name not in names:
            raise ValueError(unknown("parameter", name, list(names)))
        if name in found:
            raise ValueError(f"{name} is given twice, {found[name]!r} and {value!r}; give it once")
        if not value.strip():
            raise ValueError(f"{name} has no value; wanted {name}=..., or leave it out")
        found[name] = _plain(value) if name == "SEED" else value
    return found


def several(name: str, given: object) -> list[str | int]:
    """The items of a list as make takes it, such as "0,1,2"; whole numbers of SEEDS as numbers.

    A ValueError if an item is empty, or there twice.
    """
    items: list[str | int] = [item.strip() for item in str(given).split(",")]
    if name == "SEEDS":
        items = [_plain(item) for item in items]
    if "" in items:
        raise ValueError(f"{name} is {given!r}, with an empty item; wanted {name}=a,b")
    if twice := [item for item in items if items.count(item) > 1]:
        raise ValueError(f"{name} is {given!r}, with {twice[0]!r} in it twice; give it once")
    return items


def seeds_of(given: Mapping[str, object]) -> list[int]:
    """The seeds that SEED or SEEDS asks for, 0 if neither is given; a ValueError if both are."""
    if {"SEED", "SEEDS"} <= given.keys():
        raise ValueError(
            f"SEED={given['SEED']} and SEEDS={given['SEEDS']} are both given; give one of them"
        )
    one_seed = parse([f"SEED={given.get('SEED', 0)}"])["SEED"]
    seeds = several("SEEDS", given["SEEDS"]) if "SEEDS" in given else [one_seed]
    for seed in seeds:
        check_seed(seed)
    return seeds


def switch(name: str, given: str) -> bool:
    """Whether an option such as SMALL=yes is on; a ValueError if it is neither yes nor no."""
    if given not in ("yes", "no"):
        raise ValueError(f"{name} is {given!r}; wanted {name}=yes or {name}=no")
    return given == "yes"


def _plain(item: str) -> str | int:
    return int(item) if item.isdecimal() else item


def check_injected() -> None:
    """A ValueError if the values that papermill was given are not those the notebook runs with.

    papermill writes them into a cell "# Parameters" behind the first one with the tag `parameters`,
    or at the top if none has it. It only warns of names that the notebook does not have, and a cell
    behind its own may set a parameter again. A kernel keeps the text of its cells.
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
    injected = [k for k, cell in enumerate(cells) if cell.startswith("# Parameters\n")]
    if injected and _is_unattended(shell):
        given = _assigned(cells[injected[-1]])
        later = [_assigned(cell) for cell in cells[injected[-1] + 1 :]]
        lost = {name for names in later for name in names & given}
        if lost or any(names.issuperset(PARAMETERS) for names in later):
            raise ValueError(
                f"papermill was given {', '.join(sorted(given))}, and a later cell sets "
                f"{', '.join(sorted(lost or PARAMETERS))}, so that its own values count. Give the "
                f"cell that sets {', '.join(PARAMETERS)} the tag `parameters`, and no other cell, "
                "and set each of them only there"
            )


def _is_unattended(shell: object) -> bool:
    """Whether no person sits at the notebook, who may well set a parameter once more."""
    asked = getattr(shell, "parent_header", {}).get("content", {})
    return not asked.get("allow_stdin", False)


def _assigned(cell: str) -> set[str]:
    try:
        lines = ast.parse(cell).body
    except SyntaxError:
        return set()
    return {
        node.id
        for line in lines
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for node in ast.walk(line)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
