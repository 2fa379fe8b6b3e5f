"""The claims of Sec. IV as data: a sentence, its place, and a margin over the table of scores.

Words such as "significantly" have no number in the paper. Here "much" is at least 10 points of
mIoU and "close" at most 5; with these two readings all claims hold on the paper's own tables.
They are about the stages T1, T2 and T3, and judged where a split has these three: CamVid has, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.io.formats.style import Styler

from cilkit.classes import Split
from cilkit.methods import FE, FIRST_STAGE
from cilkit.results.scores import (
    by_seed,
    check_comparable,
    confidence_interval,
    our_scores,
    paper_scores,
    score,
    split_of,
)
from cilkit.splits import load_split
from cilkit.study import runs
from cilkit.study.runs import Run

MUCH, CLOSE = 10.0, 5.0  # points of mIoU
LEDGER = ["claim", "place", "paper", "verdict", "margin", "low", "high", "seeds", "missing"]


class NotRun(LookupError):
    """A claim needs the score of a run that is not there."""


class Scores:
    """Scores of one seed by method, stage and task: `scores("CIL", "T2", "task12")` in %."""

    def __init__(self, table: pd.DataFrame, split: Split):
        """table: as from `our_scores`, indexed by (stage, method), a column a task"""
        self.table, self.stages = table, [stage.name for stage in split.stages]

    def __call__(self, method: str, stage: str, task: str) -> float:
        """Raises NotRun, naming the notebook that makes the run, where there is no such score."""
        if stage not in self.stages:
            raise NotRun(f"no stage {stage} in this split, which has {', '.join(self.stages)}")
        value = score(self.table, stage, method, task)
        if pd.isna(value):
            maker = runs.maker(method, stage, self.stages[1])
            raise NotRun(f"{method} in {stage} ({maker})")
        return value


@dataclass(frozen=True)
class Claim:
    """A statement of the paper. It holds where `margin`, in points of mIoU, is positive."""

    sentence: str
    place: str
    margin: Callable[[Scores], float]


def _learned_alone(s: Scores, method: str) -> float:
    """How far both single-task scores after T2 are inside "close to SS"."""
    return CLOSE - max(s("SS", "T2", task) - s(method, "T2", task) for task in ("task1", "task2"))


def _most_different(s: Scores, a: str, b: str, *tasks: str) -> float:
    return max(abs(s(a, "T2", task) - s(b, "T2", task)) for task in tasks)


def _best_of(s: Scores, methods: Sequence[str], stage: str, task: str) -> float:
    return max(s(method, stage, task) for method in methods)


TEACHER_BASED = ("LWOF", "LWM", "CIL (w/o weights)", "CIL")  # beside Michieli

CLAIMS = (
    Claim(
        "FT forgets: it loses much of Task 1 in stage T2.",
        "Sec. IV-B, Table II",
        lambda s: s("T1", "T1", "task1") - s("FT", "T2", "task1") - MUCH,
    ),
    Claim(
        "FE keeps Task 1: it stays close to the model of T1.",
        "Sec. IV-B, Table II",
        lambda s: CLOSE - abs(s("T1", "T1", "task1") - s("FE", "T2", "task1")),
    ),
    Claim(
        "FE cannot learn Task 2: it stays much below FT there.",
        "Sec. IV-B, Table II",
        lambda s: s("FT", "T2", "task2") - s("FE", "T2", "task2") - MUCH,
    ),
    Claim(
        "FT and FE both fail across tasks: much below SS in Task 1∪2.",
        "Sec. IV-B, Table II",
        lambda s: s("SS", "T2", "task12") - _best_of(s, ("FT", "FE"), "T2", "task12") - MUCH,
    ),
    Claim(
        "CIL is much better than FT and FE in Task 1∪2∪3.",
        "Sec. IV-B, Table II",
        lambda s: s("CIL", "T3", "task123") - _best_of(s, ("FT", "FE"), "T3", "task123") - MUCH,
    ),
    Claim(
        "LWOF is good at each task alone: close to SS in Task 1 and Task 2 after T2.",
        "Sec. IV-C, Table III",
        lambda s: _learned_alone(s, "LWOF"),
    ),
    Claim(
        "LWOF is poor across tasks: much below SS in Task 1∪2.",
        "Sec. IV-C, Table III",
        lambda s: s("SS", "T2", "task12") - s("LWOF", "T2", "task12") - MUCH,
    ),
    Claim(
        "LWM mends that: it is better than LWOF in Task 1∪2.",
        "Sec. IV-C, Table III",
        lambda s: s("LWM", "T2", "task12") - s("LWOF", "T2", "task12"),
    ),
    Claim(
        "LWM does so at similar single-task scores: close to LWOF in Task 1 and Task 2.",
        "Sec. IV-C, Table III",
        lambda s: CLOSE - _most_different(s, "LWM", "LWOF", "task1", "task2"),
    ),
    Claim(
        "Michieli is the best teacher-based method on Task 1 after T2.",
        "Sec. IV-C, Table III",
        lambda s: s("Michieli", "T2", "task1") - _best_of(s, TEACHER_BASED, "T2", "task1"),
    ),
    Claim(
        "Michieli is the worst teacher-based method on Task 2 after T2.",
        "Sec. IV-C, Table III",
        lambda s: min(s(m, "T2", "task2") for m in TEACHER_BASED) - s("Michieli", "T2", "task2"),
    ),
    Claim(
        "Michieli, with labels for all classes, is better than LWOF and LWM in Task 1∪2.",
        "Sec. IV-C, Table III",
        lambda s: s("Michieli", "T2", "task12") - _best_of(s, ("LWOF", "LWM"), "T2", "task12"),
    ),
    Claim(
        "CIL (w/o weights), with new labels only, is better than Michieli in Task 1∪2.",
        "Sec. IV-C, Table III",
        lambda s: s("CIL (w/o weights)", "T2", "task12") - s("Michieli", "T2", "task12"),
    ),
    Claim(
        "CIL is better than Michieli in Task 1∪2∪3.",
        "Sec. IV-C, V, Table III",
        lambda s: s("CIL", "T3", "task123") - s("Michieli", "T3", "task123"),
    ),
    Claim(
        "CIL is better than LWOF and LWM in Task 1∪2∪3.",
        "Sec. IV-C, Table III",
        lambda s: s("CIL", "T3", "task123") - _best_of(s, ("LWOF", "LWM"), "T3", "task123"),
    ),
    Claim(
        "The entropy weights cost at T2: CIL is below CIL (w/o weights) in Task 1∪2.",
        "Sec. IV-C, Table III",
        lambda s: s("CIL (w/o weights)", "T2", "task12") - s("CIL", "T2", "task12"),
    ),
    Claim(
        "They cost only a little: CIL stays close to CIL (w/o weights) there.",
        "Sec. IV-C, Table III",
        lambda s: CLOSE - (s("CIL (w/o weights)", "T2", "task12") - s("CIL", "T2", "task12")),
    ),
    Claim(
        "The entropy weights pay at T3: CIL is above CIL (w/o weights) in Task 1∪2∪3.",
        "Sec. IV-C, Table III",
        lambda s: s("CIL", "T3", "task123") - s("CIL (w/o weights)", "T3", "task123"),
    ),
    Claim(
        "CIL after two extensions is close to SS in Task 1∪2∪3.",
        "Abstract, Sec. IV-B, V",
        lambda s: CLOSE - (s("SS", "T3", "task123") - s("CIL", "T3", "task123")),
    ),
)


def paper_table() -> pd.DataFrame:
    """The paper's scores with the one it does not print: Task 1 of T1.

    It is that of FE after T2, whose encoder and first decoder are those of T1.
    """
    table, (first, second, _) = paper_scores(), _paper_stages()
    table.loc[(first, FIRST_STAGE.name), "task1"] = table.loc[(second, FE.name), "task1"]
    return table


def _paper_stages() -> list[str]:
    return [stage.name for stage in load_split().stages]


def not_judged(found: Sequence[Run]) -> str:
    """Why the paper's claims are not judged on some runs, in one sentence; "" where they are."""
    wanted, stages = _paper_stages(), [stage.name for stage in split_of(found).stages]
    if stages == wanted:
        return ""
    return (
        f"The paper's claims are not judged here: they are about the {len(wanted)} stages "
        f"{', '.join(wanted)}, and this split has {len(stages)}: {', '.join(stages)}."
    )


def check(found: Sequence[Run], claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The ledger: a row a claim, with the paper's margin, ours by seeds, and the verdict.

    The claims are the paper's by default, and none of them where `not_judged` says why.

    Columns: claim, place, paper (NaN if its tables lack a score), verdict, margin (mean over
    seeds, in points), low and high (95 % interval of the mean by Student's t, from two seeds on),
    seeds, missing (what to run first).
    The verdict is "holds" or "does not hold" by the sign of the margin; with two seeds or more it
    is "undecided" if the interval holds 0; "not run" if a score is missing for every seed. Seeds
    in which one is missing do not count. Raises ValueError for mixed configurations.
    """
    check_comparable(found)
    if claims is None:
        claims = () if not_judged(found) else CLAIMS
    seeds = [Scores(our_scores(runs), split_of(found)) for runs in by_seed(found)]
    rows = [
        {"claim": claim.sentence, "place": claim.place, "paper": _margin(claim)}
        | _verdict(claim, seeds)
        for claim in claims
    ]
    return pd.DataFrame(rows, columns=LEDGER)


def highlight(ledger: pd.DataFrame) -> Styler:
    """The ledger of `check` for the notebook: what does not hold is bold."""
    shown = ledger.drop(columns="missing")
    if ledger["missing"].any():
        shown["to run"] = ledger["missing"]
    if (ledger["seeds"] < 2).all():
        shown = shown.drop(columns=["low", "high"])
    numbers = [column for column in ("paper", "margin", "low", "high") if column in shown]
    return (
        shown.style.hide(axis="index")
        .format("{:+.1f}", subset=numbers, na_rep="–")
        .map(lambda verdict: "font-weight: bold" if "not hold" in verdict else "", ["verdict"])
        .set_properties(["claim", "place"], **{"text-align": "left"})
    )


def _margin(claim: Claim) -> float:
    """That of the paper's tables; NaN for a claim about what they do not have."""
    try:
        return claim.margin(Scores(paper_table(), load_split()))
    except NotRun:
        return float("nan")


def _verdict(claim: Claim, seeds: Sequence[Scores]) -> Mapping[str, object]:
    margins, missing = [], "no run at all (make study)"
    for scores in seeds:
        try:
            margins.append(claim.margin(scores))
        except NotRun as lacking:
            missing = str(lacking)
    found = confidence_interval(margins)
    row = {"margin": found.pop("mean"), **found, "missing": "" if margins else missing}
    if not margins:
        return {"verdict": "not run"} | row
    if row["low"] <= 0 <= row["high"]:  # of one seed no interval is known
        return {"verdict": "undecided"} | row
    return {"verdict": "holds" if row["margin"] > 0 else "does not hold"} | row
