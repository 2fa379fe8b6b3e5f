"""The sentences of notebooks about our own runs, each with the margin that must hold.

`test_findings.py` looks for the sentence in the text, and for the margin in the reference scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cilkit.results.claims import CLAIMS, CLOSE, MUCH, Scores

Margin = Callable[[Scores], float]


@dataclass(frozen=True)
class Finding:
    """A sentence of a notebook or page about the reference of a data set and preset.

    It must hold with the whole 95 % interval, or on the mean alone where it says no more, or be
    undecided where it says so: 0 in the interval.
    """

    place: str  # a notebook's name without ending
    sentence: str
    margin: Margin
    on_the_mean: bool = False
    undecided: bool = False
    study: tuple[str, str] = ("toyscapes", "quick")


OTHERS = ("FT", "FE", "LWOF", "LWM", "Michieli")
PLAIN = "CIL (w/o weights)"
CILS = (PLAIN, "CIL")
LATER = ("ILT", "MiB", "PLOP")


def cost(s: Scores, stage: str, task: str) -> float:
    """What the entropy weights cost: CIL without weights minus CIL."""
    return s(PLAIN, stage, task) - s("CIL", stage, task)


def gap(s: Scores, method: str, stage: str) -> float:
    """What deciding between the tasks costs: the mean of the tasks, by classes, minus the joint."""
    sizes = {"task1": 5, "task2": 6} | ({"task3": 8} if stage == "T3" else {})
    mean = sum(n * s(method, stage, task) for task, n in sizes.items()) / sum(sizes.values())
    return mean - s(method, stage, "task123" if stage == "T3" else "task12")


def lost(s: Scores, method: str) -> float:
    """How much of Task 2 a method loses in T3."""
    return s(method, "T2", "task2") - s(method, "T3", "task2")


def lead(method: str, others: Sequence[str], stage: str, task: str, by: float = 0.0) -> Margin:
    """That a method is above each of some others after a stage, by more than some points."""
    return lambda s: s(method, stage, task) - max(s(m, stage, task) for m in others) - by


def between(scores: Sequence[float]) -> float:
    """From the lowest to the highest of some scores."""
    return max(scores) - min(scores)


def claimed(beginning: str) -> Margin:
    """The margin of the one claim of the ledger whose sentence begins so."""
    (claim,) = [claim for claim in CLAIMS if claim.sentence.startswith(beginning)]
    return claim.margin


LONG = ("toyscapes", "long")
CAMVID = ("camvid", "quick")
CIL_LEADS = lead("CIL", OTHERS, "T3", "task123")

FINDINGS = [
    # 00_start_here
    Finding(
        "00_start_here",
        "after T3 CIL is ahead of FT, FE, LWOF, LWM and Michieli across all tasks.",
        CIL_LEADS,
    ),
    Finding(
        "00_start_here",
        "It does not show that CIL ends close to SS",
        lead("SS", ["CIL"], "T3", "task123", by=CLOSE),
    ),
    Finding(
        "00_start_here",
        "after T2, FT, LWOF and LWM are better than CIL in Task 2 alone",
        lambda s: min(s(m, "T2", "task2") for m in ("FT", "LWOF", "LWM")) - s("CIL", "T2", "task2"),
    ),
    # 05_train_t1
    Finding(
        "05_train_t1",
        "On Toyscapes with `quick` SS up to T2 is better than T1 in Task 1, as in the paper, "
        "although it has more to learn.",
        lambda s: s("SS", "T2", "task1") - s("T1", "T1", "task1"),
    ),
    Finding(
        "05_train_t1",
        "In the joint scores no method passes SS, neither in the paper nor in our reference.",
        lambda s: min(
            lead("SS", [*OTHERS, *CILS], stage, task)(s)
            for stage, task in (("T2", "task12"), ("T3", "task12"), ("T3", "task123"))
        ),
    ),
    # 06_ft_fe
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick` FT loses much of Task 1 in stage T2.",
        claimed("FT forgets"),
    ),
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick`, too, FE is far better than FT in Task 1 and worse in Task 2.",
        lambda s: min(
            s("FE", "T2", "task1") - s("FT", "T2", "task1") - MUCH,
            s("FT", "T2", "task2") - s("FE", "T2", "task2"),
        ),
    ),
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick` both are far below SS in Task 1∪2, as in the paper",
        claimed("FT and FE both fail across tasks"),
    ),
    # 07_lwof
    Finding(
        "07_lwof",
        "LWOF stays close to FE, far above FT.",
        lambda s: min(
            CLOSE - (s("FE", "T2", "task1") - s("LWOF", "T2", "task1")),
            s("LWOF", "T2", "task1") - s("FT", "T2", "task1") - MUCH,
        ),
    ),
    Finding(
        "07_lwof",
        "LWOF is above FE on average, since its encoder may move.",
        lead("LWOF", ["FE"], "T2", "task2"),
        on_the_mean=True,
    ),
    Finding(
        "07_lwof",
        "LWOF is far below SS in Task 1∪2, as in the paper.",
        claimed("LWOF is poor across tasks"),
    ),
    Finding(
        "07_lwof",
        "On average it is also below FE, which contradicts the paper",
        lead("FE", ["LWOF"], "T2", "task12"),
        on_the_mean=True,
    ),
    # 08_lwm
    Finding(
        "08_lwm",
        "On Toyscapes with `quick` LWM is better than LWOF in Task 1∪2, as in the paper.",
        claimed("LWM mends that"),
    ),
    Finding(
        "08_lwm",
        "In Task 1 the two are close, as there.",
        lambda s: CLOSE - abs(s("LWM", "T2", "task1") - s("LWOF", "T2", "task1")),
    ),
    # 09_michieli
    Finding(
        "09_michieli",
        "Michieli is much worse in Task 2 than LWOF and LWM.",
        lambda s: (
            min(s(method, "T2", "task2") for method in ("LWOF", "LWM"))
            - s("Michieli", "T2", "task2")
            - MUCH
        ),
    ),
    Finding(
        "09_michieli",
        "Michieli is better than LWOF in Task 1∪2, as in the paper.",
        lead("Michieli", ["LWOF"], "T2", "task12"),
    ),
    Finding(
        "09_michieli",
        "But it is worse than LWM there, although it has labels for all classes.",
        lead("LWM", ["Michieli"], "T2", "task12"),
    ),
    # 10_cil
    Finding(
        "10_cil",
        "CIL without weights is better than Michieli, LWOF, FE and FT, although it sees none of "
        "Michieli's old labels.",
        lead(PLAIN, ("FT", "FE", "LWOF", "Michieli"), "T2", "task12"),
    ),
    Finding(
        "10_cil",
        "With them both Task 1∪2 and Task 2 are lower.",
        lambda s: min(cost(s, "T2", task) for task in ("task12", "task2")),
    ),
    Finding(
        "10_cil",
        "LWM is close to CIL with weights; the paper has it further behind (62.5 against 67.7).",
        lambda s: CLOSE - abs(s("CIL", "T2", "task12") - s("LWM", "T2", "task12")),
    ),
    Finding(
        "10_cil",
        "The gap of CIL is close to that of SS, which saw all labels.",
        lambda s: CLOSE - abs(gap(s, "CIL", "T2") - gap(s, "SS", "T2")),
    ),
    Finding(
        "10_cil",
        "The gaps of FT, FE and LWOF are far larger than CIL's",
        lambda s: min(gap(s, m, "T2") for m in ("FT", "FE", "LWOF")) - gap(s, "CIL", "T2") - MUCH,
    ),
    Finding(
        "10_cil",
        "On Toyscapes with `quick` the main result of the paper holds: CIL is better than "
        "Michieli, LWM, LWOF, FE and FT in Task 1∪2∪3.",
        CIL_LEADS,
    ),
    Finding(
        "10_cil",
        "*The distance to SS* in Task 1∪2∪3 is larger than the paper's (64.4 against 62.2).",
        lead("SS", ["CIL"], "T3", "task123", by=(64.4 - 62.2)),
    ),
    Finding(
        "10_cil",
        "with and without them CIL is close in Task 1∪2∪3, where the paper gains",
        lambda s: CLOSE - abs(cost(s, "T3", "task123")),
    ),
    Finding(
        "10_cil",
        "*Deciding*: the gap of CIL is close to that of SS again, and smaller than those of LWM, "
        "LWOF, FE and FT.",
        lambda s: min(
            CLOSE - abs(gap(s, "CIL", "T3") - gap(s, "SS", "T3")),
            min(gap(s, m, "T3") for m in ("FT", "FE", "LWOF", "LWM")) - gap(s, "CIL", "T3"),
        ),
    ),
    Finding(
        "10_cil",
        "The weights make it smaller, as in the paper.",
        lambda s: gap(s, PLAIN, "T3") - gap(s, "CIL", "T3"),
    ),
    Finding(
        "10_cil",
        "*Remembering*: CIL loses more of Task 2 in T3 than LWM",
        lambda s: lost(s, "CIL") - lost(s, "LWM"),
    ),
    Finding(
        "10_cil",
        "On Toyscapes with `quick` most of the distance from CIL to SS after T3 lies in the means, "
        "not in the gaps.",
        lambda s: (
            s("SS", "T3", "task123")
            - s("CIL", "T3", "task123")
            - 2 * (gap(s, "CIL", "T3") - gap(s, "SS", "T3"))
        ),
    ),
    # 11_entropy_weights
    Finding(
        "11_entropy_weights",
        "*After T2* the weights cost in Task 2, and more than in the paper.",
        lambda s: cost(s, "T2", "task2") - (65.8 - 63.9),
    ),
    Finding(
        "11_entropy_weights",
        "*After T3* they cost in Task 3.",
        lambda s: cost(s, "T3", "task3"),
    ),
    Finding(
        "11_entropy_weights",
        "In return less of Task 2 is forgotten in T3, as in the paper.",
        lambda s: cost(s, "T2", "task2") - cost(s, "T3", "task2"),
    ),
    Finding(
        "11_entropy_weights",
        "the weights cost less across all three tasks after T3 than across two after T2.",
        lambda s: cost(s, "T2", "task12") - cost(s, "T3", "task123"),
    ),
    Finding(
        "11_entropy_weights",
        "But Task 2 does not end higher, unlike there.",
        lambda s: cost(s, "T3", "task2"),
    ),
    Finding(
        "11_entropy_weights",
        "After T3 the sign is open.",
        lambda s: cost(s, "T3", "task123"),
        undecided=True,
    ),
    # 12_results
    Finding(
        "12_results",
        "FE learns Task 2 less well than FT, as in the paper.",
        lead("FT", ["FE"], "T2", "task2"),
    ),
    Finding(
        "12_results",
        "In Task 3 it is nearer to FT than in the paper (37.4 and 56.5 there).",
        lambda s: 56.5 - 37.4 - (s("FT", "T3", "task3") - s("FE", "T3", "task3")),
    ),
    Finding(
        "12_results",
        "CIL without weights is ahead of LWOF, LWM and Michieli in Task 1∪2 after T2, as in the "
        "paper.",
        lead(PLAIN, OTHERS[2:], "T2", "task12"),
    ),
    Finding(
        "12_results",
        "But there Michieli is behind LWM:",
        lead("LWM", ["Michieli"], "T2", "task12"),
    ),
    Finding(
        "12_results",
        "it is the worst of the five on Task 2, as in the paper, and by more.",
        lambda s: (
            min(s(m, "T2", "task2") for m in ("LWOF", "LWM", PLAIN, "CIL"))
            - s("Michieli", "T2", "task2")
            - (61.4 - 59.7)
        ),
    ),
    Finding(
        "12_results",
        "On Toyscapes with `quick` CIL decides nearly as well as SS: its gap is close to that of "
        "SS, after T2 and after T3.",
        lambda s: CLOSE - max(gap(s, "CIL", at) - gap(s, "SS", at) for at in ("T2", "T3")),
    ),
    Finding(
        "12_results",
        "CIL is better than FT, FE, LWOF, LWM and Michieli across all tasks after T3.",
        CIL_LEADS,
    ),
    Finding(
        "12_results",
        "It does not confirm that CIL ends close to SS.",
        lead("SS", ["CIL"], "T3", "task123", by=CLOSE),
    ),
    Finding(
        "12_results",
        "Of the claims about the weights the first holds, by more than in the paper",
        lambda s: cost(s, "T2", "task12") - (68.8 - 67.7),
    ),
    Finding(
        "12_results",
        "The second holds, too;",
        claimed("They cost only a little"),
    ),
    Finding(
        "12_results",
        "the third, a gain at T3, is undecided.",
        lambda s: -cost(s, "T3", "task123"),
        undecided=True,
    ),
    # RESULTS.md
    Finding(
        "RESULTS.md",
        "After T3 CIL is the best of the incremental methods across all tasks, but for its own "
        "variant without weights.",
        CIL_LEADS,
    ),
    Finding(
        "RESULTS.md",
        "Behind it are Michieli and LWM, then FE, then FT",
        lambda s: min(
            min(s("Michieli", "T3", "task123"), s("LWM", "T3", "task123"))
            - s("FE", "T3", "task123"),
            s("FE", "T3", "task123") - s("FT", "T3", "task123"),
        ),
    ),
    Finding(
        "RESULTS.md",
        "The entropy weights cost some points across tasks after T2.",
        claimed("The entropy weights cost at T2"),
    ),
    Finding(
        "RESULTS.md",
        "CIL ends far below SS.",
        lead("SS", ["CIL"], "T3", "task123", by=MUCH),
    ),
    Finding(
        "RESULTS.md",
        "LWOF is below FE across all tasks.",
        lead("FE", ["LWOF"], "T3", "task123"),
    ),
    Finding(
        "RESULTS.md",
        "Michieli is below LWM across tasks after T2.",
        lead("LWM", ["Michieli"], "T2", "task12"),
    ),
    Finding(
        "RESULTS.md",
        "Across all tasks CIL is far above LWOF, LWM, FE and FT.",
        lead("CIL", ["LWOF", "LWM", "FE", "FT"], "T3", "task123", by=MUCH),
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "CIL still ends more than 5 points below SS.",
        lead("SS", ["CIL"], "T3", "task123", by=CLOSE),
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "Michieli is now above LWOF and LWM across tasks after T2, on the mean",
        lead("Michieli", ["LWOF", "LWM"], "T2", "task12"),
        on_the_mean=True,
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "After T3 Michieli is level with CIL or better, on the mean.",
        lead("Michieli", ["CIL"], "T3", "task123"),
        on_the_mean=True,
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "Stage T3 still teaches Michieli some of Task 2",
        lambda s: s("Michieli", "T3", "task2") - s("Michieli", "T2", "task2"),
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "CIL, which may not see them, loses some.",
        lambda s: s("CIL", "T2", "task2") - s("CIL", "T3", "task2"),
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "The weights still cost a little after T2, and gain a little after T3, on the mean",
        lambda s: min(cost(s, "T2", "task12"), -cost(s, "T3", "task123")),
        on_the_mean=True,
        study=LONG,
    ),
    Finding(
        "RESULTS.md",
        "After T2 all methods are within a point of each other in Task 2",
        lambda s: 1 - between([s(m, "T2", "task2") for m in (*OTHERS, *CILS)]),
        study=CAMVID,
    ),
    Finding(
        "RESULTS.md",
        "SS is ahead of all by more than 5 points",
        lead("SS", [*OTHERS, *CILS], "T3", "task123", by=CLOSE),
        study=CAMVID,
    ),
    Finding(
        "RESULTS.md",
        "All three are below CIL in Task 1∪2∪3.",
        lead("CIL", LATER, "T3", "task123"),
    ),
    Finding(
        "RESULTS.md",
        "In Task 1 they are within two points of CIL or above it.",
        lambda s: 2 + min(s(m, "T3", "task1") for m in LATER) - s("CIL", "T3", "task1"),
    ),
    Finding(
        "RESULTS.md",
        "ILT is below Michieli in Task 1∪2∪3",
        lead("Michieli", ["ILT"], "T3", "task123"),
    ),
    Finding(
        "RESULTS.md",
        "MiB is the lowest of the three in Task 1∪2 after T2",
        lambda s: min(s(m, "T2", "task12") for m in ("ILT", "PLOP")) - s("MiB", "T2", "task12"),
    ),
    Finding(
        "RESULTS.md",
        "PLOP is the lowest in Task 2.",
        lambda s: min(s(m, "T2", "task2") for m in ("ILT", "MiB")) - s("PLOP", "T2", "task2"),
    ),
    # 13_after_the_paper
    Finding(
        "13_after_the_paper",
        "All three keep Task 1 nearly as well as CIL or better.",
        lambda s: 2 + min(s(m, "T3", "task1") for m in LATER) - s("CIL", "T3", "task1"),
    ),
    Finding(
        "13_after_the_paper",
        "But all three learn less of Task 2 in T2 than CIL,",
        lead("CIL", LATER, "T2", "task2"),
    ),
    Finding(
        "13_after_the_paper",
        "and are below it across all tasks after T3.",
        lead("CIL", LATER, "T3", "task123"),
    ),
    Finding(
        "13_after_the_paper",
        "ILT is below Michieli in Task 1∪2∪3.",
        lead("Michieli", ["ILT"], "T3", "task123"),
    ),
]
