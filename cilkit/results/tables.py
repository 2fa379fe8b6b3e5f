"""Tables II and III, our scores beside the paper's; differences, forgetting, who may see what.

Stages and tasks are those of the split that the runs recorded, and the paper's without runs; the
paper's scores stand beside ours where the stages are the paper's. Several seeds of a study stand in
one table as mean and sample standard deviation. A method of one's own that is found among the runs
has its rows after those of the paper.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from cilkit.checks import unknown
from cilkit.classes import Split, joined, task_title
from cilkit.methods import (
    CIL,
    CIL_UNWEIGHTED,
    FE,
    FIRST_STAGE,
    FT,
    LATER_METHODS,
    LWM,
    LWOF,
    METHODS,
    MICHIELI,
    SS,
    Method,
)
from cilkit.results.scores import (
    by_seed,
    check_comparable,
    is_papers,
    methods_of,
    our_scores,
    paired,
    paper_scores,
    score,
    split_of,
    standard_deviation,
)
from cilkit.study import runs
from cilkit.study.runs import NOTEBOOKS, Run

SPREAD = "±"  # the column of standard deviations
BEST = "font-weight: bold"
SECOND = "text-decoration: underline; underline: --rwrap --latex"  # in HTML; in LaTeX
TABLES = {
    "II": ("Model-based methods and CIL", [method.name for method in (SS, FT, FE, CIL)]),
    "III": (
        "Teacher-based methods",
        [method.name for method in (LWOF, LWM, MICHIELI, CIL_UNWEIGHTED, CIL)],
    ),
}
AFTER_THE_PAPER = [SS.name, MICHIELI.name, CIL.name, *LATER_METHODS]  # the rows of that table


def comparison(table: str, found: Sequence[Run]) -> pd.DataFrame:
    """Table "II" or "III": the scores of some runs beside the paper's.

    Rows (stages, method) in the paper's order, and in each block methods of one's own at the end,
    but for the LATER_METHODS, which have a table of their own (`after_the_paper`);
    columns (task, "ours" or "paper") in %, NaN for what has not been run and for class sets that
    are not known yet. Without "paper" where the split is not the paper's. With two seeds or more
    "ours" is their mean, and (task, "±") their sample standard deviation.
    """
    if table not in TABLES:
        raise ValueError(unknown("table", table, list(TABLES)))
    own = [name for name in methods_of(found)[1 + len(METHODS) :] if name not in LATER_METHODS]
    return _beside_the_papers(found, TABLES[table][1] + own)


def after_the_paper(found: Sequence[Run]) -> pd.DataFrame:
    """ILT, MiB and PLOP beside SS and the paper's methods that they vary, as in `comparison`."""
    return _beside_the_papers(found, AFTER_THE_PAPER)


def _beside_the_papers(found: Sequence[Run], methods: list[str]) -> pd.DataFrame:
    sources = {"ours": our_scores(found), SPREAD: standard_deviation(found)}
    split = split_of(found)
    if is_papers(split):
        sources["paper"] = paper_scores()
    names = [stage.name for stage in split.stages]
    index = pd.MultiIndex.from_product([names[1:], methods], names=["stages", "method"])
    both = pd.concat(sources, axis=1).reindex(index)
    if both[SPREAD].isna().all(axis=None):
        del sources[SPREAD]
    both = both.swaplevel(axis=1)[[(task, source) for task in split.tasks for source in sources]]
    both = both.rename(columns=task_title)
    blocks = {name: joined(names[:k], ", ") for k, name in enumerate(names, start=1)}
    return both.rename(index=blocks, level="stages")


def missing_runs(found: Sequence[Run]) -> list[str]:
    """A line for each method of the tables whose runs are missing: what makes them.

    Seeds are named where only some lack a run; the last line asks for more where there is one.
    """
    later = [stage.name for stage in split_of(found).stages[1:]]
    seeds = sorted({run.config["seed"] for run in found})
    have = {tuple(run.config[field] for field in ("method", "stage", "seed")) for run in found}
    lines = []
    for method in methods_of(found):
        stages_lacking: dict[tuple[int, ...], list[str]] = {}
        for stage in later:
            lacking = tuple(seed for seed in seeds if (method, stage, seed) not in have)
            if lacking or not seeds:
                stages_lacking.setdefault(lacking, []).append(stage)
        for lacking, stages in stages_lacking.items():
            where = "" if list(lacking) == seeds else f", SEED {_listed(lacking)}"
            if method in NOTEBOOKS:
                maker = runs.maker(method, stages[-1], later[0])
            else:
                maker = f"study.run({stages[-1]!r}, ...) with that method"
            lines.append(f"{method} in {_together(stages)}{where}: run {maker}")
    return lines + one_seed(found)


def one_seed(found: Sequence[Run]) -> list[str]:
    """The line that asks for more seeds, if all runs are of one seed; else none."""
    seeds = by_seed(found)
    if len(seeds) != 1:
        return []
    return [
        f"one seed, {seeds[0][0].config['seed']}: no spread and no interval; "
        "make study SEEDS=0,1,2 (with your DATA and PRESET) trains more"
    ]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _together(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def differences(
    found: Sequence[Run], references: Sequence[str] = (CIL.name, SS.name)
) -> pd.DataFrame:
    """Paired differences of the cross-task score after each extension to some methods, in points.

    Rows (score, method); columns ("minus CIL", as from `confidence_interval`), ...; NaN in the row
    of the reference itself.
    """
    check_comparable(found)
    blocks = {
        f"{task_title(stage.joint_task)} after {stage.name}": pd.concat(
            {
                f"minus {other}": paired(found, stage.name, stage.joint_task, other).drop(other)
                for other in references
            },
            axis=1,
        ).reindex(methods_of(found))
        for stage in split_of(found).stages[1:]
    }
    return pd.concat(blocks, names=["score", "method"]) if blocks else pd.DataFrame()


def style_differences(differences: pd.DataFrame) -> Styler:
    """Differences for the notebook: bold where the 95 % interval does not hold 0.

    The bounds are left out where no interval is known.
    """
    bounds = [column for column in differences if column[1] in ("low", "high")]
    known = differences[bounds].notna().any(axis=None)
    shown = differences if known else differences.drop(columns=bounds)
    counts = [column for column in shown if column[1] == "seeds"]
    return (
        shown.style.format("{:+.1f}", na_rep="–")
        .format("{:.0f}", na_rep="–", subset=counts)
        .apply(_decided, axis=None)
    )


def _decided(differences: pd.DataFrame) -> pd.DataFrame:
    marks = pd.DataFrame("", index=differences.index, columns=differences.columns)
    for reference in differences.columns.unique(0):
        of_one = differences[reference]
        if "low" in of_one:
            marks.loc[of_one["low"] * of_one["high"] > 0, (reference, "mean")] = BEST
    return marks


def forgetting(found: Sequence[Run]) -> pd.DataFrame:
    """Score now minus score when learned, in points, for each task of the past; a row a method.

    Columns ("Task 1", "after T2"), ...; the mean over the seeds that have both scores. Task 1 was
    learned in the first stage by all alike.
    """
    check_comparable(found)
    of_seeds = [_forgetting(runs_of_seed) for runs_of_seed in by_seed(found) or [[]]]
    return pd.concat(of_seeds).groupby(level=0, sort=False).mean().reindex(methods_of(found)[1:])


def _forgetting(found: Sequence[Run]) -> pd.DataFrame:
    ours, stages = our_scores(found), split_of(found).stages
    rows = {}
    for method in methods_of(found)[1:]:  # SS learns everything at once
        learned_by = [FIRST_STAGE.name] + [method] * len(stages[1:])  # by stage
        rows[method] = {
            (task_title(then.task), f"after {now.name}"): score(ours, now.name, method, then.task)
            - score(ours, then.name, by, then.task)
            for then, by in zip(stages, learned_by, strict=True)
            for now in stages[then.number :]
        }
    return pd.DataFrame(rows).T


def decision_gap(found: Sequence[Run]) -> pd.DataFrame:
    """How badly each method decides between tasks, in points; a row a method, a column a stage.

    It is the mean of the single-task scores, weighted by the number of classes, minus the joint
    score after that stage: 0 if no pixel of one task is ever taken for another. The mean over
    seeds; NaN for what has not been run. Raises ValueError for mixed configurations.
    """
    ours, stages = our_scores(found), split_of(found).stages
    columns = {}
    for stage in stages[1:]:
        sizes = {at.task: at.new.stop - at.new.start for at in stages[: stage.number]}
        columns[f"after {stage.name}"] = {
            method: sum(score(ours, stage.name, method, task) * n for task, n in sizes.items())
            / stage.seen.stop
            - score(ours, stage.name, method, stage.joint_task)
            for method in methods_of(found)
        }
    return pd.DataFrame(columns)


def field_table(found: Sequence[Run]) -> pd.DataFrame:
    """The scores that the field reports (`runs.field_scores`), in %, indexed by (stage, method).

    The mean over seeds; NaN where a run of an earlier stage is missing, or nothing is extended.
    Raises ValueError for mixed configurations.
    """
    check_comparable(found)
    stages, methods = split_of(found).stages, methods_of(found)
    by_name = runs.scores(found).pivot_table("miou", ["stage", "method"], "task")
    rows = [(stage.name, method) for stage in stages[1:] for method in methods]
    return by_name.reindex([row for row in rows if row in by_name.index], columns=list(runs.FIELD))


def by_task(counts: pd.DataFrame, split: Split) -> pd.DataFrame:
    """A confusion matrix of classes added up to one of class sets S1, S2, ..., in pixels.

    Rows: labels, columns: predictions; off the diagonal is what was taken for another task.
    """
    task_of = {
        name: f"S{stage.number}" for stage in split.stages for name in split.names(stage.new)
    }
    rows = counts.groupby(task_of, sort=False).sum()
    return rows.T.groupby(task_of, sort=False).sum().T


def between_tasks(found: Sequence[Run], split: Split, stage: str | None = None) -> pd.DataFrame:
    """Pixels of one task that were predicted as another, in % of its pixels; a row a method.

    Columns ("S1 as", "S2"), ...: labelled, predicted, with all classes known after the stage (by
    default the last) competing. Only methods that have been run; pixels of several seeds are added
    up.
    """
    check_comparable(found)
    at = split.stages[-1] if stage is None else split.stage(stage)
    everything = at.joint_task
    counts: dict[str, pd.DataFrame] = {}
    for run in found:
        if run.config["stage"] == at.name and everything in run.scores["confusion"]:
            of_run = by_task(run.confusion(everything), split)
            counts[run.config["method"]] = counts.get(run.config["method"], 0) + of_run
    rows = {}
    for method in [method for method in methods_of(found) if method in counts]:
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
    rows = {
        method.name: [_what_it_sees(method, stage.number) for stage in split.stages]
        for method in (SS, *methods)
    }
    return pd.DataFrame.from_dict(rows, "index", columns=[stage.name for stage in split.stages])


def _what_it_sees(method: Method, n: int) -> str:
    """The images and the labels of a method in stage n: "D2 with S2 + 20 of D1 with S1"."""
    images = _union("D", n) if method.images == "all" else f"D{n}"
    labels = _union("S", n) if method.labels == "all" else f"S{n}"
    kept = [f"{method.memory.size} of D{k} with S{k}" for k in range(1, n) if method.memory]
    return " + ".join([f"{images} with {labels}", *([joined(kept, " + ")] if kept else [])])


def _union(letter: str, n: int) -> str:
    return joined([f"{letter}{k}" for k in range(1, n + 1)], "∪")


def highlight(table: pd.DataFrame) -> Styler:
    """A comparison for the notebook: in each block and column best bold, second underlined.

    SS takes no part: it saw all labels at once. A dash stands for what has not been run or has
    no such class set.
    """
    spreads = [column for column in table if _is_spread(column)]
    return (
        table.style.format("{:.1f}", na_rep="–")
        .format("± {:.1f}", na_rep="", subset=spreads)
        .apply(_marks, axis=None)
    )


def _is_spread(column: str | tuple[str, str]) -> bool:
    return isinstance(column, tuple) and column[-1] == SPREAD


def _marks(table: pd.DataFrame) -> pd.DataFrame:
    marks = pd.DataFrame("", index=table.index, columns=table.columns)
    for _, block in table.drop(SS.name, level="method", errors="ignore").groupby(level="stages"):
        for column in filter(lambda column: not _is_spread(column), table.columns):
            best = block[column].dropna().nlargest(2)
            for row, mark in zip(best.index, (BEST, SECOND), strict=False):
                marks.loc[row, column] = mark
    return marks


def as_text(table: pd.DataFrame) -> str:
    """A table for the terminal, one decimal, a dash for what is missing."""
    return table.to_string(float_format="{:.1f}".format, na_rep="–").replace("<NA>", "   –")
