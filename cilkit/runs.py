"""The run folder: one folder a training, whole or not there at all; and all scores as one table."""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from cilkit.classes import Split, Stage
from cilkit.erfnet import ERFNet
from cilkit.metrics import MeanIoU

FILES = ("weights.safetensors", "config.json", "history.csv", "scores.json")


@dataclass(frozen=True)
class Run:
    """A finished training: what it was (config), how it went (history), what it reached (scores).

    `scores` holds mIoU in % by class set, IoU in % by class set and class (None for an empty
    union), and the confusion matrices (rows: labels, columns: predictions, in pixels).
    """

    folder: Path
    config: dict
    history: pd.DataFrame
    scores: dict

    @property
    def miou(self) -> pd.Series:
        """mIoU in % by class set, in the order of the paper's tables."""
        return pd.Series(self.scores["miou"], name=self.folder.name, dtype=float)

    def iou(self, class_set: str) -> pd.Series:
        """IoU in % of each class of a class set; NaN for a class with an empty union."""
        return pd.Series(self.scores["iou"][class_set], name=self.folder.name, dtype=float)

    def confusion(self, class_set: str) -> pd.DataFrame:
        """Pixel counts, rows: labels, columns: predictions."""
        names = list(self.scores["iou"][class_set])
        return pd.DataFrame(self.scores["confusion"][class_set], names, names)

    def network(self) -> ERFNet:
        """The trained network, on the CPU, in evaluation mode."""
        network = ERFNet(*self.config["decoders"], normalise=self.config["train"]["normalise"])
        network.load_state_dict(load_file(self.folder / "weights.safetensors"))
        return network.eval()

    def digest(self) -> str:
        """Hash of the weights, by which a student names its teacher."""
        content = (self.folder / "weights.safetensors").read_bytes()
        return hashlib.sha256(content).hexdigest()[:16]


def run_name(stage: Stage, method: str) -> str:
    """Folder name of a run: "T1" for the first stage, which all methods share, else "CIL_T2"."""
    if stage.number == 1:
        return stage.name
    return re.sub(r"\W+", "_", method.replace("w/o", "wo")).strip("_") + f"_{stage.name}"


def save(
    folder: Path,
    network: ERFNet,
    config: dict,
    history: pd.DataFrame,
    scores: MeanIoU,
    split: Split,
) -> Run:
    """Write a run. It is made under another name and renamed, so it is there whole or not at all.

    If another process finished the same run meanwhile, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, unfinished / "weights.safetensors")
        decoders = [decoder.num_classes for decoder in network.decoders]
        _write_json(unfinished / "config.json", config | {"decoders": decoders})
        history.to_csv(unfinished / "history.csv", index=False)
        _write_json(unfinished / "scores.json", _as_dict(scores, split))
        if folder.exists() and not is_finished(folder):
            set_aside(folder)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not is_finished(folder):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return load(folder)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole run."""
    return all((folder / file).is_file() for file in FILES)


def load(folder: Path) -> Run:
    """Read a finished run; a FileNotFoundError says what is missing and what is there instead."""
    if not is_finished(folder):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a finished run, it lacks {', '.join(missing)}; move it away and "
                "train again"
            )
        found = ", ".join(run.folder.name for run in find(folder.parent)) or "none"
        raise FileNotFoundError(
            f"no run {folder.name!r} in {folder.parent} (found: {found}); "
            "the notebook that trains it saves it there, run that first"
        )
    return Run(
        folder,
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
        pd.read_csv(folder / "history.csv"),
        json.loads((folder / "scores.json").read_text(encoding="utf-8")),
    )


def find(folder: Path) -> list[Run]:
    """All finished runs below a folder, at any depth, without the superseded ones."""
    folders = sorted(file.parent for file in folder.glob("**/scores.json"))
    return [load(run) for run in folders if is_finished(run) and not _hidden(run, folder)]


def _hidden(run: Path, below: Path) -> bool:
    """Whether a run was set aside, or is still being written."""
    return any(part == "superseded" or part[0] == "." for part in run.relative_to(below).parts)


def set_aside(folder: Path) -> Path:
    """Move a run to `superseded/` beside it, where nothing reads it but nothing is lost."""
    number = 1
    while (target := folder.parent / "superseded" / f"{folder.name}-{number}").exists():
        number += 1
    target.parent.mkdir(exist_ok=True)
    return folder.rename(target)


def scores(folder: Path) -> pd.DataFrame:
    """The scores of all finished runs below a folder as one tidy table, mIoU in %.

    Columns: data, preset, seed, method, stage, task, miou.
    """
    columns = ["data", "preset", "seed", "method", "stage"]
    rows = [
        [run.config[column] for column in columns] + [task, value]
        for run in find(folder)
        for task, value in run.scores["miou"].items()
    ]
    return pd.DataFrame(rows, columns=[*columns, "task", "miou"]).astype({"miou": float})


def _as_dict(scores: MeanIoU, split: Split) -> dict:
    sets = scores.class_sets.items()
    return {
        "miou": {name: _number(scores.miou(name)) for name, _ in sets},
        "iou": {
            name: dict(
                zip(split.names(classes), map(_number, scores.iou(name).tolist()), strict=True)
            )
            for name, classes in sets
        },
        "confusion": {name: scores.counts[name].tolist() for name, _ in sets},
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
