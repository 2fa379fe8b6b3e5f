"""Labelled images, and what may be seen of their labels; each file is decoded once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from cilkit.classes import UNLISTED_ID, VOID, Split
from cilkit.data.store import cache_folder, fill, read

IN_MEMORY = 2**30  # a data set up to this many bytes is decoded once and kept
DISK_CACHE_ABOVE = 2**30  # bytes of pixels; a larger data set is kept decoded on disk as well
CACHE_VERSION = 1  # a higher one makes all entries of the cache anew


@dataclass(frozen=True)
class Sample:
    """One image file, its label file, and the city (or part of a sequence) it is from."""

    image: Path
    label: Path
    city: str


Decoded = tuple[np.ndarray, np.ndarray]  # image (3, h, w) and label ids (h, w), both uint8


@dataclass(frozen=True)
class DecodedImages:
    """What is decoded of a data set and kept in memory, which all views of the set share."""

    train: int  # training images of the whole set
    test: int  # test images
    kept: dict[tuple, Decoded] = field(default_factory=dict)


class LabelledImages(Dataset):
    """Images with the labels that may be seen; every other label is VOID in the tensor already.

    Item: image (3, h, w) float in [0, 1], labels (h, w) long in channels of the split.
    `height` resizes both (bilinear, nearest) without ever enlarging; with `native_labels` the
    labels keep the size of their file, for evaluation.

    Files are decoded once and kept in memory if they all fit, as what is decoded does not depend
    on the labels to be seen. Of a large data set, `prepare` keeps it on disk as well.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        split: Split,
        visible: slice,
        height: int | None = None,
        native_labels: bool = False,
        decoded: DecodedImages | None = None,
    ):
        """Views of one data set share what is `decoded`; by default this is a set of its own."""
        if decoded is None:
            n = len(samples)
            decoded = DecodedImages(0, n) if native_labels else DecodedImages(n, 0)
        self.samples, self.split, self.visible = tuple(samples), split, visible
        self.height, self.native_labels, self._shared = height, native_labels, decoded
        table = split.lookup()
        hidden = (table < visible.start) | (table >= visible.stop)
        self._visible_label = np.where(hidden, VOID, table).astype(np.uint8)  # (256,), by label id
        known = hashlib.sha256(table.tobytes()).hexdigest()[:16]
        self._made_by = f"{CACHE_VERSION} {split.name} {known} {torchvision.__version__}"
        self._files = decoded.train + decoded.test

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.load(index)
        return image / 255, labels.long()

    def subset(self, indices: Sequence[int]) -> "LabelledImages":
        """Some of the images, in the order of `indices`, with the same labels to be seen."""
        samples = [self.samples[index] for index in indices]
        return LabelledImages(
            samples, self.split, self.visible, self.height, self.native_labels, self._shared
        )

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, h, w) and labels (h, w), both uint8; the image is kept, so do not change it."""
        image, ids = self._decoded(index)
        return torch.from_numpy(image), torch.from_numpy(self._visible_label.take(ids))

    def _decoded(self, index: int) -> Decoded:
        """From memory, or the cache on disk, or the files."""
        sample = self.samples[index]
        key = (sample, self.height, self.native_labels)
        if key in self._shared.kept:
            return self._shared.kept[key]
        decoded = self._cached(sample) or self._decode(sample)
        if self._fits(decoded):
            self._shared.kept[key] = decoded
        return decoded

    def _fits(self, decoded: Decoded) -> bool:
        return self._files * sum(part.nbytes for part in decoded) <= IN_MEMORY

    def prepare(self, progress: bool = True) -> None:
        """Decode everything once, before it is read many times or by several processes.

        Into a cache on disk if the files are large (see cilkit.cache), and into memory if it fits.
        """
        samples = dict.fromkeys(self.samples)
        if self._uses_disk_cache() and (folder := cache_folder()) is not None:
            entries = {self._entry(folder, sample): sample for sample in samples}

            def make(entry: Path) -> dict[str, Tensor]:
                image, ids = self._decode(entries[entry])
                return {"image": torch.from_numpy(image), "ids": torch.from_numpy(ids)}

            stamps = {entry: self._stamp(sample) for entry, sample in entries.items()}
            fill(folder, stamps, make, self._entry_size(self.native_labels))
        if self._fits(self._decoded(0)):
            shown = {"leave": False, "delay": 2, "disable": not progress}
            for index in tqdm(range(len(self)), "decode", mininterval=1, **shown):
                self._decoded(index)

    def cache_size(self) -> int:
        """Bytes of the cache on disk once it holds the whole data set; 0 if it needs none.

        Training images are kept with labels of their own size, test images with native ones.
        """
        if not self._uses_disk_cache() or cache_folder() is None:
            return 0
        sizes = self._entry_size(False), self._entry_size(True)
        return self._shared.train * sizes[0] + self._shared.test * sizes[1]

    def _entry_size(self, native_labels: bool) -> int:
        native = _read_size(self.samples[0].image)
        height, width = network_size(native, self.height)
        labels = native[0] * native[1] if native_labels else height * width
        return 3 * height * width + labels

    def _uses_disk_cache(self) -> bool:
        height, width = _read_size(self.samples[0].image)
        return self._files * 4 * height * width > DISK_CACHE_ABOVE

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


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most `most` indices from 0 to n - 1, evenly spaced."""
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
    foreign = found[split.lookup()[found] == UNLISTED_ID]
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
