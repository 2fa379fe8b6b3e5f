"""Decode once: the images and label ids of a data set, kept in memory and on disk.

On disk, each image with its labels is a file, made again when its source changes; they may all be
deleted at any time.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
import torchvision
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from cilkit.classes import Split
from cilkit.data.image_files import read_image, read_label_ids, read_size, unreadable
from cilkit.data.layouts import Sample
from cilkit.files import ROOT, write_atomic
from cilkit.limits import usable_cores

IN_MEMORY = 2**30  # a data set up to this many bytes is decoded once and kept
DISK_CACHE_ABOVE = 2**30  # bytes of pixels; a larger data set is kept decoded on disk as well
CACHE_VERSION = 2  # a higher one makes all entries of the cache anew
SETTING = "CILKIT_CACHE"  # environment variable: "off", or a folder for the cache
MIN_FREE_BYTES = 2**29  # bytes of the disk that stay free

Decoded = tuple[np.ndarray, np.ndarray]  # image (3, h, w) and label ids (h, w), both uint8


class DecodedImages:
    """The images and label ids of a data set, each file decoded once.

    All are kept in memory if they fit. Of a large data set, `prepare` keeps them on disk as well.
    Nothing here depends on which labels may be seen, so all views of a data set share it.
    """

    def __init__(self, split: Split, train: int, test: int):
        """`train` and `test` are the numbers of images in the whole data set."""
        self.split, self.train, self.test = split, train, test
        self._kept: dict[tuple, Decoded] = {}
        known = hashlib.sha256(split.lookup().tobytes()).hexdigest()[:16]
        self._made_by = f"{CACHE_VERSION} {split.name} {known} {torchvision.__version__}"

    def load(self, sample: Sample, height: int | None, native_labels: bool) -> Decoded:
        """Image (3, h, w) and label ids, both uint8: from memory, or the disk, or the files.

        Both are `height` high at most; `native_labels` have the size of their file.
        """
        key = (sample.image, sample.label, height, native_labels)  # of whichever group it is
        if key in self._kept:
            return self._kept[key]
        how = (sample, height, native_labels)
        decoded = self._cached(*how) or self._decode(*how)
        if self._fits(decoded):
            self._kept[key] = decoded
        return decoded

    def prepare(
        self, samples: Sequence[Sample], height: int | None, native_labels: bool, progress: bool
    ) -> None:
        """Decode some images once, before they are read many times or by several processes.

        Onto the disk if the files are large, and into memory if the data set fits.
        """
        if self._uses_disk_cache(samples[0]) and (folder := cache_folder()) is not None:
            entries = {
                self._entry(folder, sample, height, native_labels): sample
                for sample in dict.fromkeys(samples)
            }

            def make(entry: Path) -> dict[str, Tensor]:
                image, ids = self._decode(entries[entry], height, native_labels)
                return {"image": torch.from_numpy(image), "ids": torch.from_numpy(ids)}

            stamps = {entry: self._stamp(sample) for entry, sample in entries.items()}
            fill(folder, stamps, make, _entry_size(samples[0], height, native_labels))
        if self._fits(self.load(samples[0], height, native_labels)):
            shown = {"leave": False, "delay": 2, "disable": not progress}
            for sample in tqdm(samples, "decode", mininterval=1, **shown):
                self.load(sample, height, native_labels)

    def cache_size(self, sample: Sample, height: int | None) -> int:
        """Bytes on disk once the whole data set is kept there, all like `sample`; or 0.

        Training images are kept with labels of their own size, test images with native ones.
        """
        if not self._uses_disk_cache(sample) or cache_folder() is None:
            return 0
        sizes = _entry_size(sample, height, False), _entry_size(sample, height, True)
        return self.train * sizes[0] + self.test * sizes[1]

    def _fits(self, decoded: Decoded) -> bool:
        files = self.train + self.test
        return files * sum(part.nbytes for part in decoded) <= IN_MEMORY

    def _uses_disk_cache(self, sample: Sample) -> bool:
        height, width = read_size(sample.image)
        return (self.train + self.test) * 4 * height * width > DISK_CACHE_ABOVE

    def _entry(self, folder: Path, sample: Sample, height: int | None, native_labels: bool) -> Path:
        files = f"{sample.image}\n{sample.label}\n{height}".encode()
        digest = hashlib.sha256(files).hexdigest()[:16]
        labels = "-native" if native_labels else ""
        return folder / f"{sample.image.stem}-{height}{labels}-{digest}.safetensors"

    def _stamp(self, sample: Sample) -> dict[str, str]:
        """What an entry is made from; one that was made from something else is stale."""
        stamp = {"made by": self._made_by}
        for kind, file in (("image", sample.image), ("label", sample.label)):
            try:
                found = file.stat()
            except OSError as error:
                raise unreadable(file, error) from error
            stamp[kind] = f"{found.st_size} {found.st_mtime_ns}"
        return stamp

    def _cached(self, sample: Sample, height: int | None, native_labels: bool) -> Decoded | None:
        folder = cache_folder()
        if folder is None:
            return None
        entry = self._entry(folder, sample, height, native_labels)
        if not entry.is_file() or (found := read(entry, self._stamp(sample))) is None:
            return None
        return found["image"].numpy(), found["ids"].numpy()

    def _decode(self, sample: Sample, height: int | None, native_labels: bool) -> Decoded:
        image = torch.from_numpy(read_image(sample.image))  # (H, W, 3)
        image = image.permute(2, 0, 1)  # (3, H, W)
        ids = read_label_ids(sample.label, self.split)  # (H, W)
        if ids.shape != image.shape[1:]:
            raise ValueError(
                f"{sample.label} is {ids.shape[0]} x {ids.shape[1]} pixels but its image "
                f"{sample.image.name} is {image.shape[1]} x {image.shape[2]}; they must be "
                "equal as one sees them, after a turn that EXIF data ask for"
            )
        size = network_size(ids.shape, height)
        image = v2.functional.resize(image, size, antialias=True).contiguous()
        if not native_labels:
            mask = tv_tensors.Mask(torch.from_numpy(ids))
            ids = v2.functional.resize(mask, size).as_subclass(Tensor).numpy()
        return image.numpy(), ids


def network_size(size: tuple[int, int], height: int | None) -> list[int]:
    """The size at which a network sees an image: `height` high at most, in multiples of 8."""
    height = size[0] if height is None else min(height, size[0])
    return [max(8, side * height // size[0] // 8 * 8) for side in size]


# the cache on disk


def _entry_size(sample: Sample, height: int | None, native_labels: bool) -> int:
    """About how many bytes an entry takes, if its image is as large as that of `sample`."""
    native = read_size(sample.image)
    height, width = network_size(native, height)
    labels = native[0] * native[1] if native_labels else height * width
    return 3 * height * width + labels


def cache_folder() -> Path | None:
    """Where decoded images lie, data/cache/ unless CILKIT_CACHE names another; None for "off"."""
    setting = os.environ.get(SETTING) or "data/cache"
    return None if setting == "off" else ROOT / Path(setting).expanduser()


def read(entry: Path, stamp: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The tensors of an entry, memory-mapped; None if it is missing, damaged or stale."""
    try:
        with safe_open(entry, "pt") as file:
            if file.metadata() == stamp:
                return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError):
        pass
    return None


def fill(
    folder: Path,
    wanted: Mapping[Path, Mapping[str, str]],
    make: Callable[[Path], dict[str, Tensor]],
    size: int,
) -> None:
    """Make the entries that are missing or stale, about `size` bytes each, with a bar.

    Says first how much room that takes. Finished entries stay, so a stopped fill goes on where it
    was; of several processes one works and the others wait. Where there is too little room, or
    nothing can be written, a line says so and the images stay uncached. Errors of `make` are
    raised.
    """
    if all(map(_is_valid, wanted, wanted.values())):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # freed by the system if we crash
            for unfinished in folder.glob(".*.part"):
                unfinished.unlink()
            todo = [entry for entry in wanted if not _is_valid(entry, wanted[entry])]
            if todo and _has_room(folder, len(todo) * size):
                _write_all(todo, wanted, make)
    except (OSError, NotImplementedError) as error:  # the latter: filelock, of a disk without locks
        print(
            f"Cache: cannot write to {folder} ({error}); images are decoded each time. Set "
            f"{SETTING} to another folder, or to off"
        )


def _is_valid(entry: Path, stamp: Mapping[str, str]) -> bool:
    return read(entry, stamp) is not None


def _has_room(folder: Path, need: int) -> bool:
    free = shutil.disk_usage(folder).free
    sizes = f"Cache: {need / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB are free."
    if need + MIN_FREE_BYTES > free:
        print(
            f"{sizes} That is too little, so images are decoded each time. Make room, or set "
            f"{SETTING} to another folder"
        )
        return False
    print(f"{sizes} {SETTING}=off leaves it out; it may be deleted at any time.")
    return True


def _write_all(
    todo: list[Path],
    wanted: Mapping[Path, Mapping[str, str]],
    make: Callable[[Path], dict[str, Tensor]],
) -> None:
    def write(entry: Path) -> None:
        write_atomic(entry, save(make(entry), metadata=dict(wanted[entry])))

    pool = ThreadPoolExecutor(usable_cores())  # decoding leaves the interpreter free
    try:
        jobs = [pool.submit(write, entry) for entry in todo]
        for job in tqdm(as_completed(jobs), "cache", len(jobs), unit="image", mininterval=1):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
