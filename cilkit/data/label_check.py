"""Whether the labels show each class, asked before anything is trained on them."""

import json

from cilkit.classes import LabelClass, Split, channels_of
from cilkit.data.image_files import check_ids, ids_by_file
from cilkit.data.scenes import StreetScenes
from cilkit.splits import SPLITS


def check_labels(data: StreetScenes) -> None:
    """A ValueError unless each class occurs in the images of its stage and in the test set.

    A class without a pixel would be learned from nothing, or scored as NaN. Those that the split
    file lists under `absent` may be missing. A process reads each label file once, with a
    bar if that takes long, and again when it has changed.
    """
    split = data.split
    parts = []
    for stage in split.stages:
        classes = [split.classes[channel] for channel in channels_of(stage.labelled)]
        parts.append((f"stage {stage.name}", data.images(stage), classes))
    parts.append(("the test set", data.test, split.classes))
    ids_of = ids_by_file(sample.label for _, samples, _ in parts for sample in samples)
    for file, ids in ids_of.items():
        check_ids(file, list(ids), split)
    missing: dict[str, list[LabelClass]] = {}
    reason = ""
    for name, samples, classes in parts:
        ids = {label_id for sample in samples for label_id in ids_of[sample.label]}
        if found := [c for c in classes if c.label_id not in ids and c.name not in split.absent]:
            missing[f"the {len(samples)} images of {name}"] = found
            reason = reason or _reason(ids, split)
    if missing:
        raise ValueError(_message(data, missing, reason))


def _reason(ids: set[int], split: Split) -> str:
    """Why images show these ids and no others, and what to do; "" if that cannot be told."""
    own = {c.label_id for c in split.classes}
    if not ids & own:
        return "Every pixel is void: these labels are empty; unpack or download them again"
    if split.layout == "cityscapes" and max(own) > 19 and {0, 1, 2} <= ids <= {*range(20), 255}:
        return (
            "These look like trainIds (0-18, void 19 or 255), or like classes counted from 1 with "
            "void 0; wanted label ids (7 road, 8 sidewalk, ...), the files ending in _labelIds.png "
            "as they were downloaded"
        )
    if 0 in own and 0 not in ids and max(own) + 1 in ids:
        return (
            "The labels seem to count the classes from 1, and the split file from 0; correct the "
            "ids in the split file"
        )
    return ""


def _message(data: StreetScenes, missing: dict[str, list[LabelClass]], reason: str) -> str:
    where = "; ".join(f"{_named(classes)} in {part}" for part, classes in missing.items())
    found = f"the labels in {data.root} have no pixel of {where}. "
    if reason:
        return f"{found}{reason}"
    names = list(dict.fromkeys(c.name for classes in missing.values() for c in classes))
    file = data.root / "split.toml"
    copy = "" if file.is_file() else f", a copy of {SPLITS / data.split.layout}.toml"
    return (
        f"{found}Correct the labels, or the ids in the split file; or, if so few images need not "
        f"show it, write absent = {json.dumps(names)} at the top of {file}{copy}"
    )


def _named(classes: list[LabelClass], most: int = 3) -> str:
    named = ", ".join(f"{c.name!r} (id {c.label_id})" for c in classes[:most])
    return named + (f" and {len(classes) - most} more" if len(classes) > most else "")
