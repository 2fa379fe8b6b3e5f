import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cilkit.classes import HIDDEN, VOID
from cilkit.data.images import LabelledImages
from cilkit.data.scenes import open_data
from cilkit.splits import load_split

FORBIDDEN = {"T1": set(range(5, 19)), "T2": {*range(5), *range(11, 19)}, "T3": set(range(11))}


def true_channels(sample, split):
    """The channel of each pixel straight from the file, by loops over the split."""
    ids = np.array(Image.open(sample.label))
    channels = np.full(ids.shape, VOID)
    for channel, label_class in enumerate(split.classes):
        channels[ids == label_class.label_id] = channel
    return torch.from_numpy(channels)


@pytest.mark.parametrize("name", ["T1", "T2", "T3"])
def test_a_stage_has_the_images_of_its_cities_only(scenes, name):
    stage = scenes.split.stage(name)
    data = scenes.stage(name)
    assert [sample.group for sample in data.samples] == list(stage.cities)
    assert all(sample.image.parent.name == sample.group for sample in data.samples)
    assert all(sample.label.parent.name == sample.group for sample in data.samples)


@pytest.mark.parametrize("name", ["T1", "T2", "T3"])
def test_labels_a_stage_may_not_see_are_void_in_the_tensor_already(scenes, name):
    data = scenes.stage(name)
    new = scenes.split.stage(name).new
    seen = set()
    for (_, labels), sample in zip((data[i] for i in range(len(data))), data.samples, strict=True):
        truth = true_channels(sample, scenes.split)
        allowed = (truth >= new.start) & (truth < new.stop)
        assert labels.equal(torch.where(allowed, truth, VOID))
        seen |= set(labels.unique().tolist())
    assert seen == {*range(new.start, new.stop), VOID}
    assert not seen & FORBIDDEN[name]


def test_with_all_labels_a_stage_sees_the_old_classes_but_not_the_coming_ones(scenes):
    data = scenes.stage("T2", labels="all")
    assert data.samples == scenes.stage("T2").samples
    for index, sample in enumerate(data.samples):
        truth = true_channels(sample, scenes.split)
        assert data[index][1].equal(torch.where(truth < 11, truth, VOID))


@pytest.mark.parametrize("labels", ["new", "all"])
def test_where_a_label_is_hidden_may_show_but_not_which_it_is(scenes, labels):
    data = scenes.stage("T2", labels, hidden=True)
    first, seen = 5 if labels == "new" else 0, set()
    for view in (data, data.subset(range(len(data)))):
        for index, sample in enumerate(view.samples):
            truth = true_channels(sample, scenes.split)
            shown = (truth >= first) & (truth < 11)
            instead = torch.where(truth == VOID, VOID, HIDDEN)
            assert view[index][1].equal(torch.where(shown, truth, instead))
            seen |= set(view[index][1].unique().tolist())
    assert seen == {*range(first, 11), HIDDEN, VOID}


def test_an_id_that_the_split_does_not_name_is_void_and_not_hidden(scenes):
    by_id = scenes.stage("T2", hidden=True)._visible_label
    assert by_id[77] == VOID and by_id[7] == HIDDEN  # 7 is road


@pytest.mark.parametrize(
    ("stage", "labels", "hidden", "wanted"),
    [
        ("T1", "new", False, {0: "background", 1: "aeroplane", 16: "background", 17: "background"}),
        ("T2", "new", False, {0: VOID, 1: VOID, 16: "pottedplant", 17: VOID}),
        ("T2", "new", True, {0: HIDDEN, 1: HIDDEN, 16: "pottedplant", 17: HIDDEN}),
        (
            "T2",
            "all",
            False,
            {0: "background", 1: "aeroplane", 16: "pottedplant", 17: "background"},
        ),
    ],
)
def test_later_classes_are_background_where_that_is_seen(stage, labels, hidden, wanted):
    split = load_split("voc_15-1")  # 16 is pottedplant of T2, 17 is sheep of T3
    view = LabelledImages([], split, split.stage(stage).visible(labels), hidden=hidden)
    for label_id, name in wanted.items():
        channel = split.channel(name) if isinstance(name, str) else name
        assert view._visible_label[label_id] == channel, label_id
    assert view._visible_label[255] == VOID  # the border


def test_single_stage_training_sees_all_images_and_labels_up_to_its_stage(scenes):
    data = scenes.single_stage("T2")
    wanted = scenes.split.stage("T1").cities + scenes.split.stage("T2").cities
    assert tuple(sample.group for sample in data.samples) == wanted
    for index, sample in enumerate(data.samples):
        truth = true_channels(sample, scenes.split)
        assert data[index][1].equal(torch.where(truth < 11, truth, VOID))
    assert len(scenes.single_stage("T1")) == 4 and len(scenes.single_stage("T3")) == 17


def test_single_stage_at_t1_is_stage_t1(scenes):
    one, other = scenes.single_stage("T1"), scenes.stage("T1")
    assert one.samples == other.samples and one.visible == other.visible == slice(0, 5)


def test_the_test_set_is_labelled_with_what_was_learned_up_to_the_stage(scenes):
    for name, stop in (("T1", 5), ("T2", 11), ("T3", 19)):
        data = scenes.test_set(name)
        assert [sample.group for sample in data.samples] == ["frankfurt", "lindau", "munster"]
        for index, sample in enumerate(data.samples):
            truth = true_channels(sample, scenes.split)
            assert data[index][1].equal(torch.where(truth < stop, truth, VOID))


@pytest.mark.parametrize(("name", "start", "stop"), [("T1", 0, 5), ("T2", 5, 11), ("T3", 11, 19)])
def test_the_test_set_may_be_labelled_with_the_new_classes_alone(scenes, name, start, stop):
    data = scenes.test_set(name, labels="new")
    assert data.visible == slice(start, stop) and data.samples == scenes.test_set(name).samples
    for index, sample in enumerate(data.samples):
        truth = true_channels(sample, scenes.split)
        assert data[index][1].equal(truth.where((truth >= start) & (truth < stop), VOID))


def test_a_subset_is_some_of_the_images_in_the_order_asked_for(scenes):
    data = scenes.stage("T2", height=16)
    some = data.subset([4, 1])
    assert len(some) == 2 and some.visible == data.visible
    for index, wanted in enumerate((4, 1)):
        assert some.samples[index] == data.samples[wanted]
        assert all(one.equal(other) for one, other in zip(some[index], data[wanted], strict=True))
    native = scenes.test_set("T1", height=16).subset([2])
    assert [tuple(part.shape[-2:]) for part in native[0]] == [(16, 32), (32, 64)]


def test_the_held_back_city_is_in_no_set(scenes):
    assert (scenes.root / "leftImg8bit" / "train" / "erfurt").is_dir()
    assert "erfurt" not in {sample.group for sample in scenes.train + scenes.test}


def test_an_item_is_a_float_image_from_0_to_1_and_long_labels(scenes):
    data = scenes.stage("T1")
    image, labels = data[0]
    file = np.array(Image.open(data.samples[0].image)).transpose(2, 0, 1)
    assert image.dtype == torch.float32 and labels.dtype == torch.long
    assert type(image) is type(labels) is torch.Tensor
    assert image.mul(255).round().byte().equal(torch.from_numpy(file))
    assert image.max() <= 1


def test_the_augmentation_gets_image_and_labels_as_uint8(scenes):
    image, labels = scenes.stage("T1").load(0)
    assert image.shape == (3, 32, 64) and labels.shape == (32, 64)
    assert image.dtype == labels.dtype == torch.uint8


def test_training_images_and_labels_are_resized_together(scenes):
    image, labels = scenes.stage("T1", height=16)[0]
    assert image.shape == (3, 16, 32) and labels.shape == (16, 32)
    truth = true_channels(scenes.stage("T1").samples[0], scenes.split)
    # blocks of 8 x 8 pixels: at half the size each pixel still has one block as its neighbour
    assert labels.equal(torch.where(truth < 5, truth, VOID)[::2, ::2])


def test_test_labels_keep_the_size_of_their_file(scenes):
    image, labels = scenes.test_set("T1", height=16)[0]
    assert image.shape == (3, 16, 32) and labels.shape == (32, 64)


def test_test_labels_have_the_size_of_the_image_where_that_is_wanted(scenes):
    image, labels = scenes.test_set("T1", height=16, native_labels=False)[0]
    assert image.shape == (3, 16, 32) and labels.shape == (16, 32)


def test_changing_an_item_does_not_change_the_data_set(scenes):
    data = scenes.stage("T1")
    image, labels = data[0]
    kept = image.clone(), labels.clone()
    image.zero_(), labels.zero_()
    assert data[0][0].equal(kept[0]) and data[0][1].equal(kept[1])


def test_a_data_loader_takes_the_data_set_as_it_is(scenes):
    images, labels = next(iter(DataLoader(scenes.stage("T1"), batch_size=4)))
    assert images.shape == (4, 3, 32, 64) and labels.shape == (4, 32, 64)


def test_an_unknown_choice_of_labels_or_stage_is_refused(scenes):
    with pytest.raises(ValueError, match="labels='old'; choose 'new' or 'all'"):
        scenes.stage("T2", labels="old")
    with pytest.raises(ValueError, match="unknown stage 'T9'; choose one of: T1, T2, T3"):
        scenes.stage("T9")
    with pytest.raises(ValueError, match="unknown stage 'T9'"):
        scenes.single_stage("T9")
    with pytest.raises(ValueError, match="unknown stage 'T9'"):
        scenes.test_set("T9")


def test_camvid_stages_see_their_own_labels_only(camvid_folder):
    data = open_data(camvid_folder)
    assert data.split.name == "camvid" and data.name == "camvid"
    for stage in data.split.stages:
        images = data.stage(stage.name)
        assert len(images) == 6
        for index, sample in enumerate(images.samples):
            truth = true_channels(sample, data.split)
            allowed = (truth >= stage.new.start) & (truth < stage.new.stop)
            assert images[index][1].equal(torch.where(allowed, truth, VOID))
