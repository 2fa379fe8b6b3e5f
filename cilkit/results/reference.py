"""Reference scores: what each preset reached here, measured once and kept as data.

They lie in resources/reference_scores.csv, a row for each data set, preset, seed, method, stage
and task, with what they were measured on. `cilkit.results.report` writes the file.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from cilkit.classes import task_title
from cilkit.files import RESOURCES
from cilkit.results.scores import (
    by_seed,
    check_comparable,
    outline,
    prediction_interval,
    split_of,
)
from cilkit.splits import kit_splits, load_split
from cilkit.study import runs
from cilkit.study.plan import plan
from cilkit.study.provenance import plain, settings
from cilkit.study.runs import Run
from cilkit.training.config import PRESETS, differences

FILE = RESOURCES / "reference_scores.csv"
MEASURED_ON = ["device", "processor", "precision", "threads", "python", "torch", "cilkit"]
KEY = ["data", "preset", "seed", "method", "stage"]
COLUMNS = [*KEY, "task", "miou", "split", "settings", *MEASURED_ON, "code"]
NEAR = ["mean", "±", "seeds", "low", "high"]  # of a reference


def table() -> pd.DataFrame:
    """All reference scores, mIoU in %, a row each."""
    return read(FILE)


def read(file: Path) -> pd.DataFrame:
    """Scores in the form of the reference file; a ValueError if a column is missing."""
    with file.open(encoding="utf-8") as content:
        scores = pd.read_csv(content, dtype={"code": str, "settings": str})
    if lacking := [column for column in COLUMNS if column not in scores]:
        raise ValueError(
            f"{file} lacks the columns {', '.join(lacking)}; wanted scores in the form of "
            f"{FILE.name}, or the folder of a finished study"
        )
    return scores


def measured() -> list[tuple[str, str]]:
    """The data sets and presets that have reference scores."""
    return list(table()[["data", "preset"]].drop_duplicates().itertuples(index=False, name=None))


def load(data: str, preset: str) -> list[Run]:
    """The reference scores of a data set and preset as runs without weights and history.

    All tables and claims take them as they take runs; none if nothing was measured.
    """
    scores = table()
    return runs_of(scores[(scores["data"] == data) & (scores["preset"] == preset)])


def runs_of(scores: pd.DataFrame) -> list[Run]:
    """Rows of the reference file, or of one in its form, as runs without weights and history."""
    splits = {name: plain(asdict(load_split(name))) for name in scores["split"].unique()}
    found = []
    for _, rows in scores.groupby(KEY, sort=False):
        first = rows.to_dict("records")[0]
        shared, method = first["code"].split(maxsplit=1)
        config = {key: first[key] for key in KEY} | {
            "split": splits[first["split"]],
            "train": {"settings": first["settings"]},
            "environment": {name: first[name] for name in MEASURED_ON},
            "code": {"shared": shared, "method": method},
        }
        scored = {"miou": dict(zip(rows["task"], rows["miou"], strict=True))}
        found.append(Run(Path(f"reference of {first['method']}"), config, pd.DataFrame(), scored))
    return found


def fingerprint(config: dict) -> str:
    """Hash of the settings of a preset, by which a reference is known to be of the preset today.

    Without the precision, which "auto" leaves to the machine.
    """
    decisive = {key: value for key, value in config.items() if key != "precision"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def studies_in(source: Path) -> list[list[Run]]:
    """The finished runs below a folder, or those whose scores stand in a CSV file of this form.

    One list for the folder, and one for each data set and preset of the file.
    """
    if source.suffix != ".csv":
        return [runs.find(source)]
    studies = read(source).groupby(["data", "preset"], sort=False)
    return [runs_of(rows) for _, rows in studies] or [[]]


def rows_of(found: Sequence[Run]) -> pd.DataFrame:
    """The scores of finished runs of one data set and preset in the form of the reference file.

    Raises ValueError for no runs, mixed configurations, settings that are not the preset's, and a
    seed in which a training of the study is missing.
    """
    if not found:
        raise ValueError(
            "no finished run; give the folder of a finished study, or a file of its scores"
        )
    check_comparable(found)
    split = split_of(found)
    if split.name not in kit_splits() or outline(split) != outline(load_split(split.name)):
        raise ValueError(
            f"the runs are of a split of your own called {split.name!r}; a reference is of one of "
            "the kit's own splits"
        )
    planned = {(run.method.name, run.stage.name) for run in plan(split)}
    for of_seed in by_seed(found):
        have = {(run.config["method"], run.config["stage"]) for run in of_seed}
        if lacking := sorted(planned - have):
            raise ValueError(
                f"seed {of_seed[0].config['seed']} lacks {', '.join(map(' '.join, lacking))}; "
                "finish the study first (make study), so that all methods have the same seeds"
            )
    rows = []
    for run in found:
        if other := _other_settings(run):
            raise ValueError(
                f"{run.folder} was trained with other {', '.join(other)} than the preset "
                f"{run.config['preset']!r}; a reference is of the preset as it is"
            )
        if rounded := run.config["environment"].get("teacher_weights"):
            raise ValueError(
                f"{run.folder} was trained from a teacher of a pack, whose weights are rounded to "
                f"{rounded}; a reference is of trainings from whole weights: train its teacher, too"
            )
        about = {key: run.config[key] for key in KEY} | {"split": split.name}
        about["settings"] = _fingerprint_of(run)
        about |= {name: run.config["environment"][name] for name in MEASURED_ON}
        about["code"] = "{shared} {method}".format(**run.config["code"])
        rows += [about | {"task": task, "miou": miou} for task, miou in run.scores["miou"].items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def with_new(known: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The reference scores after a measurement: it replaces those of its data set and preset."""
    new = set(rows[["data", "preset"]].itertuples(index=False, name=None))
    keys = known[["data", "preset"]].itertuples(index=False, name=None)
    both = pd.concat([known[[key not in new for key in keys]], rows])
    return both.sort_values(["data", "preset", "seed"], kind="stable", ignore_index=True)


def as_csv(scores: pd.DataFrame) -> bytes:
    """Reference scores as the content of their file, the same on every system."""
    return scores.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode()


def compare(found: Run | Sequence[Run]) -> pd.DataFrame:
    """Your run, our range: a row for each run and task, in %.

    Columns: yours, mean and ± (standard deviation) of the reference, its seeds, low and high (the
    range in which 95 of 100 further seeds are expected), yours is ("inside", "outside", "beside one
    seed", which gives no range, or why there is no reference).
    """
    found = [found] if isinstance(found, Run) else list(found)
    studies = {(run.config["data"], run.config["preset"]) for run in found}
    measured = {study: load(*study) for study in studies}
    rows = {}
    for run in found:
        reference = measured[run.config["data"], run.config["preset"]]
        why, same = _why_not(run, reference), _same_training(run, reference)
        method, stage = run.config["method"], run.split.stage(run.config["stage"])
        name = stage.name if stage.number == 1 else f"{method} {stage.name}"  # all share the first
        for task, yours in run.scores["miou"].items():
            key = (name, task_title(task))
            values = [] if why else [other.scores["miou"][task] for other in same]
            rows[key] = {"yours": yours} | _beside(yours, values, why)
    columns = ["yours", *NEAR, "yours is"]
    shown = pd.DataFrame.from_dict(rows, "index", columns=columns)
    shown.index = pd.MultiIndex.from_tuples(rows, names=["run", "score"])
    if shown["mean"].isna().all():
        shown = shown.drop(columns=NEAR)
    return shown.round(1)


def _beside(yours: float, reference: Sequence[float], why: str) -> dict[str, object]:
    if why:
        return {"yours is": why}
    values = pd.Series(reference, dtype=float)
    low, high = prediction_interval(values)
    place = "inside" if low <= yours <= high else "outside"
    if len(values) < 2:
        place = "beside one seed"
    number = {"mean": values.mean(), "±": values.std(), "seeds": len(values)}
    return number | {"low": low, "high": high, "yours is": place}


def without_reference(run: Run) -> str:
    """Why a run has no reference, "" if it has one."""
    return _why_not(run, load(run.config["data"], run.config["preset"]))


def _why_not(run: Run, reference: Sequence[Run]) -> str:
    """The same, given the reference of the run's data and preset."""
    config = run.config
    if not reference:
        return f"no reference for {config['preset']} on {config['data']}"
    if outline(run.split) != outline(reference[0].split):
        return "no reference for these stages"
    if other := _other_settings(run):
        return f"no reference for other {', '.join(other)}"
    return "" if _same_training(run, reference) else f"no reference for {config['method']!r}"


def _same_training(run: Run, reference: Sequence[Run]) -> list[Run]:
    """Those of a reference with the method and the stage of a run, one a seed."""
    training = run.config["method"], run.config["stage"]
    return [r for r in reference if (r.config["method"], r.config["stage"]) == training]


def _other_settings(run: Run) -> list[str]:
    """In which settings a run differs from its preset, apart from the precision."""
    preset = settings(PRESETS[run.config["preset"]])
    if "settings" in run.config["train"]:  # it stands in a table, which keeps their hash
        return ["settings"] if _fingerprint_of(run) != fingerprint(preset) else []
    found = differences({"train": run.config["train"]}, {"train": preset})
    return [name for name in found if name != "precision"]


def _fingerprint_of(run: Run) -> str:
    train = run.config["train"]
    return train["settings"] if "settings" in train else fingerprint(train)
