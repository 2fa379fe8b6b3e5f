import os
import shutil
from pathlib import Path

import pytest
from conftest import first_image, first_label
from PIL import Image

from cilkit.classes import VOID
from cilkit.data import image_files
from cilkit.data import scenes as datasets
from cilkit.data.label_check import check_labels
from cilkit.data.scenes import open_data
from cilkit.files import ROOT, resolve
from cilkit.study.study import Study


def test_a_missing_data_folder_is_named_with_two_ways_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="data/README.md.*DATA = 'toyscapes'") as error:
        open_data(tmp_path / "nothing")
    assert f"no data folder {tmp_path / 'nothing'}" in str(error.value)


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
        by_city[sample.group] += 1
    assert by_city | {"erfurt": 109} == dict(data.split.images)
    image, labels = data.test_set("T1", height=512)[0]
    assert image.shape == (3, 512, 1024) and labels.shape == (1024, 2048)


def test_a_data_file_in_the_place_of_a_folder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="is a file; wanted a folder: unpack it, and set"):
        open_data(first_image(folder))


# which images of its groups a stage sees


def of_rule(folder, rule):
    """The stages of a tiny VOC under a rule: the numbers of the images that each sees."""
    file = folder / "split.toml"
    file.write_text(file.read_text().replace('rule = "overlapped"', f'rule = "{rule}"'))
    data = open_data(folder)
    seen = {s.name: [int(i.image.stem[-2:]) for i in data.images(s)] for s in data.split.stages}
    return data, seen


def test_under_overlapped_a_stage_sees_all_images_that_show_a_new_class(voc_folder):
    _, seen = of_rule(voc_folder, "overlapped")  # image k shows the classes k and k + 1, 20 also 1
    assert seen == {"T1": [*range(1, 16), 20], "T2": list(range(15, 21))}


def test_under_disjoint_a_stage_sees_no_image_that_shows_a_later_class(voc_folder):
    _, seen = of_rule(voc_folder, "disjoint")
    assert seen == {"T1": list(range(1, 15)), "T2": list(range(15, 21))}


@pytest.mark.parametrize("rule", ["disjoint", "overlapped"])
def test_ss_sees_an_image_once_with_the_classes_of_all_stages(voc_folder, rule):
    data, _ = of_rule(voc_folder, rule)
    everything = data.single_stage("T2")
    assert sorted(sample.image.stem for sample in everything.samples) == [
        f"2007_{k:06d}" for k in range(1, 21)
    ]
    assert data.decoded.train == 20 and data.decoded.test == 7
    for (_, labels), sample in zip(everything, everything.samples, strict=True):
        number = int(sample.image.stem[-2:])  # SS sees the classes of both stages in it
        assert labels.unique().tolist() == sorted({0, number, number % 20 + 1, VOID})


def test_a_stage_that_sees_an_image_twice_by_two_lists_has_it_once(voc_folder):
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "more.txt").write_text("2007_000003\n2007_000016\n")
    file = voc_folder / "split.toml"
    before = open_data(voc_folder)
    file.write_text(file.read_text().replace('groups = ["train"]', 'groups = ["train", "more"]'))
    after = open_data(voc_folder)
    for stage in after.split.stages:
        images = [sample.image for sample in after.images(stage)]
        assert images == [s.image for s in before.images(before.split.stage(stage.name))]
    assert after.decoded.train == 20 and len(after.train) == 22
    sizes = {view.cache_size() for view in (after.stage("T1"), before.stage("T1"))}
    assert len(sizes) == 1


def test_a_partition_reads_no_label_to_know_the_images_of_a_stage(folder, monkeypatch):
    monkeypatch.setattr(datasets, "ids_by_file", lambda files: pytest.fail("labels were read"))
    data = open_data(folder)
    assert [len(data.images(stage)) for stage in data.split.stages] == [4, 7, 6]


def test_each_label_is_read_once_for_all_stages_and_the_check(voc_folder, monkeypatch):
    read, real = [], image_files.ids_in
    monkeypatch.setattr(image_files, "ids_in", lambda file: read.append(file) or real(file))
    data = open_data(voc_folder)
    check_labels(data)
    data.single_stage("T2")
    assert len(read) == len(set(read)) == 20 + 7


def test_a_method_learns_a_stage_of_voc(voc_folder, tmp_path, tiny):
    changes = {"height": 32, "augmentation": tiny.augmentation, "batch": 4}
    study = Study(voc_folder, tmp_path / "runs", "smoke", **changes)
    run = study.run("T2", "CIL")
    assert list(run.miou.index) == ["task1", "task2", "task12"]
    assert run.split == study.split and run.config["split"]["rule"] == "overlapped"
    file = voc_folder / "split.toml"
    file.write_text(file.read_text().replace('rule = "overlapped"', 'rule = "disjoint"'))
    other = Study(voc_folder, tmp_path / "runs", "smoke", **changes)
    assert other.exists("T2", "CIL") and other.run("T1").config["split"]["rule"] == "disjoint"
    assert (run.folder.parent / "superseded" / "T1-1").is_dir()


def test_photographs_of_several_sizes_are_learned_and_replayed_together(
    voc_folder, tmp_path, tiny, small
):
    for number in range(1, 15):  # upright: the images that T1 alone sees
        for file in voc_folder.glob(f"*/2007_{number:06d}.*"):
            Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    changes = {"height": 32, "augmentation": tiny.augmentation, "batch": 4}
    study = Study(voc_folder, tmp_path / "runs", "smoke", **changes)
    shapes = [study.data.stage(name, height=32)[0][0].shape for name in ("T1", "T2")]
    assert shapes[0] != shapes[1]
    run = study.run("T2", small("LWM"))
    assert run.miou.between(0, 100).all()
