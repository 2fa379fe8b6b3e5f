"""The run folder: one folder for each training, written atomically."""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path

import pandas as pd
from safetensors import torch as safetensors

from cilkit.checks import unknown
from cilkit.classes import LabelClass, Split, Stage
from cilkit.files import resolve, set_aside, write
from cilkit.methods import (
    CIL,
    CIL_UNWEIGHTED,
    FE,
    FIRST_STAGE,
    FT,
    LWM,
    LWOF,
    MICHIELI,
    NEW_TEACHER,
    SS,
)
from cilkit.metrics import MeanIoU
from cilkit.networks import Segmenter, get_network
from cilkit.study.plan import as_file, run_name

WEIGHTS, SUMS = "weights.safetensors", "SHA256SUMS"  # `sha256sum --check SHA256SUMS` reads it, too
FILES = (WEIGHTS, "config.json", "history.csv", "scores.json", SUMS)
USUAL, MOST_NAMED = "data/runs", 12  # where runs lie by default; how many a message names
FIELD = ("old", "new", "all", "average", "forgetting")
NOTEBOOKS = {  # which notebook makes the runs of a method
    FIRST_STAGE.name: "05_train_t1",
    SS.name: "05_train_t1",
    FT.name: "06_ft_fe",
    FE.name: "06_ft_fe",
    LWOF.name: "07_lwof",
    LWM.name: "08_lwm",
    NEW_TEACHER.name: "08_lwm",
    MICHIELI.name: "09_michieli",
    CIL_UNWEIGHTED.name: "10_cil",
    CIL.name: "10_cil",
}
SECOND_STAGE = ("06_ft_fe", "07_lwof", "08_lwm", "09_michieli")  # these tell of no later stage


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
    def split(self) -> Split:
        """The split of its data: what `Study` recorded of it, with tuples and slices again."""
        recorded = {
            field.name: _as_tuples(self.config["split"][field.name])
            for field in fields(Split)
            if field.name in self.config["split"]  # an older kit recorded fewer
        }
        recorded["classes"] = tuple(LabelClass(**entry) for entry in recorded["classes"])
        recorded["stages"] = tuple(
            Stage(**entry | {"old": slice(*entry["old"]), "new": slice(*entry["new"])})
            for entry in recorded["stages"]
        )
        return Split(**recorded)

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

    def network(self) -> Segmenter:
        """The trained network, on the CPU, in evaluation mode.

        A ValueError if the file is damaged, or the network is not at hand or has changed.
        """
        train = self.config["train"]
        name = train.get("network", "ERFNet")  # an older kit had one network
        network = get_network(name)(*self.config["decoders"], normalise=train["normalise"])
        state = safetensors.load(read(self.folder / WEIGHTS))
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of {self.folder} are not those of network {name!r} as it is now; put "
                f"back its code, or move the run away and train again. {error}"
            ) from error
        return network.eval()

    def digest(self) -> str:
        """Hash of the weights, by which the run of a student records its teacher.

        Of rounded weights it is that of the weights before, so that their students still match.
        """
        digest = checksum(read(self.folder / WEIGHTS))[:16]
        return self.config["rounded"]["digest"] if self.rounded else digest

    @property
    def rounded(self) -> str | None:
        """The type to which a pack rounded the weights, such as "float16"; None: as trained.

        The scores are those of the weights before.
        """
        return self.config.get("rounded", {}).get("to")


def _as_tuples(value: object) -> object:
    """What JSON gives back, with its lists as tuples."""
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def save(
    folder: Path,
    network: Segmenter,
    config: dict,
    history: pd.DataFrame,
    scores: MeanIoU,
    split: Split,
) -> Run:
    """Write a run atomically: it is made under another name, and renamed when it is complete.

    If another process finished the same run meanwhile, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    try:
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        files = {
            WEIGHTS: safetensors.save(state),
            "config.json": as_json(config | {"decoders": network.classes}),
            "history.csv": history.to_csv(index=False).encode(),
            "scores.json": as_json(_as_dict(scores, split)),
        }
        for name, content in with_sums(files).items():
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


def with_sums(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a run by name, with the one that holds their checksums."""
    sums = "".join(f"{checksum(content)}  {name}\n" for name, content in files.items())
    return {**files, SUMS: sums.encode()}


def read(file: Path) -> bytes:
    """A file of a run as it was saved; a ValueError if it was edited or damaged since."""
    try:
        content, sums = file.read_bytes(), (file.parent / SUMS).read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}); check its permissions") from error
    if f"{checksum(content)}  {file.name}".encode() not in sums.splitlines():
        raise ValueError(
            f"{file} is not as it was saved: {SUMS} beside it has another checksum, so one of them "
            f"was edited or damaged. Put it back, or move {file.parent} away and run this again: "
            "it is trained anew then"
        )
    return content


def checksum(content: bytes) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def is_finished(folder: Path) -> bool:
    """Whether a folder holds all files of a run."""
    return all((folder / file).is_file() for file in FILES)


def load(folder: Path | str) -> Run:
    """Read a finished run; a FileNotFoundError says what is missing and what is there instead.

    A relative path starts at the project folder, as in Study. A ValueError names a file that was
    edited or damaged since it was saved; of the weights, not before they are used.
    """
    folder = resolve(folder)
    if not is_finished(folder):
        missing = [file for file in FILES if not (folder / file).is_file()]
        if folder.is_dir() and len(missing) < len(FILES):
            raise FileNotFoundError(
                f"{folder} is not a finished run, it lacks {', '.join(missing)}; move it away and "
                "train again"
            )
        raise FileNotFoundError(_no_run(folder))
    return without_weights(folder)


def _no_run(folder: Path) -> str:
    """The message for a path where no run lies: those there are, and what makes this one."""
    above = folder if folder.is_dir() else folder.parent
    if not above.is_dir():
        above = resolve(USUAL)
    found = [run.relative_to(above).as_posix() for run in _finished_below(above)]
    more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    named = ", ".join([*found[:MOST_NAMED], *more]) or "none"
    if folder.is_dir():
        return (
            f"{folder} is a folder, but not that of a run (found in it: {named}); wanted one such "
            f"as {USUAL}/toyscapes/quick/seed0/CIL_T3"
        )
    where = "" if above == folder.parent else f" in {above}"
    made_by = {as_file(method): notebook for method, notebook in NOTEBOOKS.items()}
    notebook = made_by.get(re.sub(r"_[^_]*$", "", folder.name))
    if notebook in SECOND_STAGE and not folder.name.endswith("_T2"):
        notebook = None
    maker = f"{notebook}.ipynb saves" if notebook else "Study.run(stage, method) saves"
    return (
        f"no run {folder.name!r} in {folder.parent} (found{where}: {named}); {maker} "
        f"{folder.name!r}, run that first"
    )


def maker(method: str, stage: str, second: str) -> str:
    """What makes the runs of a method up to a stage: a notebook, or a call; `second` is the second.

    Notebooks 06 to 09 make those of the second stage alone.
    """
    notebook = NOTEBOOKS.get(method)
    if notebook is None or (notebook in SECOND_STAGE and stage != second):
        return f"study.run({stage!r}, {method!r})"
    return notebook


def without_weights(folder: Path) -> Run:
    """A finished run whose weights may lie elsewhere; a ValueError names a damaged file."""
    return Run(
        folder,
        json.loads(read(folder / "config.json")),
        pd.read_csv(BytesIO(read(folder / "history.csv"))),
        json.loads(read(folder / "scores.json")),
    )


def environments(folder: Path) -> list[dict]:
    """Where the finished runs of a study were trained; a damaged one does not tell."""
    found = []
    for file in sorted(folder.glob("[!.]*/config.json")) if folder.exists() else ():
        if is_finished(file.parent):
            with suppress(OSError, ValueError):  # the latter: not as it was saved, or no JSON
                found.append(json.loads(read(file)).get("environment") or {})
    return found


def find(folder: Path | str) -> list[Run]:
    """All finished runs below a folder, at any depth, without the superseded ones.

    A relative path starts at the project folder, as in Study, wherever a notebook was started.
    """
    return [load(folder) for folder in _finished_below(resolve(folder))]


def _finished_below(folder: Path) -> list[Path]:
    folders = sorted(file.parent for file in folder.glob("**/scores.json"))
    return [run for run in folders if is_finished(run) and not _hidden(run, folder)]


def _hidden(run: Path, below: Path) -> bool:
    """Whether a run was set aside, or is still being written."""
    return any(part == "superseded" or part[0] == "." for part in run.relative_to(below).parts)


def scores(found: Path | str | Sequence[Run]) -> pd.DataFrame:
    """The scores of some runs, or of all below a folder, as one tidy table, mIoU in %.

    Columns: data, preset, seed, method, stage, task, miou. Beside the paper's tasks stand the
    scores of FIELD, as `field_scores` has them. Runs of several data sets, presets and seeds may
    come together; a relative path starts at the project folder.
    """
    columns = ["data", "preset", "seed", "method", "stage"]
    found = find(found) if isinstance(found, Path | str) else found
    by_folder = {run.folder: run for run in found}
    rows = [
        [run.config[column] for column in columns] + [task, value]
        for run in found
        for task, value in (run.scores["miou"] | field_scores(run, by_folder)).items()
    ]
    return pd.DataFrame(rows, columns=[*columns, "task", "miou"]).astype({"miou": float})


def field_scores(run: Run, by_folder: Mapping[Path, Run]) -> dict[str, float]:
    """What papers on class-incremental segmentation report since, in %; those that can be told.

        old         mean IoU of the classes of the first stage, with all learned classes competing
        new         that of all classes added since
        all         that of all of them: the paper's joint score
        average     the mean of `all` over the stages until this one
        forgetting  points that single-task scores have lost since their stage, mean over old tasks

    The last two need the runs of all earlier stages, by folder, and a method that extends a model.
    """
    stage = run.split.stage(run.config["stage"])
    ious = run.scores.get("iou", {}).get(stage.joint_task)
    if ious is None:  # a reference has no classes, a second teacher no old ones
        return {}
    first, classes = run.split.stages[0], pd.Series(ious, dtype=float)
    names = run.split.names(stage.seen)
    parts = {"old": names[: first.new.stop], "new": names[first.new.stop :], "all": names}
    shown = {part: classes.reindex(of).mean() for part, of in parts.items() if of}
    earlier = run.split.earlier(stage)
    folders = [run.folder.with_name(run_name(then, run.config["method"])) for then in earlier]
    before = [by_folder.get(folder) for folder in folders]
    extends = stage.number == 1 or run.config["teacher"] is not None
    if None in before or not extends:
        return shown
    pairs = list(zip(before, earlier, strict=True))
    joint = [of.scores["miou"][then.joint_task] for of, then in pairs]
    shown["average"] = pd.Series([*joint, shown["all"]], dtype=float).mean()
    if not pairs:
        return shown
    learned = pd.Series([of.scores["miou"][then.task] for of, then in pairs], dtype=float)
    kept = pd.Series([run.scores["miou"][then.task] for then in earlier], dtype=float)
    return shown | {"forgetting": (learned - kept).mean()}


def score_columns(history: pd.DataFrame) -> list[str]:
    """The class sets among the columns of a history, which are the scores of the monitor images."""
    return [column for column in history if column.startswith("task")]


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


def as_json(content: dict) -> bytes:
    """A dictionary as the content of a file that a person can read."""
    return (json.dumps(content, indent=1) + "\n").encode()
