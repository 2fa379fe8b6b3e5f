import errno
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import PROCESSES, call
from PIL import Image
from torch.utils.data import DataLoader

from cilkit.data import store as cache
from cilkit.data.augmentation import Augmentation, Augmented
from cilkit.data.scenes import open_data
from cilkit.data.store import DecodedImages, cache_folder, fill, network_size, read
from cilkit.files import RESOURCES, ROOT

STAMP = {"source": "1"}


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The cache folder of a test in which every image counts as large and none fits in memory."""
    monkeypatch.setattr("cilkit.data.store.DISK_CACHE_ABOVE", 0)
    monkeypatch.setattr("cilkit.data.store.IN_MEMORY", 0)
    monkeypatch.setenv("CILKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the images that were decoded."""
    names = []
    real = DecodedImages._decode

    def decode(self, sample, *rest, **options):
        names.append(sample.image.name)
        return real(self, sample, *rest, **options)

    monkeypatch.setattr(DecodedImages, "_decode", decode)
    return names


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def items(images) -> list[torch.Tensor]:
    return [part for index in range(len(images)) for part in images.load(index)]


def same(ones, others) -> bool:
    return all(one.equal(other) for one, other in zip(ones, others, strict=True))


def change(file: Path) -> None:
    """Another picture of the same size in pixels, which may be of another size in bytes."""
    pixels = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


# what is read from it


@pytest.mark.parametrize("height", [None, 16])
def test_a_cached_item_is_the_decoded_one_to_the_bit(folder, kept, decoded, height):
    views = [
        open_data(folder).stage("T1", height=height),
        open_data(folder).single_stage("T2", height),
        open_data(folder).test_set("T2", height),
        open_data(folder).test_set("T2", height, native_labels=False),
    ]
    before = [items(view) for view in views]
    for view in views:
        view.prepare()
    decoded.clear()
    assert all(same(items(view), wanted) for view, wanted in zip(views, before, strict=True))
    assert not decoded
    assert all(part.dtype == torch.uint8 for part in items(views[0]))


def test_native_labels_come_from_the_cache_too(folder, kept, monkeypatch):
    images = open_data(folder).test_set("T2", 16)
    images.prepare()
    shapes = {tuple(part.shape) for part in items(images)}
    assert shapes == {(3, 16, 32), (32, 64)}

    def read_label_ids(path, split):
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr("cilkit.data.store.read_label_ids", read_label_ids)
    assert {tuple(part.shape) for part in items(images)} == shapes
    small = open_data(folder).test_set("T2", 16, native_labels=False)
    with pytest.raises(AssertionError, match="is decoded again"):
        small.load(0)  # its labels are of another size, so it has entries of its own


def test_views_with_other_labels_share_an_entry(folder, kept, decoded):
    data = open_data(folder)
    data.single_stage("T3").prepare()
    files = entries(kept)
    assert len(files) == len(decoded) == 17
    for view in (data.stage("T2"), data.stage("T3", "all"), data.single_stage("T2")):
        view.prepare()
        items(view)
    assert entries(kept) == files and len(decoded) == 17


def test_each_height_has_entries_of_its_own(folder, kept):
    for height in (16, 32):
        open_data(folder).stage("T1", height=height).prepare()
    assert len(entries(kept)) == 8
    assert open_data(folder).stage("T1", height=16)[0][0].shape == (3, 16, 32)
    assert open_data(folder).stage("T1", height=32)[0][0].shape == (3, 32, 64)


def test_images_of_several_sizes_are_cached_as_they_are(folder, kept, write_png):
    data = open_data(folder)
    sample = data.train[1]
    write_png(sample.image, np.full((48, 40, 3), 9, dtype=np.uint8))
    write_png(sample.label, np.full((48, 40), 7, dtype=np.uint8))
    images = data.stage("T1")
    before = items(images)
    images.prepare()
    assert same(items(images), before)
    assert {tuple(part.shape) for part in items(images)[::2]} == {(3, 32, 64), (3, 48, 40)}


def test_looking_at_an_image_writes_nothing_but_training_prepares_all(folder, kept):
    images = open_data(folder).stage("T1")
    images[0]
    assert not kept.exists()
    Augmented(images, Augmentation(crop=(16, 32)), seed=0)
    assert len(entries(kept)) == len(images)


def test_changing_an_item_does_not_change_the_cache(folder, kept):
    images = open_data(folder).stage("T1")
    images.prepare()
    before = [part.clone() for part in images.load(0)]
    for part in images.load(0):
        part.zero_()
    assert same(images.load(0), before)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_cache(folder, kept, context):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {context}")
    images = open_data(folder).stage("T1")
    alone = [images[index] for index in range(4)]
    images.prepare()
    with_workers = DataLoader(images, None, num_workers=2, multiprocessing_context=context)
    assert all(same(one, other) for one, other in zip(with_workers, alone, strict=True))


# when its source changes


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("how", ["content", "older", "newer"])
def test_an_entry_of_a_changed_source_is_made_again(folder, kept, decoded, part, how):
    images = open_data(folder).stage("T1")
    images.prepare()
    file = getattr(images.samples[2], part)
    stat = file.stat()
    if how == "content":
        size = file.stat().st_size
        file.write_bytes(file.read_bytes() + b"more")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert file.stat().st_size == size + 4
    else:
        moved = stat.st_mtime_ns + (10**9 if how == "newer" else -(10**9))
        os.utime(file, ns=(moved, moved))
    decoded.clear()
    images.load(2)
    assert decoded == [images.samples[2].image.name]  # the old entry is not used
    images.prepare()
    assert decoded == [images.samples[2].image.name] * 2  # and this one alone is made again
    items(images)
    assert len(decoded) == 2 and len(entries(kept)) == 4


@pytest.mark.parametrize("part", ["image", "label"])
def test_image_and_label_of_one_name_are_told_apart(camvid_folder, kept, decoded, part):
    images = open_data(camvid_folder).stage("T1")
    images.prepare()
    file = getattr(images.samples[0], part)
    os.utime(file, ns=(0, 10**18))
    decoded.clear()
    images.prepare()
    assert decoded == [images.samples[0].image.name]


def test_a_changed_picture_is_seen(folder, kept):
    images = open_data(folder).stage("T1")
    images.prepare()
    before = images.load(0)[0].clone()
    change(images.samples[0].image)
    images.prepare()
    now = images.load(0)[0]
    assert not now.equal(before)
    shutil.rmtree(kept)
    assert images.load(0)[0].equal(now)


def test_a_source_that_breaks_is_the_error_it_is_without_a_cache(folder, kept):
    images = open_data(folder).stage("T1")
    images.prepare()
    file = images.samples[0].image
    cut = file.read_bytes()[:-30]
    for damage in (lambda: file.write_bytes(cut), file.unlink):
        damage()
        for read_it in (images.prepare, lambda: images.load(0)):
            with pytest.raises(ValueError, match="cannot be read as an image.*download") as error:
                read_it()
            assert str(file) in str(error.value)


def test_labels_that_a_changed_split_does_not_know_are_still_refused(folder, kept):
    text = (RESOURCES / "splits" / "cityscapes.toml").read_text(encoding="utf-8")
    (folder / "split.toml").write_text(text, encoding="utf-8")
    open_data(folder).stage("T1").prepare()
    void = open_data(folder).split.void
    changed = text.replace(f"{void[0]}, {void[1]}, {void[2]}, ", "", 1)
    assert changed != text
    (folder / "split.toml").write_text(changed, encoding="utf-8")
    with pytest.raises(ValueError, match="does not know"):
        open_data(folder).single_stage("T3").prepare()


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, None])
def test_a_damaged_entry_is_made_again(folder, kept, decoded, damage):
    images = open_data(folder).stage("T1")
    before = items(images)
    images.prepare()
    entry = entries(kept)[1]
    entry.write_bytes(entry.read_bytes()[:-10] if damage is None else damage)
    decoded.clear()
    images.prepare()
    assert len(decoded) == 1 and same(items(images), before) and len(decoded) == 1


# stopped, shared, left out


def fill_and_die(folder: Path) -> None:
    """The life of a process that ends half way through an entry; nothing is tidied up."""
    real = Path.write_bytes

    def write_bytes(file: Path, content: bytes) -> int:
        if file.name.startswith(".c"):
            real(file, content[: len(content) // 2])
            os._exit(9)  # as a kill does
        return real(file, content)

    Path.write_bytes, os.cpu_count = write_bytes, lambda: 1
    fill(folder, {folder / name: STAMP for name in "abcd"}, lambda _: {"x": torch.ones(9)}, 9)


def test_a_fill_that_was_killed_in_an_entry_goes_on_where_it_was(tmp_path):
    assert call(fill_and_die, tmp_path) == 9
    assert sorted(file.name for file in tmp_path.glob("[a-d]")) == ["a", "b"]
    assert len(list(tmp_path.glob(".*.part"))) == 1
    made = []

    def make(entry: Path) -> dict:
        made.append(entry.name)
        return {"x": torch.zeros(9)}

    wanted = {tmp_path / name: STAMP for name in "abcd"}
    fill(tmp_path, wanted, make, 9)
    assert sorted(made) == ["c", "d"] and not list(tmp_path.glob(".*.part"))
    assert read(tmp_path / "a", STAMP)["x"].eq(1).all()
    assert read(tmp_path / "c", STAMP)["x"].eq(0).all()


def test_an_interrupt_or_error_keeps_what_is_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def make(entry: Path) -> dict:
        if entry.name == "c":
            raise KeyboardInterrupt
        return {"x": torch.zeros(9)}

    wanted = {tmp_path / name: STAMP for name in "abcd"}
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, wanted, make, 9)
    assert read(tmp_path / "a", STAMP) and read(tmp_path / "b", STAMP)
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".*.part"))


def fill_slowly(folder: Path) -> None:
    """The life of a process that makes eight entries and writes down which."""

    def make(entry: Path) -> dict:
        time.sleep(0.05)
        with open(folder / "made.txt", "a") as log:
            log.write(entry.name)
        return {"x": torch.ones(9)}

    fill(folder, {folder / name: {"source": "1"} for name in "abcdefgh"}, make, 9)


def test_of_two_processes_each_entry_is_made_by_one(tmp_path):
    both = [PROCESSES.Process(target=fill_slowly, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted((tmp_path / "made.txt").read_text()) == list("abcdefgh")


def test_the_cache_lies_in_the_project_unless_the_setting_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("CILKIT_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == ROOT / "data" / "cache"
    monkeypatch.setenv("CILKIT_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("CILKIT_CACHE", "data/other")
    assert cache_folder() == ROOT / "data" / "other"
    monkeypatch.setenv("CILKIT_CACHE", "off")
    assert cache_folder() is None


def test_off_reads_and_writes_no_cache(folder, kept, decoded, monkeypatch):
    images = open_data(folder).stage("T1")
    images.prepare()
    decoded.clear()
    monkeypatch.setenv("CILKIT_CACHE", "off")
    images.prepare()
    items(images)
    assert set(decoded) == {sample.image.name for sample in images.samples}


def test_small_images_need_no_cache_on_disk(folder, tmp_path, decoded, monkeypatch):
    monkeypatch.setenv("CILKIT_CACHE", str(tmp_path / "cache"))
    images = open_data(folder).stage("T1")
    images.prepare()
    assert len(decoded) == 4 and not (tmp_path / "cache").exists()
    items(images)
    assert len(decoded) == 4  # they are in memory


def test_what_one_view_has_decoded_no_other_decodes_again(folder, decoded):
    data = open_data(folder)
    items(data.single_stage("T3"))
    assert len(decoded) == 17
    for view in (data.stage("T1"), data.stage("T3", "all"), data.single_stage("T2").subset([3])):
        items(view)
    assert len(decoded) == 17
    items(data.stage("T1", height=16))
    assert len(decoded) == 17 + 4


# what it says


def test_the_room_is_announced_once_and_a_finished_cache_says_nothing(folder, kept, capsys):
    images = open_data(folder).stage("T1")
    images.prepare()
    said = capsys.readouterr().out
    assert said.startswith("Cache: 0.0 GB in ") and str(kept) in said
    assert "GB are free" in said and "CILKIT_CACHE=off" in said
    images.prepare()
    assert capsys.readouterr().out == ""


def test_the_announced_size_is_that_of_the_files(folder, kept, monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "_has_room", lambda folder, need: asked.append(need) or True)
    open_data(folder).single_stage("T3").prepare()
    size = sum(entry.stat().st_size for entry in entries(kept))
    assert asked == [17 * 4 * 32 * 64] and asked[0] < size < 1.1 * asked[0]


def test_too_small_a_disk_is_said_and_images_are_decoded(
    folder, kept, decoded, capsys, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2e9, 2e9, cache.MIN_FREE_BYTES))
    images = open_data(folder).stage("T1")
    images.prepare()
    said = capsys.readouterr().out
    assert "0.5 GB are free. That is too little, so images are decoded each time" in said
    assert not entries(kept) and len(items(images)) == 8


def test_a_folder_that_cannot_be_written_is_said_and_images_are_decoded(
    folder, kept, capsys, monkeypatch
):
    kept.write_text("a file where the folder should be")
    images = open_data(folder).stage("T1")
    images.prepare()
    assert f"Cache: cannot write to {kept}" in capsys.readouterr().out
    assert len(items(images)) == 8


def test_a_disk_that_fills_up_is_said_and_what_is_there_is_used(
    folder, kept, decoded, capsys, monkeypatch
):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    real = Path.write_bytes

    def write_bytes(file, content):
        if len(entries(kept)) == 2:
            real(file, content[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    images = open_data(folder).stage("T1")
    images.prepare()
    said = capsys.readouterr().out
    assert "No space left on device" in said and "images are decoded each time" in said
    assert len(entries(kept)) == 2 and not list(kept.glob(".*.part"))
    decoded.clear()
    items(images)
    assert len(decoded) == 2


# decoding, and what is kept in memory


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


def test_a_label_of_another_size_than_its_image_is_refused(folder, write_png):
    write_png(open_data(folder).train[0].label, np.full((32, 60), 7, dtype=np.uint8))
    with pytest.raises(ValueError, match="is 32 x 60 pixels but .* is 32 x 64; they must be equal"):
        open_data(folder).stage("T1")[0]
