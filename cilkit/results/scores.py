"""Scores of runs as tables: ours, the paper's, mean and deviation over seeds, differences."""

from collections.abc import Sequence

import pandas as pd
from scipy.special import stdtrit

from cilkit.checks import unknown
from cilkit.classes import Split
from cilkit.files import RESOURCES
from cilkit.methods import METHODS, NEW_TEACHER, SS
from cilkit.splits import load_split
from cilkit.study import runs
from cilkit.study.runs import Run
from cilkit.training.config import differences

SAME_IN_A_TABLE = ("data", "preset", "train", "split", "files", "code", "environment")


def by_seed(found: Sequence[Run]) -> list[list[Run]]:
    """Some runs sorted into those of each seed, in the order of the seeds."""
    seeds = sorted({run.config["seed"] for run in found})
    return [[run for run in found if run.config["seed"] == seed] for seed in seeds]


def by_configuration(found: Sequence[Run]) -> list[list[Run]]:
    """Some runs sorted into groups that may stand in one table each, the largest first.

    Runs of a group differ in seed, method and stage alone, and all runs of a method in it were
    trained by the same definition of that method.
    """
    groups: list[list[Run]] = []
    for run in found:
        fits = (group for group in groups if not _mismatches(group, run))
        if (group := next(fits, None)) is not None:
            group.append(run)
        else:
            groups.append([run])
    return sorted(groups, key=len, reverse=True)


def overview(found: Sequence[Run]) -> pd.DataFrame:
    """Which seeds match: a row for each configuration and seed among some runs.

    Columns: configuration (from 1, the one with most runs first), seed, runs, differs in (what
    keeps the row out of a table with the first configuration).
    """
    groups = by_configuration(found)
    rows = [
        [number, runs[0].config["seed"], len(runs), ", ".join(_first_mismatch(groups[0], group)[1])]
        for number, group in enumerate(groups, start=1)
        for runs in by_seed(group)
    ]
    return pd.DataFrame(rows, columns=["configuration", "seed", "runs", "differs in"])


def check_comparable(found: Sequence[Run]) -> None:
    """A ValueError if no table may mix these runs, or if one is there twice.

    They may differ in seed, method and stage alone; see `by_configuration`.
    """
    groups = by_configuration(found)
    if len(groups) > 1:
        other, fields = _first_mismatch(groups[0], groups[1])
        method = other.config["method"]
        alike = [run for run in groups[0] if run.config["method"] == method] or groups[0]
        raise ValueError(
            f"{alike[0].folder} and {other.folder} differ in {', '.join(fields)}; a table holds "
            f"runs of one configuration, and here are {len(groups)}: "
            f"{'; '.join(map(_named, groups))}. Choose the runs of one, such as "
            "by_configuration(found)[0], or run the notebooks again with the seeds of the "
            "others (make study SEEDS=...), which replaces what does not match"
        )
    seen: dict[tuple, Run] = {}
    for run in found:
        training = tuple(run.config[field] for field in ("method", "stage", "seed"))
        if (twin := seen.setdefault(training, run)) is not run:
            method, stage, seed = training
            raise ValueError(
                f"{twin.folder} and {run.folder} are both {method} in {stage} with seed {seed}; a "
                "seed counts once. Move the copy out of the folder that is read"
            )


def _decisive(run: Run) -> dict:
    """The fields that must be equal in a table; also of a run of an older version."""
    config = {field: run.config.get(field) for field in SAME_IN_A_TABLE}
    code = config["code"]  # of an older kit it is one text
    shared = [code.get("shared"), code.get("network")] if isinstance(code, dict) else code
    return config | {"code": shared}


def _mismatches(group: Sequence[Run], run: Run) -> list[str]:
    """In what a run differs from a group that may stand in one table, by name."""
    if fields := differences(_decisive(group[0]), _decisive(run)):
        return fields
    method, code = run.config["method"], run.config.get("code")
    twins = [other.config.get("code") for other in group if other.config["method"] == method]
    return [f"the definition of {method!r}"] if twins and twins[0] != code else []


def _first_mismatch(group: Sequence[Run], other: Sequence[Run]) -> tuple[Run, list[str]]:
    """The first run that keeps `other` out of a table with a group, and in what it differs."""
    return next(
        ((run, fields) for run in other if (fields := _mismatches(group, run))), (other[0], [])
    )


def _named(group: Sequence[Run]) -> str:
    """Runs of one configuration in an error: their seeds, and their names if they are few."""
    seeds = [str(runs[0].config["seed"]) for runs in by_seed(group)]
    names = ", ".join(run.folder.name for run in group) if len(group) <= 3 else f"{len(group)} runs"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} ({names})"


def split_of(found: Sequence[Run]) -> Split:
    """The split that the runs of a table recorded, which all share; the paper's without runs."""
    return by_configuration(found)[0][0].split if found else load_split()


def is_papers(split: Split) -> bool:
    """Whether a split has the paper's stages: their names, their classes and their order."""
    return outline(split) == outline(load_split())


def outline(split: Split) -> list[tuple[str, list[str]]]:
    """The stages of a split: their names, and the names of the classes that each adds."""
    return [(stage.name, split.names(stage.new)) for stage in split.stages]


def paper_scores(split: Split | None = None) -> pd.DataFrame:
    """The published mIoU in % (Tables II and III), indexed by (stage, method), a column a task.

    With a split, a row for each of its stages after the first and each method, and a column for
    each of its tasks: NaN where it is not the paper's, which has no number for other stages.
    """
    with (RESOURCES / "paper_tables.csv").open(encoding="utf-8") as file:
        published = pd.read_csv(file, index_col=["stage", "method"])
    if split is None or is_papers(split):
        return published
    later = [stage.name for stage in split.stages[1:]]
    rows = pd.MultiIndex.from_product([later, methods_of([])], names=published.index.names)
    return pd.DataFrame(float("nan"), rows, split.tasks)


def methods_of(found: Sequence[Run]) -> list[str]:
    """SS and the paper's methods, in its order, then those of one's own among some runs."""
    known, first = [SS.name, *METHODS], split_of(found).stages[0]
    own = {run.config["method"] for run in found if run.config["stage"] != first.name}
    return known + sorted(own - {NEW_TEACHER.name, *known})


def our_scores(found: Sequence[Run]) -> pd.DataFrame:
    """The scores of some runs in the same form, averaged over seeds.

    Raises ValueError if their configurations differ in more than the seed.
    """
    return _over_seeds(found, "mean")


def standard_deviation(found: Sequence[Run]) -> pd.DataFrame:
    """The sample standard deviation over seeds of each of `our_scores`; NaN for one seed."""
    return _over_seeds(found, "std").reindex(our_scores(found).index)


def _over_seeds(found: Sequence[Run], what: str) -> pd.DataFrame:
    check_comparable(found)
    split = split_of(found)
    by_name = runs.scores(found).pivot_table("miou", ["stage", "method"], "task", what)
    in_order = by_name.reindex([stage.name for stage in split.stages], level="stage")
    return in_order.reindex(columns=split.tasks)


def confidence_interval(values: Sequence[float]) -> dict[str, float | int]:
    """The mean of some values, one a seed, and the 95 % interval of that mean by Student's t.

    Keys: mean (NaN without values), low and high (NaN with fewer than two), seeds.
    """
    values = pd.Series(values, dtype=float)
    mean, half = values.mean(), float("nan")
    if len(values) > 1:
        half = stdtrit(len(values) - 1, 0.975) * values.sem()
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where one more seed is expected, in 95 of 100 cases: mean ± t s sqrt(1 + 1/n), Student's t.

    It is wider than the interval of the mean, and NaN with fewer than two values.
    """
    values = pd.Series(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stdtrit(len(values) - 1, 0.975) * values.std() * (1 + 1 / len(values)) ** 0.5
    return values.mean() - half, values.mean() + half


def paired(found: Sequence[Run], stage: str, task: str, reference: str) -> pd.DataFrame:
    """Score of each method minus that of a reference with the same seed, in points; a row a method.

    Columns as from `confidence_interval`, over the seeds that have both scores. Raises ValueError
    for an unknown stage, task or reference, and for mixed configurations.
    """
    check_comparable(found)
    methods, split = methods_of(found), split_of(found)
    if task not in (known := split.class_sets(split.stage(stage))):
        raise ValueError(unknown("task", task, list(known)))
    if reference not in methods:
        raise ValueError(unknown("method", reference, methods))
    tidy = runs.scores(found)
    tidy = tidy[(tidy["stage"] == stage) & (tidy["task"] == task)]
    by_method = tidy.pivot(index="seed", columns="method", values="miou").reindex(columns=methods)
    gaps = by_method.sub(by_method[reference], axis=0)  # a row a seed
    rows = [confidence_interval(gaps[method].dropna()) for method in methods]
    return pd.DataFrame(rows, methods).astype({"seeds": "Int64"})  # also where one is unknown


def score(scores: pd.DataFrame, stage: str, method: str, task: str) -> float:
    """One score of a table like that of `our_scores`; NaN if it is not there.

    A ValueError if there is no such task.
    """
    if task not in scores:
        raise ValueError(unknown("task", task, list(scores)))
    return scores[task].get((stage, method), float("nan"))
