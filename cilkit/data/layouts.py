"""Folder layouts: where Cityscapes, CamVid, VOC and your own data keep images and labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cilkit.checks import unknown
from cilkit.classes import RULES, Split
from cilkit.data.image_files import JPEG, LOSSY
from cilkit.files import GUIDE
from cilkit.splits import SPLITS, kit_splits

FOLDERS = {  # of a data set; the first one tells the layout where there is no split file
    "cityscapes": ("leftImg8bit", "gtFine"),
    "camvid": ("trainannot", "train", "valannot", "val", "testannot", "test"),
    "voc": ("JPEGImages", "SegmentationClass", "ImageSets"),
}
IMAGES = (".png", *JPEG)  # endings of images; a label is a .png
# what a download brings that is no data, beside all names that begin with a dot
NO_DATA = ("thumbs.db", "desktop.ini", "__macosx")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".ppm", ".webp")
CITYSCAPES_ZIPS = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
TRAIN_IDS = "_labelTrainIds.png"  # of Cityscapes: the classes numbered from 0 to 18
OTHER_CAMVID = (  # folders of other releases of CamVid
    *("701_StillsRaw_full", "LabeledApproved_full"),
    *("train_labels", "val_labels", "test_labels"),
)


@dataclass(frozen=True)
class Sample:
    """One image file, its label file, and its group: a city, a part of a sequence, a list."""

    image: Path
    label: Path
    group: str


Samples = tuple[Sample, ...]
Reader = Callable[[Path, Split], Iterable[Sample]]


def find_layout(root: Path) -> str:
    """The layout of a folder; a FileNotFoundError says what was found instead, and what to do."""
    for name, folders in FOLDERS.items():
        if (root / folders[0]).is_dir():
            return _with_a_split(root, name)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return _with_a_split(root, "folders")
    found = ", ".join(entry.name for entry in _entries(root)[:8]) or "nothing"
    advice = _nested(root) or _other_release(root) or f"found {found}"
    raise FileNotFoundError(
        f"{root} has neither leftImg8bit/ (Cityscapes) nor trainannot/ (CamVid) nor JPEGImages/ "
        f"(VOC) nor a split.toml that names another layout; {advice}. See "
        f"{GUIDE}, or set DATA = 'toyscapes' to run without it"
    )


def _with_a_split(root: Path, layout: str) -> str:
    """The name of a layout, if the kit has a split of that name."""
    if layout in kit_splits():
        return layout
    ours = [str(SPLITS / f"{name}.toml") for name in kit_splits() if name.startswith(layout)]
    way_out = f"copy {' or '.join(ours)} there, or write one" if ours else "write one"
    raise FileNotFoundError(
        f"{root} has the layout {layout!r} and no split.toml, which says what is learned in which "
        f"stage; {way_out} ({GUIDE} shows how)"
    )


def read_samples(root: Path, split: Split) -> tuple[Samples, Samples, Samples]:
    """The training, test and held-back images of a folder, in the order of its reader.

    A ValueError for a layout that is not in `LAYOUTS`, a FileNotFoundError for a group of the
    split without an image; only held-back ones may be missing. A ValueError for an image that is
    in two places of which the split says that they share none.
    """
    if split.layout not in LAYOUTS:
        raise ValueError(
            f"split {split.name!r}: {unknown('layout', split.layout, list(LAYOUTS))}, or add your "
            f"own to cilkit.data.layouts.LAYOUTS first ({GUIDE})"
        )
    samples = tuple(LAYOUTS[split.layout](root, split))
    have = {sample.group for sample in samples}
    wanted = split.train_cities + split.test_cities
    if missing := [group for group in wanted if group not in have]:
        raise FileNotFoundError(
            f"{root} has no image of {', '.join(missing)}; found {', '.join(sorted(have))}. Name "
            "the groups of images that are there in the split file"
        )
    _check_homes(samples, split)
    parts = split.train_cities, split.test_cities, split.held_back
    return tuple(tuple(s for s in samples if s.group in groups) for groups in parts)


def _check_homes(samples: Samples, split: Split) -> None:
    """A ValueError for an image that is trained on and tested on, or partitioned and in two stages.

    Under the other rules stages may share images, and choose theirs by the labels.
    """
    apart = RULES[split.rule] is None
    home_of = {
        group: f"stage {stage.name}" if apart else "the stages"
        for stage in split.stages
        for group in stage.cities
    }
    home_of |= dict.fromkeys(split.test_cities, "the test set")
    home_of |= dict.fromkeys(split.held_back, "the images held back")
    first: dict[Path, str] = {}
    for sample in samples:
        if sample.group not in home_of:
            continue
        other = first.setdefault(sample.image, sample.group)
        if home_of[other] != home_of[sample.group]:
            way_out = "take it out of one of them"
            if {other, sample.group} <= set(split.train_cities):
                way_out += ', or write rule = "overlapped" or "disjoint" in the split file'
            raise ValueError(
                f"{sample.image} is in group {other!r} of {home_of[other]} and in group "
                f"{sample.group!r} of {home_of[sample.group]}, and they share no image under rule "
                f"{split.rule!r}; {way_out}"
            )


def _check_names(split: Split) -> None:
    if bad := [group for group in split.cities if group == ".." or group != Path(group).name]:
        raise ValueError(
            f"split {split.name!r}: {bad[0]!r} is no name of a folder or a list; write it without "
            "/ and .."
        )


def _read_cityscapes(root: Path, split: Split) -> Iterator[Sample]:
    _check_names(split)
    there = [city for city in split.held_back if (root / "leftImg8bit" / "train" / city).is_dir()]
    parts = (("train", split.train_cities), ("val", split.test_cities), ("train", there))
    for part, cities in parts:
        for city in cities:
            yield from _city(root, part, city)


def _city(root: Path, part: str, city: str) -> list[Sample]:
    images, labels = root / "leftImg8bit" / part / city, root / "gtFine" / part / city
    for folder in (images, labels):
        if not folder.is_dir():
            advice = _moved(root, folder.parent) or _archives(root)
            advice = f"; {advice}" if advice else f". Unpack {CITYSCAPES_ZIPS} there"
            raise FileNotFoundError(
                f"city {city!r} not found: no folder {folder}{advice} ({GUIDE}), or set "
                f"DATA = 'toyscapes'{_others(folder)}"
            )
    pairs = _pairs(images, labels, "_leftImg8bit", "_gtFine_labelIds.png")
    return [Sample(image, label, city) for image, label in pairs]


def _read_camvid(root: Path, split: Split) -> Iterator[Sample]:
    train = [sample for part in ("train", "val") for sample in _camvid_part(root, part)]
    by_sequence: dict[str, list[Sample]] = {}
    for sample in sorted(train, key=lambda sample: sample.image.name):
        by_sequence.setdefault(sample.group, []).append(sample)
    for sequence, samples in by_sequence.items():
        for i, sample in enumerate(samples):  # consecutive parts, so that no moment is in two
            part = i * split.parts // len(samples) + 1
            yield Sample(sample.image, sample.label, f"{sequence}/{part}")
    yield from _camvid_part(root, "test")


def _camvid_part(root: Path, part: str) -> list[Sample]:
    images, labels = root / part, root / f"{part}annot"
    for folder in (images, labels):
        if not folder.is_dir():
            advice = _moved(root, folder) or _other_release(root) or _archives(root)
            raise FileNotFoundError(
                f"no folder {folder}; CamVid has train, trainannot, val, valannot, test and "
                f"testannot; {advice or f'see {GUIDE}'}"
            )
    return [Sample(*pair, pair[0].name.split("_")[0]) for pair in _pairs(images, labels)]


def _read_voc(root: Path, split: Split) -> Iterator[Sample]:
    """A group is a list in ImageSets/Segmentation; one that ends in _aug has the labels of SBD."""
    _check_names(split)
    for group in split.cities:
        file = root / "ImageSets" / "Segmentation" / f"{group}.txt"
        if not file.is_file():
            raise FileNotFoundError(
                f"no list {file}; {_lists(file.parent)}. Unpack VOCtrainval_11-May-2012.tar, or "
                f"name a list that is there in the split file ({GUIDE})"
            )
        labels = root / ("SegmentationClassAug" if group.endswith("_aug") else "SegmentationClass")
        yield from _listed(file, root / "JPEGImages", labels)


def _read_folders(root: Path, split: Split) -> Iterator[Sample]:
    """A group is a list in lists/, or a folder in images/ and in labels/."""
    _check_names(split)
    for group in split.cities:
        file, images, labels = root / "lists" / f"{group}.txt", root / "images", root / "labels"
        if file.is_file():
            yield from _listed(file, images, labels)
            continue
        for folder in (images / group, labels / group):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"group {group!r} not found: neither the list {file} nor the folder {folder}; "
                    f"{_lists(file.parent)}. Make one of them, or name another group in the split "
                    f"file ({GUIDE})"
                )
        for image, label in _pairs(images / group, labels / group):
            yield Sample(image, label, group)


def _lists(folder: Path) -> str:
    names = sorted(file.stem for file in folder.glob("*.txt"))
    return f"found the lists {', '.join(names[:8])}" if names else f"found no list in {folder}"


def _listed(file: Path, images: Path, labels: Path) -> Iterator[Sample]:
    """The images of a list: a line is a name, with or without its ending.

    Or it is the path of an image and that of its label, from the folder above the images.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); wanted a text with a line for each image"
        ) from error
    files = cache(_files)
    for number, line in enumerate(lines, start=1):
        words, name = [word.lstrip("/") for word in line.split()], line.strip().lstrip("/")
        if not name:
            continue
        wanted = images / name, labels / name
        if len(words) == 2 and all(word.lower().endswith(IMAGES) for word in words):
            wanted = images.parent / words[0], labels.parent / words[1]
        found = []
        for path, endings in zip(wanted, (IMAGES, (".png",)), strict=True):
            stem = path.stem if path.name.lower().endswith(IMAGES) else path.name
            have = files(path.parent, *endings) if path.parent.is_dir() else {}
            if stem not in have:
                advice = _instead(path.parent, *endings) if path.parent.is_dir() else ""
                raise FileNotFoundError(
                    f"{file}, line {number}: no file {path.with_name(stem)} with the ending "
                    f"{' or '.join(endings)}; add it, or take the line out"
                    + (f". In {path.parent}: {advice}" if advice else "")
                )
            found.append(have[stem])
        yield Sample(*found, file.stem)


# what a split file may name as its layout; add your own: LAYOUTS["mine"] = my_reader
LAYOUTS: dict[str, Reader] = {
    "cityscapes": _read_cityscapes,
    "camvid": _read_camvid,
    "voc": _read_voc,
    "folders": _read_folders,
}


def _pairs(
    images: Path, labels: Path, image_ending: str = "", label_ending: str = ".png"
) -> list[tuple[Path, Path]]:
    """Each image of a folder with its label, which differs from it in the ending alone.

    Of an image, .png, .jpg or .jpeg follows after its ending.
    """
    image_endings = [image_ending + suffix for suffix in IMAGES]
    image_of, label_of = _files(images, *image_endings), _files(labels, label_ending)
    if not image_of:
        advice = _instead(images, *image_endings) or f"unpack the data set there ({GUIDE})"
        raise FileNotFoundError(f"no images in {images}; {advice}")
    for kind, have, wanted, other, folder, endings in (
        ("image", image_of, "label", label_of, labels, [label_ending]),
        ("label", label_of, "image", image_of, images, image_endings),
    ):
        if alone := [have[stem] for stem in have if stem not in other]:
            advice = _instead(folder, *endings)
            raise ValueError(
                f"{len(alone)} {kind} files have no {wanted}, the first is {alone[0]}; "
                f"add the {wanted} file or remove the {kind}"
                + (f". In {folder}: {advice}" if advice else "")
            )
    return [(image_of[stem], label_of[stem]) for stem in image_of]


def _files(folder: Path, *endings: str) -> dict[str, Path]:
    """The files of a folder with these endings, by what stands before it; none of them is empty."""
    by_stem: dict[str, Path] = {}
    for file in _entries(folder):
        ending = next((e for e in endings if file.name.lower().endswith(e.lower())), None)
        if ending is None:
            continue
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is no file: a folder, or a link that leads nowhere; unpack the data set "
                "again, or remove it together with its image or label"
            )
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty; unpack or download it again")
        stem = file.name[: -len(ending)]
        if stem in by_stem:
            raise ValueError(
                f"{file} and {by_stem[stem].name} differ in the ending alone; remove one"
            )
        by_stem[stem] = file
    return by_stem


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without what an operating system leaves there."""
    entries = sorted(folder.iterdir())
    return [e for e in entries if e.name[0] != "." and e.name.lower() not in NO_DATA]


# what was found where something else was wanted, and what to do about it; "" for nothing known


def _nested(root: Path) -> str:
    """For folders of a data set that lie deeper, in a folder called like their zip, or higher."""
    for folders in FOLDERS.values():
        if root.name in folders and (root.parent / folders[0]).is_dir():
            return f"it is a part of a data set: set DATA to {root.parent}"
        found = {name: deeper[0] for name in folders if (deeper := _deeper(root, name))}
        if folders[0] in found:
            inner = found[folders[0]].parent
            if all((inner / name).is_dir() for name in folders):
                return f"they lie deeper: set DATA to {inner}"
            return " and ".join(f"move {found[name]} to {root / name}" for name in found)
    return _archives(root)


def _moved(root: Path, wanted: Path) -> str:
    if wanted.is_dir() or not (deeper := _deeper(root, wanted.relative_to(root))):
        return ""
    return f"it lies deeper: move {deeper[0]} to {wanted}"


def _others(city: Path) -> str:
    """For a city without a folder, where other cities have one."""
    beside = _entries(city.parent) if city.parent.is_dir() else []
    others = sum(entry.is_dir() for entry in beside)
    return f". {others} other cities are there: was a zip unpacked in part?" if others else ""


def _deeper(root: Path, name: Path | str) -> list[Path]:
    """The folders of that name that lie one or two folders deeper."""
    found = [folder for above in ("*", "*/*") for folder in sorted(root.glob(f"{above}/{name}"))]
    return [f for f in found if f.is_dir() and not {"__MACOSX"} & set(f.relative_to(root).parts)]


def _archives(root: Path) -> str:
    names = [entry.name for entry in _entries(root) if entry.suffix.lower() in ARCHIVES]
    return f"found {', '.join(names[:4])}: unpack all into {root}" if names else ""


def _other_release(root: Path) -> str:
    names = [entry.name for entry in _entries(root) if entry.name in OTHER_CAMVID]
    if not names:
        return ""
    return (
        f"found {', '.join(names)}: this is another release of CamVid, most often with colours for "
        f"labels. Get the 11-class release ({GUIDE}); or, if these labels hold one id a "
        "pixel, rename the folders to trainannot, valannot and testannot, and list the ids in a "
        "split.toml"
    )


def _instead(folder: Path, *endings: str) -> str:
    """For a folder in which files are missing that end like this."""
    names = [entry.name for entry in _entries(folder)]
    counts = Counter(Path(name).suffix.lower() for name in names)
    for suffix in OTHER_PICTURES:
        if counts[suffix]:
            return (
                f"found {counts[suffix]} {suffix} files, and the kit reads PNG, and JPEG for "
                f"images; save them as PNG ({GUIDE} shows how)"
            )
    are_labels = len(endings) == 1
    if are_labels and (jpegs := sum(counts[suffix] for suffix in JPEG)):
        return f"found {jpegs} JPEG files: {LOSSY}"
    if not names or any(name.lower().endswith(end.lower()) for name in names for end in endings):
        return ""
    if train_ids := sum(name.endswith(TRAIN_IDS) for name in names):
        return (
            f"found {train_ids} files ending in {TRAIN_IDS}, which number the classes from 0 to "
            f"18; wanted those ending in {endings[0]}, which gtFine_trainvaltest.zip holds"
        )
    return f"found {', '.join(names[:4])}; wanted files ending in {' or '.join(endings)}"
