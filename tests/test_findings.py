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
from cilkit.results.claims import Claim, Scores, check
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


FINDINGS: list[Finding] = []


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
