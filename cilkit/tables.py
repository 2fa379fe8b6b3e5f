"""Tables II and III: our scores beside the paper's."""

import sys
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from cilkit import runs
from cilkit.classes import ROOT

TASKS = ["task1", "task2", "task12", "task3", "task123"]
TASK_TITLES = {
    "task1": "Task 1",
    "task2": "Task 2",
    "task12": "Task 1∪2",
    "task3": "Task 3",
    "task123": "Task 1∪2∪3",
}
TABLES = {
    "II": ("Model-based methods and CIL", ["SS", "FT", "FE", "CIL"]),
    "III": ("Teacher-based methods", ["LWOF", "LWM", "Michieli", "CIL (w/o weights)", "CIL"]),
}


def paper_scores() -> pd.DataFrame:
    """The published mIoU in % (Tables II and III), indexed by (stage, method), a column a task."""
    return pd.read_csv(ROOT / "data" / "paper_tables.csv", index_col=["stage", "method"])[TASKS]


def our_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The tidy scores of `runs.scores` in the same form, averaged over seeds."""
    return scores.pivot_table("miou", ["stage", "method"], "task").reindex(columns=TASKS)


def comparison(table: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Table "II" or "III" of the paper for the methods that have been run: ours and the paper's.

    Rows (stages, method) in the paper's order; columns (task, "ours" or "paper") in %, NaN for
    what is not there. Seeds are averaged.
    """
    ours, paper = our_scores(scores), paper_scores()
    rows = [
        (stage, method)
        for stage in ("T2", "T3")
        for method in TABLES[table][1]
        if (stage, method) in ours.index
    ]
    both = pd.concat({"ours": ours, "paper": paper}, axis=1).swaplevel(axis=1)
    index = pd.MultiIndex.from_tuples(rows, names=["stages", "method"])
    both = both.reindex(index)
    both = both[[(task, source) for task in TASKS for source in ("ours", "paper")]]
    both = both.rename(columns=TASK_TITLES)
    return both.rename(index={"T2": "T1, T2", "T3": "T1, T2, T3"}, level="stages")


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
            for row, mark in zip(
                best.index, ("font-weight: bold", "text-decoration: underline"), strict=False
            ):
                marks.loc[row, column] = mark
    return marks


def as_text(table: pd.DataFrame) -> str:
    """A table for the terminal, one decimal, a dash for what is missing."""
    return table.to_string(float_format="{:.1f}".format, na_rep="–")


def main(folder: str) -> None:
    """Print Tables II and III for the runs in a folder: `python -m cilkit.tables FOLDER`."""
    scores = runs.scores(Path(folder))
    for table, (title, _) in TABLES.items():
        print(f"\nTable {table}: {title}. mIoU in %, ours beside the paper's (Cityscapes)\n")
        print(as_text(comparison(table, scores)))


if __name__ == "__main__":
    main(sys.argv[1])
