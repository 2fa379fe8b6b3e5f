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
    # 05_train_t1
    Finding(
        "05_train_t1",
        "On Toyscapes with `quick` SS is far better in Task 1 than in Task 2, as in the paper.",
        lambda s: min(s("SS", t, "task1") - s("SS", t, "task2") for t in ("T2", "T3")) - MUCH,
    ),
    Finding(
        "05_train_t1",
        "On Toyscapes with `quick` SS up to T2 is better than T1 in Task 1, as in the paper, "
        "although it has more to learn.",
        lambda s: s("SS", "T2", "task1") - s("T1", "T1", "task1"),
    ),
    Finding(
        "05_train_t1",
        "Also, SS up to T3 is better than SS up to T2 in Task 1∪2.",
        lambda s: s("SS", "T3", "task12") - s("SS", "T2", "task12"),
    ),
    # 06_ft_fe
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick` FT loses much of Task 1 in stage T2.",
        lambda s: s("T1", "T1", "task1") - s("FT", "T2", "task1") - MUCH,
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
        lambda s: min(s("SS", "T2", "task12") - s(m, "T2", "task12") for m in ("FT", "FE")) - MUCH,
    ),
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick` FT loses much of Task 2 in stage T3, as in the paper, and its "
        "newest task is its best.",
        lambda s: min(
            s("FT", "T2", "task2") - s("FT", "T3", "task2") - MUCH,
            s("FT", "T3", "task3") - max(s("FT", "T3", t) for t in ("task1", "task2")),
        ),
    ),
    Finding(
        "06_ft_fe",
        "On Toyscapes with `quick` its gap to FT in Task 3 is smaller.",
        lambda s: (56.5 - 37.4) - (s("FT", "T3", "task3") - s("FE", "T3", "task3")),
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
        lambda s: s("LWOF", "T2", "task2") - s("FE", "T2", "task2"),
        on_the_mean=True,
    ),
    Finding(
        "07_lwof",
        "LWOF is far below SS in Task 1∪2, as in the paper.",
        lambda s: s("SS", "T2", "task12") - s("LWOF", "T2", "task12") - MUCH,
    ),
    Finding(
        "07_lwof",
        "On average it is also below FE, which contradicts the paper",
        lambda s: s("FE", "T2", "task12") - s("LWOF", "T2", "task12"),
        on_the_mean=True,
    ),
    Finding(
        "07_lwof",
        "On Toyscapes with `quick` LWOF, too, holds Task 1 far better than FT, and it is the best "
        "of the three in Task 3.",
        lambda s: min(
            s("LWOF", "T3", "task1") - s("FT", "T3", "task1") - MUCH,
            s("LWOF", "T3", "task3") - max(s(m, "T3", "task3") for m in ("FT", "FE")),
        ),
    ),
    Finding(
        "07_lwof",
        "On Toyscapes with `quick` LWOF is below FE in Task 1∪2∪3, and both are far below SS.",
        lambda s: min(
            s("FE", "T3", "task123") - s("LWOF", "T3", "task123"),
            s("SS", "T3", "task123") - s("FE", "T3", "task123") - MUCH,
        ),
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
