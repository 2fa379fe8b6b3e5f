"""Tables II and III of a folder of runs: `python -m cilkit.results FOLDER`."""

import sys
from collections.abc import Sequence

from cilkit.methods import LATER_METHODS
from cilkit.results.claims import check, not_judged
from cilkit.results.scores import by_seed, is_papers, methods_of, our_scores, split_of
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
from cilkit.study.runs import Run

VERDICTS = {  # of `check`, for several claims
    "holds": "hold here",
    "does not hold": "do not hold",
    "undecided": "are undecided",
    "not run": "lack a run",
}


def main(folder: str) -> None:
    """Print Tables II and III for the runs in a folder: `python -m cilkit.results FOLDER`.

    Where it has runs of later methods, their table too; with two seeds or more, the paired
    differences as well. The last two lines say what came out.
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
    print(*missing_runs(found), *in_short(found), sep="\n")


def in_short(found: Sequence[Run]) -> list[str]:
    """Two lines: the methods by their mIoU over all classes in the end, and the paper's claims.

    Those are left out where the split is not the paper's; both without a run of the last stage.
    """
    last = split_of(found).stages[-1]
    scores = our_scores(found)[last.joint_task].dropna().sort_values(ascending=False)
    ranked = [(method, value) for (stage, method), value in scores.items() if stage == last.name]
    if not ranked:
        return []
    reached = " | ".join(f"{method} {value:.1f}" for method, value in ranked)
    lines = [f"In short: mIoU of all classes after {last.name} in %, best first: {reached}"]
    if not_judged(found):
        return lines
    verdicts = list(check(found)["verdict"])
    counts = {words: verdicts.count(verdict) for verdict, words in VERDICTS.items()}
    judged = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return [*lines, f"Of the paper's {len(verdicts)} claims, {judged}"]


if __name__ == "__main__":
    main(sys.argv[1])
