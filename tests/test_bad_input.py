"""Bad input, one row a case: the message says what came, what was wanted and the next move.

And nothing is written: all files of the data, the runs and the project's data stay as they were.
"""

import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import IPython
import nbformat
import numpy as np
import papermill as pm
import pytest
import torch
from disk import full_disk, listing
from PIL import ExifTags, Image
from safetensors import torch as safetensors

from cilkit import predict
from cilkit.data import photograph
from cilkit.data.augmentation import Augmentation
from cilkit.data.scenes import open_data
from cilkit.files import ROOT
from cilkit.methods import get_method
from cilkit.results.scores import our_scores, paired, score
from cilkit.results.tables import comparison
from cilkit.splits import SPLITS, load_split
from cilkit.study import runs
from cilkit.study import study as study_module
from cilkit.study.pack import main as pack_main
from cilkit.study.pack import pack
from cilkit.study.parameters import check_injected
from cilkit.study.study import Study
from cilkit.study.unpack import main as unpack_main
from cilkit.study.unpack import unpack
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.config import TrainConfig

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
WINDOWS = os.name == "nt"


@dataclass
class Place:
    """What a case may damage: a tiny data set, and a folder of runs with a finished T1."""

    root: Path
    runs: Path
    patch: pytest.MonkeyPatch
    tiny: TrainConfig

    @property
    def image(self) -> Path:
        return next((self.root / "leftImg8bit" / "train" / "aachen").iterdir())

    @property
    def label(self) -> Path:
        return next((self.root / "gtFine" / "train" / "aachen").iterdir())

    @property
    def ulm(self) -> Path:
        return self.root / "leftImg8bit" / "train" / "ulm"

    @property
    def pack(self) -> Path:
        """A pack of a finished T1, which a case may damage; the runs of the place stay here."""
        return self.runs.with_name("pack.zip")

    @property
    def run(self) -> Path:
        return self.runs / "tinyscapes" / "smoke" / "seed0" / "T1"

    def study(self, data=None, folder=None, preset="smoke", seed=0, **changes) -> Study:
        same = {name: getattr(self.tiny, name) for name in ("batch", "height", "augmentation")}
        data, folder = data or self.root, folder or self.runs
        return Study(data, folder, preset, seed, **same | {"precision": "32-true"} | changes)

    def split(self, old: str, new: str) -> None:
        """Give the data set a split of its own: the paper's with something replaced."""
        text = (SPLITS / "cityscapes.toml").read_text(encoding="utf-8")
        assert text.count(old) == 1, (old, text.count(old))
        (self.root / "split.toml").write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def original(tmp_path_factory, write_cityscapes) -> Path:
    """A data set and a finished run of it, made once; each case gets a copy."""
    return tmp_path_factory.mktemp("original")


@pytest.fixture
def place(original, tmp_path, write_cityscapes, monkeypatch, tiny) -> Iterator[Place]:
    if not (original / "runs").is_dir():
        first = Place(write_cityscapes(original / "tinyscapes"), original / "runs", None, tiny)
        first.study().run("T1")
        plain = Study(first.root, original / "plain", "smoke")  # of the preset, as it is packed
        plain.run("T1")
        pack(original / "pack.zip", plain.data.root, original / "plain", "smoke")
    for name in ("tinyscapes", "runs"):
        shutil.copytree(original / name, tmp_path / name)
    shutil.copy(original / "pack.zip", tmp_path)
    yield Place(tmp_path / "tinyscapes", tmp_path / "runs", monkeypatch, tiny)
    monkeypatch.undo()
    shutil.rmtree(tmp_path)  # weights by the hundred


# how to break things


def nothing(place: Place) -> None:
    """The input of the call itself is what is wrong."""


def with_lists(group: str | None = None, more_of: str = "", line: str = ""):
    """The layout "folders", a list for each city; one has another's lines too, or one more."""

    def damage(place: Place) -> None:
        place.split('layout = "cityscapes"', 'layout = "folders"')
        images = sorted(place.root.glob("leftImg8bit/*/*/*.png"))
        labels = sorted(place.root.glob("gtFine/*/*/*.png"))
        lines = {
            image.parent.name: "/".join(["", *image.parts[-4:]])
            + " "
            + "/".join(["", *label.parts[-4:]])
            for image, label in zip(images, labels, strict=True)
        }
        (place.root / "lists").mkdir()
        for name, own in lines.items():
            more = [lines.get(more_of, ""), line] if name == group else []
            (place.root / "lists" / f"{name}.txt").write_text("\n".join([own, *more]))

    return damage


def picture(which: str, pixels: np.ndarray, mode: str | None = None, kind: str = "PNG"):
    def damage(place: Place) -> None:
        image = Image.fromarray(pixels)
        (image if mode is None else image.convert(mode)).save(getattr(place, which), kind)

    return damage


def as_jpeg(which: str, pixels: np.ndarray, mode: str | None = None, turned: int = 1):
    """A JPEG of the same name for a picture; `turned` is the orientation in its EXIF data."""

    def damage(place: Place) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turned
        file = getattr(place, which)
        file.unlink()
        Image.fromarray(pixels).convert(mode).save(file.with_suffix(".jpg"), exif=exif)

    return damage


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def every_label(change: Callable[[np.ndarray], np.ndarray], part: str = "*"):
    """Other ids in all label files, or in those of "train" or "val"."""

    def damage(place: Place) -> None:
        for file in place.root.glob(f"gtFine/{part}/*/*.png"):
            Image.fromarray(change(np.array(Image.open(file))).astype(np.uint8)).save(file)

    return damage


def train_ids(first: int, void: int) -> Callable[[np.ndarray], np.ndarray]:
    """The classes of Cityscapes numbered in the order of their ids."""
    ids = sorted(label_class.label_id for label_class in load_split().classes)
    table = np.full(256, void)
    table[ids] = range(first, first + len(ids))
    return lambda labels: table[labels]


def move(place: Place, old: str, new: str) -> None:
    (place.root / new).parent.mkdir(exist_ok=True)
    (place.root / old).rename(place.root / new)


def content(which: str, change: Callable[[bytes], bytes]):
    def damage(place: Place) -> None:
        file = getattr(place, which)
        file.write_bytes(change(file.read_bytes()))

    return damage


def in_run(name: str, change: Callable[[bytes], bytes]):
    def damage(place: Place) -> None:
        file = place.run / name
        file.write_bytes(change(file.read_bytes()))

    return damage


def instead(old: str, new: str):
    """One text for another, which must be there."""

    def change(before: bytes) -> bytes:
        assert old.encode() in before
        return before.replace(old.encode(), new.encode(), 1)

    return change


def flipped(before: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(before) // 2
    return before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :]


def in_pack(change: Callable[[dict[str, bytes]], None]):
    """Other entries in the pack, by name; its list of contents stays as it is."""

    def damage(place: Place) -> None:
        with zipfile.ZipFile(place.pack) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        change(entries)
        with zipfile.ZipFile(place.pack, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return damage


def about_pack(old: str, new: str):
    """Something else in what the pack says of itself."""
    return in_pack(lambda e: e.update({"pack.json": instead(old, new)(e["pack.json"])}))


def split(old: str, new: str):
    return lambda place: place.split(old, new)


def orders(classes: str):
    return split("[test] ", f'[[orders]]\nname = "mine"\n{classes}\n[test] ')


def link(which: str, target: str | None):
    """A link in the place of a file, to itself if no target is given."""

    def damage(place: Place) -> None:
        path = getattr(place, which)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(path.name if target is None else target)

    return damage


def refused(function: str, match: Callable[[Path], bool]):
    """As if the system refused one call for some paths: what a test that runs as root can do."""

    def damage(place: Place) -> None:
        real = getattr(Path, function)

        def refuse(self: Path, *arguments, **named):
            if match(self):
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *arguments, **named)

        place.patch.setattr(Path, function, refuse)

    return damage


def as_folder(place: Place) -> None:
    file = place.image
    file.unlink()
    file.mkdir()


def four_bits(place: Place) -> None:
    """Grey in four bits: ids 0 to 15, which a reader may stretch to 0, 17, 34, ..."""
    place.label.write_bytes(
        png(64, 32, depth=4, colour=0, rows=[bytes([0x78] * 32) for _ in range(32)])
    )


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# what then is asked for


def opened(place: Place) -> object:
    return open_data(place.root)


def trained(place: Place) -> object:
    """Another training than the one that is there."""
    return place.study(epochs=2).run("T1")


def asked(place: Place) -> object:
    """The run that is there, unless it does not match."""
    return place.study().run("T1")


def used(place: Place) -> object:
    """The run as it lies there, with its network."""
    return runs.load(place.run).network()


def packed(*more: str, preset: str = "smoke"):
    """The runs of the place, as a pack beside them."""
    paths = ("DATA={root}", "RUNS={runs}", "FILE={runs}/../new.zip", f"PRESET={preset}")
    return lambda p: pack_main(
        *(word.format(root=p.root, runs=p.runs) for word in paths if word[:4] not in str(more)),
        *(word.format(place=p) for word in more),
    )


def unpacked(place: Place) -> object:
    """The pack, to where no runs are."""
    return unpack(place.pack, place.root, place.runs / "new")


def study(**given):
    return lambda place: place.study(**given)


def augmented(**given):
    return lambda place: place.study(augmentation=Augmentation(**given))


RGB = np.zeros((32, 64, 3), dtype=np.uint8)
RGBA = np.zeros((32, 64, 4), dtype=np.uint8)
GREY16 = np.full((32, 64), 26001, dtype=np.uint16)
ROAD = np.full((32, 64), 7, dtype=np.uint8)
TRAIN_IDS = np.tile(np.array([0, 1, 18, 255], dtype=np.uint8), (32, 16))
A_PATH = "wanted a path as text: "
A_SEED = "; wanted a whole number from 0, without quotes: SEED = 7 .* papermill's -p SEED 7"
WATCHING = replace(get_method("CIL"), features=("encodr",))
PRESETS = "choose one of: smoke, quick, long, paper, released"

# fmt: off
DATA = [
    ("missing folder", nothing, lambda p: open_data(p.root / "nowhere"),
     "no data folder .*nowhere.*data/README.md.*set DATA = 'toyscapes'"),
    ("misspelled name", nothing, lambda p: open_data("toyscape"),
     r"no data folder .*toyscape \(did you mean 'toyscapes'\?\).*set DATA"),
    ("misspelled folder", nothing, lambda p: open_data(p.root.with_name("tinyscape")),
     r"tinyscape \(did you mean 'tinyscapes'\?\); data/README.md"),
    ("empty folder", lambda p: (p.root / "new").mkdir(), lambda p: open_data(p.root / "new"),
     r"neither leftImg8bit/ .* nor trainannot/ .*; found nothing. See data/README.md"),
    ("missing city", lambda p: shutil.rmtree(p.ulm), opened,
     "city 'ulm' not found: no folder .*ulm. Unpack leftImg8bit_trainvaltest.zip"),
    ("missing test city", lambda p: shutil.rmtree(p.root / "gtFine/val/lindau"), opened,
     "city 'lindau' not found: no folder .*gtFine.val.lindau. Unpack"),
    ("city without files", lambda p: (p.image.unlink(), p.label.unlink()), opened,
     "no images in .*aachen; unpack the data set there"),
    ("labels not unpacked", lambda p: shutil.rmtree(p.root / "gtFine"), opened,
     "no folder .*gtFine.*Unpack .* gtFine_trainvaltest.zip there"),
    ("image without label", lambda p: p.label.unlink(), opened,
     "1 image files have no label, the first is .*leftImg8bit.png; add the label file or remove"),
    ("label without image", lambda p: p.image.unlink(),
     opened, "no images in .*aachen; unpack"),
    ("one label too many",
     lambda p: shutil.copy(p.label, p.label.with_name("aachen_9_9_gtFine_labelIds.png")), opened,
     "1 label files have no image, the first is .*aachen_9_9.*; add the image file or remove"),
    ("truncated image", content("image", lambda b: b[:-30]), trained,
     r"aachen.*leftImg8bit.png cannot be read as an image \(.*\); unpack or download it again"),
    ("truncated label", content("label", lambda b: b[: len(b) // 2]), trained,
     "labelIds.png cannot be read as an image .* download it again"),
    ("one bit flipped in an image", content("image", flipped), trained,
     "leftImg8bit.png cannot be read as an image .*download it again"),
    ("one bit flipped in a label", content("label", flipped), trained,
     "labelIds.png cannot be read as an image .*download it again"),
    ("text in the place of an image", content("image", lambda b: b"version https://git-lfs"),
     trained, "leftImg8bit.png cannot be read as an image .*download it again"),
    ("JPEG called PNG", picture("image", RGB, kind="JPEG"), trained,
     "leftImg8bit.png cannot be read as an image .*download it again"),
    ("zero-byte image", content("image", lambda b: b""), opened,
     "leftImg8bit.png is empty; unpack or download it again"),
    ("zero-byte label", content("label", lambda b: b""), opened,
     "labelIds.png is empty; unpack or download it again"),
    ("label of another size", picture("label", ROAD[:, :60]), trained,
     "labelIds.png is 32 x 60 pixels but its image .* is 32 x 64; they must be equal"),
    ("colour label", picture("label", RGB), trained,
     r"labelIds.png has mode RGB; wanted one 8-bit label id a pixel .* _labelIds.png"),
    ("label with alpha", picture("label", RGBA), trained, "has mode RGBA; wanted one 8-bit label"),
    ("16-bit label", picture("label", GREY16), trained, "has mode I;16B; wanted one 8-bit label"),
    ("4-bit grey label", four_bits, trained, "has mode L;4; wanted one 8-bit label id"),
    ("black and white label", picture("label", ROAD, "1"), trained, "has mode 1; wanted one 8-bit"),
    ("trainIds", picture("label", TRAIN_IDS), trained,
     r"holds ids 0, 1, 18, 255: these look like trainIds .*; wanted label ids .*_labelIds.png"),
    ("foreign id", picture("label", ROAD + 70), trained,
     "holds ids 77 that split 'cityscapes' does not know; add them to its `classes` or its `void`"),
    ("image with alpha", picture("image", RGBA), trained,
     "leftImg8bit.png has mode RGBA; wanted 8 bits a colour and no alpha; save it as RGB"),
    ("grey image with alpha", picture("image", RGBA, "LA"), trained, "has mode LA; .*save it as"),
    ("16-bit image", picture("image", GREY16), trained, "has mode I;16B; wanted 8 bits a colour"),
    ("labels without a pixel", every_label(lambda ids: ids * 0), trained,
     "no pixel of 'road' .* stage T1; .*Every pixel is void.*; unpack or download them again"),
    ("trainIds with void 19", every_label(train_ids(0, 19)), trained,
     "'terrain' .id 22.* stage T1; .*These look like trainIds .*; wanted label ids .*_labelIds"),
    ("class numbers with void 0", every_label(train_ids(1, 0)), trained,
     "'terrain' .id 22.* stage T1; .*or like classes counted from 1 with void 0; wanted label ids"),
    ("no sky in the test images", every_label(lambda ids: np.where(ids == 23, 0, ids), "val"),
     trained, r"'sky' \(id 23\) in the 3 images of the test set. Correct the labels.*absent = ."),
    ("TIFF image", lambda p: p.image.rename(p.image.with_suffix(".tif")), opened,
     "no images in .*aachen; found 1 .tif files, and the kit reads PNG, and JPEG for images; save"),
    ("PNG called JPEG", lambda p: p.image.rename(p.image.with_suffix(".jpg")), trained,
     "leftImg8bit.jpg cannot be read as an image .*download it again"),
    ("JPEG in four printing inks", as_jpeg("image", RGBA, "CMYK"), trained,
     "leftImg8bit.jpg has mode CMYK; wanted 8 bits a colour and no alpha; save it as RGB"),
    ("JPEG cut off", lambda p: (as_jpeg("image", RGB)(p), cut_off(p.image)), trained,
     "leftImg8bit.jpg cannot be read as an image .*download it again"),
    ("photograph that is on its side", as_jpeg("image", RGB, turned=6), trained,
     "labelIds.png is 32 x 64 pixels but its image .*jpg is 64 x 32; they must be equal .* EXIF"),
    ("JPEG label", as_jpeg("label", ROAD), opened,
     "1 image files have no label.*: found 1 JPEG files: JPEG keeps values only nearly, and a "
     "label id must be exact; save labels as PNG, from what they were before"),
    ("list with a missing image", with_lists("ulm", line="old/ulm_7"), opened,
     r"ulm.txt, line 3: no file .*images.old.ulm_7 with the ending .png or .jpg or .jpeg; add it, "
     "or take the line out"),
    ("list that is no text", lambda p: (with_lists()(p),
                                        (p.root / "lists" / "ulm.txt").write_bytes(b"\xff\xfe")),
     opened, r"ulm.txt cannot be read \(.*\); wanted a text with a line for each image"),
    ("group without a list", lambda p: (with_lists()(p), (p.root / "lists" / "ulm.txt").unlink()),
     opened, "group 'ulm' not found: neither the list .* nor the folder .*images.ulm; found the l"),
    ("image in two stages", with_lists("ulm", more_of="aachen"), opened,
     "aachen.*png is in group 'aachen' of stage T1 and in group 'ulm' of stage T2, and they share "
     "no image under rule 'partitioned'; take it out of one of them, or write rule = .overlapped"),
    ("image trained on and tested on", with_lists("lindau", more_of="ulm"), opened,
     "ulm.*png is in group 'ulm' of stage T2 and in group 'lindau' of the test set, and they share "
     "no image under rule 'partitioned'; take it out of one of them$"),
    ("only labelTrainIds", lambda p: p.label.rename(
        p.label.with_name(p.label.name.replace("labelIds", "labelTrainIds"))), opened,
     "1 image files have no label.*found 1 files ending in _labelTrainIds.png.*; wanted those"),
    ("image in two files", lambda p: shutil.copy(p.image, p.image.with_suffix(".PnG")), opened,
     "differ in the ending alone; remove one"),
    ("image as PNG and as JPEG",
     lambda p: shutil.copy(p.image, p.image.with_suffix(".jpg")), opened,
     "leftImg8bit.png and .*leftImg8bit.jpg differ in the ending alone; remove one"),
    ("folder one level too deep", nothing, lambda p: open_data(p.root.parent),
     "neither leftImg8bit/ .*; they lie deeper: set DATA to .*tinyscapes. See .*, or set DATA"),
    ("folder of a part", nothing, lambda p: open_data(p.root / "gtFine"),
     "neither leftImg8bit/ .*; it is a part of a data set: set DATA to .*tinyscapes. See .*, or"),
    ("folders called like their zips", lambda p: move(p, "gtFine", "gtFine_trainvaltest/gtFine"),
     opened, "city 'aachen' not found: .*; it lies deeper: move .*trainvaltest.gtFine.train"),
    ("zip not unpacked", lambda p: (shutil.rmtree(p.root / "gtFine"),
                                    (p.root / "gtFine_trainvaltest.zip").write_bytes(b"PK")),
     opened, "city 'aachen' not found: .*; found gtFine_trainvaltest.zip: unpack all into"),
    ("zip unpacked in part", lambda p: shutil.rmtree(p.ulm), opened,
     "city 'ulm' not found: .*17 other cities are there: was a zip unpacked in part"),
    ("zip for a folder", nothing, lambda p: open_data(p.image),
     "leftImg8bit.png is a file; wanted a folder: unpack it, and set DATA to the folder"),
    ("another release of CamVid", lambda p: (move(p, "leftImg8bit", "701_StillsRaw_full"),
                                             move(p, "gtFine", "LabeledApproved_full")), opened,
     "found 701_Stills.*, Labeled.*: this is another release of CamVid.*Get the 11-class release"),
    ("dead link", link("image", "gone.png"), opened,
     "leftImg8bit.png is no file: .*a link that leads nowhere; unpack the data set again"),
    ("link to itself", link("label", None), opened,
     "labelIds.png is no file: .*a link that leads nowhere; unpack the data set again"),
    ("city that links to itself", link("ulm", None), opened,
     "city 'ulm' not found: no folder .*ulm. Unpack"),
    ("folder called like an image", as_folder, opened, "leftImg8bit.png is no file: a folder"),
    ("folder that may not be listed", refused("iterdir", lambda f: f.name == "ulm"), opened,
     r"tinyscapes cannot be read \(.*Permission denied.*ulm'\); check the permissions"),
    ("image that may not be read", refused("read_bytes", lambda f: "aachen" in f.name), trained,
     r"cannot be read as an image \(.*Permission denied.*\)"),
]

UP = "cityscapes.toml shows the form"
SPLIT = [
    ("TOML syntax", split("void = [0,", "void = 0,"), opened,
     r"split.toml is not a TOML file: .*line 5.*; correct it there"),
    ("no text", lambda p: (p.root / "split.toml").write_bytes(b"\xff\xfe\0"), opened,
     r"split.toml is not a TOML file: .*; correct it there"),
    ("nested without end", lambda p: (p.root / "split.toml").write_text("a = " + "[" * 9999),
     opened, "split.toml is not a TOML file: .*recursion"),
    ("split file that is a folder", nothing, lambda p: load_split(p.root),
     "no split file .*; use one of: camvid, cityscapes, .*, or the path of your own .toml"),
    ("split file that may not be read",
     lambda p: (p.split("aachen = 174", "aachen = 1"),
                refused("read_text", lambda f: f.name == "split.toml")(p)), opened,
     r"split.toml cannot be read \(.*Permission denied.*\); check its permissions"),
    ("unknown split", nothing, lambda p: load_split("cityscape"),
     r"no split file .*cityscape.toml \(did you mean 'cityscapes'\?\); use one of: camvid"),
    ("one city in two stages", split('["bremen", "cologne"', '["bremen", "ulm"'), opened,
     f"split file .*: city 'ulm' appears twice; a city belongs to one stage.*{UP}"),
    ("the same city in capitals", split('["bremen", "cologne"', '["bremen", "Ulm"'), opened,
     f"city 'Ulm', 'ulm' appears twice; a city belongs to one stage.*{UP}"),
    ("a test city in a stage", split('["bremen", "cologne"', '["bremen", "lindau"'), opened,
     "city 'lindau' appears twice; a city belongs to one stage, or to test, or is held back"),
    ("a test city by another path", split('["bremen", "cologne"', '["bremen", "../val/lindau"'),
     opened, r"'\.\./val/lindau' is no name of a folder or a list; write it without / and \.\."),
    ("held-back cities as text", split('cities = ["erfurt"]', 'cities = "erfurt"'), opened,
     f"cities of held_back is 'erfurt'; wanted a list.*{UP}"),
    ("class in no stage", split('"sidewalk", "vegetation"', '"vegetation"'), opened,
     r"class 'sidewalk' is in no stage; add it to the `classes` of a \[\[stages\]\] entry, or"),
    ("class in two stages", split('"sidewalk", "vegetation"', '"vegetation", "car"'), opened,
     "class 'car' appears twice; give each class to one stage"),
    ("unknown class", split('"sidewalk", "vegetation"', '"sidewalks", "vegetation"'), opened,
     r"unknown class 'sidewalks' \(did you mean 'sidewalk'\?\); choose one of: road, "),
    ("stage without classes",
     split('["road", "sidewalk", "vegetation", "terrain", "sky"]', "[]"), opened,
     f"stage 'T1' has no class; give it at least one. .*{UP}"),
    ("stage without cities", split('["aachen", "dusseldorf", "hanover", "strasbourg"]', "[]"),
     opened, "stage 'T1' has no city; give it at least one"),
    ("no stage", lambda p: (p.root / "split.toml").write_text('layout = "camvid"\nstages = []'),
     opened, r"stages is \[\]; wanted at least one \[\[stages\]\] entry"),
    ("stage named like a path", split('name = "T2"', 'name = "../T2"'), opened,
     r"stage '\.\./T2' gives folders their names; use letters, digits and _"),
    ("stage twice", split('name = "T2"', 'name = "t1"'), opened,
     "stage 'T1', 't1' appears twice; name each stage once"),
    ("stages that are numbers", lambda p: (p.root / "split.toml").write_text(
        'layout = "camvid"\nstages = [1, 2]'), opened,
     "1 stands of stage 1 instead of a table"),
    ("id twice", split("{ id = 8, ", "{ id = 7, "), opened,
     "id 7 appears twice; an id is one class or void"),
    ("id that is void", split("{ id = 8, ", "{ id = 9, "), opened,
     "id 9 appears twice; an id is one class or void"),
    ("id as text", split("{ id = 8, ", '{ id = "8",'), opened,
     "id '8' does not fit an 8-bit label image; use 0 to 255"),
    ("id that is true", split("{ id = 8, ", "{ id = true,"), opened,
     "id True does not fit an 8-bit label image; use 0 to 255"),
    ("colour of four", split("[244, 35, 232]", "[244, 35, 232, 1]"), opened,
     r"colour of 'sidewalk' is \[244, 35, 232, 1\]; wanted three numbers 0 to 255"),
    ("unknown layout", split('layout = "cityscapes"', 'layout = "cityscape"'), opened,
     r"unknown layout 'cityscape' \(did you mean 'cityscapes'\?\); choose one of: cityscapes, "),
    ("unknown rule", split('layout = "cityscapes"', 'layout = "cityscapes"\nrule = "overlap"\n#'),
     opened, r"unknown rule 'overlap' \(did you mean 'overlapped'\?\); choose one of: partition"),
    ("rule that leaves a stage without images",
     split('layout = "cityscapes"', 'layout = "cityscapes"\nrule = "disjoint"\n#'), trained,
     "rule 'disjoint' leaves stage 'T1' none of the 4 images of aachen, dusseldorf, .* to learn "
     "road, .* from; add images, or change the rule, which data/README.md explains, or the"),
    ("two words for the cities of a stage",
     split('cities = ["erfurt"]', 'cities = []\ngroups = []'), opened,
     f"cities and groups of held_back are two words for the same; keep one.*{UP}"),
    ("class again that was never learned",
     split('name = "T2"', 'name = "T2"\nagain = ["car"]'), opened,
     "unknown class of an earlier stage under again of stage 'T2' 'car'; choose one of: road, "),
    ("background of a later stage",
     split('layout = "cityscapes"', 'layout = "cityscapes"\nbackground = "car"\n#'), opened,
     "unknown class of the first stage as background 'car'; choose one of: road, sidewalk"),
    ("order that leaves a class out", orders('classes = ["road", "sidewalk"]'), opened,
     "order 'mine' leaves out 'vegetation', 'terrain', .*'bicycle'; name every class once"),
    ("order with a class twice", orders('classes = ["road", "road"]'), opened,
     "class 'road' appears twice; order 'mine' names each class once"),
    ("order with an unknown class", orders('classes = ["roads"]'), opened,
     r"unknown class of order 'mine' 'roads' \(did you mean 'road'\?\)"),
    ("unknown order", split('layout = "cityscapes"', 'layout = "cityscapes"\norder = "mine"\n#'),
     opened, "unknown order 'mine'; choose one of: a whole number from 0, the seed of a shuffle"),
    ("negative seed of an order", split('layout = "cityscapes"',
                                        'layout = "cityscapes"\norder = -1\n#'),
     opened, "unknown order -1; choose one of: a whole number from 0, the seed"),
    ("unknown entry", split('layout = "cityscapes"', 'layout = "cityscapes"\npart = 3\n#'), opened,
     r"unknown entry 'part' \(did you mean 'parts'\?\); choose one of: name, layout"),
    ("missing entry", split('layout = "cityscapes"', "#"), opened, f"it lacks 'layout'.*{UP}"),
    ("class that is nowhere may be missing",
     split('layout = "cityscapes"', 'layout = "cityscapes"\nabsent = ["trian"]\n#'), opened,
     r"unknown class under absent 'trian' \(did you mean 'train'\?\); choose one of: road"),
    ("what may be missing as a text",
     split('layout = "cityscapes"', 'layout = "cityscapes"\nabsent = "train"\n#'), opened,
     "absent is 'train'; wanted a list"),
    ("number that is text", split("aachen = 174", 'aachen = "many"'), opened,
     "images of 'aachen' are 'many'; wanted a whole number"),
]

NAME = [
    ("unknown preset", nothing, study(preset="quik"),
     rf"unknown preset 'quik' \(did you mean 'quick'\?\); {PRESETS}"),
    ("unknown method", nothing, lambda p: p.study().run("T2", "Michiel"),
     r"unknown method 'Michiel' \(did you mean 'Michieli'\?\); choose one of: FT, FE, LWOF"),
    ("method in small letters", nothing, lambda p: get_method("lwof"),
     r"unknown method 'lwof' \(did you mean 'LWOF'\?\); choose one of"),
    ("method that is none", nothing, lambda p: p.study().run("T2", None),
     "unknown method None; choose one of: FT, FE"),
    ("methods as a list", nothing, lambda p: p.study().run("T2", ["FT", "FE"]),
     r"unknown method \['FT', 'FE'\].*; choose one of: FT, FE"),
    ("unknown method of a memory", nothing, lambda p: p.study().memory("T1", "LVM"),
     r"unknown method 'LVM' \(did you mean 'LWM'\?\)"),
    ("unknown layer", nothing, lambda p: p.study().run("T2", WATCHING),
     r"unknown layer 'encodr' \(did you mean 'encoder'\?\); choose one of: encoder, encoder.init"),
    ("unknown stage", nothing, lambda p: p.study().run("T22", "CIL"),
     r"unknown stage 'T22' \(did you mean 'T2'\?\); choose one of: T1, T2, T3"),
    ("stage as a number", nothing, lambda p: p.study().run(2),
     r"unknown stage 2 \(did you mean 'T2'\?\); choose one of: T1, T2, T3"),
    ("unknown class", nothing, lambda p: p.study().split.channel("bycicle"),
     r"unknown class 'bycicle' \(did you mean 'bicycle'\?\); choose one of: road"),
    ("unknown class set", nothing, lambda p: runs.load(p.run).iou("task11"),
     r"unknown class set 'task11' \(did you mean 'task1'\?\); choose one of: task1"),
    ("unknown class set of a confusion", nothing, lambda p: runs.load(p.run).confusion("task2"),
     r"unknown class set 'task2' \(did you mean 'task1'\?\); choose one of: task1"),
    ("unknown task", nothing, lambda p: score(our_scores([runs.load(p.run)]), "T1", "T1", "tsk12"),
     r"unknown task 'tsk12' \(did you mean 'task12'\?\); choose one of: task1, task2"),
    ("unknown method as a reference", nothing, lambda p: paired([], "T3", "task123", "CILL"),
     r"unknown method 'CILL' \(did you mean 'CIL'\?\); choose one of: SS, FT"),
    ("unknown task of a difference", nothing, lambda p: paired([], "T3", "task321", "CIL"),
     r"unknown task 'task321' \(did you mean 'task3'\?\); choose one of: task1, task2"),
    ("unknown table", nothing, lambda p: comparison("IIII", []),
     r"unknown table 'IIII' \(did you mean 'III'\?\); choose one of: II, III"),
    ("unknown labels", nothing, lambda p: p.study().data.stage("T2", labels="old"),
     "labels='old'; choose 'new' or 'all'"),
    ("unknown setting", nothing, study(learning_rat=1.0),
     r"unknown setting 'learning_rat' \(did you mean 'learning_rate'\?\); choose one of: epochs"),
    ("unknown run", nothing, lambda p: runs.load(p.run.with_name("CIL_T2")),
     r"no run 'CIL_T2' in .* \(found: T1\); 10_cil.ipynb saves 'CIL_T2', run that first"),
]

PARAMETER = [
    *((f"SEED = {seed!r}", nothing, study(seed=seed), re.escape(f"SEED is {seed!r}") + A_SEED)
      for seed in ("7", "true", "", 7.0, None, [7], True, -1, float("nan"))),
    *((f"PRESET = {preset!r}", nothing, study(preset=preset),
       re.escape(f"unknown preset {preset!r}") + f".*; {PRESETS}")
      for preset in (None, 7, True, ["quick"], {}, "")),
    *((f"DATA = {data!r}", nothing, lambda p, data=data: Study(data, p.runs, "smoke"),
       re.escape(f"DATA is {data!r}; {A_PATH}") + "DATA = .* papermill's -r DATA")
      for data in (None, 7, 7.0, True, ["toyscapes"], "", " ")),
    *((f"RUNS = {folder!r}", nothing, lambda p, folder=folder: Study(p.root, folder, "smoke"),
       re.escape(f"RUNS is {folder!r}; {A_PATH}") + "RUNS = .* papermill's -r RUNS")
      for folder in (None, 7, True, ["data/runs"], "")),
    ("RUNS is a file", nothing, lambda p: p.study(folder=p.image),
     "RUNS is .*, which is a file; wanted a folder, or a new name"),
    *((f"{name} = {value!r}", nothing, study(**{name: value}),
       re.escape(f"{name} is {value!r}; wanted {wanted}"))
      for name, value, wanted in (
          ("epochs", -1, "a whole number from 1"),
          ("epochs", 0, "a whole number from 1"),
          ("epochs", 7.0, "a whole number from 1"),
          ("epochs", "7", "a whole number from 1"),
          ("epochs", True, "a whole number from 1"),
          ("batch", 0, "a whole number from 1"),
          ("height", None, "a whole number from 1"),
          ("workers", -1, "a whole number from 0"),
          ("learning_rate", 0, "a positive number"),
          ("learning_rate", "1e-3", "a positive number"),
          ("learning_rate", float("nan"), "a positive number"),
          ("learning_rate", float("inf"), "a positive number"),
          ("weight_decay", -1e-4, "a number from 0"),
          ("normalise", "false", "True or False, without quotes"),
          ("identity_start", 1, "True or False, without quotes"),
          ("augmentation", "none", "an Augmentation(...)"),
          ("encoder_weights", 7, "a path as text"),
      )),
    ("unknown network", nothing, study(network="erf"),
     r"unknown network 'erf'.*; choose one of: ERFNet, LRASPP. One of your own needs an entry"),
    ("unknown precision", nothing, study(precision="bf16_mixed"),
     r"unknown precision 'bf16_mixed' \(did you mean 'bf16-mixed'\?\); choose one of: auto, 32"),
    *((f"{name} = {value!r}", nothing, augmented(**{name: value}),
       re.escape(f"{name} is {value!r}; wanted {wanted}"))
      for name, value, wanted in (
          ("flip", 2, "a number from 0 to 1"),
          ("hue", 0.7, "a number from 0 to 0.5"),
          ("rotation", "2", "a number from 0 to 180"),
          ("crop", 96, "height and width in multiples of 8"),
          ("crop", (96, 192.0), "height and width in multiples of 8"),
          ("rescale", 1.5, "(low, high) with 0 < low <= high"),
          ("rescale_divides", "false", "True or False, without quotes"),
      )),
    ("batch larger than the data", nothing, lambda p: p.study(batch=5).run("T1"),
     "T1: a batch of 5 is larger than the data set of 4 images; use a smaller batch or more"),
    ("learning rate that diverges", nothing,
     lambda p: p.study(learning_rate=1e30, epochs=3).run("T1"),
     r"T1: the loss is .*(nan|inf).* in step 1 of epoch [23]; .*Lower the learning rate .*1e\+30"),
    ("missing encoder", nothing, lambda p: p.study(encoder_weights="no.pth").run("T1"),
     "no weight file .*no.pth; download it there, or start from random weights"),
    ("encoder that is an image", nothing,
     lambda p: p.study(encoder_weights=str(p.image)).run("T1"),
     "leftImg8bit.png is not a file of weights: .*; download it again"),
    ("encoder of texts", lambda p: torch.save({"encoder.x": "y"}, p.root / "x.pth"),
     lambda p: p.study(encoder_weights=str(p.root / "x.pth")).run("T1"),
     "x.pth is not a file of weights: .*; download it again"),
]

EDITED = "is not as it was saved: SHA256SUMS beside it has another checksum.*Put it back, or move"
RUN = [
    ("config with another preset", in_run("config.json", instead('"smoke"', '"quick"')), asked,
     f"config.json {EDITED}"),
    ("config of a wrong type", in_run("config.json", instead('"seed": 0', '"seed": "0"')), asked,
     f"config.json {EDITED}"),
    ("config without an entry", in_run("config.json", instead('"preset": "smoke",', "")), used,
     f"config.json {EDITED}"),
    ("config with other decoders",
     in_run("config.json", lambda b: re.sub(rb'("decoders": \[\s*)5', rb"\g<1>6", b)), used,
     f"config.json {EDITED}"),
    ("config that is no JSON", in_run("config.json", lambda b: b[:-20]), used,
     f"config.json {EDITED}"),
    ("empty config", in_run("config.json", lambda b: b""), asked, f"config.json {EDITED}"),
    ("a better score", in_run("scores.json", lambda b: re.sub(rb"\d\.\d", b"9.9", b, count=1)),
     used, f"scores.json {EDITED}"),
    ("scores that are no JSON", in_run("scores.json", lambda b: b"{"), used,
     f"scores.json {EDITED}"),
    ("scores in a table", in_run("scores.json", flipped), lambda p: runs.scores(p.runs),
     f"scores.json {EDITED}"),
    ("history without its end", in_run("history.csv", lambda b: b[:-5]), used,
     f"history.csv {EDITED}"),
    ("weights without their end", in_run("weights.safetensors", lambda b: b[:-9]), used,
     f"weights.safetensors {EDITED}"),
    ("weights with one bit flipped", in_run("weights.safetensors", flipped), used,
     f"weights.safetensors {EDITED}"),
    ("weights of another network",
     in_run("weights.safetensors", lambda b: safetensors.save({"x": torch.ones(3)})), used,
     f"weights.safetensors {EDITED}"),
    ("damaged teacher", in_run("weights.safetensors", flipped),
     lambda p: p.study().run("T2", "CIL"), f"T1.weights.safetensors {EDITED}"),
    ("checksums that are no text", in_run("SHA256SUMS", lambda b: b"\xff\n"), asked,
     f"config.json {EDITED}"),
    ("no checksums", lambda p: (p.run / "SHA256SUMS").unlink(), used,
     "T1 is not a finished run, it lacks SHA256SUMS; move it away and train again"),
    ("no weights", lambda p: (p.run / "weights.safetensors").unlink(), used,
     "T1 is not a finished run, it lacks weights.safetensors; move it away and train again"),
    ("run that may not be read", refused("read_bytes", lambda f: f.name == "config.json"), asked,
     r"config.json cannot be read \(.*Permission denied.*\); check its permissions"),
]

RUN_OF_NONE = r"wanted one such as data/runs/toyscapes/quick/seed0/CIL_T3"
PREDICT = r"wanted the folder of a run and an image: python -m cilkit.predict data/runs/.*CIL_T3 "


def predicted(name: str):
    """The command, with the run that is there and a file in the folder of the data."""
    return lambda p: predict.main(str(p.run), str(p.root / name))


def large(place: Place) -> None:
    Image.new("L", (2000, 1500)).save(place.root / "large.png")


PICTURE = [
    ("no arguments", nothing, lambda p: predict.main(), f"given nothing; {PREDICT}street.jpg"),
    ("a run alone", nothing, lambda p: predict.main(str(p.run)),
     f"given .*T1; {PREDICT}street.jpg"),
    ("a name with a space, without quotes", nothing,
     lambda p: predict.main(str(p.run), "my", "street.jpg"),
     rf"given .*T1 my street.jpg; {PREDICT}street.jpg \(quote a name with spaces: 'my street.jpg'"),
    ("image before the run", nothing, lambda p: predict.main(str(p.image), str(p.run)),
     "leftImg8bit.png is a file; wanted the folder of a run first: python -m cilkit.predict "),
    ("run that is not there", nothing,
     lambda p: predict.main(str(p.run.with_name("CIL_T3")), str(p.image)),
     r"no run 'CIL_T3' in .*seed0 \(found: T1\); 10_cil.ipynb saves 'CIL_T3', run that first"),
    ("run in a folder that is not there", nothing,
     lambda p: predict.main(str(p.runs / "typo" / "CIL_T3"), str(p.image)),
     r"no run 'CIL_T3' in .*typo \(found in .*data.runs: .*\); 10_cil.ipynb saves 'CIL_T3'"),
    ("folder of runs", nothing, lambda p: predict.main(str(p.runs), str(p.image)),
     rf"runs is a folder, but not that of a run \(found in it: tinyscapes/smoke/seed0/T1\); "
     f"{RUN_OF_NONE}"),
    ("folder without a run", nothing, lambda p: predict.main(str(p.root), str(p.image)),
     rf"tinyscapes is a folder, but not that of a run \(found in it: none\); {RUN_OF_NONE}"),
    ("run with an edited config", in_run("config.json", instead('"smoke"', '"quick"')),
     predicted("street.jpg"), f"config.json {EDITED}"),
    ("image that is not there", lambda p: p.image.rename(p.root / "street.jpg"),
     predicted("stret.jpg"),
     r"no image .*stret.jpg \(did you mean 'street.jpg'\?\); a relative path starts where you are"),
    ("no path", nothing, lambda p: predict.segment(runs.load(p.run), None),
     f"IMAGE is None; {A_PATH}"),
    ("folder of images", nothing, predicted("leftImg8bit"),
     "leftImg8bit is a folder; wanted one image in it, a JPEG or PNG"),
    ("empty file", lambda p: (p.root / "a.jpg").touch(), predicted("a.jpg"),
     "a.jpg is empty, it has 0 bytes; copy or download it again"),
    ("text", lambda p: (p.root / "a.jpg").write_text("a street"), predicted("a.jpg"),
     "a.jpg is no JPEG and no PNG, whatever its name says; open it in an image viewer and save"),
    ("GIF", lambda p: Image.fromarray(RGB).save(p.root / "a.jpg", "GIF"), predicted("a.jpg"),
     "a.jpg is no JPEG and no PNG, whatever its name says; open it in an image viewer and save"),
    ("one bit flipped in a PNG", content("image", flipped),
     lambda p: predict.main(str(p.run), str(p.image)),
     r"leftImg8bit.png cannot be read as an image \(.*\); copy or download it again, or open it"),
    ("PNG cut off", lambda p: cut_off(p.image), lambda p: predict.main(str(p.run), str(p.image)),
     r"leftImg8bit.png cannot be read as an image \(.*\); copy or download it again, or open it"),
    ("photograph cut off", lambda p: (Image.fromarray(RGB).resize((99, 99)).save(p.root / "a.jpg"),
                                      cut_off(p.root / "a.jpg")), predicted("a.jpg"),
     r"a.jpg cannot be read as an image \(.*truncated.*\); copy or download it again, or open it"),
    ("picture of few pixels", picture("image", RGB[:9, :12]),
     lambda p: predict.main(str(p.run), str(p.image)),
     "is 9 pixels high and 12 wide, for the network 8 and 8; wanted 16 or more of both: take a la"),
    ("picture that is too narrow", picture("image", RGB[:, :1].repeat(99, 0)),
     lambda p: predict.main(str(p.run), str(p.image)),
     "is 3168 pixels high and 1 wide, for the network 32 and 8; wanted 16 or more of both"),
    ("picture that is too long", picture("image", RGB[:16, :1].repeat(2**18 + 8, 1)),
     lambda p: predict.main(str(p.run), str(p.image)),
     "is 16 pixels high and 262152 wide, .*; wanted at most 4194304 pixels in all: cut it into"),
    ("picture that is too large to decode",
     lambda p: (large(p), p.patch.setattr(photograph, "MOST_PIXELS", 2 * 10**6)),
     predicted("large.png"),
     "large.png is too large to decode; wanted at most 2 million pixels: open it in an image"),
    ("picture of which Pillow says that it is a bomb",
     lambda p: (large(p), p.patch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)),
     predicted("large.png"),
     "large.png is too large to decode; wanted at most 67 million pixels: open it in an image"),
]

DAMAGED = r"pack.zip is damaged, or no pack \(.*Nothing was put into place. Get the file again, or"
PACK = [
    ("pack that is not there", nothing,
     lambda p: unpack(p.pack.with_name("pak.zip"), p.root, p.runs),
     r"no pack .*pak.zip \(did you mean 'pack.zip'\?\); FILE names the file .* path starts at "),
    ("pack that is a folder", nothing, lambda p: unpack(p.root, p.root, p.runs),
     "no pack .*tinyscapes; FILE names the file that was handed out"),
    ("FILE = None", nothing, lambda p: unpack(None), "FILE is None; wanted a path as text"),
    ("no FILE", nothing, lambda p: unpack_main(f"DATA={p.root}"), "wanted FILE=path/to/pack.zip"),
    ("unknown option of a pack", nothing, packed("SMAL=yes"),
     r"unknown parameter 'SMAL' \(did you mean 'SMALL'\?\); choose one of: DATA, RUNS, PRESET"),
    ("option that is neither yes nor no", nothing, packed("HALF=true"),
     "HALF is 'true'; wanted HALF=yes or HALF=no"),
    ("preset to unpack", nothing, lambda p: unpack_main(f"FILE={p.pack}", "PRESET=quick"),
     "unknown parameter 'PRESET'; choose one of: FILE, DATA, RUNS"),
    ("seeds given twice", nothing, packed("SEED=0", "SEEDS=1"), "SEED=0 and SEEDS=1 are both gi"),
    ("nothing to pack", nothing, packed("SEED=5"),
     "no finished run in .*seed5; make study PRESET=smoke SEED=5 trains what is missing"),
    ("small pack of an unfinished study", nothing, packed("SMALL=yes"),
     "seed0 lacks SS_T2, .*CIL_T3, which a small pack holds; make study .* Or leave SMALL out"),
    ("runs of other settings than the preset", nothing, packed(),
     r"would be trained again: T1 \(height, .*\) differ in what stands in brackets. Train them"),
    ("folder in the place of a pack", nothing, packed("FILE={place.root}"),
     "FILE is .*tinyscapes, which is a folder; wanted the name of a file in it"),
    ("other file in the place of a pack", nothing, packed("FILE={place.label}"),
     "labelIds.png is there and is no pack; choose another FILE, or move it away"),
    ("image for a pack", nothing, lambda p: unpack(p.image, p.root, p.runs / "new"),
     r"leftImg8bit.png is damaged, or no pack \(File is not a zip file\)"),
    ("zip that is no pack", in_pack(lambda e: e.pop("pack.json")), unpacked,
     r"it has no pack.json\). Nothing was"),
    ("pack without its end", content("pack", lambda b: b[:-100]), unpacked, DAMAGED),
    ("pack with one bit flipped", content("pack", flipped), unpacked, DAMAGED),
    ("pack without a file", in_pack(lambda e: e.pop("runs/seed0/T1/scores.json")), unpacked,
     "'runs/seed0/T1/scores.json' is not as pack.json lists it"),
    ("pack with one file more", in_pack(lambda e: e.update({"more.txt": b""})), unpacked,
     "'more.txt' is not as pack.json lists it"),
    ("pack with other weights",
     in_pack(lambda e: e.update({k: flipped(v) for k, v in e.items() if "weights" in k})),
     unpacked, "weights.safetensors has another checksum"),
    ("pack that says nothing of itself", in_pack(lambda e: e.update({"pack.json": b"[]"})),
     unpacked, "its pack.json is not as the kit writes it"),
    ("pack of other code", about_pack('"code": "', '"code": "7'), unpacked,
     r"trained with other code \(cilkit .*, code 7.*; here .*\), .* the version of the kit that it "
     "was made with, or ask for a new pack"),
    ("pack of an unknown preset", about_pack('"preset": "smoke"', '"preset": "brief"'), unpacked,
     f"unknown preset 'brief'; {PRESETS}"),
    ("pack of another preset", about_pack('"preset": "smoke"', '"preset": "quick"'), unpacked,
     r"some runs of .* not what this kit trains.*T1 \(epochs, .*preset\). Nothing was put"),
    ("pack whose data are not here", nothing, lambda p: unpack(p.pack),
     "were trained on 'tinyscapes', which is not in it; give the folder of your copy: DATA=path"),
    ("pack of data of another name", nothing, lambda p: unpack(p.pack, p.root / "gtFine"),
     "DATA is .*gtFine', and the runs of .* were trained on 'tinyscapes'; give a folder of this"),
    ("pack of other data", every_label(lambda ids: ids * 0, "val"), unpacked,
     "tinyscapes holds other data than the runs of .* were trained on. Ask for a pack with the da"),
    ("run that is there and differs", nothing, lambda p: unpack(p.pack, p.root, p.runs),
     r"holds runs that differ .*: seed0/T1 \(weights.*, SHA256SUMS\). Nothing was put into place. "
     "Choose another RUNS, or move these runs away"),
    ("unpacked onto a file", nothing, lambda p: unpack(p.pack, p.root, p.image),
     "RUNS is .*, which is a file; wanted a folder, or a new name"),
]

# fmt: on
CASES = [
    pytest.param(damage, ask, message, id=f"{kind}: {name}")
    for kind, rows in (
        ("data", DATA),
        ("split", SPLIT),
        ("name", NAME),
        ("parameter", PARAMETER),
        ("run", RUN),
        ("picture", PICTURE),
        ("pack", PACK),
    )
    for name, damage, ask, message in rows
]


@pytest.mark.parametrize(("damage", "ask", "message"), CASES)
def test_bad_input_is_refused_with_a_message_and_nothing_is_written(place, damage, ask, message):
    damage(place)
    before = listing(place.root, place.runs, ROOT / "data")
    with pytest.raises((ValueError, FileNotFoundError, FloatingPointError)) as error:
        ask(place)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
    assert listing(place.root, place.runs, ROOT / "data") == before


@pytest.mark.skipif(AS_ROOT or WINDOWS, reason="root may read everything, Windows has no such bits")
@pytest.mark.parametrize("which", ["ulm", "image"])
def test_what_may_not_be_read_is_named(place, which):
    path = getattr(place, which)
    path.chmod(0)
    try:
        with pytest.raises(ValueError, match=f"{path.name}.*Permission denied|Permission.*ulm"):
            trained(place)
    finally:
        path.chmod(0o755)


# a checkpoint that is of no use is set aside, and the training starts again


CONFIG = {"data": "tinyscapes", "stage": "T1", "method": "CIL", "split": {"classes": ["road"]}}
STATE = {"network.x": torch.arange(6.0).view(2, 3), "sums.ce": torch.tensor(1.5)}
FACTS = {"history": [], "step": 3, "seconds": 1.0, "terms": ["ce"]}


def whole_at(position: float):
    """One bit flipped at a part of the file."""

    def change(before: bytes) -> bytes:
        k = min(int(position * len(before)), len(before) - 1)
        return before[:k] + bytes([before[k] ^ 1]) + before[k + 1 :]

    return change


@pytest.mark.parametrize(
    ("change", "config", "why"),
    [
        *((whole_at(part), CONFIG, "damaged") for part in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)),
        (lambda b: b[:-4], CONFIG, "damaged"),
        (lambda b: b"", CONFIG, "damaged"),
        (lambda b: safetensors.save(STATE), CONFIG, "damaged"),
        (bytes, CONFIG | {"split": {"classes": ["road", "car"]}}, "of other split"),
        (bytes, CONFIG | {"method": "FT"}, "of other method"),
    ],
)
def test_a_checkpoint_of_no_use_is_set_aside(tmp_path, capsys, change, config, why):
    file = tmp_path / ".T1.checkpoint"
    FileCheckpoint(file, CONFIG).save(STATE, FACTS)
    kept = FileCheckpoint(file, CONFIG).load()
    assert kept[1] == FACTS and all(kept[0][name].equal(STATE[name]) for name in STATE)
    file.write_bytes(content := change(file.read_bytes()))
    capsys.readouterr()
    assert FileCheckpoint(file, config).load() is None
    printed = capsys.readouterr().out
    aside = tmp_path / "superseded" / ".T1.checkpoint-1"
    assert f"The unfinished training of T1 is {why}" in printed
    assert f"starting again. It lies in {aside}." in printed
    assert aside.read_bytes() == content and not file.exists()


# a disk that is full, or may not be written to


def files_of(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.endswith(".lock")}


def test_a_disk_that_is_full_when_a_run_is_saved_leaves_nothing_half_written(place):
    before = listing(place.run)
    one = place.study()
    with full_disk(10**6), pytest.raises(OSError, match="SS_T2.*could not be written.*Make room"):
        one.run("T2")
    assert files_of(one.folder) == {"T1"} and listing(place.run) == before
    assert runs.is_finished(one.run("T2").folder)


def test_a_training_whose_run_cannot_be_saved_goes_on_from_its_checkpoint(
    place, monkeypatch, capsys
):
    monkeypatch.setattr(FileCheckpoint, "due", lambda self: True)

    def fail(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    one = place.study(seed=1, batch=2)
    write = runs.write
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write", lambda *a: (fail if a[0].suffix == ".csv" else write)(*a))
        with pytest.raises(OSError, match="No space left"):
            one.run("T1")
    assert files_of(one.folder) == {".T1.checkpoint"}
    run = one.run("T1")
    assert "T1 goes on from epoch 1, step 2." in capsys.readouterr().out
    assert files_of(one.folder) == {"T1"} and runs.is_finished(run.folder)


def test_a_disk_that_is_full_when_a_state_is_kept_leaves_the_state_before(tmp_path):
    kept = FileCheckpoint(tmp_path / ".T1.checkpoint", CONFIG)
    kept.save(STATE, FACTS)
    before = listing(tmp_path)
    large = {"network.x": torch.zeros(10**6)}
    with full_disk(10**6), pytest.raises(OSError, match=r"could not be written \(.*\). Make room"):
        kept.save(large, FACTS)
    assert listing(tmp_path) == before
    assert kept.load()[1] == FACTS


def test_where_nothing_can_be_written_nothing_is_trained(place, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    before = listing(place.root, place.runs)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(study_module, "fit", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(OSError, match=r"seed1 \(.*Read-only.*\); choose RUNS where you may write"):
        place.study(seed=1).run("T1")
    assert listing(place.root, place.runs) == before


# papermill


CELLS = [
    'DATA = "toyscapes"\nRUNS = "data/runs"\nPRESET = "smoke"\nSEED = 0',
    "from cilkit import Study\nprint(Study(DATA, RUNS, PRESET, SEED).seed)",
]


@pytest.fixture
def write_notebook(place):
    """write_notebook({"SEED": 3}) is a notebook to give to papermill, and all that it is given."""

    def write_notebook(given: dict) -> tuple[Path, dict]:
        cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        file = place.runs.parent / "in.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
        return file, {"DATA": str(place.root), "RUNS": str(place.runs)} | given

    return write_notebook


KERNEL = {"kernel_name": "python3", "language": "python"}
MISSPELT = r"unknown parameter 'SEEED' \(did you mean 'SEED'\?\); choose one of: DATA"


def test_papermill_is_refused_a_parameter_that_the_notebook_does_not_have(write_notebook):
    file, given = write_notebook({"SEEED": 3})
    with pytest.raises(pm.PapermillExecutionError, match=MISSPELT):
        pm.execute_notebook(file, file.with_name("out.ipynb"), given, **KERNEL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SEED": 3}, None),
        ({"SEEED": 3}, MISSPELT),
        ({"SEED": "3"}, "SEED is '3'; wanted a whole number from 0, without quotes"),
    ],
)
def test_a_notebook_takes_from_papermill_what_it_has_if_it_is_of_its_kind(
    write_notebook, monkeypatch, capsys, given, message
):
    file, given = write_notebook(given)
    made = pm.execute_notebook(
        file, file.with_name("out.ipynb"), given, prepare_only=True, **KERNEL
    )
    shell = SimpleNamespace(user_ns={"In": [""]})  # a kernel would take seconds
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)

    def run():
        for cell in made.cells:
            shell.user_ns["In"].append(cell.source)
            exec(cell.source, shell.user_ns)

    if message is None:
        run()
        assert capsys.readouterr().out == "3\n"
    else:
        with pytest.raises(ValueError, match=message):
            run()


def test_a_cell_of_ones_own_is_no_parameter_of_papermill(monkeypatch):
    shell = SimpleNamespace(user_ns={})
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    for cells in (
        [],
        ["", CELLS[0], "SEEED = 3"],
        ["", CELLS[0], "# Parameters\nSEED = 3"],
        ["", CELLS[0], CELLS[1], "# Parameters\nSEEED = 3"],
        ["", "%matplotlib inline", "# Parameters\nSEEED = 3"],
    ):
        shell.user_ns["In"] = cells
        check_injected()
    shell.user_ns["In"] = ["", CELLS[0], "# Parameters\nSEEED = 3"]
    with pytest.raises(ValueError, match="unknown parameter 'SEEED'"):
        check_injected()
    shell.user_ns["In"] = ["", CELLS[0], "# Parameters\nSEED = 3\nEPOCHS = 5"]
    message = "unknown parameter 'EPOCHS'; choose one of: DATA, PRESET"
    with pytest.raises(ValueError, match=message):
        check_injected()
