"""What `make study` asks for: data sets, presets, seeds and methods, each one or a list.

    python -m cilkit.study.batch --profile data/profiles/local --config DATA=toyscapes SEEDS=0,1

is `python -m snakemake`, but its values stay the text that was typed. Snakemake by itself reads
2024_11_27 as a number, `a #b` as YAML, and hands quotes and backslashes to the shells of a cluster.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from urllib.parse import quote, unquote

from cilkit.checks import check_path, unknown
from cilkit.classes import Split
from cilkit.data.scenes import open_data
from cilkit.files import resolve
from cilkit.methods import LATER_METHODS, METHODS, SS, Method
from cilkit.splits import load_split
from cilkit.study.parameters import PARAMETERS, seeds_of, several
from cilkit.study.plan import PlannedRun, plan
from cilkit.training.config import get_config

OPTIONS = (*PARAMETERS, "SEEDS", "METHODS")
TEXT = "@text:"  # before a percent-encoded value: no YAML begins so, and no shell reads it


@dataclass(frozen=True)
class Batch:
    """What was asked for, checked, and the trainings that each data set takes.

    `data` is what was given for each data set, by the name of its folder; `plans` are its
    trainings by name, which follow from its own split.
    """

    data: dict[str, str]
    runs: str
    presets: list[str]
    seeds: list[int]
    methods: list[Method]
    plans: dict[str, dict[str, PlannedRun]]


def read(config: Mapping[str, object]) -> Batch:
    """The batch that Snakemake's `config` asks for, with the defaults of the notebooks.

    Data sets are opened, apart from Toyscapes, which a job draws. A ValueError or a
    FileNotFoundError names the first thing that is wrong.
    """
    for key in config:
        if key not in OPTIONS:
            raise ValueError(unknown("parameter", key, list(OPTIONS)))
    given = {key: _decoded(value) for key, value in config.items()}
    runs = _text("RUNS", given.get("RUNS", "data/runs"))
    check_path("RUNS", runs)
    _check_wildcard("RUNS", str(resolve(runs)), "choose another folder")
    presets = several("PRESET", given.get("PRESET", "quick"))
    for preset in presets:
        get_config(preset)
    seeds = seeds_of(given)
    known = {SS.name: SS} | METHODS | LATER_METHODS
    chosen = [SS.name, *METHODS]
    if "METHODS" in given:
        chosen = several("METHODS", given["METHODS"])
    for name in chosen:
        if name not in known:
            raise ValueError(unknown("method", name, list(known)))
    methods = [known[name] for name in chosen]
    data = _data_sets(_text("DATA", given.get("DATA", "toyscapes")))
    plans = {name: {run.name: run for run in plan(_split(data[name]), methods)} for name in data}
    return Batch(data, runs, presets, seeds, methods, plans)


def _data_sets(given: str) -> dict[str, str]:
    """What was given for each data set, by the name of its folder."""
    for folder in _joined(given):
        if os.path.exists(resolve(folder)):
            raise ValueError(
                f"DATA is {given!r}, and there is a folder {folder!r}; but a comma stands between "
                "two data sets. Rename the folder, or name a link to it that has no comma"
            )
    found: dict[str, str] = {}
    for data in several("DATA", given):
        name = resolve(data).name.lower()
        if name in found:
            raise ValueError(
                f"{found[name]} and {data} would write to the same folder {name}; rename one, or "
                "give them one by one, each with RUNS of its own"
            )
        _check_wildcard("DATA", name, "rename the folder")
        found[name] = data
    return found


def _joined(given: str) -> Iterator[str]:
    """The texts that two or more neighbours of a list make, with the commas between them."""
    items = given.split(",")
    for start, stop in combinations(range(len(items) + 1), 2):
        if stop - start > 1:
            yield ",".join(items[start:stop]).strip()


def _split(data: str) -> Split:
    """The split of a data set; what is not drawn yet has that of Cityscapes."""
    return load_split("cityscapes") if data == "toyscapes" else open_data(data).split


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"{name} is {value!r}: Snakemake did not leave it as it was typed. Use make study, or "
            "`python -m cilkit.study.batch` in place of `python -m snakemake`"
        )
    if strange := [sign for sign in value if not sign.isprintable()]:
        raise ValueError(
            f"{name} is {value!r}; its character {strange[0]!r} cannot be handed to the jobs. "
            "Rename the folder"
        )
    return value


def _check_wildcard(name: str, value: str, way_out: str) -> None:
    """A ValueError if a part of the jobs' file names would look like a wildcard of Snakemake."""
    if braces := [sign for sign in value if sign in "{}"]:
        raise ValueError(
            f"{name}: {value!r} gives files their names, and Snakemake reads {braces[0]!r} there "
            f"as a wildcard; {way_out}"
        )


def encoded(word: str) -> str:
    """A word of a command line, such as DATA=my folder, in a form that Snakemake leaves alone."""
    name, _, value = word.partition("=")
    if name not in OPTIONS:
        return word
    return f"{name}={TEXT}{quote(value, errors='surrogateescape')}"


def _decoded(value: object) -> object:
    if isinstance(value, str) and value.startswith(TEXT):
        return unquote(value.removeprefix(TEXT), errors="surrogateescape")
    return value


def main(words: Sequence[str]) -> None:
    """Snakemake with these words of a command line; its `--logger study` is `study.console`."""
    from snakemake.cli import main as snakemake
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    from cilkit.study import console

    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_study", console)
    snakemake([encoded(word) for word in words])


if __name__ == "__main__":
    main(sys.argv[1:])
