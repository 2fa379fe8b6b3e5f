"""A photograph that belongs to no data set: one file, of any size and of any mode of its format."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cilkit.checks import nearest

MOST_PIXELS = 2**26  # that are decoded: 67 million
SAVE_ANEW = "open it in an image viewer and save it as"


def read_photograph(path: Path) -> Tensor:
    """The pixels of a JPEG or PNG as one sees them, turned as its EXIF data say, (3, H, W) uint8.

    The content decides which of the two it is, not the name. Grey, palette, 16 bits and CMYK become
    RGB; what is transparent lies on white. A JPEG of more than `MOST_PIXELS` is decoded at a half,
    a quarter or an eighth of its size. Raises FileNotFoundError for a file that is not there, and
    ValueError for one that is larger, damaged, or no image.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of 89 million
            _verify(path)
            with Image.open(path, formats=["JPEG", "PNG"]) as picture:
                _shrink_jpeg(picture)
                if picture.width * picture.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                picture.load()
                ImageOps.exif_transpose(picture, in_place=True)
                pixels = np.array(_as_rgb(picture))  # (H, W, 3)
    except Image.DecompressionBombError:
        raise ValueError(
            f"{path} is too large to decode; wanted at most {MOST_PIXELS // 10**6} million pixels: "
            f"{SAVE_ANEW} a smaller one"
        ) from None
    except Image.UnidentifiedImageError:
        raise ValueError(
            f"{path} is no JPEG and no PNG, whatever its name says; {SAVE_ANEW} one of them"
        ) from None
    except Exception as error:  # on foreign bytes, a decoder may fail in any way
        raise ValueError(
            f"{path} cannot be read as an image ({error}); copy or download it again, or "
            f"{SAVE_ANEW} JPEG or PNG"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; wanted one image in it, a JPEG or PNG")
    if not path.exists():
        names = [file.name for file in path.parent.glob("*.*")] if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no image {path}{nearest(path.name, names)}; a relative path starts where you are, "
            f"{Path.cwd()}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty, it has 0 bytes; copy or download it again")


def _verify(path: Path) -> None:
    """Compare the checksums of a PNG, which reading alone does not."""
    with Image.open(path, formats=["JPEG", "PNG"]) as picture:
        picture.verify()


def _shrink_jpeg(picture: Image.Image) -> None:
    """Let a JPEG that is too large be decoded at a part of its size; of a PNG, do nothing."""
    factor = (picture.width * picture.height / MOST_PIXELS) ** 0.5
    if factor > 1:
        least = (max(1, int(side / factor / 2)) for side in picture.size)  # at most twice that
        picture.draft(None, tuple(least))


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white
