import math
from dataclasses import FrozenInstanceError, replace
from statistics import mean

import pytest
import torch

from cilkit.classes import VOID
from cilkit.methods import LATER_METHODS, METHODS, SS, Method, Step, get_method
from cilkit.results.tables import TABLES
from cilkit.splits import load_split

STAGES = {"T2": (slice(0, 5), slice(5, 11)), "T3": (slice(0, 11), slice(11, 19))}
EVERY = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
CILS = pytest.mark.parametrize("name", ["CIL", "CIL (w/o weights)"])
NEW_LABELS_ONLY = ["FT", "FE", "LWOF", "CIL (w/o weights)", "CIL"]
LWM = pytest.mark.parametrize("method", [METHODS["LWM"]], ids=["LWM"])
MICHIELI = pytest.mark.parametrize("method", [METHODS["Michieli"]], ids=["Michieli"])


def make_step(stage: str, method: Method, dtype: torch.dtype = torch.float64) -> Step:
    """Random logits and teachers; a third of the pixels void, the others as the method sees them.

    Images 0 and 1 are new. With a memory, 2 and 3 are remembered, with labels of old classes.
    """
    old, new = STAGES[stage]
    generator = torch.Generator().manual_seed(0)
    images = 2 if method.memory is None else 4

    def scores(channels: int) -> torch.Tensor:
        return 2 * torch.randn(images, channels, 4, 6, generator=generator, dtype=dtype)

    logits, teacher = scores(new.stop), scores(old.stop).softmax(dim=1)
    new_teacher = scores(new.stop - new.start).softmax(dim=1) if method.memory else None
    first = new.start if method.labels == "new" else old.start
    labels = torch.randint(first, new.stop, (images, 4, 6), generator=generator)
    labels[2:] = torch.randint(old.stop, (images - 2, 4, 6), generator=generator)
    labels[torch.rand(images, 4, 6, generator=generator) < 1 / 3] = VOID
    return Step(logits.requires_grad_(), labels, teacher, old, new, new_teacher)


@pytest.fixture
def method() -> Method:
    """Whose step it is where a test does not say: one that sees new images and new labels."""
    return METHODS["CIL"]


@pytest.fixture(params=STAGES)
def step(request, method) -> Step:
    return make_step(request.param, method)


def total(method: Method, step: Step) -> torch.Tensor:
    return sum(method.loss(step).values())


def cross_entropies(terms: dict[str, torch.Tensor]) -> list[float]:
    return [value.item() for name, value in terms.items() if name.startswith("ce")]


def louder(step: Step, classes: slice) -> Step:
    """The same step with 5 more for the scores of some classes."""
    logits = step.logits.detach().clone()
    logits[:, classes] += 5
    return replace(step, logits=logits)


def pushed(step: Step, term: torch.Tensor) -> torch.Tensor:
    """Where a term moves the scores, (B, S, H, W)."""
    (gradient,) = torch.autograd.grad(term, step.logits, retain_graph=True)
    return gradient != 0


# the equations again, pixel by pixel


def log_softmax(scores: list[float]) -> list[float]:
    total = math.log(sum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def at_pixels(values: torch.Tensor) -> list[list[float]]:
    """The values of each pixel, image by image and row by row."""
    return values.permute(0, 2, 3, 1).flatten(0, 2).tolist()


def soft(teacher: list[float], log_y: list[float]) -> float:
    return -sum(y * log for y, log in zip(teacher, log_y, strict=True))


def columns(step):
    """(scores, teacher probabilities, label) of each pixel."""
    labels = step.labels.flatten().tolist()
    return list(zip(at_pixels(step.logits), at_pixels(step.teacher), labels, strict=True))


def equation_4(step):
    first = step.new.start
    return mean(
        -log_softmax(scores[first:])[label - first]
        for scores, _, label in columns(step)
        if label != VOID
    )


def equation_5(step):
    first = step.new.start
    kd = mean(soft(teacher, log_softmax(scores[:first])) for scores, teacher, _ in columns(step))
    return equation_4(step) + kd


def equation_6(step):
    first = step.new.start
    pixels = columns(step)
    new_image, remembered = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]
    ce_new, ce_memory = (
        mean(-log_softmax(scores)[label] for scores, _, label in half if label != VOID)
        for half in (new_image, remembered)
    )
    kd_old = mean(soft(teacher, log_softmax(scores[:first])) for scores, teacher, _ in pixels)
    kd_new = mean(
        soft(new_teacher, log_softmax(scores[first:]))
        for (scores, _, _), new_teacher in zip(pixels, at_pixels(step.new_teacher), strict=True)
    )
    return ce_new + ce_memory + kd_old + kd_new


def equation_8(step):
    old = step.old.stop
    ce = mean(-log_softmax(scores)[label] for scores, _, label in columns(step) if label != VOID)
    mkd = mean(
        soft(teacher, log_softmax(scores)[:old])
        for scores, teacher, label in columns(step)
        if label < old
    )
    return ce + mkd


def equation_9(step, weighted):
    labelled, distilled = [], []
    for scores, teacher, label in columns(step):
        log_y = log_softmax(scores)
        if label != VOID:
            labelled.append(-log_y[label])
        else:
            alpha = 1 - sum(y * math.log2(y) for y in teacher) if weighted else 1
            distilled.append(alpha * soft(teacher, log_y[: len(teacher)]))
    return mean(labelled) + mean(distilled)


TRANSCRIPTIONS = {
    "FT": equation_4,
    "FE": equation_4,
    "LWOF": equation_5,
    "LWM": equation_6,
    "Michieli": equation_8,
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
    step = make_step(stage, method, torch.float32)
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
    if method.memory is not None:
        other = replace(step, new_teacher=step.new_teacher.flip(1))
        assert total(method, other).item() != pytest.approx(loss)


@EVERY
def test_a_batch_without_a_label_gives_a_finite_loss_and_gradient(method, step):
    step = replace(step, labels=torch.full_like(step.labels, VOID))
    terms = method.loss(step)
    sum(terms.values()).backward()
    assert set(cross_entropies(terms)) == {0}
    assert all(term.isfinite() for term in terms.values())
    assert step.logits.grad.isfinite().all()


@EVERY
def test_a_batch_of_new_labels_only_gives_a_finite_loss_and_gradient(method, step):
    step = replace(step, labels=torch.full_like(step.labels, step.new.start))
    terms = method.loss(step)
    sum(terms.values()).backward()
    assert max(cross_entropies(terms)) > 0
    assert all(term.isfinite() for term in terms.values())
    assert step.logits.grad.isfinite().all()


@EVERY
def test_a_teacher_of_certainties_gives_a_finite_loss_and_gradient(method, step):
    teacher = torch.zeros_like(step.teacher)
    teacher[:, 2] = 1
    step = replace(step, teacher=teacher)
    total(method, step).backward()
    assert total(method, step).isfinite() and step.logits.grad.isfinite().all()


@pytest.mark.parametrize("method", [METHODS[name] for name in NEW_LABELS_ONLY], ids=NEW_LABELS_ONLY)
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
    assert total(METHODS["FT"], louder(step, step.old)).item() == terms["ce"].item()


def test_ft_of_equal_scores_is_the_log_of_the_number_of_new_classes(step):
    step = replace(step, logits=torch.zeros_like(step.logits))
    new = step.new.stop - step.new.start  # 6 and 8
    assert total(METHODS["FT"], step).item() == pytest.approx(math.log(new))


def test_fe_has_the_loss_of_ft():
    assert METHODS["FE"].loss is METHODS["FT"].loss


# LWOF


@pytest.mark.parametrize("classes", ["old", "new"])
def test_the_two_softmaxes_of_lwof_do_not_compete(step, classes):
    terms = METHODS["LWOF"].loss(step)
    moved = METHODS["LWOF"].loss(louder(step, getattr(step, classes)))
    assert terms.keys() == moved.keys() == {"ce", "kd"}
    for name, term in terms.items():
        assert moved[name].item() == pytest.approx(term.item(), rel=1e-12)


def test_labels_reach_only_the_new_channels_of_lwof_and_the_teacher_only_the_old(step):
    terms = METHODS["LWOF"].loss(step)
    labelled = (step.labels != VOID)[:, None]
    assert pushed(step, terms["ce"])[:, step.new].equal(
        labelled.expand_as(step.logits[:, step.new])
    )
    assert not pushed(step, terms["ce"])[:, step.old].any()
    assert pushed(step, terms["kd"])[:, step.old].all()  # at every pixel, with a new label or not
    assert not pushed(step, terms["kd"])[:, step.new].any()


def test_lwof_of_equal_scores_is_the_log_of_the_number_of_classes_of_each_task(step):
    terms = METHODS["LWOF"].loss(replace(step, logits=torch.zeros_like(step.logits)))
    assert terms["ce"].item() == pytest.approx(math.log(step.new.stop - step.new.start))
    assert terms["kd"].item() == pytest.approx(math.log(step.old.stop))


# LWM


def images(where: torch.Tensor) -> list[bool]:
    """Which of the images are touched anywhere. (B, S, H, W) -> (B,)"""
    return where.flatten(1).any(dim=1).tolist()


@LWM
def test_each_cross_entropy_of_lwm_finds_its_own_images(method, step):
    terms = method.loss(step)
    assert terms.keys() == {"ce_new", "ce_memory", "kd_old", "kd_new"}
    assert images(pushed(step, terms["ce_new"])) == [True, True, False, False]
    assert images(pushed(step, terms["ce_memory"])) == [False, False, True, True]


@LWM
def test_both_teachers_of_lwm_speak_at_every_pixel_of_all_images(method, step):
    terms = method.loss(step)
    for name, taught, other in (("kd_old", step.old, step.new), ("kd_new", step.new, step.old)):
        assert pushed(step, terms[name])[:, taught].all()
        assert not pushed(step, terms[name])[:, other].any()


@LWM
def test_old_and_new_classes_compete_in_the_labels_of_lwm_and_not_in_its_teachers(method, step):
    terms = method.loss(step)
    for classes, more, less in (
        (step.old, "ce_new", "ce_memory"),
        (step.new, "ce_memory", "ce_new"),
    ):
        moved = method.loss(louder(step, classes))
        assert moved[more] > terms[more] + 1 and moved[less] < terms[less]
        for name in ("kd_old", "kd_new"):
            assert moved[name].item() == pytest.approx(terms[name].item(), rel=1e-12)


@LWM
def test_lwm_takes_its_terms_from_lwof_and_from_cil(method, step):
    terms = method.loss(step)
    assert terms["kd_old"].item() == METHODS["LWOF"].loss(step)["kd"].item()
    assert terms["ce_new"].item() == METHODS["CIL"].loss(step)["ce"].item()


@LWM
def test_remembered_images_without_a_label_cost_lwm_that_term_alone(method, step):
    labels = step.labels.clone()
    labels[2:] = VOID
    terms, without = method.loss(step), method.loss(replace(step, labels=labels))
    assert without["ce_memory"].item() == 0 < terms["ce_memory"].item()
    assert all(without[name].item() == terms[name].item() for name in terms if name != "ce_memory")


# Michieli


@MICHIELI
def test_michieli_distils_exactly_the_pixels_with_an_old_label(method, step):
    is_old = step.labels < step.new.start
    assert is_old.any() and (step.labels == VOID).any() and (~is_old & (step.labels != VOID)).any()
    mkd = method.loss(step)["mkd"]
    assert pushed(step, mkd).equal(is_old[:, None].expand_as(step.logits))
    other = step.teacher.where(is_old[:, None], step.teacher.flip(1))
    assert method.loss(replace(step, teacher=other))["mkd"].item() == mkd.item()


@MICHIELI
def test_michieli_learns_from_the_labels_of_all_classes(method, step):
    terms = method.loss(step)
    assert terms.keys() == {"ce", "mkd"}
    labelled = (step.labels != VOID)[:, None]
    assert pushed(step, terms["ce"]).equal(labelled.expand_as(step.logits))
    still = method.loss(replace(step, logits=torch.zeros_like(step.logits)))
    assert still["ce"].item() == pytest.approx(math.log(step.new.stop))
    assert still["mkd"].item() == pytest.approx(math.log(step.new.stop))


@MICHIELI
def test_michieli_without_an_old_label_is_the_cross_entropy_of_cil(method, step):
    labels = step.labels.where(step.labels >= step.new.start, VOID)
    step = replace(step, labels=labels)
    terms = method.loss(step)
    assert terms["mkd"].item() == 0
    assert terms["ce"].item() == METHODS["CIL"].loss(step)["ce"].item() > 0


@MICHIELI
def test_michieli_without_a_new_label_still_learns_and_distils(method, step):
    labels = step.labels.where(step.labels < step.new.start, VOID)
    terms = method.loss(replace(step, labels=labels))
    assert terms["ce"] > 0 and terms["mkd"].item() == method.loss(step)["mkd"].item() > 0


@MICHIELI
def test_michieli_of_void_alone_is_0_and_moves_nothing(method, step):
    step = replace(step, labels=torch.full_like(step.labels, VOID))
    loss = total(method, step)
    assert loss.item() == 0
    assert not pushed(step, loss).any()  # nor is anything NaN, which is not 0 either


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
    assert METHODS[name].loss(louder(step, step.old))["ce"] > before + 1
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


def test_a_step_without_the_teacher_that_a_method_needs_is_refused():
    for name, missing in (("CIL", "teacher"), ("LWM", "new_teacher")):
        step = replace(make_step("T2", METHODS[name]), **{missing: None})
        with pytest.raises(ValueError, match=r"nothing to distil from.*new_teacher\) is None"):
            METHODS[name].loss(step)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("CIL", {"loss": None}, "CIL has no loss; wanted loss=..., or prepare=..., a function"),
        ("CIL", {"prepare": lambda _: len}, "CIL has a loss and a prepare; wanted loss=..., or"),
        ("FT", {"loss": None, "prepare": lambda _: len}, "FT prepares from its teacher: set teac"),
        (
            "LWM",
            {"hidden": True},
            "LWM has a memory and hidden=True.*set memory=None or hidden=Fal",
        ),
        (
            "CIL",
            {"features": "encoder"},
            "features is 'encoder'; wanted a tuple of names of layers",
        ),
        ("CIL", {"features": ["encoder"]}, "features is .'encoder'.; wanted a tuple"),
        ("CIL", {"features": ("",)}, "features is .'',.; wanted a tuple"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(METHODS[name], **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze_encoder": True},
        {"hidden": True},
        {"features": ("encoder",)},
        {"loss": None, "prepare": lambda _: len},
    ],
)
def test_a_method_that_extends_no_model_has_nothing_of_one(changes):
    name = [key for key in changes if key != "loss"][0]
    with pytest.raises(ValueError, match=f"SS does not extend a model, so it has no {name}: leave"):
        replace(SS, **changes)


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
    assert step.new_teacher is step.background is None
    assert step.features == step.teacher_features == {}
    assert Step(**parts(new_teacher=torch.full((2, 6, 3, 4), 1 / 6))).new_teacher is not None
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
        (
            {"new_teacher": torch.zeros(2, 5, 3, 4)},
            r"new_teacher has shape \(2, 5, 3, 4\); wanted the 6 new classes at every pixel",
        ),
        ({"new_teacher": torch.zeros(2, 6, 4, 3)}, r"new_teacher has shape \(2, 6, 4, 3\)"),
    ],
)
def test_a_step_whose_parts_do_not_match_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Step(**parts(**changed))


# names, and what each method declares to need


def test_methods_are_known_by_their_names_in_the_tables():
    assert all(METHODS[name].name == name for name in METHODS)
    assert {*METHODS, "SS"} == {*TABLES["II"][1], *TABLES["III"][1]}
    assert get_method("CIL (w/o weights)") is METHODS["CIL (w/o weights)"]


def test_an_unknown_method_is_answered_with_the_nearest_name_and_all_of_them():
    with pytest.raises(ValueError, match=r"unknown method 'CLI' \(did you mean 'CIL'\?\)") as error:
        get_method("CLI")
    assert str(error.value).endswith("choose one of: " + ", ".join(METHODS | LATER_METHODS))
    with pytest.raises(ValueError, match="unknown method 'cill'.*choose one of: FT"):
        get_method("cill")


@pytest.mark.parametrize(
    ("name", "equation", "needs"),
    [
        ("FT", 4, {"second_decoder"}),
        ("FE", 4, {"second_decoder", "freeze_encoder"}),
        ("LWOF", 5, {"teacher"}),
        ("LWM", 6, {"teacher", "memory"}),
        ("Michieli", 8, {"teacher", "old labels"}),
        ("CIL (w/o weights)", 9, {"teacher"}),
        ("CIL", 9, {"teacher"}),
    ],
)
def test_a_method_declares_what_the_paper_gives_it_and_no_more(name, equation, needs):
    method = METHODS[name]
    assert method.equation == equation
    declared = {
        "teacher": method.teacher,
        "memory": method.memory is not None,
        "old labels": method.labels == "all",
        "second_decoder": method.second_decoder,
        "freeze_encoder": method.freeze_encoder,
    }
    assert {need for need, wanted in declared.items() if wanted} == needs


@pytest.mark.parametrize("stage", ["T2", "T3"])
def test_a_method_sees_the_new_classes_or_all_classes_up_to_its_stage(stage):
    at = load_split().stage(stage)
    _, new = STAGES[stage]
    assert METHODS["CIL"].visible(at) == METHODS["LWM"].visible(at) == new
    assert METHODS["Michieli"].visible(at) == slice(0, new.stop)


def test_labels_are_new_or_all():
    with pytest.raises(ValueError, match="labels='old'; choose 'new' or 'all'"):
        replace(METHODS["CIL"], labels="old")
