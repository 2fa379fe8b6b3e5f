"""What the notebooks say about our own runs is true of the reference scores.

A sentence about results is written down here once more, with a margin that is positive where it
holds. A new measurement that changes the story fails here, and names the sentence to rewrite.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cilkit.results import reference
from cilkit.results.claims import CLOSE, Claim, Scores, check
from cilkit.results.scores import paper_scores

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@dataclass(frozen=True)
class Finding:
    """A sentence of a notebook or page about the reference of a data set and preset.

    It must hold with the whole 95 % interval, or on the mean alone where it says no more.
    """

    place: str  # a notebook's name without ending
    sentence: str
    margin: Callable[[Scores], float]
    on_the_mean: bool = False
    study: tuple[str, str] = ("toyscapes", "quick")


OTHERS = ("FT", "FE", "LWOF", "LWM", "Michieli")
PLAIN = "CIL (w/o weights)"


def cost(s: Scores, stage: str, task: str) -> float:
    """What the entropy weights cost: CIL without weights minus CIL."""
    return s(PLAIN, stage, task) - s("CIL", stage, task)


FINDINGS = [
    # 00_start_here
    Finding(
        "00_start_here",
        "after T3 CIL is ahead of FT, FE, LWOF, LWM and Michieli across all tasks.",
        lambda s: s("CIL", "T3", "task123") - max(s(m, "T3", "task123") for m in OTHERS),
    ),
    Finding(
        "00_start_here",
        "It does not show that CIL ends close to SS",
        lambda s: s("SS", "T3", "task123") - s("CIL", "T3", "task123") - CLOSE,
    ),
    # 02_erfnet
    # 04_metrics
    # 05_train_t1
    # 06_ft_fe
    # 07_lwof
    # 08_lwm
    # 09_michieli
    # 10_cil
    # 11_entropy_weights
    Finding(
        "11_entropy_weights",
        "the weights cost in Task 2 after T2, and more than in the paper.",
        lambda s: cost(s, "T2", "task2") - (65.8 - 63.9),
    ),
    Finding(
        "11_entropy_weights",
        "On average they cost in Task 3 after T3, too",
        lambda s: cost(s, "T3", "task3"),
        on_the_mean=True,
    ),
    Finding(
        "11_entropy_weights",
        "In return less of Task 2 is forgotten in T3, as in the paper.",
        lambda s: cost(s, "T2", "task2") - cost(s, "T3", "task2"),
    ),
    Finding(
        "11_entropy_weights",
        "That does not bring the paper's gain in Task 2 after T3 (57.8 beside 52.7)",
        lambda s: 57.8 - 52.7 + cost(s, "T3", "task2"),
    ),
    Finding(
        "11_entropy_weights",
        "the weights cost less across all three tasks after T3 than across two after T2.",
        lambda s: cost(s, "T2", "task12") - cost(s, "T3", "task123"),
    ),
    # 12_results
    Finding(
        "12_results",
        "FE learns Task 2 less well than FT, as in the paper.",
        lambda s: s("FT", "T2", "task2") - s("FE", "T2", "task2"),
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
        lambda s: s(PLAIN, "T2", "task12") - max(s(m, "T2", "task12") for m in OTHERS[2:]),
    ),
    Finding(
        "12_results",
        "But there Michieli is behind LWM:",
        lambda s: s("LWM", "T2", "task12") - s("Michieli", "T2", "task12"),
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
        "CIL loses less of Task 2 in T3 than CIL without weights does, as in the paper",
        lambda s: cost(s, "T2", "task2") - cost(s, "T3", "task2"),
    ),
    Finding(
        "12_results",
        "CIL is better than FT, FE, LWOF, LWM and Michieli across all tasks after T3.",
        lambda s: s("CIL", "T3", "task123") - max(s(m, "T3", "task123") for m in OTHERS),
    ),
    Finding(
        "12_results",
        "It does not confirm that CIL ends close to SS.",
        lambda s: s("SS", "T3", "task123") - s("CIL", "T3", "task123") - CLOSE,
    ),
    Finding(
        "12_results",
        "Of the claims about the weights the first holds, by more than in the paper",
        lambda s: cost(s, "T2", "task12") - (68.8 - 67.7),
    ),
]


def prose(place: str) -> str:
    """The text of a notebook, or of a page of the project, in one line."""
    if place.endswith(".md"):
        text = (NOTEBOOKS.parent / place).read_text(encoding="utf-8")
    else:
        cells = json.loads((NOTEBOOKS / f"{place}.ipynb").read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda f: f"{f.place}: {f.sentence[:60]}")
def test_a_finding_stands_in_the_text_and_holds_on_the_reference(finding):
    assert " ".join(finding.sentence.split()) in prose(finding.place)
    found = reference.load(*finding.study)
    (row,) = check(found, [Claim(finding.sentence, finding.place, finding.margin)]).itertuples()
    told = f"margin {row.margin:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
    if finding.on_the_mean:
        assert row.margin > 0, told
    else:
        assert row.verdict == "holds", told


# no digits of our own runs in the text

OURS = re.compile(r"`quick`|`long`|Toyscapes|reference|\bour runs?\b")
NO_RESULT = [  # digits that are no measurement
    r"\$[^$]*\$",  # mathematics
    r"`[^`]*`",  # code, names of notebooks
    r"\]\([^)]*\)",  # links
    r"Tasks? \d(∪\d)*(,? (and|or) Task \d)?",
    r"\b(T|S|D)\d\b",
    r"eqs?\. ?\(\d+\)(( and|,| to) \(\d+\))*",
    r"(notebooks?|[Ee]xercises?|footnotes?|Fig\.|section) \d+((,| and| to) \d+)*",
    r"\(\d\d\)",  # a notebook in brackets
    r"95 (%|of 100)",
    r"\b\d\d? [·]",
]


def own_digits(paragraph: str) -> list[str]:
    """The numbers of a paragraph about our own runs that are neither the paper's nor names."""
    if not OURS.search(paragraph):
        return []
    for pattern in NO_RESULT:
        paragraph = re.sub(pattern, " ", paragraph)
    published = {f"{value:.1f}" for value in paper_scores().stack()}
    return [number for number in re.findall(r"\d+(?:\.\d+)?", paragraph) if number not in published]


def test_digits_of_our_own_runs_are_found():
    text = "On Toyscapes with `quick` CIL has 48.1 in Task 1∪2 (eq. (9), notebook 07; paper: 67.7)."
    assert own_digits(text) == ["48.1"]
    assert own_digits("CIL has 48.1 in the paper.") == []


NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NAMES)
def test_the_text_of_a_notebook_has_no_digits_of_our_own_runs(notebook):
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = {
        paragraph: digits
        for text in texts
        for paragraph in re.split(r"\n\n|\n- ", text)
        if (digits := own_digits(paragraph))
    }
    assert not found
    for phrase in ("(seed 0)", "seeds 0 ", "one run)", "seed 1)"):
        assert not [text for text in texts if phrase in text], phrase
