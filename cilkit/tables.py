"""Tables II and III: our scores beside the paper's."""

import pandas as pd

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
    both = both.reindex(pd.MultiIndex.from_tuples(rows, names=["stage", "method"]))
    both = both[[(task, source) for task in TASKS for source in ("ours", "paper")]]
    both = both.rename(columns=TASK_TITLES)
    return both.rename(index={"T2": "T1, T2", "T3": "T1, T2, T3"}, level="stage")


def as_text(table: pd.DataFrame) -> str:
    """A table for the terminal, one decimal, a dash for what is missing."""
    return table.to_string(float_format="{:.1f}".format, na_rep="–")
