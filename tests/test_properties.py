"""What holds for any numbers: losses, methods and metrics on random tensors, drawn from seeds.

Bounds are stated in units of the rounding of a type: EPS[float32] is 1.2e-7.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from cilkit.classes import VOID, restrict
from cilkit.explore.pixels import weights
from cilkit.losses import cross_entropy, entropy_weight, masked_distillation
from cilkit.methods import METHODS, Step
from cilkit.metrics import MeanIoU

TYPES = (torch.float64, torch.float32, torch.bfloat16)
EPS = {dtype: torch.finfo(dtype).eps for dtype in TYPES}
SHARES = st.sampled_from([0.0, 0.1, 0.5, 1.0])  # none, few, half, all
SEEDS = st.integers(0, 2**31)
STAGES = {"T2": (slice(0, 5), slice(5, 11)), "T3": (slice(0, 11), slice(11, 19))}
LARGEST = 1e4  # of the logits that must be survived

same_each_time = settings(derandomize=True, deadline=None, database=None, max_examples=100)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
at_each_stage = pytest.mark.parametrize("stage", STAGES)


@dataclass(frozen=True)
class Drawn:
    seed: int

    @cached_property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)


@dataclass(frozen=True)
class Pixels(Drawn):
    """A student and a teacher, labels and a mask: B images, S classes, H x W pixels, in float64."""

    images: int
    classes: int
    height: int
    width: int
    spread: float  # deviation of the logits
    labelled: float  # shares of the pixels
    masked: float

    @property
    def size(self) -> tuple[int, int, int]:
        return self.images, self.height, self.width

    def logits(self) -> Tensor:
        shape = (self.images, self.classes, self.height, self.width)
        return self.spread * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def share(self, of: float) -> Tensor:
        return torch.rand(self.size, generator=self.generator) < of  # (B, H, W)

    def log_y(self) -> Tensor:
        return self.logits().log_softmax(dim=1)

    def teacher_y(self) -> Tensor:
        return self.logits().softmax(dim=1)

    def labels(self) -> Tensor:
        labels = torch.randint(self.classes, self.size, generator=self.generator)
        return labels.where(self.share(self.labelled), VOID)

    def mask(self) -> Tensor:
        return self.share(self.masked)


any_pixels = st.builds(
    Pixels,
    seed=SEEDS,
    images=st.integers(1, 3),
    classes=st.integers(1, 19),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    spread=st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]),
    labelled=SHARES,
    masked=SHARES,
)


def close(one: Tensor, other: Tensor, within: float) -> bool:
    """Whether two results differ by no more than `within` of the second, or of 1 if less."""
    return bool(((one - other).abs() <= within * other.abs().clamp(min=1)).all())


def renumbered(labels: Tensor, order: Tensor) -> Tensor:
    """Labels after channel order[i] has become channel i."""
    return order.argsort()[labels.where(labels != VOID, 0)].where(labels != VOID, VOID)


def shuffled(x: Tensor, order: Tensor) -> Tensor:
    """The pixels of all images in another order, as one image of one row: (.., 1, B H W)"""
    if x.dim() == 3:
        return x.flatten()[order][None, None]
    return x.movedim(1, 0).flatten(1)[:, order][None, :, None]


# losses


@given(any_pixels)
@same_each_time
def test_losses_do_not_depend_on_the_order_of_the_classes(drawn):
    log_y, teacher_y, labels, mask = (
        drawn.log_y(), drawn.teacher_y(), drawn.labels(), drawn.mask(),
    )  # fmt: skip
    order, within = drawn.order(drawn.classes), 32 * EPS[torch.float64]
    other_y, other_teacher = log_y[:, order], teacher_y[:, order]
    alpha, other_alpha = entropy_weight(teacher_y), entropy_weight(other_teacher)
    assert cross_entropy(other_y, renumbered(labels, order)) == cross_entropy(log_y, labels)
    assert close(other_alpha, alpha, within)
    assert close(
        masked_distillation(other_y, other_teacher, mask, other_alpha),
        masked_distillation(log_y, teacher_y, mask, alpha),
        within,
    )


@given(any_pixels)
@same_each_time
def test_losses_do_not_depend_on_the_order_of_the_pixels(drawn):
    log_y, teacher_y, labels, mask = (
        drawn.log_y(), drawn.teacher_y(), drawn.labels(), drawn.mask(),
    )  # fmt: skip
    order, within = drawn.order(mask.numel()), 32 * EPS[torch.float64]
    given_y, given_teacher, given_labels, given_mask = (
        shuffled(x, order) for x in (log_y, teacher_y, labels, mask)
    )
    alpha, given_alpha = entropy_weight(teacher_y), entropy_weight(given_teacher)
    assert close(given_alpha, shuffled(alpha, order), within)
    assert close(cross_entropy(given_y, given_labels), cross_entropy(log_y, labels), within)
    assert close(
        masked_distillation(given_y, given_teacher, given_mask, given_alpha),
        masked_distillation(log_y, teacher_y, mask, alpha),
        within,
    )


@given(any_pixels, st.integers(0, 3))
@same_each_time
def test_the_parts_of_a_batch_make_the_whole_each_by_its_number_of_pixels(drawn, cut):
    log_y, teacher_y, labels, mask = (
        drawn.log_y(), drawn.teacher_y(), drawn.labels(), drawn.mask(),
    )  # fmt: skip
    alpha, within = entropy_weight(teacher_y), 32 * EPS[torch.float64]
    ce = kd = 0
    for part in (slice(0, cut), slice(cut, None)):
        ce += cross_entropy(log_y[part], labels[part]) * (labels[part] != VOID).sum()
        kd += masked_distillation(log_y[part], teacher_y[part], mask[part], alpha[part]) * (
            mask[part].sum()
        )
    assert close(ce, cross_entropy(log_y, labels) * (labels != VOID).sum(), within)
    assert close(kd, masked_distillation(log_y, teacher_y, mask, alpha) * mask.sum(), within)


@given(any_pixels, st.booleans())
@same_each_time
def test_a_mask_and_its_complement_make_the_whole_each_by_its_number_of_pixels(drawn, weighted):
    log_y, teacher_y, mask = drawn.log_y(), drawn.teacher_y(), drawn.mask()
    alpha = entropy_weight(teacher_y) if weighted else None
    parts = sum(
        masked_distillation(log_y, teacher_y, part, alpha) * part.sum() for part in (mask, ~mask)
    )
    whole = masked_distillation(log_y, teacher_y, None, alpha) * mask.numel()
    assert close(parts, whole, 32 * EPS[torch.float64])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@given(any_pixels)
@same_each_time
def test_entropy_weights_lie_between_1_and_1_plus_log2_of_the_classes(dtype, drawn):
    """Rounded probabilities of type `dtype` may have an entropy just above log2 S."""
    alpha = entropy_weight(drawn.teacher_y().to(dtype))
    bits = math.log2(drawn.classes)
    assert (alpha >= 1).all() and (alpha <= 1 + bits + EPS[dtype] * (bits + 2)).all()


@given(any_pixels)
@same_each_time
def test_float32_agrees_with_float64_to_sixteen_roundings(drawn):
    """All terms of the sums have one sign, so the bound is relative: 16 EPS[float32] = 1.9e-6."""
    log_y, teacher_y = drawn.log_y().float(), drawn.teacher_y().float()
    labels, mask, within = drawn.labels(), drawn.mask(), 16 * EPS[torch.float32]
    alpha = entropy_weight(teacher_y)
    fine_y, fine_teacher, fine_alpha = log_y.double(), teacher_y.double(), alpha.double()
    assert close(alpha, entropy_weight(fine_teacher), within)
    assert cross_entropy(log_y, labels).item() == pytest.approx(
        cross_entropy(fine_y, labels).item(), rel=within
    )
    assert masked_distillation(log_y, teacher_y, mask, alpha).item() == pytest.approx(
        masked_distillation(fine_y, fine_teacher, mask, fine_alpha).item(), rel=within
    )


# the limits of the temperature


@given(any_pixels, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
@same_each_time
def test_weights_grow_with_the_temperature_to_those_of_a_teacher_without_any_idea(drawn, strength):
    logits = drawn.logits()[0]  # (S, H, W)
    limit = 1 + strength * math.log2(drawn.classes)
    temperatures = [0.01, 0.1, 1.0, 10.0, 1e3, 1e6]
    at = [weights(logits, temperature, strength) for temperature in temperatures]
    within = 16 * EPS[torch.float64] * limit
    assert all((warmer >= colder - within).all() for colder, warmer in pairwise(at))
    span = (logits.amax(dim=0) - logits.amin(dim=0)) / temperatures[-1]  # (H, W)
    assert (limit - at[-1] <= strength * span**2 + within).all()  # it closes in like 1 / T^2


@given(any_pixels, st.integers(1, 19), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
@same_each_time
def test_without_temperature_only_classes_that_tie_are_in_doubt(drawn, tied, strength):
    logits, tied = drawn.logits()[0], min(tied, drawn.classes)
    first = logits.amax(dim=0) + 1  # (H, W)
    for channel in drawn.order(drawn.classes)[:tied]:
        logits[channel] = first
    limit = 1 + strength * math.log2(tied)  # 1 without a tie
    assert close(weights(logits, 1e-3, strength), torch.full_like(first, limit), 1e-12)


# methods


def make_step(drawn: Pixels, stage: str, dtype: torch.dtype, labelled: str = "any") -> Step:
    """A step of any method, with both teachers; labels of "old", "new" or "any" classes."""
    old, new = STAGES[stage]
    student, *teachers = (
        replace(drawn, seed=drawn.seed + k, classes=n).logits().to(dtype)
        for k, n in enumerate((new.stop, old.stop, new.stop - new.start))
    )
    kinds = {"any": slice(0, new.stop), "old": old, "new": new}
    first, stop = kinds[labelled].start, kinds[labelled].stop
    labels = replace(drawn, classes=stop - first).labels()
    labels = (labels + first).where(labels != VOID, VOID)
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    teacher_y, new_teacher_y = (x.to(at_least_float32).softmax(dim=1) for x in teachers)
    return Step(student.requires_grad_(), labels, teacher_y, old, new, new_teacher_y)


def changed(step: Step, change) -> Step:
    """The step with another value for each of its tensors."""
    given = {f.name: getattr(step, f.name) for f in fields(Step)}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    return replace(step, **{name: change(name, value) for name, value in tensors.items()})


def assert_same_terms(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(close(one[name], other[name], 32 * EPS[torch.float64]) for name in one)


@every_method
@at_each_stage
@given(any_pixels)
@same_each_time
def test_a_method_does_not_depend_on_the_order_of_classes_within_old_and_new(method, stage, drawn):
    step = make_step(drawn, stage, torch.float64)
    old = drawn.order(step.old.stop)
    new = drawn.order(step.new.stop - step.new.start)
    both = torch.cat([old, new + step.new.start])

    def change(name, x):
        if name == "labels":
            return renumbered(x, both)
        return x[:, {"logits": both, "teacher": old, "new_teacher": new}[name]]

    assert_same_terms(method.loss(changed(step, change)), method.loss(step))


@every_method
@at_each_stage
@given(any_pixels)
@same_each_time
def test_a_method_does_not_depend_on_the_order_of_the_pixels(method, stage, drawn):
    step = make_step(drawn, stage, torch.float64)
    order = drawn.order(step.labels.numel())
    other = changed(step, lambda name, x: shuffled(x, order))
    assert_same_terms(method.loss(other), method.loss(step))


@every_method
@at_each_stage
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@given(any_pixels, SHARES, st.sampled_from(["any", "old", "new"]), st.booleans())
@same_each_time
def test_logits_up_to_ten_thousand_give_finite_terms_and_gradients(
    method, stage, dtype, drawn, extreme, labelled, autocast
):
    """With no, some and all pixels labelled; in bf16 also without autocast: a softmax in bf16."""
    step = make_step(drawn, stage, dtype, labelled)

    def at_the_edge(logits: Tensor) -> Tensor:
        here = torch.rand(logits.shape, generator=drawn.generator) < extreme
        edge = LARGEST * torch.randn(here.shape, generator=drawn.generator).sign()
        return logits.where(~here, edge.to(logits.dtype))

    logits = at_the_edge(step.logits.detach()).requires_grad_()
    teacher, new_teacher = (
        at_the_edge(y.log()).softmax(dim=1) for y in (step.teacher, step.new_teacher)
    )
    step = replace(step, logits=logits, teacher=teacher, new_teacher=new_teacher)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
        terms = method.loss(step)
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
        assert 0 <= term <= 2.1 * LARGEST * (1 + math.log2(19))  # so it is finite
        assert gradient.isfinite().all()


# metrics


@dataclass(frozen=True)
class Predictions(Drawn):
    """Scores of all classes of two tasks and labels, some of a later task or void."""

    images: int
    first: int  # classes of each task
    second: int
    side: int
    present: float  # share of the classes that occur among the labels
    ties: bool

    @property
    def classes(self) -> int:
        return self.first + self.second

    @property
    def sets(self) -> dict[str, slice]:
        cut, stop = self.first, self.classes
        return {"task1": slice(0, cut), "task2": slice(cut, stop), "task12": slice(0, stop)}

    def draw(self) -> tuple[Tensor, Tensor]:
        size = (self.images, self.side, self.side + 1)
        logits = torch.randn(self.images, self.classes, *size[1:], generator=self.generator)
        labels = torch.randint(self.classes + 2, size, generator=self.generator)
        kept = torch.rand(self.classes + 2, generator=self.generator) < self.present
        return logits.round() if self.ties else logits, labels.where(kept[labels], VOID)


any_predictions = st.builds(
    Predictions,
    seed=SEEDS,
    images=st.integers(1, 4),
    first=st.integers(1, 11),
    second=st.integers(1, 8),
    side=st.integers(1, 6),
    present=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    ties=st.booleans(),
)


def score(sets: dict[str, slice], *batches: tuple[Tensor, Tensor]) -> MeanIoU:
    scores = MeanIoU(sets)
    for logits, labels in batches:
        scores.update(logits, labels)
    return scores


def assert_same_counts(one: MeanIoU, other: MeanIoU) -> None:
    assert all(one.counts[name].equal(other.counts[name]) for name in one.class_sets)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(any_predictions)
@same_each_time
def test_counts_and_scores_are_those_of_scikit_learn(drawn):
    logits, labels = drawn.draw()
    scores = score(drawn.sets, (logits, labels))
    for name, classes in drawn.sets.items():
        seen = (labels >= classes.start) & (labels < classes.stop)
        truth = labels[seen].numpy() - classes.start
        predicted = logits[:, classes].numpy().argmax(axis=1)[seen.numpy()]
        every = range(classes.stop - classes.start)
        if not len(truth):  # scikit-learn refuses to count nothing
            assert not scores.counts[name].any() and math.isnan(scores.miou(name))
            continue
        wanted = confusion_matrix(truth, predicted, labels=every)
        assert scores.counts[name].tolist() == wanted.tolist()
        iou = jaccard_score(truth, predicted, labels=every, average=None, zero_division=0)
        mine = scores.iou(name)
        there = ~mine.isnan().numpy()  # for a class without a union it says what it is told to
        assert mine[there].tolist() == pytest.approx(100 * iou[there], rel=1e-12)
        assert scores.miou(name) == pytest.approx(100 * iou[there].mean(), rel=1e-12)


@given(any_predictions)
@same_each_time
def test_counts_and_scores_are_those_of_torchmetrics(drawn):
    """It says 0 for a class with an empty union, and leaves it out of the mean, as we do.

    It knows no set of one class, and computes in float32.
    """
    logits, labels = drawn.draw()
    scores = score(drawn.sets, (logits, labels))
    for name, classes in drawn.sets.items():
        if (n := classes.stop - classes.start) == 1:
            continue
        truth = restrict(labels, classes)
        counts = MulticlassConfusionMatrix(n, ignore_index=VOID)(logits[:, classes], truth)
        assert scores.counts[name].equal(counts)
        if not (truth != VOID).any():  # its mean of nothing is 0, ours is NaN
            continue
        iou, mean = (
            100 * MulticlassJaccardIndex(n, average, VOID)(logits[:, classes], truth)
            for average in ("none", "macro")
        )
        mine = scores.iou(name)
        there = ~mine.isnan()
        assert mine[there].tolist() == pytest.approx(iou[there].tolist(), rel=1e-6)
        assert not iou[~there].any()
        assert scores.miou(name) == pytest.approx(mean.item(), rel=1e-6)


@given(any_predictions)
@same_each_time
def test_renumbered_classes_are_counted_as_before_under_their_new_numbers(drawn):
    """Not where two scores tie: there the smaller number wins."""
    logits, labels = replace(drawn, ties=False).draw()
    parts = [drawn.order(drawn.first), drawn.first + drawn.order(drawn.second)]
    order = torch.cat([*parts, torch.arange(drawn.classes, drawn.classes + 2)])
    before = score(drawn.sets, (logits, labels))
    after = score(drawn.sets, (logits[:, order[: drawn.classes]], renumbered(labels, order)))
    for name, classes in drawn.sets.items():
        moved = order[classes] - classes.start
        assert after.counts[name].equal(before.counts[name][moved][:, moved])
        assert after.miou(name) == pytest.approx(before.miou(name), rel=1e-12, nan_ok=True)


@given(any_predictions)
@same_each_time
def test_pixels_are_counted_in_any_order_and_in_any_batches(drawn):
    logits, labels = drawn.draw()
    whole = score(drawn.sets, (logits, labels))
    order = drawn.order(labels.numel())
    assert_same_counts(score(drawn.sets, (shuffled(logits, order), shuffled(labels, order))), whole)
    order = drawn.order(len(labels))
    parts = zip(logits[order].split(3), labels[order].split(3), strict=True)
    assert_same_counts(score(drawn.sets, *parts), whole)
