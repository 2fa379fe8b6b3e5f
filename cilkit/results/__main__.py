"""Tables II and III of a folder of runs: `python -m cilkit.results FOLDER`."""

import sys

from cilkit.methods import LATER_METHODS
from cilkit.results.scores import by_seed, is_papers, methods_of, split_of
from cilkit.results.tables import (
    TABLES,
    _listed,
    after_the_paper,
    as_text,
    comparison,
    differences,
    missing_runs,
)
from cilkit.study import runs


def main(folder: str) -> None:
    """Print Tables II and III for the runs in a folder: `python -m cilkit.results FOLDER`.

    Where it has runs of later methods, their table too; with two seeds or more, the paired
    differences as well.
    """
    found = runs.find(folder)
    if len(split_of(found).stages) == 1:
        print("One stage alone: no class set was learned after another, so no table compares any.")
        return
    seeds = [runs_of_seed[0].config["seed"] for runs_of_seed in by_seed(found)]
    several = len(seeds) > 1
    of = f", mean and standard deviation (±) of seeds {_listed(seeds)}" if several else ""
    if is_papers(split_of(found)):
        of += f"{',' if several else ''} beside the paper's (Cityscapes)"
    for table, (title, _) in TABLES.items():
        print(f"\nTable {table}: {title}. mIoU in %, ours{of}\n")
        print(as_text(comparison(table, found)))
    if set(LATER_METHODS) & set(methods_of(found)):
        print(f"\nAfter the paper. mIoU in %, ours{of}\n")
        print(as_text(after_the_paper(found)))
    if several:
        print("\nPaired differences in points: mean over seeds, and its 95 % interval\n")
        print(as_text(differences(found)))
    print(*missing_runs(found), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
