"""Tables II and III: our scores beside the paper's; forgetting, and what each method may see."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from cilkit import runs
from cilkit.classes import ROOT, Split, unknown
from cilkit.methods import METHODS, Method
from cilkit.runs import NOTEBOOKS, Run, by_seed, check_comparable

TASKS = ["task1", "task2", "task12", "task3", "task123"]
TASK_TITLES = {
    "task1": "Task 1",
    "task2": "Task 2",
    "task12": "Task 1∪2",
    "task3": "Task 3",
    "task123": "Task 1∪2∪3",
}
BEST = "font-weight: bold"
SECOND = "text-decoration: underline; underline: --rwrap --latex"  # in HTML; in LaTeX
TABLES = {
    "II": ("Model-based methods and CIL", ["SS", "FT", "FE", "CIL"]),
    "III": ("Teacher-based methods", ["LWOF", "LWM", "Michieli", "CIL (w/o weights)", "CIL"]),
}


def paper_scores() -> pd.DataFrame:
    """The published mIoU in % (Tables II and III), indexed by (stage, method), a column a task."""
    return pd.read_csv(ROOT / "data" / "paper_tables.csv", index_col=["stage", "method"])[TASKS]


def our_scores(found: Sequence[Run]) -> pd.DataFrame:
    """The scores of some runs in the same form, averaged over seeds.

    Raises ValueError if their configurations differ in more than the seed.
    """
    check_comparable(found)
    tidy = runs.scores(found)
    return tidy.pivot_table("miou", ["stage", "method"], "task").reindex(columns=TASKS)


def comparison(table: str, found: Sequence[Run]) -> pd.DataFrame:
    """Table "II" or "III": the scores of some runs beside the paper's.

    Rows (stages, method) in the paper's order; columns (task, "ours" or "paper") in %, NaN for
    what has not been run and for class sets that are not known yet. Seeds are averaged.
    """
    if table not in TABLES:
        raise ValueError(unknown("table", table, list(TABLES)))
    index = pd.MultiIndex.from_product([("T2", "T3"), TABLES[table][1]], names=["stages", "method"])
    both = pd.concat({"ours": our_scores(found), "paper": paper_scores()}, axis=1)
    both = both.swaplevel(axis=1).reindex(index)
    both = both[[(task, source) for task in TASKS for source in ("ours", "paper")]]
    both = both.rename(columns=TASK_TITLES)
    return both.rename(index={"T2": "T1, T2", "T3": "T1, T2, T3"}, level="stages")


def how_to_fill(found: Sequence[Run]) -> list[str]:
    """A line for each method of the tables whose run is missing: which notebook makes it."""
    have = {(run.config["method"], run.config["stage"]) for run in found}
    lacking = {
        method: [stage for stage in ("T2", "T3") if (method, stage) not in have]
        for method in ("SS", *METHODS)
    }
    return [
        f"{method} in {' and '.join(stages)}: run {NOTEBOOKS[method]}"
        for method, stages in lacking.items()
        if stages
    ]


def forgetting(found: Sequence[Run]) -> pd.DataFrame:
    """Score now minus score when learned, in points, for each task of the past; a row a method.

    Columns ("Task 1", "after T2"), ...; the mean over the seeds that have both scores. Task 1 was
    learned in T1 by all alike.
    """
    check_comparable(found)
    of_seeds = [_forgetting(runs_of_seed) for runs_of_seed in by_seed(found) or [[]]]
    return pd.concat(of_seeds).groupby(level=0, sort=False).mean()


def _forgetting(found: Sequence[Run]) -> pd.DataFrame:
    ours = our_scores(found)
    learned = {"task1": lambda method: ("T1", "T1"), "task2": lambda method: ("T2", method)}
    rows = {}
    for method in METHODS:  # SS learns everything at once
        rows[method] = {
            (TASK_TITLES[task], f"after {stage}"): score(ours, stage, method, task)
            - score(ours, *learned[task](method), task)
            for task, stage in (("task1", "T2"), ("task1", "T3"), ("task2", "T3"))
        }
    return pd.DataFrame(rows).T


def score(scores: pd.DataFrame, stage: str, method: str, task: str) -> float:
    """One score of a table like that of `our_scores`; NaN if it is not there.

    A ValueError if there is no such task.
    """
    if task not in scores:
        raise ValueError(unknown("task", task, list(scores)))
    return scores[task].get((stage, method), float("nan"))


def by_task(counts: pd.DataFrame, split: Split) -> pd.DataFrame:
    """A confusion matrix of classes added up to one of class sets S1, S2, ..., in pixels.

    Rows: labels, columns: predictions; off the diagonal is what was taken for another task.
    """
    task_of = {
        name: f"S{stage.number}" for stage in split.stages for name in split.names(stage.new)
    }
    rows = counts.groupby(task_of, sort=False).sum()
    return rows.T.groupby(task_of, sort=False).sum().T


def between_tasks(found: Sequence[Run], split: Split, stage: str = "T3") -> pd.DataFrame:
    """Pixels of one task that were predicted as another, in % of its pixels; a row a method.

    Columns ("S1 as", "S2"), ...: labelled, predicted, with all classes known after the stage
    competing. Only methods that have been run; pixels of several seeds are added up.
    """
    check_comparable(found)
    everything = list(split.class_sets(split.stage(stage)))[-1]
    counts: dict[str, pd.DataFrame] = {}
    for run in found:
        if run.config["stage"] == stage and everything in run.scores["confusion"]:
            of_run = by_task(run.confusion(everything), split)
            counts[run.config["method"]] = counts.get(run.config["method"], 0) + of_run
    rows = {}
    for method in [method for method in ("SS", *METHODS) if method in counts]:
        shares = 100 * counts[method].div(counts[method].sum(axis=1), axis=0)
        rows[method] = {
            (f"{labelled} as", predicted): shares.loc[labelled, predicted]
            for labelled in shares.index
            for predicted in shares.columns
            if labelled != predicted
        }
    return pd.DataFrame(rows).T


def label_ledger(split: Split, methods: Iterable[Method] = METHODS.values()) -> pd.DataFrame:
    """Which images and which labels each method sees in each stage: a row a method.

    It is read off the methods' own declarations, which the trainer enforces.
    """
    numbers = [stage.number for stage in split.stages]
    rows = {"SS": [_together("D", n) + " with " + _together("S", n) for n in numbers]}
    for method in methods:
        rows[method.name] = ["D1 with S1"]
        for n in numbers[1:]:
            known = _together("S", n) if method.labels == "all" else f"S{n}"
            kept = [f"{method.memory.size} of D{k} with S{k}" for k in range(1, n) if method.memory]
            rows[method.name].append(" + ".join([f"D{n} with {known}", *kept]))
    return pd.DataFrame.from_dict(rows, "index", columns=[stage.name for stage in split.stages])


def _together(letter: str, n: int) -> str:
    return "∪".join(f"{letter}{k}" for k in range(1, n + 1))


def highlight(table: pd.DataFrame) -> Styler:
    """A comparison for the notebook: in each block and column best bold, second underlined.

    SS takes no part: it saw all labels at once. A dash stands for what has not been run or has
    no such class set.
    """
    return table.style.format("{:.1f}", na_rep="–").apply(_marks, axis=None)


def _marks(table: pd.DataFrame) -> pd.DataFrame:
    marks = pd.DataFrame("", index=table.index, columns=table.columns)
    for _, block in table.drop("SS", level="method", errors="ignore").groupby(level="stages"):
        for column in table.columns:
            best = block[column].dropna().nlargest(2)
            for row, mark in zip(best.index, (BEST, SECOND), strict=False):
                marks.loc[row, column] = mark
    return marks


def as_text(table: pd.DataFrame) -> str:
    """A table for the terminal, one decimal, a dash for what is missing."""
    return table.to_string(float_format="{:.1f}".format, na_rep="–")


def main(folder: str) -> None:
    """Print Tables II and III for the runs in a folder: `python -m cilkit.tables FOLDER`."""
    found = runs.find(Path(folder))
    for table, (title, _) in TABLES.items():
        print(f"\nTable {table}: {title}. mIoU in %, ours beside the paper's (Cityscapes)\n")
        print(as_text(comparison(table, found)))
    print(*how_to_fill(found), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
