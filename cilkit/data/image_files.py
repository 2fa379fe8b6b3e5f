"""Image files: PNG or JPEG with 8 bits a colour, and PNG with one label id a pixel."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from cilkit.classes import Split
from cilkit.files import GUIDE
from cilkit.limits import usable_cores

JPEG = (".jpg", ".jpeg")  # what ends otherwise is read as PNG
LOSSY = (  # why a label is no JPEG, and what to do
    "JPEG keeps values only nearly, and a label id must be exact; save labels as PNG, from what "
    "they were before they were JPEG"
)


def read_image(path: Path) -> np.ndarray:
    """The pixels of an image file as one sees it, turned as its EXIF data say, (H, W, 3) uint8.

    A ValueError if it has alpha or 16 bits, or is no PNG or JPEG.
    """
    picture, depth = _read(path)
    if picture.mode not in ("RGB", "L", "P") or picture.mode not in (depth, "P"):
        raise ValueError(
            f"{path} has mode {depth}; wanted 8 bits a colour and no alpha; save it as RGB"
        )
    return np.array(picture.convert("RGB"))


def read_label_ids(path: Path, split: Split) -> np.ndarray:
    """The label ids in a file, (H, W) uint8; a ValueError if they are not ids of this split."""
    picture = _read_label(path)
    check_ids(path, _ids_of(picture), split)
    return np.array(picture)


def ids_in(path: Path) -> list[int]:
    """Which label ids occur in a file, in ascending order, without asking what they mean."""
    return _ids_of(_read_label(path))


def ids_by_file(files: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """Which label ids occur in each of some files, with a bar if reading takes long.

    A process reads each file once, and again when it has changed.
    """
    files = dict.fromkeys(files)
    pool = ThreadPoolExecutor(usable_cores())  # decoding leaves the interpreter free
    try:
        shown = {"leave": False, "delay": 2, "mininterval": 1}
        found = list(tqdm(pool.map(_ids, files), "labels", len(files), **shown))
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(zip(files, found, strict=True))


def _ids(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError as error:
        raise unreadable(file, error) from error
    return _ids_when(file, found.st_size, found.st_mtime_ns)


@cache
def _ids_when(file: Path, size: int, changed: int) -> tuple[int, ...]:
    """The ids in a label file, read again only if its size or time of change is another."""
    return tuple(ids_in(file))


def check_ids(path: Path, ids: list[int], split: Split) -> None:
    """A ValueError if the ids of a label file are not those of this split."""
    train_ids = split.name == "cityscapes" and 255 in ids and max(ids[:-1], default=0) <= 18
    if train_ids and len(ids) > 1:  # 255 is a licence plate in labelIds, so a car (26) is near
        raise ValueError(
            f"{path} holds ids {', '.join(map(str, ids))}: these look like trainIds (0-18, 255); "
            "wanted label ids (7 road, 8 sidewalk, ...), the files ending in _labelIds.png"
        )
    known = {c.label_id for c in split.classes} | set(split.void)
    if foreign := [label_id for label_id in ids if label_id not in known]:
        raise ValueError(
            f"{path} holds ids {', '.join(map(str, foreign[:8]))} that split {split.name!r} does "
            "not know; add them to its `classes` or its `void`, or use a split that has them"
        )


def read_size(path: Path) -> tuple[int, int]:
    """Height and width as stored, before any turn, from the first bytes of an image file."""
    try:
        with Image.open(path, formats=[_format(path)]) as picture:
            return picture.size[::-1]
    except Exception as error:  # as in _read
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that is no image, or that the system does not let us read."""
    return ValueError(f"{path} cannot be read as an image ({error}); unpack or download it again")


def _read_label(path: Path) -> Image.Image:
    if _format(path) == "JPEG":
        raise ValueError(f"the label {path} is a JPEG: {LOSSY}")
    picture, depth = _read(path)
    if picture.mode not in ("L", "P") or picture.mode not in (depth, "P"):
        raise ValueError(
            f"{path} has mode {depth}; wanted one 8-bit label id a pixel (CamVid: its 11-class "
            "release, as others hold colours; Cityscapes: the files ending in _labelIds.png). "
            f"{GUIDE} shows how to turn colours or 16 bits into such ids"
        )
    return picture


def _ids_of(picture: Image.Image) -> list[int]:
    return np.flatnonzero(picture.histogram()).tolist()


def _format(path: Path) -> str:
    return "JPEG" if path.suffix.lower() in JPEG else "PNG"


def _read(path: Path) -> tuple[Image.Image, str]:
    """A picture with nothing damaged in it, and how its pixels are written, such as "L;4"."""
    kind = _format(path)
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=[kind]) as picture:
            picture.verify()  # the checksums of a PNG, which reading alone does not compare
        with Image.open(BytesIO(content), formats=[kind]) as picture:
            # "L;4": four bits, which Pillow stretches to eight
            depth = picture.tile[0].args if kind == "PNG" else picture.mode
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
    except Exception as error:  # on foreign bytes, a decoder may fail in any way
        raise unreadable(path, error) from error
    return picture, depth
