import pandas as pd
import pytest
import torch

from cilkit.methods import METHODS, Memory
from cilkit.methods.lwm import balanced, confident
from cilkit.training.evaluation import predict
from cilkit.training.memory import choose, rate


def ratings(*rows: list[int], confidence: list[float] | None = None) -> pd.DataFrame:
    """Ratings as `rate` gives them: a row an image, its labelled pixels of class a, b, c."""
    table = pd.DataFrame(rows, columns=list("abc")[: len(rows[0])])
    return table.assign(confidence=confidence or [0.5] * len(rows))


def one_class_each(images: int) -> pd.DataFrame:
    """Image 0 shows class a alone, image 1 class b, image 2 class c, image 3 class a again, ..."""
    return ratings(*([9 * (k % 3 == c) for c in range(3)] for k in range(images)))


def keep(table: pd.DataFrame, size: int, seed: int = 0, rule=balanced) -> list[int]:
    return choose(table, Memory(rule, size), seed)


# balanced


@pytest.mark.parametrize("seed", range(5))
def test_balanced_gives_each_class_its_turn(seed):
    kept = keep(one_class_each(12), 7, seed)
    assert [k % 3 for k in kept] == [0, 1, 2, 0, 1, 2, 0]
    assert len(set(kept)) == 7


@pytest.mark.parametrize("seed", range(5))
def test_balanced_keeps_the_only_image_of_a_rare_class(seed):
    table = ratings(*([100, 100, 0] for _ in range(30)), [100, 100, 1])
    assert 30 in keep(table, 3, seed)


def test_balanced_passes_over_a_class_that_no_image_shows_or_has_left():
    absent = ratings(*([9, 0, 0] if k % 2 else [0, 0, 9] for k in range(6)))
    assert [k % 2 for k in keep(absent, 4)] == [1, 0, 1, 0]
    used_up = ratings([9, 0, 0], *([0, 0, 9] for _ in range(5)))
    assert keep(used_up, 4)[0] == 0 and sorted(keep(used_up, 6)) == list(range(6))


def test_balanced_draws_from_all_images_where_none_has_a_label():
    nothing = ratings(*([0, 0, 0] for _ in range(30)))
    kept = keep(nothing, 5)
    assert len(set(kept)) == 5 and kept != sorted(kept)
    some = ratings([9, 0, 0], *([0, 0, 0] for _ in range(5)))
    assert keep(some, 6)[0] == 0 and sorted(keep(some, 6)) == list(range(6))


def test_balanced_draws_by_the_seed_and_by_nothing_else():
    table = one_class_each(60)
    torch.manual_seed(1)
    first = keep(table, 6, seed=3)
    torch.manual_seed(2)
    assert keep(table, 6, seed=3) == first
    assert keep(table.assign(confidence=table.index / 60), 6, seed=3) == first
    assert len({tuple(keep(table, 6, seed)) for seed in range(8)}) == 8
    assert {keep(table, 1, seed)[0] for seed in range(200)} == set(range(0, 60, 3))


# confident


def test_confident_keeps_the_surest_images_in_this_order():
    table = ratings([0, 0], [9, 0], [0, 9], [9, 9], confidence=[0.7, 0.9, 0.2, 0.8])
    assert keep(table, 3, rule=confident) == [1, 3, 0]
    assert keep(table, 3, rule=confident, seed=5) == [1, 3, 0]


def test_of_equally_sure_images_confident_keeps_the_first():
    table = ratings(*([9, 0] for _ in range(40)), confidence=[0.4, 0.6] * 20)
    assert keep(table, 5, rule=confident) == [1, 3, 5, 7, 9]


# size and rule


def test_lwm_remembers_twenty_balanced_images_of_each_stage():
    assert METHODS["LWM"].memory == Memory(balanced, 20) == Memory(balanced)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "20", None])
def test_the_size_of_a_memory_is_a_whole_number_from_1(size):
    with pytest.raises(ValueError, match=f"a memory of {size!r} images; wanted a whole number"):
        Memory(balanced, size)


def test_a_memory_without_a_rule_is_refused():
    with pytest.raises(ValueError, match=r"20 is no rule of a memory; .* Memory\(balanced"):
        Memory(20)


def test_a_memory_larger_than_the_stage_is_refused_and_one_as_large_keeps_everything():
    table = one_class_each(6)
    assert sorted(keep(table, 6)) == list(range(6))
    with pytest.raises(ValueError, match=r"7 images, but a stage .* only 6; .*size=6\) at most"):
        keep(table, 7)


def test_a_rule_gets_counts_confidence_size_and_a_seeded_generator():
    given = []

    def rule(counts, confidence, size, generator):
        given.append((counts, confidence, size, torch.rand(3, generator=generator)))
        return [2, 0]

    table = ratings([1, 2], [3, 4], [5, 6], confidence=[0.25, 0.5, 0.75])
    assert keep(table, 2, rule=rule) == [2, 0]
    keep(table, 2, rule=rule)
    keep(table, 2, rule=rule, seed=1)
    counts, confidence, size, drawn = given[0]
    assert counts.tolist() == [[1, 2], [3, 4], [5, 6]] and not counts.is_floating_point()
    assert confidence.tolist() == [0.25, 0.5, 0.75] and size == 2
    assert drawn.equal(given[1][3]) and not drawn.equal(given[2][3])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 0, 1], r"the rule chose \[0, 0, 1\]; wanted a list of 3 different .* 0 to 5"),
        ([0, 0, 1, 2], r"\[0, 0, 1, 2\]; wanted a list of 3 different"),
        ([0, 1], r"the rule chose \[0, 1\]; wanted a list of 3 different"),
        ([0, 1, 2, 3], "wanted a list of 3 different"),
        ([], r"the rule chose \[\]; wanted a list of 3 different"),
        ([0, 1, 6], r"\[0, 1, 6\]; .* from 0 to 5"),
        ([0, 1, -1], r"\[0, 1, -1\]; .* from 0 to 5"),
        ([0.9, 1.2, 2.3], r"the rule chose \[0.9, 1.2, 2.3\]; .* whole numbers"),
        ([True, False, 2], "different whole numbers"),
        (None, "the rule chose None; wanted a list"),
    ],
)
def test_a_rule_that_chooses_nonsense_is_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        keep(one_class_each(6), 3, rule=lambda *_: chosen)


def test_a_rule_may_answer_with_a_tensor():
    assert keep(one_class_each(6), 3, rule=lambda *_: torch.tensor([4, 0, 5])) == [4, 0, 5]


# rating


@pytest.mark.parametrize("stage", ["T1", "T2"])
def test_an_image_is_rated_by_the_labels_and_the_confidence_of_its_stage(
    scenes, tiny, make_network, stage
):
    images = scenes.stage(stage, height=16)
    at = scenes.split.stage(stage)
    network = make_network(at.seen.stop)
    table = rate(images, network, tiny)
    assert list(table) == [*scenes.split.names(at.new), "confidence"]
    assert len(table) == len(images)
    for index, row in table.iterrows():
        pixels, labels = images[index]
        counts = [(labels == channel).sum() for channel in range(at.new.start, at.new.stop)]
        assert row.tolist()[:-1] == counts
        y = predict(network, pixels[None], tiny).softmax(dim=1)[0]  # (S, H, W)
        assert row["confidence"] == pytest.approx(y.max(dim=0).values.mean().item(), rel=1e-5)
    assert table.drop(columns="confidence").to_numpy().any(axis=0).all()  # each class somewhere
    assert table["confidence"].nunique() == len(images)


def test_a_model_that_has_not_learned_the_classes_cannot_rate_them(scenes, tiny, make_network):
    with pytest.raises(ValueError, match="one knows 5 classes: that stage has not run yet") as one:
        rate(scenes.stage("T2"), make_network(5), tiny)
    assert "labelled building, wall, fence, pole, traffic light, traffic sign wants" in str(one)
    assert "Train it first (08_lwm)" in str(one)
    with pytest.raises(ValueError, match="images labelled traffic light, traffic sign wants"):
        rate(scenes.stage("T2"), make_network(9), tiny)
    with pytest.raises(ValueError, match="knows 6 classes"):  # a model of the new classes alone
        rate(scenes.stage("T2"), make_network(6), tiny)
