import math
from dataclasses import replace

import pytest
import torch

from cilkit.classes import VOID
from cilkit.data.images import evenly_spaced
from cilkit.explore import pixels
from cilkit.explore.pixels import Answers, class_entropy, loss_at_pixel, weights
from cilkit.losses import entropy_weight
from cilkit.methods import METHODS, Step


@pytest.fixture
def step():
    """Two old and two new classes, two pixels: one labelled with the first new class, one void."""
    votes = torch.tensor([[3.0, 1, 4, 2], [6, 2, 1, 1]])  # (pixels, S)
    teacher = torch.tensor([[0.5, 0.5], [0.75, 0.25]])  # (pixels, O)
    return Step(
        votes.log().T[None, :, None],  # (1, S, 1, pixels)
        torch.tensor([[[2, VOID]]]),
        teacher.T[None, :, None],
        slice(0, 2),
        slice(2, 4),
    )


# weights


def test_weights_at_temperature_and_strength_1_are_those_of_eq_10():
    logits = torch.randn(5, 3, 4)
    assert weights(logits).equal(entropy_weight(logits.softmax(dim=0)[None])[0])


def test_strength_multiplies_what_is_above_1():
    logits = torch.zeros(4, 1, 1)  # no idea among four classes: 2 bits
    assert weights(logits, strength=0).item() == 1
    assert weights(logits, strength=3).item() == pytest.approx(7)


def test_a_hot_teacher_knows_nothing_and_a_cold_one_has_no_doubt():
    logits = torch.tensor([2.0, 1, 0, -1]).view(4, 1, 1)
    assert weights(logits, temperature=1e4).item() == pytest.approx(3, abs=1e-4)
    assert weights(logits, temperature=1e-2).item() == pytest.approx(1, abs=1e-4)


def test_class_entropy_is_the_mean_over_the_pixels_of_each_class(scenes, tiny, make_network):
    images = scenes.test_set("T3", height=16, native_labels=False)
    answers = Answers(make_network(5), images, tiny)
    table = class_entropy(answers, scenes.split, [0.5, 1.0])
    values: dict[int, list[float]] = {}
    for index in range(len(images)):
        bits = weights(answers[index], 0.5) - 1
        for label, value in zip(images[index][1].flatten(), bits.flatten(), strict=True):
            values.setdefault(int(label), []).append(value.item())
    for channel, name in enumerate(scenes.split.names()):
        if channel in values:
            mean = sum(values[channel]) / len(values[channel])
            assert table.loc[0.5, name] == pytest.approx(mean, rel=1e-5)
        else:
            assert math.isnan(table.loc[0.5, name])
    assert table.notna().any(axis=None) and list(table.index) == [0.5, 1.0]


@pytest.mark.parametrize(("n", "most"), [(1, 60), (59, 60), (62, 60), (500, 60)])
def test_indices_are_spread_from_the_first_to_the_last_image(n, most):
    chosen = evenly_spaced(n, most)
    assert len(chosen) == len(set(chosen)) == min(n, most)
    assert chosen[0] == 0 and chosen[-1] == n - 1
    assert n == 1 or max(b - a for a, b in zip(chosen, chosen[1:], strict=False)) <= n // most + 1


# answers


def test_a_network_is_asked_once_for_each_image(scenes, tiny, make_network, monkeypatch):
    asked = []
    images = scenes.test_set("T1", height=16, native_labels=False)
    monkeypatch.setattr(
        pixels, "predict", lambda network, x, config: asked.append(x) or torch.zeros(1, 5, 16, 32)
    )
    answers = Answers(make_network(5), images, tiny)
    assert len(answers) == len(images)
    assert answers[0].shape == (5, 16, 32)
    assert [answers[i] is answers[i] for i in (0, 1)] == [True, True] and len(asked) == 2


def test_scores_that_are_no_numbers_are_named(scenes, tiny, make_network):
    network = make_network(5)
    network.decoder.output_conv.bias.data[0] = float("nan")
    answers = Answers(network, scenes.test_set("T1", height=16, native_labels=False), tiny)
    with pytest.raises(ValueError, match="NaN or infinite scores for image 1; .* train it again"):
        answers[1]


@pytest.mark.parametrize("index", [-1, 10**6])
def test_an_image_that_is_not_there_is_refused(scenes, tiny, make_network, index):
    answers = Answers(make_network(5), scenes.test_set("T1", height=16), tiny)
    with pytest.raises(IndexError, match=f"image {index} of .* a number from 0 to"):
        answers[index]


# one pixel


def test_cil_asks_the_label_at_a_new_pixel_and_the_teacher_elsewhere(step):
    at_new = loss_at_pixel(METHODS["CIL (w/o weights)"], step, 0, 0)
    assert at_new.terms == pytest.approx({"ce": -math.log(0.4), "mkd": 0}, rel=1e-6)
    assert at_new.negative_gradient.tolist() == pytest.approx([-0.3, -0.1, 1 - 0.4, -0.2], abs=1e-6)
    elsewhere = loss_at_pixel(METHODS["CIL (w/o weights)"], step, 0, 1)
    mkd = -0.75 * math.log(0.6) - 0.25 * math.log(0.2)
    assert elsewhere.terms == pytest.approx({"ce": 0, "mkd": mkd}, rel=1e-6)
    assert elsewhere.negative_gradient.tolist() == pytest.approx([0.15, 0.05, -0.1, -0.1], abs=1e-6)


def test_the_weights_of_cil_multiply_term_and_push(step):
    alpha = weights(step.teacher[0].log())[0, 1].item()
    plain, weighted = (loss_at_pixel(METHODS[m], step, 0, 1) for m in ("CIL (w/o weights)", "CIL"))
    assert alpha > 1.5
    assert weighted.terms["mkd"] == pytest.approx(alpha * plain.terms["mkd"], rel=1e-6)
    assert weighted.negative_gradient.tolist() == pytest.approx(
        (alpha * plain.negative_gradient).tolist(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("method", "at_new", "at_void"),
    [("FT", 0, 0), ("LWOF", 1, 1), ("Michieli", 0, 0), ("CIL (w/o weights)", 0, 1)],
)
def test_the_voice_of_the_teacher_is_the_mask(step, method, at_new, at_void):
    assert loss_at_pixel(METHODS[method], step, 0, 0).teacher_weight == pytest.approx(
        at_new, abs=1e-5
    )
    assert loss_at_pixel(METHODS[method], step, 0, 1).teacher_weight == pytest.approx(
        at_void, abs=1e-5
    )
    assert loss_at_pixel(METHODS["FT"], replace(step, teacher=None), 0, 1).teacher_weight == 0


def test_the_voice_of_the_teacher_is_the_mask_times_the_weight_whoever_the_student_is(step):
    alpha = 1 - 0.75 * math.log2(0.75) - 0.25 * math.log2(0.25)
    sure = replace(step, logits=torch.tensor([1e4, 0, 0, 0]).view(1, 4, 1, 1).expand(1, 4, 1, 2))
    for asked in (step, sure):
        assert loss_at_pixel(METHODS["CIL"], asked, 0, 1).teacher_weight == pytest.approx(
            alpha, rel=1e-5
        )
        assert loss_at_pixel(METHODS["CIL"], asked, 0, 0).teacher_weight == 0


def test_lwof_pushes_no_task_against_the_other(step):
    for column in (0, 1):
        push = loss_at_pixel(METHODS["LWOF"], step, 0, column).negative_gradient
        assert push[:2].sum().item() == pytest.approx(0, abs=1e-6)
        assert push[2:].sum().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_asking_leaves_the_step_as_it_was(step, method):
    step = replace(step, new_teacher=torch.full((1, 2, 1, 2), 0.5))
    before = step.logits.clone()
    asked = loss_at_pixel(method, step, 0, 0)
    assert asked.negative_gradient.shape == (4,) and asked.negative_gradient.isfinite().all()
    assert step.logits.equal(before) and step.logits.grad is None


@pytest.mark.parametrize("place", [(1, 0), (0, 2), (-1, 0), (0, -1)])
def test_a_pixel_outside_the_image_is_refused(step, place):
    with pytest.raises(ValueError, match=r"outside the image of 1 x 2; count from 0"):
        loss_at_pixel(METHODS["CIL"], step, *place)


@pytest.mark.parametrize(
    "needs", [{"features": ("encoder",)}, {"loss": None, "prepare": lambda _: len}]
)
def test_a_loss_that_needs_more_than_a_pixel_is_refused(step, needs):
    with pytest.raises(ValueError, match="loss of CIL needs a training.*neither prepare nor feat"):
        loss_at_pixel(replace(METHODS["CIL"], **needs), step, 0, 0)
