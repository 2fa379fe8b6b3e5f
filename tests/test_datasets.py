import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cilkit.classes import VOID
from cilkit.data import scenes as datasets
from cilkit.data.png import read_label_ids
from cilkit.data.scenes import open_data
from cilkit.data.store import network_size
from cilkit.files import ROOT, resolve
from cilkit.splits import load_split

HIDDEN = {"T1": set(range(5, 19)), "T2": {*range(5), *range(11, 19)}, "T3": set(range(11))}


def true_channels(sample, split):
    """The channel of each pixel straight from the file, by loops over the split."""
    ids = np.array(Image.open(sample.label))
    channels = np.full(ids.shape, VOID)
    for channel, label_class in enumerate(split.classes):
        channels[ids == label_class.label_id] = channel
    return torch.from_numpy(channels)


def first_label(folder, city="aachen"):
    return next((folder / "gtFine" / "train" / city).iterdir())


def first_image(folder, city="aachen"):
    return next((folder / "leftImg8bit" / "train" / city).iterdir())


# what a stage sees


@pytest.mark.parametrize("name", ["T1", "T2", "T3"])
def test_a_stage_has_the_images_of_its_cities_only(scenes, name):
    stage = scenes.split.stage(name)
    data = scenes.stage(name)
    assert [sample.city for sample in data.samples] == list(stage.cities)
    assert all(sample.image.parent.name == sample.city for sample in data.samples)
    assert all(sample.label.parent.name == sample.city for sample in data.samples)


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
    assert not seen & HIDDEN[name]


def test_with_all_labels_a_stage_sees_the_old_classes_but_not_the_coming_ones(scenes):
    data = scenes.stage("T2", labels="all")
    assert data.samples == scenes.stage("T2").samples
    for index, sample in enumerate(data.samples):
        truth = true_channels(sample, scenes.split)
        assert data[index][1].equal(torch.where(truth < 11, truth, VOID))


def test_single_stage_training_sees_all_images_and_labels_up_to_its_stage(scenes):
    data = scenes.single_stage("T2")
    wanted = scenes.split.stage("T1").cities + scenes.split.stage("T2").cities
    assert tuple(sample.city for sample in data.samples) == wanted
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
        assert [sample.city for sample in data.samples] == ["frankfurt", "lindau", "munster"]
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
    assert "erfurt" not in {sample.city for sample in scenes.train + scenes.test}


# what an item is


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


@pytest.mark.parametrize(
    ("size", "height", "wanted"),
    [
        ((1024, 2048), 512, [512, 1024]),  # Cityscapes in the paper preset
        ((360, 480), 512, [360, 480]),  # CamVid is smaller already
        ((360, 480), 128, [128, 168]),  # 480 * 128 / 360 = 170.7
        ((64, 128), 512, [64, 128]),
        ((64, 128), None, [64, 128]),
        ((4, 400), 2, [8, 200]),  # a network needs 8 pixels
    ],
)
def test_the_size_for_the_network_is_a_multiple_of_8(size, height, wanted):
    assert network_size(size, height) == wanted


@pytest.mark.parametrize("size", [(45, 63), (1052, 1914), (108, 109)])
def test_no_side_of_an_image_is_ever_enlarged(size):
    for height in (None, 512, size[0], 45):
        got = network_size(size, height)
        assert got[0] <= (height or size[0]) and got[1] <= size[1]
        assert got[0] % 8 == got[1] % 8 == 0


def test_an_image_is_decoded_once_and_kept(folder):
    data = open_data(folder).stage("T1")
    before = data[0]
    shutil.rmtree(folder)
    after = data[0]
    assert after[0].equal(before[0]) and after[1].equal(before[1])
    with pytest.raises(ValueError, match="cannot be read"):
        data[1]


def test_a_data_set_beyond_the_memory_limit_is_read_anew(folder, monkeypatch):
    data = open_data(folder).stage("T1")
    each = 4 * 32 * 64  # bytes of three colours and a label
    monkeypatch.setattr("cilkit.data.store.IN_MEMORY", len(data) * each - 1)
    assert data[0][0].shape == (3, 32, 64)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="cannot be read"):
        data[0]


def test_changing_an_item_does_not_change_the_data_set(scenes):
    data = scenes.stage("T1")
    image, labels = data[0]
    kept = image.clone(), labels.clone()
    image.zero_(), labels.zero_()
    assert data[0][0].equal(kept[0]) and data[0][1].equal(kept[1])


def test_a_data_loader_takes_the_data_set_as_it_is(scenes):
    images, labels = next(iter(DataLoader(scenes.stage("T1"), batch_size=4)))
    assert images.shape == (4, 3, 32, 64) and labels.shape == (4, 32, 64)


def test_palette_images_hold_their_indices(folder):
    label = first_label(folder)
    before = open_data(folder).stage("T1")[0][1]
    picture = Image.open(label).convert("L")
    picture.putpalette([k // 3 for k in range(768)])  # now mode P, the same numbers
    assert picture.mode == "P"
    picture.save(label)
    assert open_data(folder).stage("T1")[0][1].equal(before)


# what is missing or wrong


def test_a_missing_data_folder_is_named_with_two_ways_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="data/README.md.*DATA = 'toyscapes'") as error:
        open_data(tmp_path / "nothing")
    assert f"no data folder {tmp_path / 'nothing'}" in str(error.value)


def test_a_folder_of_neither_layout_is_answered_with_what_is_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit/ .* trainannot/ .*found nothing"):
        open_data(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="found images, notes.txt. See data/README.md"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("part", "city"),
    [
        ("leftImg8bit/train", "ulm"),
        ("gtFine/train", "ulm"),
        ("leftImg8bit/val", "lindau"),
        ("gtFine/val", "lindau"),
    ],
)
def test_a_missing_city_is_named_with_where_it_was_looked_for(folder, part, city):
    shutil.rmtree(folder / part / city)
    with pytest.raises(FileNotFoundError, match="DATA = 'toyscapes'") as error:
        open_data(folder)
    assert f"city '{city}' not found: no folder {folder / part / city}" in str(error.value)
    assert "leftImg8bit_trainvaltest.zip" in str(error.value)


def test_labels_that_were_never_unpacked_are_missed(folder):
    shutil.rmtree(folder / "gtFine")
    with pytest.raises(FileNotFoundError, match="gtFine_trainvaltest.zip"):
        open_data(folder)


def test_a_city_without_images_is_an_error(folder):
    first_image(folder).unlink()
    first_label(folder).unlink()
    with pytest.raises(FileNotFoundError, match="no images in .*aachen; unpack"):
        open_data(folder)


def test_an_image_without_label_is_named(folder):
    first_label(folder).unlink()
    with pytest.raises(ValueError, match="1 image files have no label.*add the label") as error:
        open_data(folder)
    assert str(first_image(folder)) in str(error.value)


def test_a_label_without_image_is_named(folder):
    label = first_label(folder)
    extra = label.with_name("aachen_000009_000019_gtFine_labelIds.png")
    shutil.copy(label, extra)
    with pytest.raises(ValueError, match="1 label files have no image.*add the image") as error:
        open_data(folder)
    assert str(extra) in str(error.value)


def test_other_files_beside_the_labels_are_left_alone(folder):
    label = first_label(folder)
    for ending in ("color.png", "instanceIds.png", "polygons.json", "labelTrainIds.png"):
        label.with_name(label.name.replace("labelIds.png", ending)).touch()
    assert len(open_data(folder).stage("T1")) == 4


def test_a_label_of_another_size_than_its_image_is_refused(folder, write_png):
    write_png(first_label(folder), np.full((32, 60), 7, dtype=np.uint8))
    with pytest.raises(ValueError, match="is 32 x 60 pixels but .* is 32 x 64; they must be equal"):
        open_data(folder).stage("T1")[0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((32, 64, 3), dtype=np.uint8), "has mode RGB; wanted one 8-bit label id"),
        (np.zeros((32, 64, 4), dtype=np.uint8), "has mode RGBA; wanted one 8-bit label id"),
        (np.full((32, 64), 26001, dtype=np.uint16), "has mode I;16"),
        (np.array([[0, 1, 18, 255]], dtype=np.uint8), r"holds ids 0, 1, 18, 255.*trainIds"),
        (np.array([[7, 8, 77]], dtype=np.uint8), "holds ids 77 that split 'cityscapes' does not"),
        (np.arange(30, 60, dtype=np.uint8)[None], "holds ids 34, 35, 36, 37, 38, 39, 40, 41 that"),
    ],
)
def test_labels_that_are_no_label_ids_are_refused(folder, write_png, pixels, message):
    file = write_png(first_label(folder), pixels)
    with pytest.raises(ValueError, match=message) as error:
        read_label_ids(file, load_split())
    assert str(file) in str(error.value)


def test_a_licence_plate_does_not_make_label_ids_look_like_train_ids(folder, write_png):
    ids = np.array([[7, 8, 26, 255]], dtype=np.uint8)
    assert read_label_ids(write_png(first_label(folder), ids), load_split()).tolist() == [
        [7, 8, 26, 255]
    ]


@pytest.mark.parametrize("kind", ["text", "cut"])
def test_a_file_that_is_no_image_is_named(folder, kind):
    image = first_image(folder)
    content = {"text": b"version https://git-lfs", "cut": image.read_bytes()[:-30]}
    image.write_bytes(content[kind])
    with pytest.raises(ValueError, match="cannot be read as an image.*download it again") as error:
        open_data(folder).stage("T1")[0]
    assert str(image) in str(error.value)


def test_an_unknown_choice_of_labels_or_stage_is_refused(scenes):
    with pytest.raises(ValueError, match="labels='old'; choose 'new' or 'all'"):
        scenes.stage("T2", labels="old")
    with pytest.raises(ValueError, match="unknown stage 'T9'; choose one of: T1, T2, T3"):
        scenes.stage("T9")
    with pytest.raises(ValueError, match="unknown stage 'T9'"):
        scenes.single_stage("T9")
    with pytest.raises(ValueError, match="unknown stage 'T9'"):
        scenes.test_set("T9")


# names and paths


def test_a_data_set_is_called_like_its_folder_in_lower_case(folder):
    assert folder.name == "Tinyscapes"
    assert open_data(folder).name == "tinyscapes"
    assert open_data(str(folder)).root == folder


def test_relative_paths_start_at_the_project_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("data/runs") == ROOT / "data" / "runs"
    assert resolve(Path("..") / "elsewhere") == ROOT.parent / "elsewhere"
    assert resolve(tmp_path / "runs") == tmp_path / "runs"
    assert resolve("~/runs") == Path.home() / "runs"
    assert (ROOT / "pyproject.toml").is_file()


def test_a_relative_data_folder_is_looked_for_in_the_project(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FileNotFoundError, match="no data folder") as error:
        open_data("Tinyscapes")
    assert str(ROOT / "Tinyscapes") in str(error.value)


def test_toyscapes_are_drawn_where_git_ignores_them(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "write_toyscapes", lambda root: asked.append(root) or folder)
    assert open_data("toyscapes").root == folder
    assert asked == [ROOT / "data" / "toyscapes"]


# fingerprint


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert open_data(folder).fingerprint() == open_data(moved).fingerprint()


@pytest.mark.parametrize("which", [first_image, first_label])
def test_the_fingerprint_changes_when_a_file_changes(folder, which):
    before = open_data(folder).fingerprint()
    file = which(folder)
    file.write_bytes(file.read_bytes() + b"more")
    assert open_data(folder).fingerprint() != before


def test_the_fingerprint_changes_with_a_label_of_the_same_size(folder):
    before, label = open_data(folder), open_data(folder).train[0].label
    first, content = before.fingerprint(), label.read_bytes()
    label.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    os.utime(label, ns=(0, 1))
    assert before.fingerprint() != first
    label.write_bytes(content)
    assert before.fingerprint() == first


def test_the_fingerprint_changes_when_a_file_comes_or_is_renamed(folder):
    before = open_data(folder).fingerprint()
    for file in (first_image(folder), first_label(folder)):
        file.rename(file.with_name(file.name.replace("000000", "000001")))
    renamed = open_data(folder).fingerprint()
    for file in (first_image(folder), first_label(folder)):
        shutil.copy(file, file.with_name(file.name.replace("000001", "000002")))
    assert len({before, renamed, open_data(folder).fingerprint()}) == 3


# CamVid


def test_camvid_parts_are_consecutive_disjoint_and_whole(camvid_folder):
    data = open_data(camvid_folder)
    files = {file.name for part in ("train", "val") for file in (camvid_folder / part).iterdir()}
    names = {}
    for stage in data.split.stages:
        for sample in data.images(stage):
            names.setdefault(sample.city, []).append(sample.image.name)
    assert sorted(names) == [f"{s}/{p}" for s in ("0001TP", "0006R0", "0016E5") for p in (1, 2, 3)]
    for sequence in ("0001TP", "0006R0", "0016E5"):
        parts = [names[f"{sequence}/{part}"] for part in (1, 2, 3)]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sum(parts, []) == sorted(sum(parts, []))  # a part ends before the next begins
    together = sum(names.values(), [])
    assert len(together) == len(set(together)) and set(together) == files


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


def test_camvid_tests_on_the_test_folder(camvid_folder):
    test = open_data(camvid_folder).test_set("T3")
    assert {sample.image.parent.name for sample in test.samples} == {"test"}
    assert sorted({sample.city for sample in test.samples}) == ["0001TP", "Seq05VD"]


def test_a_folder_camvid_lacks_is_named(camvid_folder):
    shutil.rmtree(camvid_folder / "valannot")
    with pytest.raises(FileNotFoundError, match="no folder .*valannot; CamVid has train, train"):
        open_data(camvid_folder)


def test_a_sequence_camvid_lacks_is_named_with_those_there_are(camvid_folder):
    for file in camvid_folder.glob("t*/Seq05VD*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no image of sequence Seq05VD; found 0001TP"):
        open_data(camvid_folder)


def test_a_camvid_image_without_label_is_named(camvid_folder):
    label = next((camvid_folder / "valannot").iterdir())
    label.unlink()
    with pytest.raises(ValueError, match="1 image files have no label") as error:
        open_data(camvid_folder)
    assert str(camvid_folder / "val" / label.name) in str(error.value)


def test_cityscapes_ids_are_foreign_to_camvid(camvid_folder, write_png):
    file = sorted((camvid_folder / "testannot").iterdir())[0]
    write_png(file, np.full((32, 64), 26, dtype=np.uint8))
    with pytest.raises(ValueError, match="holds ids 26 that split 'camvid' does not know"):
        open_data(camvid_folder).test_set("T1")[0]


def test_the_real_camvid_has_157_157_154_and_233_images(camvid):
    data = open_data(camvid)
    assert [len(data.images(stage)) for stage in data.split.stages] == [157, 157, 154]
    assert len(data.train) == 367 + 101  # its folders train and val
    assert len(data.test) == 233
    image, labels = data.stage("T1", height=128)[0]
    assert image.shape == (3, 128, 168) and labels.shape == (128, 168)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, VOID}
    image, labels = data.test_set("T3", height=128)[0]
    assert image.shape == (3, 128, 168) and labels.shape == (360, 480)


def test_the_real_cityscapes_has_the_counts_of_table_i(cityscapes):
    data = open_data(cityscapes)
    assert [len(data.images(stage)) for stage in data.split.stages] == [956, 938, 972]
    assert len(data.test) == 500
    by_city = {city: 0 for city, _ in data.split.images if city != "erfurt"}
    for sample in data.train + data.test:
        by_city[sample.city] += 1
    assert by_city | {"erfurt": 109} == dict(data.split.images)
    image, labels = data.test_set("T1", height=512)[0]
    assert image.shape == (3, 512, 1024) and labels.shape == (1024, 2048)
