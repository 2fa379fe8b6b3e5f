"""Record finished studies as reference scores, and write the tables of RESULTS.md anew.

    python -m cilkit.results.report SOURCE [SOURCE ...]

Each SOURCE is the folder of the finished runs of one data set and preset, of all seeds, or a CSV
file of their scores, in the form of reference_scores.csv. Without one, only RESULTS.md is
written. A test fails where its tables are not those of the reference scores.
"""

import re
import sys
from collections.abc import Callable, Sequence
from functools import reduce

import pandas as pd

from cilkit.classes import joined, task_title
from cilkit.files import ROOT, resolve, write_atomic
from cilkit.methods import CIL, FIRST_STAGE, LATER_METHODS, METHODS, SS
from cilkit.results import claims, reference
from cilkit.results.scores import (
    by_seed,
    methods_of,
    our_scores,
    paper_scores,
    score,
    split_of,
    standard_deviation,
)
from cilkit.results.tables import AFTER_THE_PAPER, differences
from cilkit.study.runs import Run

PAGE = ROOT / "RESULTS.md"
BENCHMARKS = ROOT / "benchmarks"  # trials.py and variants.py write their scores beside them
TRIALS = BENCHMARKS / "trials.csv"
BLOCK = re.compile(r"(<!-- (\w+)((?: [\w/]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "Not measured yet.\n"
WORDS = {"holds": "hold", "does not hold": "fail", "undecided": "are undecided"}


def written(text: str) -> str:
    """A page with each block between `<!-- what data preset -->` and `<!-- end -->` made anew.

    Raises ValueError for a block that is none of `BLOCKS`.
    """
    return BLOCK.sub(_block, text)


def _block(match: re.Match) -> str:
    start, what, given, end = match.groups()
    if what not in BLOCKS:
        raise ValueError(f"a block {what!r} in {PAGE.name}; there are {', '.join(BLOCKS)}")
    return start + BLOCKS[what](*given.split()) + end


def scores(data: str, preset: str) -> str:
    """Mean ± standard deviation of each score, beside the paper's in brackets."""
    return _scores(reference.load(data, preset), [SS.name, *METHODS])


def later(data: str, preset: str) -> str:
    """The same for the methods that came after the paper, and those that they vary."""
    found = reference.load(data, preset)
    measured = set(methods_of(found))
    return _scores(found, AFTER_THE_PAPER) if measured.issuperset(LATER_METHODS) else NOTHING


def _scores(found: Sequence[Run], methods: Sequence[str]) -> str:
    if not found:
        return NOTHING
    split = split_of(found)
    mean, deviation = our_scores(found), standard_deviation(found)
    paper = paper_scores(split)

    def cell(stage: str, method: str, task: str) -> str:
        value = score(mean, stage, method, task)
        if pd.isna(value):
            return ""
        published = score(paper, stage, method, task)
        shown = "" if pd.isna(published) else f" ({published:.1f})"
        return f"{value:.1f} ± {score(deviation, stage, method, task):.1f}{shown}"

    names, tasks = [stage.name for stage in split.stages], split.tasks
    rows = [["(all methods)", names[0], *(cell(names[0], FIRST_STAGE.name, t) for t in tasks)]]
    for number, stage in enumerate(names[1:], start=2):
        for method in methods:
            trained = f"one, up to {stage}" if method == SS.name else " ".join(names[:number])
            rows.append([method, trained, *(cell(stage, method, task) for task in tasks)])
    return _markdown(["method", "stages", *map(task_title, tasks)], rows)


def minus(data: str, preset: str) -> str:
    """Paired differences to CIL after each extension, and to SS after the last one."""
    found = reference.load(data, preset)
    if not found:
        return NOTHING
    table = differences(found)
    places = list(table.index.unique("score"))
    columns = [(f"minus {CIL.name}", place) for place in places]
    columns.append((f"minus {SS.name}", places[-1]))
    rows = [
        [method, *(_interval(table.loc[(place, method)][other]) for other, place in columns)]
        for method in (SS.name, *METHODS)
    ]
    return _markdown(["method", *(f"{other}, {place}" for other, place in columns)], rows)


def ledger(*studies: str) -> str:
    """The claims of the paper with their margins, a column a study such as "toyscapes/quick"."""
    ledgers = {study: _ledger(study) for study in studies}
    known = {study: found for study, found in ledgers.items() if found is not None}
    if not known:
        return NOTHING
    first = next(iter(known.values()))
    rows = []
    for number, row in first.iterrows():
        cells = [
            f"{_interval(found.loc[number])} {_short(found.loc[number])}".strip()
            for found in known.values()
        ]
        rows.append([row["claim"], f"{row['paper']:+.1f}", *cells])
    return _markdown(["claim of the paper", "paper", *map(_title, known)], rows)


def verdicts(*studies: str) -> str:
    """How many claims hold, fail and are undecided, a line a study."""
    lines = []
    for study in studies:
        found = _ledger(study)
        if found is None:
            lines.append(f"- {_title(study)}: not measured yet.\n")
            continue
        counts = [f"{(found['verdict'] == which).sum()} {said}" for which, said in WORDS.items()]
        lines.append(f"- {_title(study)}: of {len(found)} claims {joined(counts, ', ')}.\n")
    return "".join(lines)


def measured(data: str, preset: str) -> str:
    """On what a reference was measured, in one paragraph."""
    found = reference.load(data, preset)
    if not found:
        return NOTHING
    seeds = ", ".join(str(of_seed[0].config["seed"]) for of_seed in by_seed(found))
    about, code = found[0].config["environment"], found[0].config["code"]["shared"]
    return (
        f"Seeds {seeds}. Device {about['device']} ({about['processor']}), precision "
        f"`{about['precision']}`, threads of a training: {about['threads']}, Python "
        f"{about['python']}, torch {about['torch']}, cilkit {about['cilkit']}, code {code}.\n"
    )


def trials() -> str:
    """The settings that were tried for the preset quick, a row a training, in the order tried."""
    found = pd.read_csv(TRIALS, dtype=str, keep_default_na=False)
    return _markdown([name.replace("_", " ") for name in found], found.to_numpy().tolist())


def variants(group: str = "variants") -> str:
    """Scores of methods with one part changed, mean ± standard deviation, a row a variant."""
    found = pd.read_csv(BENCHMARKS / f"{group}.csv")
    tasks = [task for task in found if task.startswith("task")]
    by_variant = found.groupby("variant", sort=False)[tasks]
    mean, deviation = by_variant.mean(), by_variant.std()
    rows = [
        [name, *(f"{mean.loc[name, task]:.1f} ± {deviation.loc[name, task]:.1f}" for task in tasks)]
        for name in mean.index
    ]
    return _markdown(["variant", *map(task_title, tasks)], rows)


BLOCKS: dict[str, Callable[..., str]] = {
    "scores": scores,
    "later": later,
    "minus": minus,
    "ledger": ledger,
    "verdicts": verdicts,
    "measured": measured,
    "trials": trials,
    "variants": variants,
}


def _ledger(study: str) -> pd.DataFrame | None:
    found: Sequence[Run] = reference.load(*study.split("/"))
    return claims.check(found) if found else None


def _title(study: str) -> str:
    data, preset = study.split("/")
    return f"{data}, `{preset}`"


def _short(row: pd.Series) -> str:
    return {"holds": "holds", "does not hold": "fails"}.get(row["verdict"], "")


def _interval(row: pd.Series) -> str:
    """A mean with its interval, bold where that excludes 0; "" without one."""
    mean, low, high = (row[name] for name in ("mean" if "mean" in row else "margin", "low", "high"))
    if pd.isna(mean):
        return ""
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low * high > 0 else text


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(*sources: str) -> None:
    """Record some studies, of folders or CSV files, as reference scores; write RESULTS.md anew.

    Raises ValueError for a study that is not finished, before anything is written.
    """
    studies = [study for source in sources for study in reference.studies_in(resolve(source))]
    measured = [reference.rows_of(study) for study in studies]
    if measured:
        content = reduce(reference.with_new, measured, reference.table())
        write_atomic(reference.FILE, reference.as_csv(content))
    page = PAGE.read_text(encoding="utf-8")
    write_atomic(PAGE, written(page).encode())
    print(f"{reference.FILE.name}: {len(reference.table())} scores; {PAGE.name} written")


if __name__ == "__main__":
    main(*sys.argv[1:])
