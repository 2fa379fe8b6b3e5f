"""ILT, MiB and PLOP: their losses again, pixel by pixel, and what they find before a training."""

import math
from dataclasses import replace
from statistics import mean, median

import pytest
import torch
from torch import nn

from cilkit.classes import HIDDEN, VOID
from cilkit.losses import masked_distillation
from cilkit.methods import LATER_METHODS, METHODS, Context, Step, get_method, trainable
from cilkit.methods.background import start_as_background
from cilkit.methods.ilt import FEATURE_WEIGHT as ILT_WEIGHT
from cilkit.methods.ilt import ilt_loss
from cilkit.methods.mib import DISTILLATION_WEIGHT, mib_loss, mib_prepare
from cilkit.methods.plop import FEATURE_WEIGHT, OUTPUT_WEIGHT, plop_loss, plop_prepare
from cilkit.methods.pseudo_labels import BINS, median_entropies, pseudo_labels
from cilkit.splits import load_split
from cilkit.study.study import Study
from cilkit.training.stage import fit_stage

STAGES = {"T2": (slice(0, 5), slice(5, 11)), "T3": (slice(0, 11), slice(11, 19))}
THRESHOLDS = torch.linspace(0.2, 1.6, 11, dtype=torch.float64)
MAPS = {"a": (3, 5, 7), "b": (2, 2, 3)}  # (C, h, w) of two layers: one is cut, one only halved


def make_step(stage: str = "T2", background: int | None = None, labels: str = "new") -> Step:
    """Random scores, features and labels: a third hidden or old, a sixth void, the others new."""
    old, new = STAGES[stage]
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    logits, teacher_logits = numbers(new.stop, 4, 6), numbers(old.stop, 4, 6)
    given = torch.randint(new.start, new.stop, (2, 4, 6), generator=generator)
    known = torch.randint(old.stop, (2, 4, 6), generator=generator)
    kind = torch.rand(2, 4, 6, generator=generator)
    given = given.where(kind > 1 / 3, known if labels == "all" else HIDDEN)
    given[kind > 5 / 6] = VOID
    logits.requires_grad_()
    return Step(
        logits,
        given,
        teacher_logits.softmax(dim=1),
        old,
        new,
        background=background,
        features={n: numbers(*shape).requires_grad_() for n, shape in MAPS.items()}
        | {"scores": logits},
        teacher_features={n: numbers(*shape) for n, shape in MAPS.items()}
        | {"scores": teacher_logits},
    )


def hide(step: Step, label: int) -> Step:
    """The same step with one label for all its pixels."""
    return replace(step, labels=torch.full_like(step.labels, label))


# the losses again, from numbers in lists


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def pixels(step: Step, image: int) -> list[tuple[list[float], list[float], int]]:
    """Student's and teacher's probabilities and the label of each pixel of an image."""
    rows, columns = step.labels.shape[1:]
    return [
        (
            softmax(step.logits[image, :, i, j].tolist()),
            step.teacher[image, :, i, j].tolist(),
            step.labels[image, i, j].item(),
        )
        for i in range(rows)
        for j in range(columns)
    ]


def ilt(step: Step) -> dict[str, float]:
    everywhere = pixels(step, 0) + pixels(step, 1)
    old, squares = step.old.stop, 0.0
    for name in step.features:
        pairs = zip(
            step.features[name].flatten().tolist(),
            step.teacher_features[name].flatten().tolist(),
            strict=True,
        )
        squares += mean((ours - theirs) ** 2 for ours, theirs in pairs)
    return {
        "ce": mean(-math.log(y[label]) for y, _, label in everywhere if label != VOID),
        "mkd": mean(
            -sum(t * math.log(p) for t, p in zip(teacher, y[:old], strict=True))
            for y, teacher, label in everywhere
            if label < old
        ),
        "fd": ILT_WEIGHT * squares,
    }


def mib(step: Step) -> dict[str, float]:
    old, ce, kd = step.old.stop, [], []
    for y, teacher, label in pixels(step, 0) + pixels(step, 1):
        if label == HIDDEN:
            ce.append(-math.log(sum(y[:old])))
        elif label != VOID:
            ce.append(-math.log(y[label]))
        ours = y[:old]
        if step.background is not None:
            ours[step.background] += sum(y[old:])
        kd.append(-sum(t * math.log(p) for t, p in zip(teacher, ours, strict=True)) / old)
    return {"ce": mean(ce), "kd": DISTILLATION_WEIGHT * mean(kd)}


def stripes(picture: list[list[float]]) -> list[float]:
    """The means of the squares along rows and columns of all regions of one feature map."""
    found, height, width = [], len(picture), len(picture[0])
    for parts in (1, 2, 4):
        if parts > min(height, width):
            continue
        # the first regions are a pixel larger where the pixels cannot be shared evenly
        cuts = [
            [sum(side // parts + (k < side % parts) for k in range(n)) for n in range(parts + 1)]
            for side in (height, width)
        ]
        for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
            for left, right in zip(cuts[1], cuts[1][1:], strict=False):
                region = [row[left:right] for row in picture[top:bottom]]
                found += [mean(x**2 for x in row) for row in region]
                found += [mean(x**2 for x in column) for column in zip(*region, strict=True)]
    return found


def plop(step: Step) -> dict[str, float]:
    old, new = step.old.stop, step.new.stop - step.new.start
    ce, layers = [], []
    for image in range(2):
        losses, accepted, hidden = [], 0, 0
        for y, teacher, label in pixels(step, image):
            if label == HIDDEN:
                hidden += 1
                label = teacher.index(max(teacher))
                if -sum(t * math.log2(t) for t in teacher) >= THRESHOLDS[label]:
                    label = VOID
                accepted += label != VOID
            losses.append(0 if label == VOID else -math.log(y[label]))
        ce.append(accepted / hidden * mean(losses))
    for name in step.features:
        norms = []
        for image in range(2):
            ours = step.features[name][image].tolist()
            theirs = step.teacher_features[name][image].tolist()
            if name == "scores" and step.background is not None:
                for i, row in enumerate(ours[step.background]):
                    for j in range(len(row)):
                        row[j] += sum(channel[i][j] for channel in ours[old:])
            vectors = zip(
                *([s for c in side[: len(theirs)] for s in stripes(c)] for side in (ours, theirs)),
                strict=True,
            )
            norms.append(math.sqrt(sum((a - b) ** 2 for a, b in vectors)))
        layers.append((OUTPUT_WEIGHT if name == "scores" else FEATURE_WEIGHT) * mean(norms))
    return {"ce": mean(ce), "pod": math.sqrt((old + new) / new) * mean(layers)}


def check(terms: dict[str, torch.Tensor], wanted: dict[str, float]) -> None:
    assert terms.keys() == wanted.keys()
    for name, term in terms.items():
        assert term.item() == pytest.approx(wanted[name], rel=1e-12), name


def gradient(step: Step, loss: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, step.logits, retain_graph=True)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_ilt_is_its_equations(stage):
    step = make_step(stage, labels="all")
    shown = {name: step.features[name] for name in MAPS}
    step = replace(
        step,
        features=shown,
        teacher_features={name: step.teacher_features[name] for name in MAPS},
    )
    check(ilt_loss(step), ilt(step))


@pytest.mark.parametrize("background", [None, 0, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_mib_is_its_equations(stage, background):
    step = make_step(stage, background)
    check(mib_loss(step), mib(step))


@pytest.mark.parametrize("background", [None, 0, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_plop_is_its_equations(stage, background):
    step = make_step(stage, background)
    thresholds = THRESHOLDS[: step.old.stop]
    check(plop_loss(step, thresholds), plop(step))
    sure = pseudo_labels(step.teacher, thresholds) != VOID
    assert sure.any() and not sure.all()


@pytest.mark.parametrize("background", [None, 2])
@pytest.mark.parametrize("label", [VOID, HIDDEN, 5])
def test_a_batch_of_one_label_gives_a_finite_loss_and_gradient(background, label):
    step = hide(make_step("T2", background), label)
    for terms in (mib_loss(step), plop_loss(step, THRESHOLDS[:5])):
        assert all(term.shape == () and term.isfinite() for term in terms.values())
        assert gradient(step, sum(terms.values())).isfinite().all()
        assert (terms["ce"].item() == 0) == (label == VOID)


# ILT


def test_ilt_is_michieli_where_the_features_are_the_teachers():
    step = make_step(labels="all")
    same = {name: step.teacher_features[name] for name in MAPS}
    terms = ilt_loss(replace(step, features=same, teacher_features=same))
    assert terms.pop("fd").item() == 0
    check(terms, {k: v.item() for k, v in METHODS["Michieli"].loss(step).items()})


# MiB


def test_without_a_hidden_pixel_the_cross_entropy_of_mib_is_that_of_cil():
    step = make_step()
    step = replace(step, labels=step.labels.where(step.labels != HIDDEN, VOID))
    assert mib_loss(step)["ce"].item() == pytest.approx(METHODS["CIL"].loss(step)["ce"].item())


def test_without_a_background_the_distillation_of_mib_is_that_of_cil_at_all_pixels():
    step = make_step()
    log_y = step.logits.log_softmax(dim=1)[:, step.old]
    wanted = DISTILLATION_WEIGHT / 5 * masked_distillation(log_y, step.teacher)
    assert mib_loss(step)["kd"].item() == pytest.approx(wanted.item(), rel=1e-12)


def test_a_hidden_pixel_may_be_any_old_class():
    step = hide(make_step(), HIDDEN)
    scores = step.logits.detach().clone()
    scores[:, step.new] = -1e3
    assert mib_loss(replace(step, logits=scores))["ce"].item() == pytest.approx(0, abs=1e-12)
    scores[:, 1:5] -= 1e3  # the first old class instead of any
    assert mib_loss(replace(step, logits=scores))["ce"].item() == pytest.approx(0, abs=1e-12)
    scores[:, step.new] += 3e3
    assert mib_loss(replace(step, logits=scores))["ce"].item() > 1e3


def test_what_the_teacher_calls_background_may_be_new():
    """The student's best is to give background and new classes together what the teacher gives."""
    step = make_step(background=2)
    share = torch.rand(2, 7, 4, 6, generator=torch.Generator().manual_seed(1)).double()
    share = share / share.sum(dim=1, keepdim=True) * step.teacher[:, 2:3]  # background, 6 new
    best = torch.cat([step.teacher, share[:, 1:]], dim=1)
    best[:, 2] = share[:, 0]
    kd = mib_loss(replace(step, logits=best.log()))["kd"].item()
    entropies = torch.special.entr(step.teacher).sum(dim=1).mean().item()
    assert kd == pytest.approx(DISTILLATION_WEIGHT / 5 * entropies, rel=1e-12)
    assert mib_loss(step)["kd"].item() > kd


def context(student: nn.Module, teacher: nn.Module, background: int | None) -> Context:
    return Context(load_split().stage("T2"), student, teacher, background, lambda _: None)


def test_a_background_reaches_mib_through_a_training(scenes, tiny, make_network):
    images = scenes.stage("T2", hidden=True)
    images.split = replace(images.split, background="terrain")
    config = replace(tiny, start="teacher", learning_rate=1e-12, weight_decay=0.0)
    teacher, stage = make_network(5), scenes.split.stage("T2")
    student, _ = fit_stage(LATER_METHODS["MiB"], images, stage, teacher, config)
    weights = student.decoder.output_conv.weight  # (16, S, 2, 2), terrain is channel 3
    torch.testing.assert_close(weights[:, 5:], weights[:, 3:4].expand(16, 6, 2, 2))


@pytest.mark.parametrize("name", ["MiB", "PLOP"])
def test_new_classes_start_with_equal_shares_of_the_background(make_network, name):
    teacher = make_network(5).eval()
    student = teacher.widened(6).eval()
    LATER_METHODS[name].prepare(context(student, teacher, 3))
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = teacher(images).softmax(dim=1), student(images).softmax(dim=1)
    shares = after[:, [3, *range(5, 11)]]
    torch.testing.assert_close(shares, (before[:, 3:4] / 7).expand_as(shares))
    torch.testing.assert_close(after[:, [0, 1, 2, 4]], before[:, [0, 1, 2, 4]])


class TwoLast(nn.Module):
    """A network with two last layers, whose scores are added; one has as many inputs as classes."""

    def __init__(self, classes: int):
        super().__init__()
        self.high, self.low = nn.Conv2d(11, classes, 1), nn.Conv2d(3, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.high(x) + self.low(x[:, :3])


def test_the_share_is_the_same_with_several_last_layers():
    teacher, student = TwoLast(5), TwoLast(11)
    with torch.no_grad():
        for ours, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
            ours[:5] = theirs
    start_as_background(context(student, teacher, 0))
    x = torch.rand(2, 11, 4, 4)
    before, after = teacher(x).softmax(dim=1), student(x).softmax(dim=1)
    torch.testing.assert_close(after[:, 5:], (before[:, :1] / 7).expand(2, 6, 4, 4))


def test_without_a_background_new_classes_start_as_in_other_methods(make_network):
    teacher = make_network(5)
    student = teacher.widened(6)
    before = [parameter.clone() for parameter in student.parameters()]
    assert mib_prepare(context(student, teacher, None)) is mib_loss
    assert all(p.equal(q) for p, q in zip(student.parameters(), before, strict=True))


# PLOP


def test_a_teacher_without_a_clue_gives_plop_no_label_and_no_weight_to_the_new_ones():
    step = make_step()
    step = replace(step, teacher=torch.full_like(step.teacher, 1 / 5))
    thresholds = torch.full((5,), math.log2(5) - 1e-9)
    assert (pseudo_labels(step.teacher, thresholds) == VOID).all()
    assert (step.labels == HIDDEN).any(dim=2).any(dim=1).all()
    assert plop_loss(step, thresholds)["ce"].item() == 0


def test_a_teacher_that_is_sure_labels_all_that_is_hidden():
    step = make_step()
    sure = torch.zeros_like(step.teacher)
    sure[:, 4] = 1
    terms = plop_loss(replace(step, teacher=sure), torch.full((5,), 1e-6))
    log_y = step.logits.log_softmax(dim=1)
    labels = step.labels.where(step.labels != HIDDEN, 4)
    wanted = nn.functional.nll_loss(log_y, labels, ignore_index=VOID, reduction="sum") / 48
    assert terms["ce"].item() == pytest.approx(wanted.item(), rel=1e-12)


def test_features_like_the_teachers_cost_plop_nothing_and_have_a_finite_gradient():
    step = make_step()
    same = {name: y.clone().requires_grad_() for name, y in step.teacher_features.items()}
    new = torch.zeros(2, 6, 4, 6, dtype=torch.float64)
    same["scores"] = torch.cat([step.teacher_features["scores"], new], 1).requires_grad_()
    pod = plop_loss(replace(step, features=same), THRESHOLDS[:5])["pod"]
    pod.backward()
    assert pod.item() == 0
    assert all(x.grad.isfinite().all() for x in same.values())


def test_layers_that_are_no_pair_are_refused():
    step = make_step()
    pair = {"features": {"a": step.features["a"]}}
    pair["teacher_features"] = {"a": step.teacher_features["b"]}
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 7\) and the teacher's \(2, 2, 2, 3\); want"):
        plop_loss(replace(step, **pair), THRESHOLDS[:5])


def answers(classes: int = 5):
    """Three batches of a teacher that is surer of some classes, a third of the pixels hidden."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        scores = torch.randn(2, classes, 20, 30, generator=generator)
        scores = scores * torch.linspace(0.5, 6, classes).view(1, -1, 1, 1)
        kind = torch.rand(2, 20, 30, generator=generator)
        labels = torch.full((2, 20, 30), 7).where(kind > 1 / 3, HIDDEN).where(kind < 0.9, VOID)
        yield scores.softmax(dim=1), labels


def test_thresholds_are_the_median_entropies_of_the_hidden_pixels_of_each_class():
    found: dict[int, list[float]] = {c: [] for c in range(5)}
    for y, labels in answers():
        for probabilities, label in zip(
            y.permute(0, 2, 3, 1).flatten(0, 2).tolist(), labels.flatten().tolist(), strict=True
        ):
            if label == HIDDEN:
                bits = -sum(p * math.log2(p) for p in probabilities if p > 0)
                found[probabilities.index(max(probabilities))].append(bits)
    thresholds = median_entropies(answers())
    assert thresholds.shape == (5,) and thresholds.dtype == torch.float32
    bin_width = math.log2(5) / BINS
    for c, bits in found.items():
        assert len(bits) > 10 and -bin_width < thresholds[c].item() - median(bits) < 2 * bin_width
    assert len(set(thresholds.tolist())) == 5


def test_about_half_of_the_hidden_pixels_of_each_class_get_their_pseudo_label():
    thresholds, batches = median_entropies(answers()), list(answers())
    hidden = torch.cat([labels == HIDDEN for _, labels in batches])
    predicted = torch.cat([y.argmax(dim=1) for y, _ in batches])
    given = torch.cat([pseudo_labels(y, thresholds) for y, _ in batches])
    for c in range(5):
        mine = given[hidden & (predicted == c)]
        assert set(mine.tolist()) == {c, VOID}
        assert (mine == c).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_teacher_certain_of_one_class_labels_it_and_no_class_has_a_threshold_of_zero(classes):
    y = torch.zeros(1, classes, 4, 6)
    y[:, 0] = 1
    thresholds = median_entropies([(y, torch.full((1, 4, 6), HIDDEN))])
    assert thresholds.shape == (classes,) and (thresholds > 0).all() and (thresholds < 0.01).all()
    assert (pseudo_labels(y, thresholds) == 0).all()


def test_plop_prepares_its_loss_from_the_images_of_the_stage():
    asked = []

    def over_images(measure):
        asked.append(measure)
        return measure(answers())

    loss = plop_prepare(Context(load_split().stage("T2"), nn.Identity(), None, None, over_images))
    assert len(asked) == 1
    step = make_step()
    thresholds = median_entropies(answers())
    check(loss(step), {k: v.item() for k, v in plop_loss(step, thresholds).items()})


# names, and whole trainings


def test_later_methods_are_known_by_their_names_and_are_not_the_papers():
    assert list(LATER_METHODS) == ["ILT", "MiB", "PLOP"]
    for name, method in LATER_METHODS.items():
        assert get_method(name) is trainable()[name] is method and method.name == name
        assert name not in METHODS
    shown = {name: (m.labels, m.hidden) for name, m in LATER_METHODS.items()}
    assert shown == {"ILT": ("all", False), "MiB": ("new", True), "PLOP": ("new", True)}


@pytest.mark.parametrize("name", LATER_METHODS)
def test_a_later_method_is_trained_by_its_name_in_all_stages(toys, tmp_path, name):
    one = Study(toys, tmp_path / "runs", "smoke", start="teacher", precision="32-true")
    last = one.run("T3", name)
    assert (
        last.config["decoders"] == [19] and last.config["teacher"] == one.run("T2", name).digest()
    )
    assert list(last.scores["miou"]) == ["task1", "task2", "task12", "task3", "task123"]
    terms = last.history.drop(columns=["epoch", "learning_rate", "seconds"]).filter(
        regex="^(ce|mkd|kd|fd|pod)$"
    )
    assert len(terms.columns) >= 2 and (terms > 0).all(axis=None)
    assert (terms < 1e3).all(axis=None)
