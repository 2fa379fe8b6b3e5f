import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from cilkit.classes import VOID
from cilkit.methods import METHODS, Method, Step, get_method
from cilkit.tables import TABLES

STAGES = {"T2": (slice(0, 5), slice(5, 11)), "T3": (slice(0, 11), slice(11, 19))}
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
CILS = pytest.mark.parametrize("name", ["CIL", "CIL (w/o weights)"])


def make_step(stage: str, dtype: torch.dtype = torch.float64) -> Step:
    """Random logits and teacher; a third of the pixels void, the others of new classes."""
    old, new = STAGES[stage]
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, new.stop, 4, 6, generator=generator, dtype=dtype)
    teacher = 2 * torch.randn(2, old.stop, 4, 6, generator=generator, dtype=dtype)
    labels = torch.randint(new.start, new.stop, (2, 4, 6), generator=generator)
    labels[torch.rand(2, 4, 6, generator=generator) < 1 / 3] = VOID
    return Step(logits.requires_grad_(), labels, teacher.softmax(dim=1), old, new)


@pytest.fixture(params=["T2", "T3"])
def step(request):
    return make_step(request.param)


def total(method: Method, step: Step) -> torch.Tensor:
    return sum(method.loss(step).values())


# the equations again, pixel by pixel


def log_softmax(scores: list[float]) -> list[float]:
    total = math.log(sum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def columns(step):
    """(scores, teacher probabilities, label) of each pixel."""
    images, _, height, width = step.logits.shape
    for b in range(images):
        for h in range(height):
            for w in range(width):
                scores, teacher = step.logits[b, :, h, w], step.teacher[b, :, h, w]
                yield scores.tolist(), teacher.tolist(), step.labels[b, h, w].item()


def equation_4(step):
    first = step.new.start
    losses = [
        -log_softmax(scores[first:])[label - first]
        for scores, _, label in columns(step)
        if label != VOID
    ]
    return sum(losses) / len(losses)


def equation_9(step, weighted):
    labelled, distilled = [], []
    for scores, teacher, label in columns(step):
        log_y = log_softmax(scores)
        if label != VOID:
            labelled.append(-log_y[label])
        else:
            alpha = 1 - sum(y * math.log2(y) for y in teacher) if weighted else 1
            pairs = zip(teacher, log_y[: len(teacher)], strict=True)
            distilled.append(-alpha * sum(y * log for y, log in pairs))
    return sum(labelled) / len(labelled) + sum(distilled) / len(distilled)


TRANSCRIPTIONS = {
    "FT": equation_4,
    "CIL (w/o weights)": lambda step: equation_9(step, weighted=False),
    "CIL": lambda step: equation_9(step, weighted=True),
}


@EVERY
def test_the_loss_is_its_equation(method, step):
    assert total(method, step).item() == pytest.approx(TRANSCRIPTIONS[method.name](step), rel=1e-12)


# every method


@EVERY
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_is_finite_and_its_gradient_reaches_the_new_channels(method, stage):
    step = make_step(stage, torch.float32)
    terms = method.loss(step)
    assert all(term.shape == () and term.isfinite() and term > 0 for term in terms.values())
    total(method, step).backward()
    assert step.logits.grad.isfinite().all()
    assert step.logits.grad[:, step.new].abs().amax(dim=(0, 2, 3)).min() > 0  # each new channel


@EVERY
def test_methods_that_say_so_learn_from_the_teacher_and_the_others_run_without(method, step):
    loss = total(method, step).item()
    if method.teacher:
        other = replace(step, teacher=step.teacher.flip(1))
        assert total(method, other).item() != pytest.approx(loss)
    else:
        assert total(method, replace(step, teacher=None)).item() == loss


@EVERY
def test_a_batch_without_a_new_label_gives_a_finite_loss_and_gradient(method, step):
    step = replace(step, labels=torch.full_like(step.labels, VOID))
    terms = method.loss(step)
    sum(terms.values()).backward()
    assert terms["ce"].item() == 0
    assert all(term.isfinite() for term in terms.values())
    assert step.logits.grad.isfinite().all()


@EVERY
def test_a_batch_of_new_labels_only_gives_a_finite_loss_and_gradient(method, step):
    step = replace(step, labels=torch.full_like(step.labels, step.new.start))
    terms = method.loss(step)
    sum(terms.values()).backward()
    assert terms["ce"] > 0
    assert all(term.isfinite() for term in terms.values())
    assert step.logits.grad.isfinite().all()


@EVERY
def test_a_teacher_of_certainties_gives_a_finite_loss_and_gradient(method, step):
    teacher = torch.zeros_like(step.teacher)
    teacher[:, 2] = 1
    step = replace(step, teacher=teacher)
    total(method, step).backward()
    assert total(method, step).isfinite() and step.logits.grad.isfinite().all()


@EVERY
def test_an_old_label_that_slips_in_teaches_nothing(method, step):
    assert (step.labels == VOID).any()
    slipped = step.labels.where(step.labels != VOID, 3)
    assert total(method, replace(step, labels=slipped)).item() == total(method, step).item()


# FT


def test_ft_does_not_see_the_old_channels(step):
    terms = METHODS["FT"].loss(step)
    assert terms.keys() == {"ce"}
    terms["ce"].backward()
    assert step.logits.grad[:, step.old].eq(0).all()
    louder = step.logits.detach().clone()
    louder[:, step.old] += 5
    assert total(METHODS["FT"], replace(step, logits=louder)).item() == terms["ce"].item()


def test_ft_of_equal_scores_is_the_log_of_the_number_of_new_classes(step):
    step = replace(step, logits=torch.zeros_like(step.logits))
    new = step.new.stop - step.new.start  # 6 and 8
    assert total(METHODS["FT"], step).item() == pytest.approx(math.log(new))


# CIL


@CILS
def test_cil_of_equal_scores_is_the_log_of_the_number_of_all_classes(name, step):
    clear = torch.zeros_like(step.teacher)
    clear[:, 0] = 1  # so that the weights are 1
    terms = METHODS[name].loss(replace(step, logits=torch.zeros_like(step.logits), teacher=clear))
    assert terms.keys() == {"ce", "mkd"}
    assert terms["ce"].item() == pytest.approx(math.log(step.new.stop))  # ln 11 and ln 19
    assert terms["mkd"].item() == pytest.approx(math.log(step.new.stop))


@CILS
def test_the_cross_entropy_of_cil_lets_old_and_new_classes_compete(name, step):
    before = METHODS[name].loss(step)["ce"]
    louder = step.logits.detach().clone()
    louder[:, step.old] += 5
    assert METHODS[name].loss(replace(step, logits=louder))["ce"] > before + 1
    before.backward()
    where = (step.labels != VOID)[:, None].expand_as(step.logits[:, step.old])
    assert (step.logits.grad[:, step.old][where] > 0).all()  # old classes are pushed down there


@CILS
def test_cil_never_distils_a_pixel_with_a_new_label(name, step):
    new_label = step.labels != VOID
    other = step.teacher.where(~new_label[:, None], step.teacher.flip(1))
    assert not other.equal(step.teacher)
    loss = METHODS[name].loss(step)["mkd"]
    assert METHODS[name].loss(replace(step, teacher=other))["mkd"].item() == loss.item()
    loss.backward()
    at_new = new_label[:, None].expand_as(step.logits)
    assert step.logits.grad[at_new].eq(0).all()


@CILS
def test_cil_distils_every_void_pixel(name, step):
    METHODS[name].loss(step)["mkd"].backward()
    void = step.labels == VOID
    assert (step.logits.grad.abs().sum(dim=1) > 0).equal(void)
    b, h, w = void.nonzero()[0].tolist()
    other = step.teacher.clone()
    other[b, :, h, w] = other[b, :, h, w].flip(0)
    before = METHODS[name].loss(step)["mkd"].item()
    assert METHODS[name].loss(replace(step, teacher=other))["mkd"].item() != pytest.approx(before)


def test_weights_change_nothing_for_a_teacher_that_is_always_sure(step):
    sure = torch.zeros_like(step.teacher).scatter(1, step.teacher.argmax(1, keepdim=True), 1)
    step = replace(step, teacher=sure)
    weighted, plain = METHODS["CIL"].loss(step), METHODS["CIL (w/o weights)"].loss(step)
    assert weighted["mkd"].item() == plain["mkd"].item()
    assert weighted["ce"].item() == plain["ce"].item()


def test_weights_multiply_distillation_by_1_plus_log2_s_for_a_clueless_teacher(step):
    clueless = torch.full_like(step.teacher, 1 / step.old.stop)
    step = replace(step, teacher=clueless)
    weighted, plain = METHODS["CIL"].loss(step), METHODS["CIL (w/o weights)"].loss(step)
    factor = 1 + math.log2(step.old.stop)  # 3.32 and 4.46
    assert weighted["mkd"].item() == pytest.approx(factor * plain["mkd"].item())
    assert weighted["ce"].item() == plain["ce"].item()


@CILS
def test_cil_without_a_pixel_to_distil_is_its_cross_entropy(name, step):
    terms = METHODS[name].loss(replace(step, labels=torch.full_like(step.labels, step.new.start)))
    assert terms["mkd"].item() == 0


# a step by hand


def parts(**changed):
    step = {
        "logits": torch.zeros(2, 11, 3, 4),
        "labels": torch.full((2, 3, 4), 7),
        "teacher": torch.full((2, 5, 3, 4), 0.2),
        "old": slice(0, 5),
        "new": slice(5, 11),
    }
    return step | changed


def test_a_step_can_be_built_by_hand():
    step = Step(*parts().values())
    assert step.new == slice(5, 11)
    assert Step(**parts(teacher=None)).teacher is None
    with pytest.raises(FrozenInstanceError):
        step.labels = None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"old": slice(0, 4)}, "do not cover the 11 channels of the logits; wanted old = slice"),
        ({"new": slice(5, 10)}, "do not cover the 11 channels"),
        ({"old": slice(1, 5)}, "do not cover the 11 channels"),
        ({"old": slice(5)}, "do not cover the 11 channels"),
        ({"logits": torch.zeros(2, 19, 3, 4)}, "do not cover the 19 channels"),
        ({"labels": torch.zeros(2, 3, 5)}, r"labels have shape \(2, 3, 5\).*\(2, 3, 4\)"),
        ({"labels": torch.zeros(3, 4)}, r"labels have shape \(3, 4\)"),
        ({"teacher": torch.zeros(2, 11, 3, 4)}, r"shape \(2, 11, 3, 4\); wanted the 5 old classes"),
        ({"teacher": torch.zeros(1, 5, 3, 4)}, r"teacher has shape \(1, 5, 3, 4\)"),
    ],
)
def test_a_step_whose_parts_do_not_match_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Step(**parts(**changed))


# names


def test_methods_are_known_by_their_names_in_the_tables():
    assert all(METHODS[name].name == name for name in METHODS)
    in_tables = set(TABLES["II"][1]) | set(TABLES["III"][1])
    assert {"FT", "CIL", "CIL (w/o weights)"} <= set(METHODS) <= in_tables
    assert get_method("CIL (w/o weights)") is METHODS["CIL (w/o weights)"]


def test_an_unknown_method_is_answered_with_the_nearest_name_and_all_of_them():
    with pytest.raises(ValueError, match=r"unknown method 'CLI' \(did you mean 'CIL'\?\)") as error:
        get_method("CLI")
    assert str(error.value).endswith("choose one of: " + ", ".join(METHODS))
    with pytest.raises(ValueError, match="unknown method 'cill'.*choose one of: FT"):
        get_method("cill")


def test_only_ft_has_a_decoder_of_its_own_and_does_without_a_teacher():
    assert [m.name for m in METHODS.values() if m.second_decoder and not m.teacher] == ["FT"]
    assert not METHODS["CIL"].second_decoder and METHODS["CIL"].teacher
    assert (METHODS["FT"].equation, METHODS["CIL"].equation) == (4, 9)
