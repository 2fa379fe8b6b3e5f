import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cilkit.data import image_files
from cilkit.data.label_check import check_labels
from cilkit.data.scenes import open_data
from cilkit.splits import SPLITS, load_split
from cilkit.study import study as study_module
from cilkit.study.study import Study

CLASSES = load_split("cityscapes").classes  # in the order of their trainIds
SKY, CAR = 23, 26


def renumber(table, *parts):
    """Give every label file of some parts (all by default) the ids of a table (256,)."""

    def damage(folder):
        for part in parts or ("train", "val"):
            for file in (folder / "gtFine" / part).rglob("*.png"):
                Image.fromarray(table[np.array(Image.open(file))]).save(file)

    return damage


def numbered(first, void):
    """A table from the label ids of Cityscapes to classes counted from `first`."""
    table = np.full(256, void, dtype=np.uint8)
    ids = sorted(label_class.label_id for label_class in CLASSES)
    table[ids] = np.arange(first, first + len(ids))
    return table


def instead(old, new):
    table = np.arange(256, dtype=np.uint8)
    table[old] = new
    return table


def own_split(folder, absent=None):
    text = (SPLITS / "cityscapes.toml").read_text(encoding="utf-8")
    line = "" if absent is None else f"absent = {absent}\n"
    (folder / "split.toml").write_text(line + text, encoding="utf-8")


EMPTY = np.zeros(256, dtype=np.uint8)
TRAIN_IDS = r"These look like trainIds \(0-18, void 19 or 255\).*files ending in _labelIds.png"
EVERYWHERE = "'terrain' .* the 4 images of stage T1; .* the 3 images of the test set. "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (renumber(numbered(0, 19)), EVERYWHERE + TRAIN_IDS),
        (renumber(numbered(1, 0)), EVERYWHERE + TRAIN_IDS),
        (renumber(numbered(0, 0)), EVERYWHERE + TRAIN_IDS),  # no void at all
        (renumber(numbered(0, 19), "val"), r"pixel of .* 3 images of the test set. " + TRAIN_IDS),
        (renumber(EMPTY), "'road' .* Every pixel is void: these labels are empty"),
        (renumber(instead(SKY, 0), "val"), r"'sky' \(id 23\) in the 3 images of the test set"),
        (renumber(instead(CAR, 0), "train"), r"'car' \(id 26\) in the 6 images of stage T3"),
    ],
)
def test_a_class_without_a_pixel_is_named_with_its_stage_and_the_reason(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        check_labels(open_data(folder))
    assert f"the labels in {folder} have no pixel of" in str(error.value)


def test_nothing_is_trained_where_a_class_of_a_later_stage_has_no_pixel(
    folder, tmp_path, tiny, monkeypatch
):
    renumber(instead(CAR, 0), "train")(folder)
    monkeypatch.setattr(study_module, "fit", lambda *_, **__: pytest.fail("it was trained"))
    study = Study(folder, tmp_path / "runs", "smoke", height=32, augmentation=tiny.augmentation)
    with pytest.raises(ValueError, match="'car' .* in the 6 images of stage T3"):
        study.run("T1")
    assert not study.exists("T1")


def test_labels_that_count_from_one_while_the_split_counts_from_zero_are_told(camvid_folder):
    for file in camvid_folder.glob("*annot/*.png"):
        ids = np.array(Image.open(file))
        Image.fromarray(np.where(ids == 11, 1, ids + 1).astype(np.uint8)).save(file)
    with pytest.raises(ValueError, match="'sky' .*count the classes from 1, and the split file"):
        check_labels(open_data(camvid_folder))


def test_a_class_may_be_missing_where_the_split_file_says_so(folder):
    renumber(instead(SKY, 0), "val")(folder)
    with pytest.raises(ValueError) as error:
        check_labels(open_data(folder))
    way_out = f'write absent = ["sky"] at the top of {folder / "split.toml"}, a copy of {SPLITS}'
    assert way_out in str(error.value) and (SPLITS / "cityscapes.toml").is_file()
    own_split(folder, '["train"]')
    with pytest.raises(ValueError) as error:
        check_labels(open_data(folder))
    assert str(error.value).endswith(f'absent = ["sky"] at the top of {folder / "split.toml"}')
    own_split(folder, '["train", "sky"]')
    check_labels(open_data(folder))


def test_what_may_be_missing_trains_nothing_again(folder, tmp_path, tiny):
    def run():
        changes = {"height": 32, "augmentation": tiny.augmentation, "batch": 4}
        return Study(folder, tmp_path / "runs", "smoke", **changes).run("T1")

    before = run().folder.stat().st_mtime_ns
    own_split(folder, '["sky"]')
    assert open_data(folder).split.absent == ("sky",)
    assert run().folder.stat().st_mtime_ns == before
    assert not (tmp_path / "runs" / "tinyscapes" / "smoke" / "seed0" / "superseded").exists()


def test_foreign_ids_in_any_file_are_named_before_anything_is_trained(folder):
    renumber(instead(CAR, 77), "train")(folder)
    with pytest.raises(ValueError, match="holds ids 77 that split 'cityscapes' does not know"):
        check_labels(open_data(folder))


def test_a_label_file_is_read_once_and_again_when_it_changes(folder, monkeypatch):
    read = []
    real = image_files.ids_in
    monkeypatch.setattr(image_files, "ids_in", lambda file: read.append(file) or real(file))
    for _ in range(2):
        check_labels(open_data(folder))
    assert len(read) == len(set(read)) == 17 + 3
    os.utime(read[5], ns=(0, 1))
    check_labels(open_data(folder))
    assert read[20:] == [read[5]]


def test_the_scenes_that_tests_and_benchmarks_draw_show_each_class(toys, camvid_folder):
    for root in (toys, camvid_folder):
        check_labels(open_data(root))


def test_the_real_camvid_shows_each_class(camvid):
    check_labels(open_data(camvid))


def test_the_real_cityscapes_shows_each_class(cityscapes):
    check_labels(open_data(cityscapes))


def test_a_background_is_recorded_where_there_is_one_as_it_decides_what_is_learned():
    split = load_split()
    assert "background" not in study_module._recorded(split)  # runs of an older kit still match
    assert study_module._recorded(replace(split, background="sky"))["background"] == "sky"
