"""What the notebooks say about our own runs is true of the reference scores.

A sentence about results is written down once more in `findings.py`, with a margin that is positive
where it holds. A new measurement that changes the story fails here, and names the sentence to
rewrite.
"""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from findings import FINDINGS, lead

from cilkit.results import reference, report
from cilkit.results.claims import CLOSE, Claim, check
from cilkit.results.scores import paper_scores
from cilkit.study import runs

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


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
        assert row.verdict == ("undecided" if finding.undecided else "holds"), told


def test_with_long_the_gap_between_cil_and_ss_is_smaller_than_with_quick():
    assert "the gap is smaller than with `quick`" in prose("RESULTS.md")
    gap = Claim("gap", "RESULTS.md", lead("SS", ["CIL"], "T3", "task123"))
    quick, long = (check(reference.load("toyscapes", p), [gap]).iloc[0] for p in ("quick", "long"))
    assert long["high"] < quick["low"]


def test_one_run_of_ft_and_ss_decides_across_the_tasks_and_not_in_task_2():
    assert "The differences of the five seeds have both signs." in prose("05_train_t1")
    assert "all five have the same sign" in prose("05_train_t1")
    measured = runs.scores(reference.load("toyscapes", "quick"))
    of_seed = measured[measured["stage"] == "T2"].set_index(["task", "method", "seed"])["miou"]
    task2, task12 = (of_seed[t, "FT"] - of_seed[t, "SS"] for t in ("task2", "task12"))
    assert len(task2) == len(task12) == 5
    assert task2.min() < 0 < task2.max() and abs(task2.mean()) < task2.std()
    assert task12.max() < 0 and abs(task12.mean()) > 5 * task12.std()


# sentences about benchmarks/variants.csv and weights.csv: methods with one part changed

MASKED = "MiB, masked"
LIKE_CIL = "MiB, masked, distillation of weight 1"
AGAIN = "CIL, the second class of T1 labelled again"
BALANCE, ATTENTION = "CIL, balance alone", "CIL, attention alone"
COSTS_MORE = "In Task 2 balance costs more than attention, on the mean."


def cost_of(s: pd.Series, variant: str, task: str) -> float:
    """What weights cost beside CIL without weights."""
    return s["CIL (w/o weights)", task] - s[variant, task]


VARIANTS = [
    (
        "weights",
        COSTS_MORE,
        lambda s: cost_of(s, BALANCE, "task2") - cost_of(s, ATTENTION, "task2"),
    ),
    (
        "weights",
        "Both together cost about the sum of the two.",
        lambda s: (
            1
            - abs(
                cost_of(s, "CIL", "task2")
                - cost_of(s, BALANCE, "task2")
                - cost_of(s, ATTENTION, "task2")
            )
        ),
    ),
    (
        "weights",
        "In Task 1∪2 each of them costs less than both.",
        lambda s: (
            cost_of(s, "CIL", "task12")
            - max(cost_of(s, BALANCE, "task12"), cost_of(s, ATTENTION, "task12"))
        ),
    ),
    (
        "variants",
        "With a hundredth of its local POD, PLOP is close to CIL in Task 1∪2.",
        lambda s: CLOSE - abs(s["PLOP, POD times 0.01", "task12"] - s["CIL", "task12"]),
    ),
    (
        "variants",
        "The mask of eq. (9) brings MiB more than 10 points in Task 1∪2.",
        lambda s: s[MASKED, "task12"] - s["MiB", "task12"] - 10,
    ),
    (
        "variants",
        "Even with the mask and the weight of eq. (9) it stays below CIL.",
        lambda s: s["CIL", "task12"] - s[LIKE_CIL, "task12"],
    ),
    (
        "variants",
        "A class that is labelled again helps Task 1, and costs Task 2 more, on the mean.",
        lambda s: min(
            gain := s[AGAIN, "task1"] - s["CIL", "task1"],
            s["CIL", "task2"] - s[AGAIN, "task2"] - gain,
        ),
    ),
]


def test_notebook_11_says_which_of_the_two_effects_costs_more():
    assert COSTS_MORE in prose("11_entropy_weights")


@pytest.mark.parametrize(
    ("group", "sentence", "margin"), VARIANTS, ids=[text[:40] for _, text, _ in VARIANTS]
)
def test_a_sentence_about_variants_of_a_method_holds_on_the_mean(group, sentence, margin):
    assert sentence in prose("RESULTS.md")
    scores = pd.read_csv(report.BENCHMARKS / f"{group}.csv").drop(
        columns=["data", "preset", "seed"]
    )
    assert margin(scores.groupby("variant").mean().stack()) > 0


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


FILES = [*sorted(NOTEBOOKS.glob("*.ipynb")), NOTEBOOKS.parent / "book" / "lecture.ipynb"]


@pytest.mark.parametrize("notebook", FILES, ids=lambda file: file.stem)
def test_the_text_of_a_notebook_has_no_digits_of_our_own_runs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
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
