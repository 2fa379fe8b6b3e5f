import os
import shutil
from pathlib import Path

import pytest
from conftest import first_image, first_label

from cilkit.classes import VOID
from cilkit.data import scenes as datasets
from cilkit.data.scenes import open_data
from cilkit.files import ROOT, resolve


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
