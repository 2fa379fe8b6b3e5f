import math

import pytest
import torch
from torch.nn import functional as F

from cilkit import fast_metrics, metrics
from cilkit.classes import VOID
from cilkit.metrics import MeanIoU

SETS = {"task1": slice(0, 2), "task2": slice(2, 5), "task12": slice(0, 5)}


@pytest.fixture
def batches():
    """Three batches of 5 channels, labels of 7 classes (two of a later stage) and void."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for images in (2, 1, 3):
        logits = torch.randn(images, 5, 4, 6, generator=generator)
        labels = torch.randint(8, (images, 4, 6), generator=generator)
        made.append((logits, labels.where(labels < 7, VOID)))
    return made


def naive_counts(logits, labels, classes):
    """The confusion matrix of a class set, pixel by pixel."""
    n = classes.stop - classes.start
    counts = [[0] * n for _ in range(n)]
    for b in range(labels.shape[0]):
        for h in range(labels.shape[1]):
            for w in range(labels.shape[2]):
                label = labels[b, h, w].item()
                if not classes.start <= label < classes.stop:
                    continue
                scores = logits[b, classes, h, w].tolist()
                counts[label - classes.start][scores.index(max(scores))] += 1
    return counts


def naive_iou(counts):
    n = len(counts)
    ious = []
    for s in range(n):
        hits = counts[s][s]
        union = sum(counts[s]) + sum(counts[r][s] for r in range(n)) - hits
        ious.append(100 * hits / union if union else math.nan)
    return ious


def score(logits, labels, sets=SETS) -> MeanIoU:
    scores = MeanIoU(sets)
    scores.update(logits, labels)
    return scores


def one_hot_logits(rows: list[list[float]]) -> torch.Tensor:
    """A row of pixels with the given scores: (1, S, 1, W)"""
    return torch.tensor(rows, dtype=torch.float32).T[None, :, None]


@pytest.mark.parametrize("name", SETS)
def test_it_counts_like_a_loop_over_the_pixels(batches, name):
    scores = MeanIoU(SETS)
    wanted = torch.zeros_like(scores.counts[name])
    for logits, labels in batches:
        scores.update(logits, labels)
        wanted += torch.tensor(naive_counts(logits, labels, SETS[name]))
    assert scores.counts[name].equal(wanted)
    ious = naive_iou(wanted.tolist())
    assert scores.iou(name).tolist() == pytest.approx(ious, rel=1e-12)
    assert scores.miou(name) == pytest.approx(sum(ious) / len(ious), rel=1e-12)


def test_batches_add_up_to_what_all_images_give_at_once(batches):
    parts = MeanIoU(SETS)
    for logits, labels in batches:
        parts.update(logits, labels)
    whole = score(*(torch.cat(part) for part in zip(*batches, strict=True)))
    assert all(parts.counts[name].equal(whole.counts[name]) for name in SETS)
    assert whole.counts["task12"].sum() == sum((labels < 5).sum() for _, labels in batches)


def test_a_perfect_prediction_scores_100_and_rows_are_labels():
    labels = torch.tensor([[[0, 1, 2, 3, 4, VOID]]])
    logits = F.one_hot(labels.where(labels < 5, 0), 5).permute(0, 3, 1, 2).float()
    scores = score(logits, labels)
    assert [scores.miou(name) for name in SETS] == [100, 100, 100]
    wrong = score(logits.roll(1, dims=1), labels, {"task12": slice(0, 5)})  # label s predicted s+1
    assert wrong.counts["task12"][0].tolist() == [0, 1, 0, 0, 0]
    assert wrong.counts["task12"][4].tolist() == [1, 0, 0, 0, 0]


def test_only_the_channels_of_a_set_compete_and_only_its_pixels_count():
    # four pixels, channels a, b | c; the third class is loudest everywhere
    logits = one_hot_logits([[2, 1, 9], [1, 2, 9], [2, 1, 9], [1, 2, 9]])
    labels = torch.tensor([[[0, 1, 1, 2]]])
    scores = score(
        logits, labels, {"task1": slice(0, 2), "task2": slice(2, 3), "task12": slice(0, 3)}
    )
    # task1: labels a b b, predicted a b a: IoU 1/2 and 1/2; the pixel labelled c does not count
    assert scores.counts["task1"].tolist() == [[1, 0], [1, 1]]
    assert scores.iou("task1").tolist() == [50, 50]
    # task2: one pixel, one class
    assert scores.counts["task2"].tolist() == [[1]]
    # together, everything is predicted c: IoU 0, 0, 1/4
    assert scores.counts["task12"].tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 1]]
    assert scores.iou("task12").tolist() == [0, 0, 25]


def test_task_1u2_is_not_the_mean_of_task_1_and_task_2():
    # channels a | b: each task alone cannot be wrong, together b is predicted everywhere
    logits = one_hot_logits([[1, 2], [1, 2], [1, 2], [1, 2]])
    labels = torch.tensor([[[0, 0, 0, 1]]])
    scores = score(
        logits, labels, {"task1": slice(0, 1), "task2": slice(1, 2), "task12": slice(0, 2)}
    )
    assert scores.miou("task1") == scores.miou("task2") == 100
    assert scores.miou("task12") == 12.5  # the mean of 0 and 1/4


def test_a_class_with_an_empty_union_does_not_enter_the_mean():
    # labels a, b, b; predicted a, b, a; class c neither in labels nor predicted
    logits = one_hot_logits([[2, 1, 0], [1, 2, 0], [2, 1, 0]])
    labels = torch.tensor([[[0, 1, 1]]])
    scores = score(logits, labels, {"task1": slice(0, 3)})
    ious = scores.iou("task1")
    assert ious[:2].tolist() == [50, 50] and ious[2].isnan()
    assert scores.miou("task1") == 50
    # one wrong prediction of c makes its union 1: IoU 0 counts now
    scores.update(one_hot_logits([[0, 0, 1]]), torch.tensor([[[0]]]))
    assert scores.iou("task1").tolist() == pytest.approx([100 / 3, 50, 0])
    assert scores.miou("task1") == pytest.approx((100 / 3 + 50) / 3)


def test_without_a_labelled_pixel_the_mean_is_nan(batches):
    scores = score(batches[0][0], torch.full((2, 4, 6), VOID))
    assert all(math.isnan(scores.miou(name)) for name in SETS)
    assert all(math.isnan(MeanIoU(SETS).miou(name)) for name in SETS)  # nor before any batch


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((4, 6), (4, 6)),
        ((4, 6), (8, 12)),
        ((64, 128), (128, 256)),
        ((128, 168), (360, 480)),  # CamVid in the preset quick
        ((16, 24), (37, 50)),
        ((32, 64), (16, 32)),  # labels smaller than the prediction
    ],
)
def test_upsampling_the_indices_is_upsampling_the_logits(small, large):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *small, generator=generator)
    labels = torch.randint(6, (2, *large), generator=generator)
    labels = labels.where(labels < 5, VOID)
    upsampled = F.interpolate(logits, large, mode="nearest")
    cheap, thorough = score(logits, labels), score(upsampled, labels)
    assert all(cheap.counts[name].equal(thorough.counts[name]) for name in SETS)
    assert cheap.counts["task12"].sum() == (labels < 5).sum()


def test_each_pixel_takes_the_prediction_it_lies_in():
    logits = one_hot_logits([[1, 0], [0, 1]])  # a, b: (1, 2, 1, 2)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]]])
    scores = score(logits, labels, {"task1": slice(0, 2)})
    assert scores.counts["task1"].tolist() == [[5, 1], [1, 5]]


def test_a_model_is_not_scored_on_classes_it_has_not_learned(batches):
    logits, labels = batches[0]
    scores = MeanIoU(SETS | {"task3": slice(5, 7)})
    with pytest.raises(
        ValueError, match="logits are of classes 0 to 4 .* reach from 0 to 6; score"
    ):
        scores.update(logits, labels)
    assert all(counts.sum() == 0 for counts in scores.counts.values())  # nothing counted by half


def test_a_model_of_later_classes_alone_is_scored_on_them_as_if_it_knew_the_others(batches):
    late, whole = (MeanIoU({"task2": slice(2, 5), "last": slice(4, 5)}) for _ in range(2))
    for logits, labels in batches:
        late.update(logits[:, 2:], labels, first=2)
        whole.update(logits, labels)
    for name in late.class_sets:
        assert late.counts[name].equal(whole.counts[name]) and late.counts[name].sum() > 0


@pytest.mark.parametrize(
    ("classes", "reach"),
    [(slice(0, 2), "0 to 1"), (slice(1, 4), "1 to 3"), (slice(3, 6), "3 to 5")],
)
def test_a_model_of_later_classes_alone_is_scored_on_no_other(batches, classes, reach):
    logits, labels = batches[0]
    scores = MeanIoU({"task": classes})
    with pytest.raises(
        ValueError, match=f"of classes 2 to 4 but the class sets reach from {reach}"
    ):
        scores.update(logits[:, 2:], labels, first=2)
    assert scores.counts["task"].sum() == 0


def test_the_pixel_after_2_to_the_24_still_counts():
    scores = MeanIoU({"task1": slice(0, 2)})
    scores.counts["task1"][0, 0] = 2**24  # 8 images of 1024 x 2048; here float32 stops
    scores.update(one_hot_logits([[1, 0]]), torch.tensor([[[0]]]))
    assert scores.counts["task1"].tolist() == [[2**24 + 1, 0], [0, 0]]


def test_many_overlapping_sets_are_counted_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, 8, 16, generator=generator).round()  # with many ties
    labels = torch.randint(0, 13, (2, 16, 32), generator=generator)
    labels[labels == 12] = VOID
    sets = {f"{a}-{b}": slice(a, b) for a in range(0, 12, 3) for b in range(a + 2, 13, 5)}
    together = MeanIoU(sets)
    together.update(logits, labels)
    for name, classes in sets.items():
        prediction = (
            logits[:, classes].argmax(dim=1).repeat_interleave(2, 1).repeat_interleave(2, 2)
        )
        seen = (labels >= classes.start) & (labels < classes.stop)
        wanted = torch.zeros_like(together.counts[name])
        truth = labels[seen] - classes.start
        wanted.index_put_((truth, prediction[seen]), torch.tensor(1), accumulate=True)
        assert together.counts[name].equal(wanted), name


def test_any_number_of_class_sets_is_counted_together():
    """Of 15 sets of 20 classes there are 20^15 combinations of predictions, more than 64 bits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 40, 8, 16, generator=generator)
    labels = torch.randint(0, 40, (2, 8, 16), generator=generator)
    sets = {f"set{k}": slice(k, k + 20) for k in range(15)}
    together = score(logits, labels, sets)
    for name, classes in sets.items():
        alone = score(logits, labels, {name: classes})
        assert together.counts[name].equal(alone.counts[name]), name
        assert alone.counts[name].tolist() == naive_counts(logits, labels, classes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fast_twin_predicts_the_same(layout):
    generator = torch.Generator().manual_seed(0)
    for ties in (False, True):
        logits = 3 * torch.randn(2, 12, 8, 16, generator=generator)
        logits = (logits.round() if ties else logits).contiguous(memory_format=layout)
        for first in (0, 4):
            sets = {
                f"{a}-{b}": slice(first + a, first + b) for a in range(12) for b in range(a + 1, 13)
            }
            plain = metrics.best_channels(logits, sets, first)
            fast = fast_metrics.best_channels(logits, sets, first)
            assert all(plain[name].equal(fast[name].long()) for name in sets)
            assert plain["0-12"].unique().numel() == 12
    assert logits[0, :, 0, 0].unique().numel() < 12  # ties did occur


@pytest.mark.parametrize("most", [1, 10, 2**62])
def test_joint_predictions_may_be_counted_for_any_number_of_sets_at_once(
    batches, monkeypatch, most
):
    monkeypatch.setattr("cilkit.metrics.MOST_JOINT_PREDICTIONS", most)
    for logits, labels in batches:
        scores = score(logits, labels)
        for name, classes in SETS.items():
            assert scores.counts[name].tolist() == naive_counts(logits, labels, classes)


def test_neither_the_memory_format_nor_the_type_of_the_labels_changes_a_count(batches):
    logits, labels = batches[0]
    wanted = score(logits, labels)
    scores = score(logits.contiguous(memory_format=torch.channels_last), labels.to(torch.uint8))
    assert all(scores.counts[name].equal(wanted.counts[name]) for name in SETS)
    assert wanted.counts["task12"].sum() > 0
