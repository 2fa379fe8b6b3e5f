"""Image files: PNG with 8 bits a colour, and PNG with one label id a pixel."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cilkit.classes import Split


def read_image(path: Path) -> np.ndarray:
    """The pixels of an image file, (H, W, 3) uint8; a ValueError if it has alpha or 16 bits."""
    picture, depth = _read_png(path)
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
    """Height and width, from the first bytes of an image file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.size[::-1]
    except Exception as error:  # as in _read_png
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that is no image, or that the system does not let us read."""
    return ValueError(f"{path} cannot be read as an image ({error}); unpack or download it again")


def _read_label(path: Path) -> Image.Image:
    picture, depth = _read_png(path)
    if picture.mode not in ("L", "P") or picture.mode not in (depth, "P"):
        raise ValueError(
            f"{path} has mode {depth}; wanted one 8-bit label id a pixel (CamVid: its 11-class "
            "release, as others hold colours; Cityscapes: the files ending in _labelIds.png)"
        )
    return picture


def _ids_of(picture: Image.Image) -> list[int]:
    return np.flatnonzero(picture.histogram()).tolist()


def _read_png(path: Path) -> tuple[Image.Image, str]:
    """A PNG file with nothing damaged in it, and how its pixels are written, such as "L;4"."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()  # the checksums, which reading alone does not compare
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            depth = picture.tile[0].args  # "L;4": four bits, which Pillow stretches to eight
            picture.load()
    except Exception as error:  # on foreign bytes, a decoder may fail in any way
        raise unreadable(path, error) from error
    return picture, depth
