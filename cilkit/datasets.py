"""Street scenes from a folder, and a stage's view of them: its images, and only its labels."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from cilkit.cache import cache_folder, fill, read
from cilkit.classes import ROOT, UNKNOWN, VOID, Split, Stage, load_split, nearest
from cilkit.parameters import check_path
from cilkit.ranks import is_first
from cilkit.toyscapes import write_toyscapes

IN_MEMORY = 2**30  # a data set up to this many bytes is decoded once and kept
WATCHED = 6  # images that are scored while a network trains
DEAR = 2**30  # one whose files hold more bytes of pixels than this is kept decoded on disk
CACHE_VERSION = 1  # a higher one makes all entries of the cache anew


@dataclass(frozen=True)
class Sample:
    """One image file, its label file, and the city (or part of a sequence) it is from."""

    image: Path
    label: Path
    city: str


Decoded = tuple[np.ndarray, np.ndarray]  # image (3, h, w) and label ids (h, w), both uint8


class LabelledImages(Dataset):
    """Images with the labels that may be seen; every other label is VOID in the tensor already.

    Item: image (3, h, w) float in [0, 1], labels (h, w) long in channels of the split.
    `height` resizes both (bilinear, nearest) without ever enlarging; with `native_labels` the
    labels keep the size of their file, for evaluation.

    Files are decoded once and kept in memory if they all fit, as what is decoded does not depend
    on the labels to be seen. Where decoding is dear, `prepare` keeps it on disk as well.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        split: Split,
        visible: slice,
        height: int | None = None,
        native_labels: bool = False,
        within: "StreetScenes | None" = None,
    ):
        """Views `within` one data set share what is decoded."""
        self.samples, self.split, self.visible = tuple(samples), split, visible
        self.height, self.native_labels, self._within = height, native_labels, within
        table = split.lookup()
        hidden = (table < visible.start) | (table >= visible.stop)
        self._visible_label = np.where(hidden, VOID, table).astype(np.uint8)  # (256,), by label id
        known = hashlib.sha256(table.tobytes()).hexdigest()[:16]
        self._made_by = f"{CACHE_VERSION} {split.name} {known} {torchvision.__version__}"
        self._kept: dict[tuple, Decoded] = {} if within is None else within.kept
        self._files = len(samples) if within is None else len(within.train) + len(within.test)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.load(index)
        return image / 255, labels.long()

    def subset(self, indices: Sequence[int]) -> "LabelledImages":
        """Some of the images, in the order of `indices`, with the same labels to be seen."""
        samples = [self.samples[index] for index in indices]
        return LabelledImages(
            samples, self.split, self.visible, self.height, self.native_labels, self._within
        )

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, h, w) and labels (h, w), both uint8; the image is kept, so do not change it."""
        image, ids = self._decoded(index)
        return torch.from_numpy(image), torch.from_numpy(self._visible_label.take(ids))

    def _decoded(self, index: int) -> Decoded:
        """From memory, or the cache on disk, or the files."""
        sample = self.samples[index]
        key = (sample, self.height, self.native_labels)
        if key in self._kept:
            return self._kept[key]
        decoded = self._cached(sample) or self._decode(sample)
        if self._fits(decoded):
            self._kept[key] = decoded
        return decoded

    def _fits(self, decoded: Decoded) -> bool:
        return self._files * sum(part.nbytes for part in decoded) <= IN_MEMORY

    def prepare(self) -> None:
        """Decode everything once, before it is read many times or by several processes.

        Into a cache on disk if the files are large (see cilkit.cache), and into memory if it fits.
        """
        samples = dict.fromkeys(self.samples)
        if self._is_dear() and (folder := cache_folder()) is not None:
            entries = {self._entry(folder, sample): sample for sample in samples}

            def make(entry: Path) -> dict[str, Tensor]:
                image, ids = self._decode(entries[entry])
                return {"image": torch.from_numpy(image), "ids": torch.from_numpy(ids)}

            stamps = {entry: self._stamp(sample) for entry, sample in entries.items()}
            fill(folder, stamps, make, self._entry_size(self.native_labels))
        if self._fits(self._decoded(0)):
            shown = {"leave": False, "delay": 2, "disable": not is_first()}
            for index in tqdm(range(len(self)), "decode", mininterval=1, **shown):
                self._decoded(index)

    def cache_size(self) -> int:
        """Bytes of the cache on disk once it holds the whole data set; 0 if it needs none.

        Training images are kept with labels of their own size, test images with native ones.
        """
        if not self._is_dear() or cache_folder() is None:
            return 0
        tested = len(self._within.test) if self._within else self._files * self.native_labels
        return (self._files - tested) * self._entry_size(False) + tested * self._entry_size(True)

    def _entry_size(self, native_labels: bool) -> int:
        native = _read_size(self.samples[0].image)
        height, width = network_size(native, self.height)
        labels = native[0] * native[1] if native_labels else height * width
        return 3 * height * width + labels

    def _is_dear(self) -> bool:
        height, width = _read_size(self.samples[0].image)
        return self._files * 4 * height * width > DEAR

    def _entry(self, folder: Path, sample: Sample) -> Path:
        files = f"{sample.image}\n{sample.label}\n{self.height}".encode()
        digest = hashlib.sha256(files).hexdigest()[:16]
        labels = "-native" if self.native_labels else ""
        return folder / f"{sample.image.stem}-{self.height}{labels}-{digest}.safetensors"

    def _stamp(self, sample: Sample) -> dict[str, str]:
        """What an entry of the cache is made from; an entry of another is not used."""
        stamp = {"made by": self._made_by}
        for kind, file in (("image", sample.image), ("label", sample.label)):
            try:
                found = file.stat()
            except OSError as error:
                raise _unreadable(file, error) from error
            stamp[kind] = f"{found.st_size} {found.st_mtime_ns}"
        return stamp

    def _cached(self, sample: Sample) -> Decoded | None:
        folder = cache_folder()
        if folder is None or not (entry := self._entry(folder, sample)).is_file():
            return None
        found = read(entry, self._stamp(sample))
        if found is None:
            return None
        return found["image"].numpy(), found["ids"].numpy()

    def _decode(self, sample: Sample) -> Decoded:
        image = torch.from_numpy(np.array(_read(sample.image).convert("RGB")))  # (H, W, 3)
        image = image.permute(2, 0, 1)  # (3, H, W)
        ids = read_label_ids(sample.label, self.split)  # (H, W)
        if ids.shape != image.shape[1:]:
            raise ValueError(
                f"{sample.label} is {ids.shape[0]} x {ids.shape[1]} pixels but its image "
                f"{sample.image.name} is {image.shape[1]} x {image.shape[2]}; they must be equal"
            )
        size = network_size(ids.shape, self.height)
        image = v2.functional.resize(image, size, antialias=True).contiguous()
        if not self.native_labels:
            mask = tv_tensors.Mask(torch.from_numpy(ids))
            ids = v2.functional.resize(mask, size).as_subclass(Tensor).numpy()
        return image.numpy(), ids


def spread(n: int, most: int) -> list[int]:
    """At most so many indices from 0 to n - 1, evenly spread."""
    return torch.linspace(0, n - 1, min(n, most)).long().tolist()


def network_size(size: tuple[int, int], height: int | None) -> list[int]:
    """The size at which a network sees an image: `height` high at most, in multiples of 8."""
    height = size[0] if height is None else min(height, size[0])
    return [max(8, side * height // size[0] // 8 * 8) for side in size]


def read_label_ids(path: Path, split: Split) -> np.ndarray:
    """The label ids in a file, (H, W) uint8; a ValueError if they are not ids of this split."""
    picture = _read(
        path,
        ("L", "P"),
        "one 8-bit label id a pixel (Cityscapes: the files ending in _labelIds.png)",
    )
    ids = np.array(picture)
    found = np.flatnonzero(picture.histogram())
    train_ids = split.name == "cityscapes" and 255 in found and found[:-1].max(initial=0) <= 18
    if train_ids and len(found) > 1:  # 255 is a licence plate in labelIds, so a car (26) is near
        raise ValueError(
            f"{path} holds ids {', '.join(map(str, found))}: these look like trainIds (0-18, 255); "
            "wanted label ids (7 road, 8 sidewalk, ...), the files ending in _labelIds.png"
        )
    foreign = found[split.lookup()[found] == UNKNOWN]
    if len(foreign):
        raise ValueError(
            f"{path} holds ids {', '.join(map(str, foreign[:8]))} that split {split.name!r} does "
            "not know; add them to its `classes` or its `void`, or use a split that has them"
        )
    return ids


def _read_size(path: Path) -> tuple[int, int]:
    """Height and width, from the first bytes of an image file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.size[::-1]
    except Exception as error:  # as in _read
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as an image ({error}); unpack or download it again")


def _read(
    path: Path,
    modes: Sequence[str] = ("RGB", "L", "P"),
    wanted: str = "8 bits a colour and no alpha; save it as RGB",
) -> Image.Image:
    """A PNG file with nothing damaged in it, in one of some modes; else a ValueError."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()  # the checksums, which reading alone does not compare
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            depth = picture.tile[0].args  # "L;4": four bits, which Pillow stretches to eight
            picture.load()
    except Exception as error:  # on foreign bytes, a decoder may fail in any way
        raise _unreadable(path, error) from error
    if picture.mode not in modes or picture.mode not in (depth, "P"):
        raise ValueError(f"{path} has mode {depth}; wanted {wanted}")
    return picture


@dataclass(frozen=True)
class StreetScenes:
    """A data set in a folder: its split, its training images and its test images."""

    name: str
    root: Path
    split: Split
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    held_back: tuple[Sample, ...] = ()  # of the split's cities that nothing is trained on
    kept: dict[tuple, Decoded] = field(default_factory=dict, repr=False, compare=False)

    def images(self, stage: Stage) -> list[Sample]:
        """The training images of one stage, D1, D2 or D3."""
        return [sample for sample in self.train if sample.city in stage.cities]

    def stage(
        self, name: str, labels: Literal["new", "all"] = "new", height: int | None = None
    ) -> LabelledImages:
        """The training set of a stage, labelled with its new classes (Table I).

        `labels="all"` shows the classes of earlier stages too, as SS and Michieli need them.
        """
        stage = self.split.stage(name)
        return LabelledImages(
            self.images(stage), self.split, stage.visible(labels), height, within=self
        )

    def single_stage(self, name: str, height: int | None = None) -> LabelledImages:
        """All images up to a stage with all labels up to it: what SS is trained on, eq. (2)."""
        stages = self.split.stages[: self.split.stage(name).number]
        samples = [sample for stage in stages for sample in self.images(stage)]
        return LabelledImages(samples, self.split, stages[-1].seen, height, within=self)

    def test_set(
        self,
        name: str,
        height: int | None = None,
        native_labels: bool = True,
        labels: Literal["new", "all"] = "all",
    ) -> LabelledImages:
        """The test images with the labels learned up to a stage, at their native size to score.

        `labels="new"` shows only the classes of the stage itself.
        """
        visible = self.split.stage(name).visible(labels)
        return LabelledImages(self.test, self.split, visible, height, native_labels, within=self)

    def watch_set(
        self, name: str, height: int | None = None, labels: Literal["new", "all"] = "all"
    ) -> LabelledImages:
        """A few images to watch a training in a stage by, labelled at the size of the network.

        They are of the held-back cities, or test images if a data set holds none back.
        """
        samples = self.held_back or self.test
        chosen = [samples[index] for index in spread(len(samples), WATCHED)]
        visible = self.split.stage(name).visible(labels)
        return LabelledImages(chosen, self.split, visible, height, within=self)

    def fingerprint(self) -> str:
        """Hash of the names and sizes of all files, and of all that stands in the labels.

        It tells whether two runs saw the same data: no class count can differ without it.
        """
        digest = hashlib.sha256()
        for sample in sorted(self.train + self.test, key=lambda sample: sample.image):
            for file in (sample.image, sample.label):
                name, found = file.relative_to(self.root).as_posix(), file.stat()
                digest.update(f"{name} {found.st_size}\n".encode())
            digest.update(_content(sample.label, found.st_size, found.st_mtime_ns))
        return digest.hexdigest()[:16]


@cache
def _content(file: Path, size: int, changed: int) -> bytes:
    """Hash of a file, read again only if its size or time of change is another."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        raise _unreadable(file, error) from error


def resolve(path: Path | str) -> Path:
    """A path as the kit reads it: relative ones start at the project folder, not where you are."""
    return (ROOT / Path(path).expanduser()).resolve()


def open_data(data: Path | str) -> StreetScenes:
    """Open "toyscapes" (drawn first if need be), or a folder in the layout of Cityscapes or CamVid.

    A file `split.toml` in the folder, written like data/splits/*.toml, replaces the paper's
    classes and stages. Raises FileNotFoundError for what is missing, naming where it was looked
    for, and ValueError for images and labels that do not pair up.
    """
    check_path("DATA", data)
    if data == "toyscapes":
        return open_folder(write_toyscapes(ROOT / "data" / "toyscapes"))
    return open_folder(resolve(data))


def open_folder(root: Path) -> StreetScenes:
    """Open a folder by its layout; see `open_data`."""
    try:
        return _open_folder(root)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(
            f"{root} cannot be read ({error}); check the permissions of what is named there"
        ) from error


def _open_folder(root: Path) -> StreetScenes:
    if not root.is_dir():
        near = [folder.name for folder in root.parent.glob("*/")] if root.parent.is_dir() else []
        raise FileNotFoundError(
            f"no data folder {root}{nearest(root.name, ['toyscapes', *near])}; data/README.md says "
            "how to get Cityscapes and CamVid, or set DATA = 'toyscapes' to run without them"
        )
    if (root / "split.toml").is_file():
        split = load_split(root / "split.toml")
    elif (root / "leftImg8bit").is_dir():
        split = load_split("cityscapes")
    elif (root / "trainannot").is_dir():
        split = load_split("camvid")
    else:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{root} has neither leftImg8bit/ (Cityscapes) nor trainannot/ (CamVid); found "
            f"{found}. See data/README.md, or set DATA = 'toyscapes' to run without it"
        )
    return StreetScenes(root.name.lower(), root, split, *READERS[split.layout](root, split))


Samples = tuple[Sample, ...]


def _read_cityscapes(root: Path, split: Split) -> tuple[Samples, Samples, Samples]:
    train = [city for stage in split.stages for city in stage.cities]
    there = [city for city in split.held_back if (root / "leftImg8bit" / "train" / city).is_dir()]
    parts = (("train", train), ("val", split.test_cities), ("train", there))
    return tuple(
        tuple(sample for city in cities for sample in _city(root, part, city))
        for part, cities in parts
    )


def _city(root: Path, part: str, city: str) -> list[Sample]:
    images, labels = root / "leftImg8bit" / part / city, root / "gtFine" / part / city
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"city {city!r} not found: no folder {folder}. Unpack leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip there (data/README.md), or set DATA = 'toyscapes'"
            )
    return _pairs(
        images,
        _files(images, "_leftImg8bit.png"),
        _files(labels, "_gtFine_labelIds.png"),
        stem=lambda file: file.name.split("_leftImg8bit")[0].split("_gtFine")[0],
        city=lambda file: city,
    )


def _read_camvid(root: Path, split: Split) -> tuple[Samples, Samples]:
    train = [sample for part in ("train", "val") for sample in _camvid_part(root, part)]
    by_sequence: dict[str, list[Sample]] = {}
    for sample in sorted(train, key=lambda sample: sample.image.name):
        by_sequence.setdefault(sample.city, []).append(sample)
    cut = []
    for sequence, samples in by_sequence.items():
        for i, sample in enumerate(samples):  # consecutive parts, so that no moment is in two
            part = i * split.parts // len(samples) + 1
            cut.append(Sample(sample.image, sample.label, f"{sequence}/{part}"))
    test = _camvid_part(root, "test")
    for cities, samples in (
        ([city for stage in split.stages for city in stage.cities], cut),
        (split.test_cities, test),
    ):
        have = {sample.city for sample in samples}
        if missing := [city for city in cities if city not in have]:
            raise FileNotFoundError(
                f"{root} has no image of sequence {', '.join(missing)}; found "
                f"{', '.join(sorted(have))}. Name the sequences of the folder in the split file"
            )
    return tuple(cut), tuple(sample for sample in test if sample.city in split.test_cities)


def _camvid_part(root: Path, part: str) -> list[Sample]:
    for folder in (root / part, root / f"{part}annot"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {folder}; CamVid has train, trainannot, val, valannot, test and "
                "testannot (data/README.md)"
            )
    return _pairs(
        root / part,
        _files(root / part, ".png"),
        _files(root / f"{part}annot", ".png"),
        stem=lambda file: file.stem,
        city=lambda file: file.name.split("_")[0],
    )


def _files(folder: Path, ending: str) -> list[Path]:
    """The files of a folder with that ending, sorted; each is there and not empty."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(ending))
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is no file: a folder, or a link that leads nowhere; unpack the data set "
                "again, or remove it together with its image or label"
            )
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty; unpack or download it again")
    return files


READERS = {"cityscapes": _read_cityscapes, "camvid": _read_camvid}


def _pairs(
    folder: Path,
    images: list[Path],
    labels: list[Path],
    stem: Callable[[Path], str],
    city: Callable[[Path], str],
) -> list[Sample]:
    if not images:
        raise FileNotFoundError(
            f"no images in {folder}; unpack the data set there (data/README.md)"
        )
    image_of = {stem(file): file for file in images}
    label_of = {stem(file): file for file in labels}
    for kind, have, other in (("image", image_of, label_of), ("label", label_of, image_of)):
        if alone := [have[key] for key in have if key not in other]:
            wanted = "label" if kind == "image" else "image"
            raise ValueError(
                f"{len(alone)} {kind} files have no {wanted}, the first is {alone[0]}; "
                f"add the {wanted} file or remove the {kind}"
            )
    return [Sample(image_of[key], label_of[key], city(image_of[key])) for key in image_of]
