"""CamVid as a few small archives, for a machine that takes only so many bytes at a time.

    python -m benchmarks.gpu_data CAMVID FOLDER [QUALITY]

writes FOLDER/camvid-1-of-3.tar and so on, each at most 50 MiB: the images as WebP without loss, the
labels as they are. `unpack` makes PNG files of them, with the pixels of the download. A QUALITY
from 1 to 100 packs JPEG files instead: at 92 all fit into one archive, but the pixels are others,
and whoever shows scores of them has to say so.
"""

import io
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from cilkit.limits import usable_cores

MOST = 50 * 2**20  # bytes of an archive
PARTS = "train", "val", "test"  # folders of images; those of labels end in "annot"
NAME = re.compile(r"camvid-(\d+)-of-(\d+)\.tar")


def pack(camvid: Path, folder: Path, quality: int | None = None, most: int = MOST) -> list[Path]:
    """Write the archives of a CamVid folder; returns them in order."""
    files = [file for part in PARTS for file in sorted((camvid / part).glob("*.png"))]
    with ThreadPoolExecutor(usable_cores()) as pool:
        packed = pool.map(lambda file: _packed(camvid, file, quality), files)
        entries = [entry for pair in tqdm(packed, "pack", len(files), mininterval=1)
                   for entry in pair]  # fmt: skip
    archives: list[list[tuple[str, bytes]]] = [[]]
    size = 0
    for name, content in entries:
        size += len(content) + 1024  # a header, and what is filled up to 512 bytes
        if size > most - 10240 and archives[-1]:  # an archive is filled up, too
            archives.append([])
            size = len(content) + 1024
        archives[-1].append((name, content))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, inside in enumerate(archives, start=1):
        written.append(folder / f"camvid-{number}-of-{len(archives)}.tar")
        with tarfile.open(written[-1], "w") as archive:
            for name, content in inside:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return written


def _packed(camvid: Path, file: Path, quality: int | None) -> list[tuple[str, bytes]]:
    """An image and its label file as names and contents of an archive's entries."""
    content, part = io.BytesIO(), file.parent.name
    with Image.open(file) as image:
        if quality is None:
            image.convert("RGB").save(content, "WEBP", lossless=True, quality=75, method=4)
        else:
            image.convert("RGB").save(content, "JPEG", quality=quality, subsampling=0)
    label = f"{part}annot/{file.name}"
    ending = ".webp" if quality is None else ".jpg"
    image_name = f"{part}/{file.stem}{ending}"
    return [(image_name, content.getvalue()), (label, (camvid / label).read_bytes())]


def unpack(archives: list[Path], camvid: Path) -> list[int]:
    """Make the files of some archives, unless they are there; returns which parts still lack.

    Parts may come one after another, in several calls. Raises ValueError without any archive.
    """
    found = {file: NAME.fullmatch(file.name) for file in archives}
    marks = camvid.with_name(f"{camvid.name}-parts")
    marks.mkdir(parents=True, exist_ok=True)
    for file, match in found.items():
        if match is None:
            raise ValueError(f"{file} is no archive of benchmarks.gpu_data; wanted {NAME.pattern}")
        if not (marks / file.name).exists():
            _unpack(file, camvid)
            (marks / file.name).touch()
    there = [NAME.fullmatch(mark.name).groups() for mark in marks.iterdir()]
    if not there:
        raise ValueError(f"no archive of CamVid: {__doc__.splitlines()[2].strip()} makes them")
    total = max(int(total) for _, total in there)
    return [k for k in range(1, total + 1) if (str(k), str(total)) not in there]


def _unpack(file: Path, camvid: Path) -> None:
    with tarfile.open(file) as archive, ThreadPoolExecutor(usable_cores()) as pool:
        entries = [(entry.name, archive.extractfile(entry).read()) for entry in archive]
        for _ in pool.map(lambda entry: _write(camvid, *entry), entries):
            pass


def _write(camvid: Path, name: str, content: bytes) -> None:
    folder, _, file = name.partition("/")
    if folder.removesuffix("annot") not in PARTS or not re.fullmatch(r"\w+\.(webp|jpg|png)", file):
        raise ValueError(
            f"an archive of CamVid holds {name!r}; wanted train/NAME.webp and its like"
        )
    target = (camvid / folder / file).with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.endswith(".png"):
        target.write_bytes(content)
    else:
        with Image.open(io.BytesIO(content)) as image:
            image.save(target, compress_level=1)


if __name__ == "__main__":
    for made in pack(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4])):
        print(f"{made}: {made.stat().st_size / 2**20:.1f} MiB")
