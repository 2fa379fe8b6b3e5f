"""The run folder: one folder a training, whole or not there at all; and all scores as one table."""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pandas.io.formats.style import Styler
from safetensors import torch as safetensors

from cilkit.classes import Split, Stage, unknown
from cilkit.datasets import resolve
from cilkit.erfnet import ERFNet
from cilkit.metrics import MeanIoU

if TYPE_CHECKING:  # a training draws nothing, and need not wait for its import
    from matplotlib.figure import Figure

WEIGHTS, SUMS = "weights.safetensors", "SHA256SUMS"  # `sha256sum --check SHA256SUMS` reads it, too
FILES = (WEIGHTS, "config.json", "history.csv", "scores.json", SUMS)
NEW_TEACHER = "LWM teacher"  # the model of the new classes alone, eq. (6)
NOTEBOOKS = {  # which notebook makes the runs of a method
    "T1": "05_train_t1",
    "SS": "05_train_t1",
    "FT": "06_ft_fe",
    "FE": "06_ft_fe",
    "LWOF": "07_lwof",
    "LWM": "08_lwm",
    NEW_TEACHER: "08_lwm",
    "Michieli": "09_michieli",
    "CIL (w/o weights)": "10_cil",
    "CIL": "10_cil",
}
SAME_IN_A_TABLE = ("data", "preset", "train", "split", "files", "code", "environment")
# what of a run's environment moves its scores; the number of threads and the like move last digits
DECISIVE = ("torch", "torchvision", "machine", "device", "precision")


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
        return pd.Series(self._of("iou", class_set), name=self.folder.name, dtype=float)

    def confusion(self, class_set: str) -> pd.DataFrame:
        """Pixel counts, rows: labels, columns: predictions."""
        names = list(self._of("iou", class_set))
        return pd.DataFrame(self._of("confusion", class_set), names, names)

    def _of(self, kind: str, class_set: str) -> dict | list:
        if class_set not in self.scores[kind]:
            raise ValueError(unknown("class set", class_set, list(self.scores[kind])))
        return self.scores[kind][class_set]

    def network(self) -> ERFNet:
        """The trained network, on the CPU, in evaluation mode; ValueError if a file is damaged."""
        network = ERFNet(*self.config["decoders"], normalise=self.config["train"]["normalise"])
        network.load_state_dict(safetensors.load(read(self.folder / WEIGHTS)))
        return network.eval()

    def digest(self) -> str:
        """Hash of the weights, by which a student names its teacher."""
        return _sum(read(self.folder / WEIGHTS))[:16]


def run_name(stage: Stage, method: str) -> str:
    """Folder name of a run: "T1" for the first stage, which all methods share, else "CIL_T2"."""
    return stage.name if stage.number == 1 else f"{_as_file(method)}_{stage.name}"


def _as_file(method: str) -> str:
    return re.sub(r"\W+", "_", method.replace("w/o", "wo")).strip("_")


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
        decoders = [decoder.num_classes for decoder in network.decoders]
        files = {
            WEIGHTS: safetensors.save(state),
            "config.json": _as_json(config | {"decoders": decoders}),
            "history.csv": history.to_csv(index=False).encode(),
            "scores.json": _as_json(_as_dict(scores, split)),
        }
        sums = "".join(f"{_sum(content)}  {name}\n" for name, content in files.items())
        for name, content in (files | {SUMS: sums.encode()}).items():
            write(unfinished / name, content)
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


def write(file: Path, content: bytes) -> None:
    """Write a file, which is on the disk when this returns; an OSError says what to do if not."""
    try:
        with file.open("wb") as unfinished:
            unfinished.write(content)
            unfinished.flush()
            os.fsync(unfinished.fileno())
    except OSError as error:
        raise OSError(
            f"{file} could not be written ({error}). Make room on the disk, or choose RUNS where "
            "you may write; then run this again: what was finished is kept"
        ) from error


def read(file: Path) -> bytes:
    """A file of a run as it was saved; a ValueError if it was edited or damaged since."""
    try:
        content, sums = file.read_bytes(), (file.parent / SUMS).read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}); check its permissions") from error
    if f"{_sum(content)}  {file.name}".encode() not in sums.splitlines():
        raise ValueError(
            f"{file} is not as it was saved: {SUMS} beside it has another checksum, so one of them "
            f"was edited or damaged. Put it back, or move {file.parent} away and run this again: "
            "it is trained anew then"
        )
    return content


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole run."""
    return all((folder / file).is_file() for file in FILES)


def load(folder: Path | str) -> Run:
    """Read a finished run; a FileNotFoundError says what is missing and what is there instead.

    A relative path starts at the project folder, as in Study. A ValueError names a file that was
    edited or damaged since it was saved; of the weights, not before they are used.
    """
    folder = resolve(folder)
    if not is_finished(folder):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is not a finished run, it lacks {', '.join(missing)}; move it away and "
                "train again"
            )
        found = ", ".join(run.folder.name for run in find(folder.parent)) or "none"
        made_by = {_as_file(method): notebook for method, notebook in NOTEBOOKS.items()}
        notebook = made_by.get(re.sub(r"_[^_]*$", "", folder.name))
        maker = f"{notebook}.ipynb saves" if notebook else "Study.run(stage, method) saves"
        raise FileNotFoundError(
            f"no run {folder.name!r} in {folder.parent} (found: {found}); {maker} "
            f"{folder.name!r}, run that first"
        )
    return Run(
        folder,
        json.loads(read(folder / "config.json")),
        pd.read_csv(BytesIO(read(folder / "history.csv"))),
        json.loads(read(folder / "scores.json")),
    )


def find(folder: Path | str) -> list[Run]:
    """All finished runs below a folder, at any depth, without the superseded ones.

    A relative path starts at the project folder, as in Study, wherever a notebook was started.
    """
    folder = resolve(folder)
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


def scores(found: Path | str | Sequence[Run]) -> pd.DataFrame:
    """The scores of some runs, or of all below a folder, as one tidy table, mIoU in %.

    Columns: data, preset, seed, method, stage, task, miou. Runs of several data sets, presets and
    seeds may come together; a relative path starts at the project folder.
    """
    columns = ["data", "preset", "seed", "method", "stage"]
    rows = [
        [run.config[column] for column in columns] + [task, value]
        for run in (find(found) if isinstance(found, Path | str) else found)
        for task, value in run.scores["miou"].items()
    ]
    return pd.DataFrame(rows, columns=[*columns, "task", "miou"]).astype({"miou": float})


def score_columns(history: pd.DataFrame) -> list[str]:
    """The class sets among the columns of a history, whose scores were watched in training."""
    return [column for column in history if column.startswith("task")]


def differences(found: dict, wanted: dict) -> list[str]:
    """Names of the fields of `wanted` that differ in another configuration.

    Those of `train` and the decisive ones of `environment` go by their own names.
    """
    was, now = found.get("train", {}), wanted.get("train", {})
    differ = [k for k in was | now if was.get(k, ...) != now.get(k, ...)]
    if "environment" in wanted:
        was, now = found.get("environment") or {}, wanted["environment"] or {}
        differ += [k for k in DECISIVE if was.get(k) != now.get(k)]
    nested = ("train", "environment")
    return differ + [k for k in wanted if k not in nested and found.get(k, ...) != wanted[k]]


def by_seed(found: Sequence[Run]) -> list[list[Run]]:
    """Some runs sorted into those of each seed, in the order of the seeds."""
    seeds = sorted({run.config["seed"] for run in found})
    return [[run for run in found if run.config["seed"] == seed] for seed in seeds]


def by_configuration(found: Sequence[Run]) -> list[list[Run]]:
    """Some runs sorted into groups that may stand in one table each, the largest first.

    Runs of a group differ in seed, method and stage alone, and all runs of a method in it were
    trained by the same definition of that method.
    """
    groups: list[list[Run]] = []
    for run in found:
        fits = (group for group in groups if not _differ(group, run))
        if (group := next(fits, None)) is not None:
            group.append(run)
        else:
            groups.append([run])
    return sorted(groups, key=len, reverse=True)


def overview(found: Sequence[Run]) -> pd.DataFrame:
    """Which seeds match: a row for each configuration and seed among some runs.

    Columns: configuration (from 1, the one with most runs first), seed, runs, differs in (what
    keeps the row out of a table with the first configuration).
    """
    groups = by_configuration(found)
    rows = [
        [number, runs[0].config["seed"], len(runs), ", ".join(_apart(groups[0], group)[1])]
        for number, group in enumerate(groups, start=1)
        for runs in by_seed(group)
    ]
    return pd.DataFrame(rows, columns=["configuration", "seed", "runs", "differs in"])


def check_comparable(found: Sequence[Run]) -> None:
    """A ValueError if no table may mix these runs, or if one is there twice.

    They may differ in seed, method and stage alone; see `by_configuration`.
    """
    groups = by_configuration(found)
    if len(groups) > 1:
        other, fields = _apart(groups[0], groups[1])
        method = other.config["method"]
        alike = [run for run in groups[0] if run.config["method"] == method] or groups[0]
        raise ValueError(
            f"{alike[0].folder} and {other.folder} differ in {', '.join(fields)}; a table holds "
            f"runs of one configuration, and here are {len(groups)}: "
            f"{'; '.join(map(_named, groups))}. Choose the runs of one, such as "
            "runs.by_configuration(found)[0], or run the notebooks again with the seeds of the "
            "others (make study SEEDS=...), which replaces what does not match"
        )
    seen: dict[tuple, Run] = {}
    for run in found:
        training = tuple(run.config[field] for field in ("method", "stage", "seed"))
        if (twin := seen.setdefault(training, run)) is not run:
            method, stage, seed = training
            raise ValueError(
                f"{twin.folder} and {run.folder} are both {method} in {stage} with seed {seed}; a "
                "seed counts once. Move the copy out of the folder that is read"
            )


def _decisive(run: Run) -> dict:
    """What must be equal in a table, of a run of this or of an older kit."""
    config = {field: run.config.get(field) for field in SAME_IN_A_TABLE}
    code = config["code"]  # of an older kit it is one text
    return config | {"code": code.get("shared") if isinstance(code, dict) else code}


def _differ(group: Sequence[Run], run: Run) -> list[str]:
    """In what a run differs from a group that may stand in one table, by name."""
    if fields := differences(_decisive(group[0]), _decisive(run)):
        return fields
    method, code = run.config["method"], run.config.get("code")
    twins = [other.config.get("code") for other in group if other.config["method"] == method]
    return [f"the definition of {method!r}"] if twins and twins[0] != code else []


def _apart(group: Sequence[Run], other: Sequence[Run]) -> tuple[Run, list[str]]:
    """The first run that keeps `other` out of a table with a group, and in what it differs."""
    return next(((run, fields) for run in other if (fields := _differ(group, run))), (other[0], []))


def _named(group: Sequence[Run]) -> str:
    """Runs of one configuration in an error: their seeds, and their names if they are few."""
    seeds = [str(runs[0].config["seed"]) for runs in by_seed(group)]
    names = ", ".join(run.folder.name for run in group) if len(group) <= 3 else f"{len(group)} runs"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} ({names})"


def save_results(folder: Path, results: "Mapping[str, pd.DataFrame | Styler | Figure]") -> None:
    """Write tables as CSV and LaTeX (booktabs), figures as PNG and SVG, each under its name.

    A file is there whole or as it was before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        table = isinstance(result, pd.DataFrame | Styler)
        files = _table_files(result) if table else _figure_files(result)
        for suffix, content in files.items():
            unfinished = folder / f".{name}.{suffix}-{uuid.uuid4().hex[:8]}"
            try:
                unfinished.write_bytes(content)
                unfinished.replace(folder / f"{name}.{suffix}")
            finally:
                unfinished.unlink(missing_ok=True)


def _figure_files(figure: "Figure") -> dict[str, bytes]:
    files = {}
    for suffix in ("png", "svg"):
        buffer = BytesIO()
        figure.savefig(buffer, format=suffix, bbox_inches="tight", dpi=150)
        files[suffix] = buffer.getvalue()
    return files


def _table_files(table: pd.DataFrame | Styler) -> dict[str, bytes]:
    styled = table if isinstance(table, Styler) else table.style.format(precision=1, na_rep="–")
    styled = deepcopy(styled)
    plain = styled.data
    styled.data = plain.map(
        lambda cell: cell.replace("&", r"\&") if isinstance(cell, str) else cell
    )
    latex = styled.to_latex(convert_css=True, hrules=True)
    latex = re.sub(r"(?<!\\)([_%#])", r"\\\1", latex)
    for sign, command in (("∪", r"$\cup$"), ("±", r"$\pm$"), ("–", "--")):
        latex = latex.replace(sign, command)
    return {"csv": plain.to_csv().encode(), "tex": latex.encode()}


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


def _as_json(content: dict) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
