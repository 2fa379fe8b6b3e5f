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
from cilkit.results.claims import CLOSE, MUCH, Claim, Scores, check
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


FINDINGS: list[Finding] = [
    # 08_lwm
    Finding(
        "08_lwm",
        "On Toyscapes with `quick` LWM is better than LWOF in Task 1∪2, as in the paper.",
        lambda s: s("LWM", "T2", "task12") - s("LWOF", "T2", "task12"),
    ),
    Finding(
        "08_lwm",
        "In Task 1 the two are close, as there.",
        lambda s: CLOSE - abs(s("LWM", "T2", "task1") - s("LWOF", "T2", "task1")),
    ),
    Finding(
        "08_lwm",
        "LWM is much better than LWOF in Task 1∪2 and in Task 1∪2∪3, as in the paper.",
        lambda s: min(
            s("LWM", "T3", task) - s("LWOF", "T3", task) - MUCH for task in ("task12", "task123")
        ),
    ),
    Finding(
        "08_lwm",
        "It also keeps more of Task 2 between the two stages, as there.",
        lambda s: (
            (s("LWM", "T3", "task2") - s("LWM", "T2", "task2"))
            - (s("LWOF", "T3", "task2") - s("LWOF", "T2", "task2"))
        ),
    ),
    Finding(
        "08_lwm",
        "In Task 3 LWM is worse than LWOF, by more than in the paper (62.0 against 64.5).",
        lambda s: s("LWOF", "T3", "task3") - s("LWM", "T3", "task3") - (64.5 - 62.0),
    ),
    Finding(
        "08_lwm",
        "The second teacher, which starts at random, is worse than LWOF there, too.",
        lambda s: s("LWOF", "T3", "task3") - s("LWM teacher", "T3", "task3"),
    ),
    Finding(
        "08_lwm",
        "The lead of SS over LWM in Task 1∪2∪3 is wider than the paper's (64.4 against 52.6).",
        lambda s: s("SS", "T3", "task123") - s("LWM", "T3", "task123") - (64.4 - 52.6),
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
        lambda s: s("Michieli", "T2", "task12") - s("LWOF", "T2", "task12"),
    ),
    Finding(
        "09_michieli",
        "But it is worse than LWM there, although it has labels for all classes.",
        lambda s: s("LWM", "T2", "task12") - s("Michieli", "T2", "task12"),
    ),
    Finding(
        "09_michieli",
        "Michieli is better than LWOF and LWM in Task 1 after T3.",
        lambda s: s("Michieli", "T3", "task1") - max(s(m, "T3", "task1") for m in ("LWOF", "LWM")),
    ),
    Finding(
        "09_michieli",
        "Its Task 2 rises between T2 and T3.",
        lambda s: s("Michieli", "T3", "task2") - s("Michieli", "T2", "task2"),
    ),
    Finding(
        "09_michieli",
        "Its Task 3 is the lowest of all methods in the figure.",
        lambda s: (
            min(s(m, "T3", "task3") for m in ("FT", "FE", "LWOF", "LWM", "SS"))
            - s("Michieli", "T3", "task3")
        ),
    ),
    Finding(
        "09_michieli",
        "In Task 1∪2∪3 it is better than LWOF,",
        lambda s: s("Michieli", "T3", "task123") - s("LWOF", "T3", "task123"),
    ),
    Finding(
        "09_michieli",
        "and on average also better than LWM.",
        lambda s: s("Michieli", "T3", "task123") - s("LWM", "T3", "task123"),
        on_the_mean=True,
    ),
    # 10_cil
    Finding(
        "10_cil",
        "CIL without weights is better than Michieli, LWOF, FE and FT, although it sees none of "
        "Michieli's old labels.",
        lambda s: (
            s("CIL (w/o weights)", "T2", "task12")
            - max(s(m, "T2", "task12") for m in ("Michieli", "LWOF", "FE", "FT"))
        ),
    ),
    Finding(
        "10_cil",
        "With them both Task 1∪2 and Task 2 are lower.",
        lambda s: min(
            s("CIL (w/o weights)", "T2", task) - s("CIL", "T2", task)
            for task in ("task12", "task2")
        ),
    ),
    Finding(
        "10_cil",
        "LWM is close to CIL with weights; the paper has it further behind (62.5 against 67.7).",
        lambda s: CLOSE - abs(s("CIL", "T2", "task12") - s("LWM", "T2", "task12")),
    ),
    Finding(
        "10_cil",
        "On Toyscapes with `quick` the main result of the paper holds: CIL is better than "
        "Michieli, LWM, LWOF, FE and FT in Task 1∪2∪3.",
        lambda s: (
            s("CIL", "T3", "task123")
            - max(s(m, "T3", "task123") for m in ("Michieli", "LWM", "LWOF", "FE", "FT"))
        ),
    ),
    Finding(
        "10_cil",
        "As in the paper, it is ahead of Michieli and LWM in Task 3",
        lambda s: s("CIL", "T3", "task3") - max(s(m, "T3", "task3") for m in ("Michieli", "LWM")),
    ),
    Finding(
        "10_cil",
        "*Task 2* is an old task now, and LWM is better there than CIL;",
        lambda s: s("LWM", "T3", "task2") - s("CIL", "T3", "task2"),
    ),
    Finding(
        "10_cil",
        "*The gap to SS* in Task 1∪2∪3 is wider than the paper's (64.4 against 62.2).",
        lambda s: s("SS", "T3", "task123") - s("CIL", "T3", "task123") - (64.4 - 62.2),
    ),
    Finding(
        "10_cil",
        "with and without them CIL is close in Task 1∪2∪3, where the paper gains",
        lambda s: CLOSE - abs(s("CIL", "T3", "task123") - s("CIL (w/o weights)", "T3", "task123")),
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
    r"95 %",
    r"95 of 100 further seeds",
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
