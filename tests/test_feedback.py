"""What the check of an exercise accepts, and what it says otherwise."""

import re

import nbformat
import numpy as np
import pandas as pd
import papermill as pm
import pytest
import torch

from cilkit import VOID, belongs, feedback
from cilkit.classes import HIDDEN
from cilkit.explore.feedback import NotYet, answer_of, same
from cilkit.splits import load_split

SPLIT = load_split("cityscapes")
STAGE = SPLIT.stages[1]
LABELS = torch.tensor([[0, STAGE.new.start, VOID], [STAGE.new.start, HIDDEN, 1]])
MASK = ~belongs(LABELS, STAGE.new)  # eq. (9)
NO_VOID = belongs(torch.where(MASK, LABELS, VOID), STAGE.old)
HINTS = {"It is turned round.": ~MASK, "The teacher may speak at VOID pixels, too.": NO_VOID}
VALUES = torch.tensor([0.25, 0.5, float("nan"), float("inf")])


@pytest.mark.parametrize(
    ("mine", "right"),
    [
        (MASK, MASK),
        (MASK.float(), MASK),
        (MASK.int().tolist(), MASK),
        (MASK.numpy(), MASK),
        (VALUES, VALUES),
        (VALUES.double() * (1 + 1e-6), VALUES),
        (VALUES.clone().requires_grad_(), VALUES),
        (1, True),
        (0.3, 0.1 + 0.2),
        (np.float32(0.3), 0.3),
        (torch.tensor([[0.3]]), 0.3),
        ([torch.tensor(1.0), torch.tensor(2.0)], [1, 2]),
        (pd.Series([1, 2]), torch.tensor([1, 2])),
        (torch.zeros(0, 2), torch.zeros(0, 2)),
        ("T2", "T2"),
        ({1, 2}, {2, 1}),
        ({"mkd": torch.tensor(1.0), "ce": 0.5}, {"ce": 0.5, "mkd": 1}),
    ],
)
def test_every_form_of_a_right_answer_is_right(mine, right, capsys):
    same(mine, right)
    assert capsys.readouterr().out == "right\n"


@pytest.mark.parametrize(
    ("mine", "right", "said"),
    [
        (MASK[:, :2], MASK, "yours has the shape (2, 2), wanted (2, 3)."),
        (MASK[None], MASK, "yours has the shape (1, 2, 3), wanted (2, 3)."),
        (~MASK, MASK, "6 of 6 values differ, the first at row 0, column 0: yours is False, "
                      "wanted True."),
        ([1, 2, 4], [1, 2, 3], "1 of 3 values differ, the first at place 2: yours is 4, wanted 3."),
        (torch.full((1, 2, 2, 2), 0.5), torch.full((1, 2, 2, 2), 0.25), "8 of 8 values differ, "
         "the first at image 0, channel 0, row 0, column 0: yours is 0.5, wanted 0.25."),
        (torch.zeros(2, 1, 1), torch.tensor([[[0]], [[1]]]), "1 of 2 values differ, the first at "
         "first index 1, row 0, column 0: yours is 0, wanted 1."),
        (torch.zeros(4), VALUES, "4 of 4 values differ, the first at place 0: yours is 0, wanted "
                                 "0.25."),
        (1_000_001, 1_000_000, "yours is 1000001, too high."),
        (1.5, 2.5, "yours is 1.5, too low."),
        (float("nan"), 2.5, "yours is nan, not it."),
        ("2.5", 2.5, "yours is of type str, wanted numbers of shape ()."),
        ([[1], [1, 2]], [1, 2], "yours is of type list, wanted numbers of shape (2,)."),
        (..., MASK, "yours is of type ellipsis, wanted numbers of shape (2, 3)."),
        ("T3", "T2", "yours is 'T3'."),
        ([0.5, 1], {"ce": 0.5, "mkd": 1}, "wanted a dictionary with the names ['ce', 'mkd'], yours "
                                          "is list."),
        ({"ce": 0.5}, {"ce": 0.5, "mkd": 1}, "wanted a dictionary with the names ['ce', 'mkd'], "
                                             "yours is ['ce']."),
        ({"ce": 0.5, "mkd": 2}, {"ce": 0.5, "mkd": 1}, "mkd: yours is 2, too high."),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_where_and_how_it_differs(mine, right, said):
    with pytest.raises(NotYet) as error:
        same(mine, right)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("pixel", "name"),
    [((0, 0), "road"), ((0, 1), "building"), ((0, 2), "void"), ((1, 1), "hidden")],
)
@pytest.mark.parametrize("before", [(), (2,), (2, 3)], ids=["H W", "B H W", "B S H W"])
def test_the_class_of_the_first_wrong_pixel_is_named(pixel, name, before):
    labels = LABELS.expand(2, *LABELS.shape) if before else LABELS
    if before:
        labels = torch.stack([torch.full_like(LABELS, VOID), LABELS])
    right = torch.zeros(*before, *LABELS.shape)
    wrong = right.clone()
    wrong[(*(size - 1 for size in before), *pixel)] = 1
    with pytest.raises(NotYet, match=rf"row {pixel[0]}, column {pixel[1]} \({name}\): yours is 1"):
        same(wrong, right, labels, SPLIT)


def test_the_channels_of_one_image_and_a_row_of_labels_are_named_too():
    right = torch.zeros(4, *LABELS.shape)
    wrong = right.index_fill(0, torch.tensor(3), 1)
    with pytest.raises(NotYet, match=r"first index 3, row 0, column 0 \(road\)"):
        same(wrong, right, LABELS, SPLIT)
    with pytest.raises(NotYet, match=r"at place 2 \(void\)"):
        same([True, False, False], MASK[0], LABELS[0], SPLIT)


def test_a_typical_mistake_gets_its_hint_and_another_one_none():
    for wrong, hint in zip([~MASK, NO_VOID], HINTS, strict=True):
        with pytest.raises(NotYet, match=rf"wanted (True|False)\. {re.escape(hint)}$"):
            same(wrong, MASK, LABELS, SPLIT, HINTS)
    with pytest.raises(NotYet, match=r"wanted True\.$"):
        same(torch.zeros_like(MASK), MASK, LABELS, SPLIT, HINTS)


def test_the_tolerance_is_the_callers():
    same(1.609, 1.60944, tolerance=1e-3)
    with pytest.raises(NotYet, match="too low"):
        same(1.609, 1.60944)


def test_an_exercise_that_is_not_filled_in_is_neither_right_nor_wrong(capsys):
    def stub(labels, new): ...

    same(answer_of(stub, LABELS, STAGE.new), MASK)
    assert capsys.readouterr().out == "no answer yet (None)\n"


def test_an_argument_that_is_changed_in_place_is_noticed_and_not_spoiled():
    def in_place(labels, new):
        labels[belongs(labels, new)] = VOID
        return labels

    def reshaped(new, x):
        return x.unsqueeze_(0)

    before = LABELS.clone()
    with pytest.raises(NotYet, match="argument 1 was changed in place"):
        answer_of(in_place, LABELS, STAGE.new)
    with pytest.raises(NotYet, match="argument 2 was changed in place"):
        answer_of(reshaped, STAGE.new, VALUES)
    assert LABELS.equal(before)
    assert answer_of(lambda x: x, VALUES).equal(VALUES.clone()) is False  # nan, and no complaint


def test_gradients_pass_through_the_arguments_of_an_answer():
    z = torch.tensor([1.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(answer_of(lambda x: (x**2).sum(), z), z)
    assert gradient.tolist() == [2, 4]


def test_a_notebook_shows_the_sentence_alone(tmp_path):
    code = "from cilkit import feedback\nfeedback.same([1, 2, 4], [1, 2, 3])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with pytest.raises(pm.PapermillExecutionError):
        pm.execute_notebook(
            tmp_path / "in.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False
        )
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    (error,) = [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]
    said = "1 of 3 values differ, the first at place 2: yours is 4, wanted 3."
    assert error.traceback == [f"Not yet: {said}"]
    assert feedback.NotYet is NotYet and error.ename == "NotYet"
