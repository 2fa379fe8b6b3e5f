"""The questions of the notebooks: Markdown cells with the tag `quiz`, each answer a <details>.

A browser opens and closes these by itself, so a question works in a notebook that is not executed,
without scripts and network, by mouse and by keyboard. CONTRIBUTING.md has the form.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
FIGURE = re.compile(r"\b(plots|widgets)\.\w")  # in a cell that shows one
TASK = re.compile(r"\*\*Question (?P<number>\d)[.,][^*]*\*\* .*\S", re.DOTALL)
ANSWER = re.compile(
    r"<details><summary>(?P<text>[^\n]+)</summary>\n\n"
    r"\*\*(?P<verdict>Right|Not quite)\.\*\* (?P<reason>.+)\n\n"
    r"</details>",
    re.DOTALL,
)
# Markdown and formulas are not set within <summary>, neither on the site nor on every other page
PLAIN = re.compile(r"([^<>$`*]|</?(code|sub|sup|i)>)+")
EXAMPLE = """**Question 1.** What is $y$?

<details><summary>It is <code>x</code>.</summary>

**Not quite.** It was so before the softmax, and 0 < x.

</details>
<details><summary>It is x<sub>1</sub>.</summary>

**Right.** The softmax divides by the sum.

</details>"""


@dataclass
class Question:
    number: int
    right: list[bool]  # of each answer, in their order
    lengths: list[int]


def read(source: str) -> Question:
    """The question of a cell. Raises ValueError for one that a page would not show as it should."""
    head, *rest = re.split(r"\n+(?=<details>)", source)
    task, answers = TASK.fullmatch(head), [ANSWER.fullmatch(part) for part in rest]
    if task is None or not all(answers):
        raise ValueError("not of the form that CONTRIBUTING.md shows")
    right = [answer["verdict"] == "Right" for answer in answers]
    if len(set(right)) < 2:
        raise ValueError("wanted a right answer and a wrong one, at least")
    for answer in answers:
        if not PLAIN.fullmatch(answer["text"]):
            raise ValueError(f"wanted plain text, <code>, <sub>, <sup> or <i>: {answer['text']}")
        if len(answer["reason"].split()) < 5:
            raise ValueError(f"gives no reason: {answer['reason']}")
    return Question(int(task["number"]), right, [len(answer["text"]) for answer in answers])


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def test_a_question_is_read_with_its_answers():
    assert read(EXAMPLE) == Question(1, [False, True], [21, 20])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("Question 1.", "Question.", "form"),
        ("</summary>\n\n**Right", "</summary>\n**Right", "form"),  # would not be Markdown
        ("sum.\n\n</details>", "sum.\n</details>", "form"),
        ("\n\n</details>\n<details>", "\n\n<details>", "form"),
        ("**Right.**", "**Correct.**", "form"),
        ("**Right.**", "**Not quite.**", "a right answer and a wrong one"),
        ("**Not quite.**", "**Right.**", "a right answer and a wrong one"),
        ("It is x<sub>", "It is $x$<sub>", "plain text"),
        ("<code>x</code>", "`x`", "plain text"),
        ("<code>x</code>", "<em>x</em>", "plain text"),
        ("The softmax divides by the sum.", "It is so.", "no reason"),
    ],
)
def test_a_question_that_a_page_would_not_show_is_found(old, new, complaint):
    assert EXAMPLE.count(old) == 1
    with pytest.raises(ValueError, match=complaint):
        read(EXAMPLE.replace(old, new))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_asks_three_or_four_questions_one_of_them_on_a_figure(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    places = [k for k, cell in enumerate(cells) if tagged(cell, "quiz")]
    found = [read(cells[k].source) for k in places]
    assert [question.number for question in found] in ([1, 2, 3], [1, 2, 3, 4])
    on_figures = [k for k in places if tagged(cells[k], "figure")]
    assert on_figures
    for k in on_figures:
        assert FIGURE.search(cells[k - 1].source), f"{cells[k].id} stands below no figure"
    # neither by their place nor by their length
    assert len({question.right.index(True) for question in found}) > 1, "right ones can be guessed"
    longest = [q.right[q.lengths.index(max(q.lengths))] for q in found]
    assert not all(longest), "right answers can be guessed: each is the longest"
