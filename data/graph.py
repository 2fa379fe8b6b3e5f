"""The jobs of a study as a picture; `make graph` hands over what Snakemake says of them.

    snakemake ... --dag mermaid-js | python data/graph.py study.png

A job waits for those to its left that a line leads to, and for what they wait for. Finished jobs
are grey.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = {"data": "khaki", "train": "lightblue", "notebook": "palegreen", "results": "plum"}


def columns(jobs: list[str], waits: dict[str, list[str]]) -> dict[str, tuple[int, int]]:
    """Column and row of each job: a column to the right of all that it waits for."""
    depth: dict[str, int] = {}

    def place(job: str) -> int:
        if job not in depth:
            depth[job] = 1 + max(map(place, waits[job]), default=-1)
        return depth[job]

    filled: dict[int, int] = defaultdict(int)
    places = {}
    for job in jobs:
        filled[place(job)] += 1
        places[job] = (depth[job], filled[depth[job]])
    return {job: (x, y - filled[x] / 2) for job, (x, y) in places.items()}


def ancestors(job: str, waits: dict[str, list[str]]) -> set[str]:
    """All that a job waits for, by way of others too."""
    return {*waits[job]}.union(*(ancestors(before, waits) for before in waits[job]))


def title(label: str) -> str:
    """The words for a job: "train - preset: quick - run: T1 - seed: 0" is T1 of seed 0."""
    rule, *wildcards = label.split(" - ")
    values = dict(wildcard.split(": ", 1) for wildcard in wildcards)
    name = values.get("run") or values.get("notebook") or rule
    of = [values["data"]] if "data" in values else []
    return "\n".join([name, *of, *([f"seed {values['seed']}"] if "seed" in values else [])])


def draw(mermaid: str) -> Figure:
    """The graph in Snakemake's words; ValueError if there is none in them."""
    labels = dict(re.findall(r"^\t(id\d+)\[(.*)\]$", mermaid, re.MULTILINE))
    if not labels:
        raise ValueError("no graph came in; snakemake says above what is wrong")
    finished = set(re.findall(r"^\tstyle (id\d+) .*dasharray", mermaid, re.MULTILINE))
    waits = defaultdict(list)
    for before, after in re.findall(r"^\t(id\d+) --> (id\d+)$", mermaid, re.MULTILINE):
        waits[after].append(before)
    places = columns(list(labels), waits)
    wide, high = (max(axis) - min(axis) + 1 for axis in zip(*places.values(), strict=True))
    figure = Figure(figsize=(2.2 * wide, 0.6 * high + 0.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    for after, jobs in list(waits.items()):
        for before in {*jobs}.difference(*(ancestors(job, waits) for job in jobs)):
            axes.plot(*zip(places[before], places[after], strict=True), color="grey", alpha=0.4)
    for job, label in labels.items():
        colour = COLOURS.get(label.split(" - ")[0], "lightgrey")
        box = {"boxstyle": "round", "facecolor": colour, "edgecolor": "grey"}
        ink = "grey" if job in finished else "black"
        style = {"ha": "center", "va": "center", "fontsize": 8, "bbox": box, "color": ink}
        axes.text(*places[job], title(label), style)
    xs, ys = zip(*places.values(), strict=True)
    axes.set(xlim=(min(xs) - 0.5, max(xs) + 0.5), ylim=(max(ys) + 0.5, min(ys) - 0.5))
    return figure


if __name__ == "__main__":
    target = Path(sys.argv[1])
    draw(sys.stdin.read()).savefig(target, dpi=120)
    print(target)
