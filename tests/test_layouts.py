import hashlib
import shutil

import numpy as np
import pytest
from conftest import SIZE, first_image, first_label
from PIL import Image

from cilkit.classes import VOID
from cilkit.data import layouts
from cilkit.data.label_check import check_labels
from cilkit.data.scenes import open_data
from cilkit.files import ROOT
from cilkit.splits import SPLITS
from cilkit.study.study import Study


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


def test_camvid_parts_are_consecutive_disjoint_and_whole(camvid_folder):
    data = open_data(camvid_folder)
    files = {file.name for part in ("train", "val") for file in (camvid_folder / part).iterdir()}
    names = {}
    for stage in data.split.stages:
        for sample in data.images(stage):
            names.setdefault(sample.group, []).append(sample.image.name)
    assert sorted(names) == [f"{s}/{p}" for s in ("0001TP", "0006R0", "0016E5") for p in (1, 2, 3)]
    for sequence in ("0001TP", "0006R0", "0016E5"):
        parts = [names[f"{sequence}/{part}"] for part in (1, 2, 3)]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sum(parts, []) == sorted(sum(parts, []))  # a part ends before the next begins
    together = sum(names.values(), [])
    assert len(together) == len(set(together)) and set(together) == files


def test_camvid_tests_on_the_test_folder(camvid_folder):
    test = open_data(camvid_folder).test_set("T3")
    assert {sample.image.parent.name for sample in test.samples} == {"test"}
    assert sorted({sample.group for sample in test.samples}) == ["0001TP", "Seq05VD"]


def test_a_folder_camvid_lacks_is_named(camvid_folder):
    shutil.rmtree(camvid_folder / "valannot")
    with pytest.raises(FileNotFoundError, match="no folder .*valannot; CamVid has train, train"):
        open_data(camvid_folder)


def test_a_sequence_camvid_lacks_is_named_with_those_there_are(camvid_folder):
    for file in camvid_folder.glob("t*/Seq05VD*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no image of Seq05VD; found 0001TP"):
        open_data(camvid_folder)


def test_a_camvid_image_without_label_is_named(camvid_folder):
    label = next((camvid_folder / "valannot").iterdir())
    label.unlink()
    with pytest.raises(ValueError, match="1 image files have no label") as error:
        open_data(camvid_folder)
    assert str(camvid_folder / "val" / label.name) in str(error.value)


# downloads as they arrive


def litter(root):
    """What macOS and Windows leave beside files, and in the folders of a zip."""
    for file in [file for file in root.rglob("*.png")]:
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07" * 30)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (file.parent / name).write_bytes(b"x")
        inner = root / "__MACOSX" / file.relative_to(root).with_name(f"._{file.name}")
        inner.parent.mkdir(parents=True, exist_ok=True)
        inner.write_bytes(b"x")


@pytest.mark.parametrize("which", ["folder", "camvid_folder"])
def test_what_systems_leave_beside_the_files_is_no_data(which, request):
    root = request.getfixturevalue(which)
    before, fingerprint = open_data(root), open_data(root).fingerprint()
    litter(root)
    after = open_data(root)
    assert after == before and after.fingerprint() == fingerprint


@pytest.mark.parametrize("which", ["folder", "camvid_folder"])
def test_an_ending_may_be_in_capitals(which, request):
    root = request.getfixturevalue(which)
    before = len(open_data(root).train), open_data(root).stage("T1")[0][1]
    for file in [file for file in root.rglob("*.png")]:
        file.rename(file.with_suffix(".PNG"))
    after = open_data(root)
    assert len(after.train) == before[0] and after.stage("T1")[0][1].equal(before[1])


def test_two_files_that_differ_in_capitals_alone_are_named(folder):
    image = first_image(folder)
    shutil.copy(image, image.with_suffix(".PNG"))
    if len(list(image.parent.iterdir())) == 1:
        pytest.skip("this disk does not tell capitals apart")
    with pytest.raises(ValueError, match="differ in the ending alone; remove one"):
        open_data(folder)


def refused(root) -> str:
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        open_data(root)
    return str(error.value)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG"])
def test_jpeg_images_are_read_beside_png_images(folder, camvid_folder, ending):
    for root, part in ((folder, "leftImg8bit/train/aachen"), (camvid_folder, "train")):
        before = open_data(root)
        image, labels = before.stage("T1")[0]
        file = sorted((root / part).iterdir())[0]
        jpeg = file.with_suffix(ending)
        Image.open(file).save(jpeg, format="JPEG")
        file.unlink()
        after = open_data(root)
        assert [sample.label for sample in after.train] == [s.label for s in before.train]
        assert [sample.image for sample in after.train if sample not in before.train] == [jpeg]
        found, found_labels = after.stage("T1")[0]
        assert found_labels.equal(labels)
        assert 0 < (found - image).abs().mean() < 0.05


def test_pictures_of_other_kinds_are_counted_and_the_move_is_named(folder, camvid_folder):
    for root, part in ((folder, "leftImg8bit/train/aachen"), (camvid_folder, "train")):
        count = len(list((root / part).iterdir()))
        for file in list((root / part).iterdir()):
            file.rename(file.with_suffix(".tif"))
        said = refused(root)
        assert f"no images in {root / part}; found {count} .tif files" in said
        assert "for images; save them as PNG (data/README.md shows how)" in said


def test_some_pictures_of_other_kinds_among_others_are_found_too(camvid_folder):
    image = sorted((camvid_folder / "train").iterdir())[3]
    image.rename(image.with_suffix(".BMP"))
    assert "1 label files have no image" in (said := refused(camvid_folder))
    assert f"In {camvid_folder / 'train'}: found 1 .bmp files" in said


def test_a_data_set_in_a_folder_of_its_own_name_is_found_there(folder, camvid_folder, tmp_path):
    for root in (folder, camvid_folder):
        for depth in (1, 2):
            outer = tmp_path / f"{root.name}-{depth}"
            inner = outer.joinpath(*["inner"] * (depth - 1), root.name)
            shutil.copytree(root, inner)
            litter(outer)
            assert f"they lie deeper: set DATA to {inner}. See data/README.md" in refused(outer)
            assert open_data(inner).train


def test_folders_called_like_their_zips_are_told_to_be_moved(folder):
    for name in ("leftImg8bit", "gtFine"):
        zipped = folder / f"{name}_trainvaltest"
        zipped.mkdir()
        (folder / name).rename(zipped / name)
    said = refused(folder)
    for name in ("leftImg8bit", "gtFine"):
        move = f"move {folder / f'{name}_trainvaltest' / name} to {folder / name}"
        assert move in said
        (folder / f"{name}_trainvaltest" / name).rename(folder / name)
    assert open_data(folder).train


def test_a_zip_that_was_unpacked_into_itself_is_told_to_be_moved(folder):
    (folder / "gtFine").rename(folder / "inner")
    (folder / "gtFine").mkdir()
    (folder / "inner").rename(folder / "gtFine" / "gtFine")
    deeper, wanted = folder / "gtFine" / "gtFine" / "train", folder / "gtFine" / "train"
    assert f"; it lies deeper: move {deeper} to {wanted}" in refused(folder)


@pytest.mark.parametrize("part", ["leftImg8bit", "gtFine"])
def test_a_part_of_a_data_set_is_not_the_data_set(folder, part):
    assert f"it is a part of a data set: set DATA to {folder}" in refused(folder / part)


def test_zips_that_were_not_unpacked_are_named(folder):
    (folder / "gtFine_trainvaltest.zip").write_bytes(b"PK")
    shutil.rmtree(folder / "gtFine")
    assert f"; found gtFine_trainvaltest.zip: unpack all into {folder}" in refused(folder)
    shutil.rmtree(folder / "leftImg8bit")
    assert f"; found gtFine_trainvaltest.zip: unpack all into {folder}" in refused(folder)
    said = refused(folder / "gtFine_trainvaltest.zip")
    assert "is a file; wanted a folder: unpack it, and set DATA to the folder" in said


def test_a_zip_that_was_unpacked_in_part_is_told_by_the_other_cities(folder):
    shutil.rmtree(folder / "gtFine" / "train" / "ulm")
    assert "17 other cities are there: was a zip unpacked in part?" in refused(folder)


@pytest.mark.parametrize("others", [False, True])
def test_train_ids_alone_are_told_from_label_ids(folder, others):
    label = first_label(folder)
    label.rename(label.with_name(label.name.replace("labelIds", "labelTrainIds")))
    if others:
        label.with_name(label.name.replace("labelIds", "color")).touch()
    said = refused(folder)
    assert (
        "1 image files have no label" in said and "found 1 files ending in _labelTrainIds" in said
    )
    assert "wanted those ending in _gtFine_labelIds.png, which gtFine_trainvaltest.zip" in said


def test_labels_of_another_kind_are_named(folder):
    label = first_label(folder)
    label.rename(label.with_name(label.name.replace("labelIds", "color")))
    said = refused(folder)
    assert "_gtFine_color.png; wanted files ending in _gtFine_labelIds.png" in said


@pytest.mark.parametrize(
    "names",
    [["701_StillsRaw_full", "LabeledApproved_full"], ["train", "train_labels", "val_labels"]],
)
def test_another_release_of_camvid_is_told_by_its_folders(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    said = refused(tmp_path)
    assert f"found {', '.join(names[-2:])}: this is another release of CamVid" in said
    assert "Get the 11-class release (data/README.md); or, if these labels hold one id" in said


def test_a_camvid_of_which_one_folder_has_another_name_is_told_so(camvid_folder):
    (camvid_folder / "valannot").rename(camvid_folder / "val_labels")
    assert "found val_labels: this is another release of CamVid" in refused(camvid_folder)


# what other data sets and runs of before depend on


def test_the_images_of_cityscapes_come_city_by_city_in_the_order_of_the_split(folder):
    data, split = open_data(folder), open_data(folder).split
    cities = [city for stage in split.stages for city in stage.cities]
    for samples, part, wanted in (
        (data.train, "train", cities),
        (data.test, "val", split.test_cities),
        (data.held_back, "train", split.held_back),
    ):
        images = [
            folder / f"leftImg8bit/{part}/{city}/{city}_000000_000019_leftImg8bit.png"
            for city in wanted
        ]
        assert [sample.image for sample in samples] == images
        assert [sample.group for sample in samples] == list(wanted)


@pytest.mark.parametrize("which", ["folder", "camvid_folder"])
def test_a_fingerprint_is_that_of_names_sizes_and_labels_as_ever(which, request):
    root, digest = request.getfixturevalue(which), hashlib.sha256()
    data = open_data(root)
    for sample in sorted(data.train + data.test, key=lambda sample: sample.image):
        for file in (sample.image, sample.label):
            name = file.relative_to(root).as_posix()
            digest.update(f"{name} {len(file.read_bytes())}\n".encode())
        digest.update(hashlib.sha256(sample.label.read_bytes()).digest())
    assert data.fingerprint() == digest.hexdigest()[:16]


def test_the_fingerprint_of_the_real_camvid_is_that_of_earlier_runs(camvid):
    assert open_data(camvid).fingerprint() == "7cb0234590618a1d"


# a layout of one's own


OWN_SPLIT = """
name = "own"
layout = "mine"
void = [0]
[classes]
sea = { id = 1, colour = [0, 0, 255] }
ship = { id = 2, colour = [255, 0, 0] }
[[stages]]
name = "T1"
classes = ["sea"]
cities = ["north"]
[[stages]]
name = "T2"
classes = ["ship"]
cities = ["south"]
[test]
cities = ["east"]
"""


@pytest.fixture
def guides_layout(monkeypatch):
    """Run the lines of data/README.md that register a layout."""
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    blocks = (ROOT / "data" / "README.md").read_text(encoding="utf-8").split("```")
    (lines,) = [block for block in blocks if 'LAYOUTS["mine"]' in block]
    exec(lines.removeprefix("python"), {})


@pytest.fixture
def shots(tmp_path, write_png):
    """Two shots of each of four groups, one of which no split names."""
    rng = np.random.default_rng(0)
    for group in ("north", "south", "east", "west"):
        for shot in ("a", "b"):
            ids = rng.integers(0, 3, (32, 64), dtype=np.uint8)
            write_png(tmp_path / "Shots" / group / shot / "ids.png", ids)
            write_png(tmp_path / "Shots" / group / shot / "photo.jpg", np.stack([ids * 90] * 3, 2))
    (tmp_path / "Shots" / "split.toml").write_text(OWN_SPLIT)
    return tmp_path / "Shots"


def test_a_layout_of_ones_own_is_one_entry_of_the_registry(shots, tmp_path, guides_layout):
    study = Study(shots, tmp_path / "runs", "smoke")
    assert [sample.group for sample in study.data.train] == ["north", "north", "south", "south"]
    assert [sample.image.parent.name for sample in study.data.images(study.stage("T2"))] == [
        "a",
        "b",
    ]
    image, labels = study.data.stage("T2")[1]
    ids = np.array(Image.open(shots / "south" / "b" / "ids.png"))
    assert image.shape == (3, 32, 64)
    assert labels.tolist() == np.where(ids == 2, 1, VOID).tolist()
    assert len(study.data.test_set("T2")) == 2


def test_a_layout_that_nobody_registered_is_named_with_those_there_are(shots):
    with pytest.raises(
        ValueError, match="unknown layout 'mine'; choose one of: cityscapes, .*, or add"
    ):
        open_data(shots)


def test_a_group_that_a_reader_does_not_find_is_named_with_those_it_finds(shots, guides_layout):
    shutil.rmtree(shots / "south")
    with pytest.raises(FileNotFoundError, match="no image of south; found east, north, west. Name"):
        open_data(shots)


# VOC, drawn: palette labels with a void border, and lists. The real one is not at hand


def test_voc_reads_jpeg_images_and_the_indices_of_palette_labels(voc_folder):
    label = Image.open(voc_folder / "SegmentationClass" / "2007_000001.png")
    assert label.mode == "P" and label.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    data = open_data(voc_folder)
    assert {sample.image.suffix for sample in data.train + data.test} == {".jpg"}
    assert [sample.image.stem for sample in data.train] == [f"2007_{k:06d}" for k in range(1, 21)]
    assert {sample.group for sample in data.train} == {"train"}
    assert {sample.group for sample in data.test} == {"val"} and len(data.test) == 7
    _, labels = data.stage("T1")[0]
    assert labels.unique().tolist() == [0, 1, 2, VOID]  # background, two objects, the border
    assert (labels == VOID).sum() == (np.array(label) == 255).sum() > 0
    _, labels = data.test_set("T2")[-1]
    assert labels.unique().tolist() == [0, 19, 20, VOID]


@pytest.mark.parametrize(
    ("name", "stages", "first"), [("voc_15-5", 2, 16), ("voc_15-1", 6, 16), ("voc_10-1", 11, 11)]
)
def test_the_splits_of_voc_are_those_of_the_field(voc_folder, name, stages, first):
    (voc_folder / "split.toml").write_bytes((SPLITS / f"{name}.toml").read_bytes())
    data = open_data(voc_folder)
    sizes = [stage.new.stop - stage.new.start for stage in data.split.stages]
    step = 5 if name == "voc_15-5" else 1
    assert sizes == [first] + [step] * (stages - 1) and sum(sizes) == 21
    assert [c.label_id for c in data.split.classes] == list(range(21))
    assert data.split.names()[:2] == ["background", "aeroplane"]
    assert data.split.names()[-1] == "tvmonitor"
    assert [c.colour for c in data.split.classes] == [voc_colour(k) for k in range(21)]
    check_labels(data)


def voc_colour(index: int) -> tuple[int, ...]:
    """The colour map of VOC: the bits of an index dealt out to red, green, blue, from the top."""
    bits = [[index >> (3 * k + channel) & 1 for k in range(3)] for channel in range(3)]
    return tuple(sum(bit << (7 - k) for k, bit in enumerate(channel)) for channel in bits)


def test_a_list_of_voc_that_ends_in_aug_has_the_labels_of_that_folder(voc_folder, write_png):
    write_png(voc_folder / "SegmentationClassAug" / "2007_000003.png", np.full(SIZE, 7, np.uint8))
    lists = voc_folder / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").write_text("2007_000003\n")
    own = voc_folder / "split.toml"
    own.write_text(own.read_text().replace('groups = ["train"]', 'groups = ["train_aug"]'))
    data = open_data(voc_folder)
    assert [sample.label.parent.name for sample in data.train] == ["SegmentationClassAug"]
    assert {sample.label.parent.name for sample in data.test} == {"SegmentationClass"}
    line = "/JPEGImages/2007_000003.jpg /SegmentationClassAug/2007_000003.png\n"
    (lists / "train_aug.txt").write_text(line)
    assert open_data(voc_folder).train == data.train


def test_voc_without_a_split_file_is_told_which_there_are(voc_folder):
    (voc_folder / "split.toml").unlink()
    said = refused(voc_folder)
    assert f"{voc_folder} has the layout 'voc' and no split.toml" in said
    assert (
        f"copy {SPLITS / 'voc_10-1.toml'} or " in said and "voc_15-5.toml there, or write" in said
    )


def test_voc_that_lies_deeper_is_found_there(voc_folder):
    (voc_folder / "split.toml").unlink()
    assert f"they lie deeper: set DATA to {voc_folder}. See" in refused(voc_folder.parent)


def test_a_list_that_voc_lacks_is_named_with_those_there_are(voc_folder):
    (voc_folder / "ImageSets" / "Segmentation" / "train.txt").unlink()
    assert "train.txt; found the lists val. Unpack VOCtrainval_11" in refused(voc_folder)


def test_a_jpeg_in_the_place_of_a_listed_label_is_refused_with_the_reason(voc_folder):
    label = voc_folder / "SegmentationClass" / "2007_000004.png"
    label.rename(label.with_suffix(".jpg"))
    said = refused(voc_folder)
    assert f"train.txt, line 4: no file {label.with_suffix('')} with the ending .png" in said
    assert "found 1 JPEG files: JPEG keeps values only nearly" in said


# images/ and labels/, with folders or lists for groups


FOLDERS_SPLIT = OWN_SPLIT.replace('"mine"', '"folders"').replace("cities", "groups")


@pytest.fixture
def plain_folders(tmp_path, write_png):
    """Two images in each of four folders of images/, a JPEG among them."""
    root = tmp_path / "Mine"
    rng = np.random.default_rng(0)
    for group in ("north", "south", "east", "west"):
        for name in ("a", "b.c"):
            ids = rng.integers(0, 3, SIZE, dtype=np.uint8)
            write_png(root / "labels" / group / f"{name}.png", ids)
            ending = "jpg" if (group, name) == ("south", "a") else "png"
            write_png(root / "images" / group / f"{name}.{ending}", np.stack([ids * 90] * 3, 2))
    (root / "split.toml").write_text(FOLDERS_SPLIT)
    return root


def names(samples) -> list[str]:
    return [f"{sample.image.parent.name}/{sample.image.name}" for sample in samples]


def test_a_group_of_plain_folders_is_a_folder(plain_folders):
    data = open_data(plain_folders)
    assert names(data.images(data.split.stage("T1"))) == ["north/a.png", "north/b.c.png"]
    assert names(data.images(data.split.stage("T2"))) == ["south/a.jpg", "south/b.c.png"]
    assert names(data.test) == ["east/a.png", "east/b.c.png"]
    assert data.stage("T2")[0][0].shape == (3, *SIZE)


def test_a_group_of_plain_folders_may_be_a_list(plain_folders):
    (plain_folders / "lists").mkdir()
    list_file = plain_folders / "lists" / "south.txt"
    list_file.write_text("west/b.c\n\nsouth/a.jpg\nwest/a.png")
    data = open_data(plain_folders)
    fingerprint, stage = data.fingerprint(), data.split.stage("T2")
    assert names(data.images(stage)) == ["west/b.c.png", "south/a.jpg", "west/a.png"]
    assert [sample.label.suffix for sample in data.images(stage)] == [".png"] * 3
    assert {sample.group for sample in data.images(stage)} == {"south"}
    list_file.write_text("\ufeffsouth/a\n", encoding="utf-8")
    assert names(open_data(plain_folders).images(stage)) == ["south/a.jpg"]
    assert open_data(plain_folders).fingerprint() != fingerprint


def test_the_fingerprint_changes_when_an_image_goes_to_another_list(plain_folders):
    (plain_folders / "lists").mkdir()
    lists = {"north": "north/a\nnorth/b.c\n", "south": "south/a\nsouth/b.c\n"}
    found = set()
    for moved in ("", "west/a\n"):
        for group in ("north", "south"):
            for name, text in lists.items():
                extra = moved if name == group else ""
                (plain_folders / "lists" / f"{name}.txt").write_text(text + extra)
            found.add(open_data(plain_folders).fingerprint())
    assert len(found) == 3


def test_a_group_that_is_neither_list_nor_folder_is_named(plain_folders):
    shutil.rmtree(plain_folders / "labels" / "south")
    said = refused(plain_folders)
    assert "group 'south' not found: neither the list" in said
    assert f"nor the folder {plain_folders / 'labels' / 'south'}; found no list" in said


def test_plain_folders_without_a_split_file_are_told_to_write_one(plain_folders):
    (plain_folders / "split.toml").unlink()
    assert "has the layout 'folders' and no split.toml" in (said := refused(plain_folders))
    assert "in which stage; write one (data/README.md shows how)" in said
