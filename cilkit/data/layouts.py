"""Folder layouts: where Cityscapes and CamVid keep their images and labels."""

from collections.abc import Callable
from pathlib import Path

from cilkit.classes import Split
from cilkit.data.images import Sample
from cilkit.files import GUIDE

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
                f"and gtFine_trainvaltest.zip there ({GUIDE}), or set DATA = 'toyscapes'"
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
                f"testannot ({GUIDE})"
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
        raise FileNotFoundError(f"no images in {folder}; unpack the data set there ({GUIDE})")
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
