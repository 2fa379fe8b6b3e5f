"""Class sets that overlap: "no requirement!" (Sec. III); sidewalk and sky are labelled again."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from cilkit import fast_metrics, metrics
from cilkit.classes import HIDDEN, VOID, belongs, channels_of, restrict, within
from cilkit.data.scenes import open_data
from cilkit.files import RESOURCES
from cilkit.methods import LATER_METHODS, METHODS, Step
from cilkit.metrics import MeanIoU
from cilkit.splits import load_split
from cilkit.study.study import Study

AGAIN = (1, 4)  # sidewalk and sky, of S1
LABELLED = (*AGAIN, *range(5, 11))
EVERY = METHODS | LATER_METHODS


@pytest.fixture(scope="module")
def root(scenes, tmp_path_factory):
    """The tiny Cityscapes with a split in which T2 labels sidewalk and sky again, and T3 pole."""
    root = tmp_path_factory.mktemp("overlap") / "tinyscapes"
    shutil.copytree(scenes.root, root)
    text = (RESOURCES / "splits" / "cityscapes.toml").read_text()
    for stage, names in (("T2", ["sky", "sidewalk"]), ("T3", ["pole"])):
        text = text.replace(f'name = "{stage}"\n', f'name = "{stage}"\nagain = {names}\n')
    (root / "split.toml").write_text(text)
    return root


@pytest.fixture
def step():
    """Random logits, labels of T2 with sidewalk and sky among them, hidden and void pixels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 11, 4, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(2, 5, 4, 6, generator=generator, dtype=torch.float64).softmax(dim=1)
    choices = torch.tensor([*LABELLED, VOID, VOID])
    labels = choices[torch.randint(len(choices), (2, 4, 6), generator=generator)]
    return Step(logits, labels, teacher, slice(0, 5), slice(5, 11), again=AGAIN)


def pixels(step):
    """For each pixel its label, the student's log-probabilities, and the teacher's (lists)."""
    log_y = step.logits.log_softmax(dim=1)
    for b in range(2):
        for row in range(4):
            for column in range(6):
                at = (b, slice(None), row, column)
                yield step.labels[b, row, column].item(), log_y[at], step.teacher[at]


# labels and channels


def test_a_set_of_classes_is_asked_like_a_slice():
    labels = torch.tensor([0, 1, 4, 5, 10, HIDDEN, VOID])
    assert belongs(labels, LABELLED).tolist() == [False, True, True, True, True, False, False]
    assert restrict(labels, LABELLED).tolist() == [VOID, 0, 1, 2, 7, VOID, VOID]
    assert list(channels_of(slice(5, 8))) == [5, 6, 7] and list(channels_of((1, 7))) == [1, 7]
    assert within(slice(5, 8), 5) == slice(0, 3) and within((5, 7), 5) == [0, 2]
    piece = tuple(range(5, 11))
    for ask in (belongs, restrict):
        assert ask(labels, piece).equal(ask(labels, slice(5, 11)))
        assert ask(labels.to(torch.uint8), LABELLED).equal(ask(labels, LABELLED).to(torch.uint8))


def test_a_stage_that_labels_classes_again_appends_channels_for_the_others_only(root):
    split = load_split(root / "split.toml")
    assert split.names() == load_split().names()
    first, second, third = split.stages
    assert first.labelled == slice(0, 5) and third.labelled == (
        split.channel("pole"),
        *range(11, 19),
    )
    assert (second.new, second.again, second.labelled) == (slice(5, 11), AGAIN, LABELLED)
    assert second.visible("all") == slice(0, 11)
    assert split.names(second.labelled)[:3] == ["sidewalk", "sky", *split.names(second.new)[:1]]
    sets = split.class_sets(third)
    assert list(sets) == ["task1", "task2", "task12", "task3", "task123"]
    assert sets["task2"] == LABELLED and sets["task12"] == slice(0, 11)


def test_the_images_of_a_stage_show_the_labels_of_its_class_set_and_no_other(root):
    shown = set()
    for labels in (labels for _, labels in open_data(root).stage("T2")):
        shown |= set(labels.unique().tolist())
    assert shown == {*LABELLED, VOID}


@pytest.mark.parametrize(
    ("again", "message"),
    [
        ('["car"]', "unknown class of an earlier stage under again of stage 'T2' 'car'"),
        ('["road", "road"]', "class again of stage 'T2' 'road' appears twice"),
        ('"road"', "again of stage 'T2' is 'road'; wanted a list"),
    ],
)
def test_only_classes_of_earlier_stages_can_be_labelled_again(tmp_path, again, message):
    text = (RESOURCES / "splits" / "cityscapes.toml").read_text()
    file = tmp_path / "split.toml"
    file.write_text(text.replace('name = "T2"\n', f'name = "T2"\nagain = {again}\n'))
    with pytest.raises(ValueError, match=message):
        load_split(file)


# losses


def test_cil_learns_the_set_of_the_stage_from_labels_and_the_rest_from_its_teacher(step):
    ce, mkd = [], []
    for label, log_y, teacher in pixels(step):
        if label in LABELLED:
            ce.append(-log_y[label].item())
        else:
            mkd.append(-sum((teacher * log_y[:5]).tolist()))
    terms = METHODS["CIL (w/o weights)"].loss(step)
    assert terms["ce"].item() == pytest.approx(sum(ce) / len(ce))
    assert terms["mkd"].item() == pytest.approx(sum(mkd) / len(mkd))


def test_lwof_has_a_softmax_for_the_set_of_the_stage(step):
    ce = []
    for label, log_y, _ in pixels(step):
        if label in LABELLED:
            scores = log_y[list(LABELLED)]
            ce.append(math.log(scores.exp().sum()) - log_y[label].item())
    terms = METHODS["LWOF"].loss(step)
    assert terms["ce"].item() == pytest.approx(sum(ce) / len(ce))
    assert METHODS["FT"].loss(step)["ce"].item() == pytest.approx(sum(ce) / len(ce))


def test_a_class_of_the_stage_is_no_old_class_that_mib_leaves_open(step):
    hidden = replace(step, labels=step.labels.where(step.labels != VOID, HIDDEN))
    ce = []
    for label, log_y, _ in pixels(hidden):
        some_old = math.log(sum(math.exp(log_y[c]) for c in (0, 2, 3)))
        ce.append(-(some_old if label == HIDDEN else log_y[label].item()))
    loss = LATER_METHODS["MiB"].prepare(type("Context", (), {"background": None})())
    assert loss(hidden)["ce"].item() == pytest.approx(sum(ce) / len(ce))


# scores


@pytest.mark.parametrize("best", [metrics.best_channels, fast_metrics.best_channels])
def test_a_set_is_scored_among_its_own_channels(best):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 11, 5, 7, generator=generator)
    labels = torch.randint(11, (2, 5, 7), generator=generator)
    sets = {"task1": slice(0, 5), "task2": LABELLED, "task12": slice(0, 11)}
    scores = MeanIoU(sets, best)
    scores.update(logits, labels)
    found = torch.zeros(8, 8, dtype=torch.long)
    predicted = logits[:, list(LABELLED)].argmax(dim=1)
    for label, guess in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if label in LABELLED:
            found[LABELLED.index(label), guess] += 1
    assert scores.counts["task2"].equal(found)
    plain = MeanIoU({name: sets[name] for name in ("task1", "task12")})
    plain.update(logits, labels)
    assert all(scores.counts[name].equal(plain.counts[name]) for name in plain.counts)


# a study


@pytest.mark.parametrize("method", EVERY)
def test_every_method_goes_through_a_study_of_overlapping_sets(root, tmp_path, tiny, small, method):
    settings = {"batch": 2, "height": tiny.height, "augmentation": tiny.augmentation}
    study = Study(root, tmp_path, "smoke", **settings)
    run = study.run("T3", small(method) if method in METHODS else method)
    split = run.split
    assert split.stage("T2").again == AGAIN and run.network().num_classes == 19
    assert list(run.miou.index) == ["task1", "task2", "task12", "task3", "task123"]
    assert list(run.iou("task2").index) == split.names(LABELLED)
    if method == "LWM":
        second = study.new_teacher("T2")
        assert second.network().num_classes == len(LABELLED)
        assert list(second.iou("task2").index) == split.names(LABELLED)
