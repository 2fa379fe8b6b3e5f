"""A data set in a folder: its split, its images, and the view of each stage (Table I)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from cilkit.checks import check_path, nearest
from cilkit.classes import RULES, Split, Stage
from cilkit.data.image_files import ids_by_file, unreadable
from cilkit.data.images import LabelledImages, evenly_spaced
from cilkit.data.layouts import Sample, find_layout, read_samples
from cilkit.data.store import DecodedImages
from cilkit.files import GUIDE, ROOT, resolve
from cilkit.splits import load_split
from cilkit.toyscapes.write import write_toyscapes

MONITOR_IMAGES = 6  # images that are scored while a network trains
# layouts in which the names of the files and the split tell the group of an image
FILES_TELL_GROUPS = ("cityscapes", "camvid")


@dataclass(frozen=True)
class StreetScenes:
    """A data set in a folder: its split, its training images and its test images."""

    name: str
    root: Path
    split: Split
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    held_back: tuple[Sample, ...] = ()  # of the split's cities that nothing is trained on

    @cached_property
    def decoded(self) -> DecodedImages:
        """What is decoded of this data set, for all its views."""
        return DecodedImages(self.split, len(_once(self.train)), len(_once(self.test)))

    def images(self, stage: Stage) -> list[Sample]:
        """The training images of one stage, D1, D2 or D3, each once.

        Those of its groups, and of them what the rule of the split lets the stage see. A
        ValueError if that is none.
        """
        samples = _once(sample for sample in self.train if sample.group in stage.cities)
        if RULES[self.split.rule] is None:
            return samples
        seen = [s for s in samples if self.split.sees(stage, self._label_ids[s.label])]
        if not seen:
            names = ", ".join(self.split.names(stage.labelled))
            raise ValueError(
                f"rule {self.split.rule!r} leaves stage {stage.name!r} none of the {len(samples)} "
                f"images of {', '.join(stage.cities)} in {self.root} to learn "
                f"{names} from; add images, or change the rule, which {GUIDE} explains, or the "
                "classes of the stages in the split file"
            )
        return seen

    @cached_property
    def _label_ids(self) -> dict[Path, tuple[int, ...]]:
        """The label ids in each training image, which a rule may ask for; read once."""
        return ids_by_file(sample.label for sample in self.train)

    def stage(
        self,
        name: str,
        labels: Literal["new", "all"] = "new",
        height: int | None = None,
        hidden: bool = False,
    ) -> LabelledImages:
        """The training set of a stage, labelled with its new classes (Table I).

        `labels="all"` shows the classes of earlier stages too, as SS and Michieli need them;
        `hidden=True` marks the pixels of all other classes as HIDDEN, as MiB and PLOP need them.
        """
        stage = self.split.stage(name)
        view = {"decoded": self.decoded, "hidden": hidden}
        return LabelledImages(self.images(stage), self.split, stage.visible(labels), height, **view)

    def single_stage(self, name: str, height: int | None = None) -> LabelledImages:
        """All images up to a stage with all labels up to it: what SS is trained on, eq. (2)."""
        stages = self.split.stages[: self.split.stage(name).number]
        samples = _once(sample for stage in stages for sample in self.images(stage))
        return LabelledImages(samples, self.split, stages[-1].seen, height, decoded=self.decoded)

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
        return LabelledImages(
            self.test, self.split, visible, height, native_labels, decoded=self.decoded
        )

    def monitor_set(
        self, name: str, height: int | None = None, labels: Literal["new", "all"] = "all"
    ) -> LabelledImages:
        """A few images to monitor a training in a stage, labelled at the size of the network.

        They are of the held-back cities, or test images if a data set holds none back.
        """
        samples = self.held_back or self.test
        chosen = [samples[index] for index in evenly_spaced(len(samples), MONITOR_IMAGES)]
        visible = self.split.stage(name).visible(labels)
        return LabelledImages(chosen, self.split, visible, height, decoded=self.decoded)

    def fingerprint(self) -> str:
        """Hash of the names and sizes of all files, of all labels, and of who is in which group.

        It tells whether two runs saw the same data: no class count can differ without it.
        """
        digest = hashlib.sha256()
        for sample in sorted(_once(self.train + self.test), key=lambda sample: sample.image):
            for file in (sample.image, sample.label):
                name, found = file.relative_to(self.root).as_posix(), file.stat()
                digest.update(f"{name} {found.st_size}\n".encode())
            digest.update(_content(sample.label, found.st_size, found.st_mtime_ns))
        if self.split.layout not in FILES_TELL_GROUPS:
            for sample in sorted(self.train + self.test, key=lambda s: (s.image, s.group)):
                name = sample.image.relative_to(self.root).as_posix()
                digest.update(f"{name} {sample.group}\n".encode())
        return digest.hexdigest()[:16]


def _once(samples: Iterable[Sample]) -> list[Sample]:
    """Each image once, though it may be in several groups."""
    first: dict[Path, Sample] = {}
    for sample in samples:
        first.setdefault(sample.image, sample)
    return list(first.values())


@cache
def _content(file: Path, size: int, changed: int) -> bytes:
    """Hash of a file, read again only if its size or time of change is another."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError as error:
        raise unreadable(file, error) from error


def open_data(data: Path | str) -> StreetScenes:
    """Open "toyscapes" (drawn first if need be), or a folder in one of `layouts.LAYOUTS`.

    A file `split.toml` in the folder, written like those in cilkit/resources/splits, replaces the
    paper's classes and stages, and names the layout. Raises FileNotFoundError
    for what is missing, saying what was found instead and what to do, and ValueError for images and
    labels that do not pair up.
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
    if root.is_file():
        raise FileNotFoundError(
            f"{root} is a file; wanted a folder: unpack it, and set DATA to the folder that holds "
            "what was in it"
        )
    if not root.is_dir():
        near = [folder.name for folder in root.parent.glob("*/")] if root.parent.is_dir() else []
        raise FileNotFoundError(
            f"no data folder {root}{nearest(root.name, ['toyscapes', *near])}; {GUIDE} says "
            "how to get Cityscapes and CamVid, or set DATA = 'toyscapes' to run without them. A "
            f"relative path starts at {ROOT}"
        )
    own = root / "split.toml"
    split = load_split(own if own.is_file() else find_layout(root))
    return StreetScenes(root.name.lower(), root, split, *read_samples(root, split))
