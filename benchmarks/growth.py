"""What time grows with: of a step, classes, batch, resolution, processes; of evaluation, images.

`torchrun -m benchmarks.growth SHAPE REPEATS` is what the processes that share a step run.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.scenes import SPLIT, STAGE, make_network, write_samples
from benchmarks.steps import CIL, QUICK, time_step
from benchmarks.timing import Row, device, seconds
from cilkit.data.images import LabelledImages
from cilkit.files import ROOT
from cilkit.training import distributed
from cilkit.training.config import PRESETS
from cilkit.training.evaluation import evaluate

PICTURE = ROOT / "data" / "cost_curves.png"


def curves(
    repeats: int = 3,
    base: tuple[int, int, int] = QUICK,
    picture: Path = PICTURE,
    processes: tuple[int, ...] = (1, 2),
) -> list[Row]:
    """CIL steps around the preset `quick`, and evaluation; the curves are drawn to a PNG."""
    parts = step_points(base, repeats), process_points(base, repeats, processes)
    points = pd.concat([*parts, evaluation_points(base[1:])])
    draw(points).savefig(picture, dpi=120)
    names = points["of"] + ": " + points["x"].astype(str) + " " + points["against"]
    return [Row(name, ms, "ms") for name, ms in zip(names, points["ms"], strict=True)]


def step_points(base: tuple[int, int, int], repeats: int) -> pd.DataFrame:
    """One row a measurement: of what, against which quantity, its value, milliseconds."""
    batch, height, width = base
    cases = [("classes", classes, base, classes) for classes in (5, 11, 19, 100)]
    cases += [("images in a batch", b, (b, height, width), 11) for b in (1, 2, 4, 8)]
    cases += [("lines of the crop", k * height, (batch, k * height, k * width), 11) for k in (1, 2)]
    rows = []
    for against, x, shape, classes in cases:
        old = slice(0, classes // 2)
        stage = replace(STAGE, old=old, new=slice(old.stop, classes))
        ms = 1000 * time_step(CIL, stage, shape, repeats)["kit"]
        rows.append(("CIL step", against, x, ms))
    return pd.DataFrame(rows, columns=["of", "against", "x", "ms"])


def process_points(
    base: tuple[int, int, int], repeats: int, processes: tuple[int, ...]
) -> pd.DataFrame:
    """A step of processes on this machine that share its batch, each with one thread.

    Each needs a device of its own, unless that is the CPU.
    """
    most = max(processes) if device().type == "cpu" else torch.cuda.device_count()
    rows = []
    for count in (count for count in processes if count <= most):
        started = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={count}", "-m", "benchmarks.growth"),
                *(json.dumps(base), str(repeats)),
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append(("CIL step", "processes", count, float(started.stdout.splitlines()[-1])))
    return pd.DataFrame(rows, columns=["of", "against", "x", "ms"])


def evaluation_points(size: tuple[int, int]) -> pd.DataFrame:
    """Evaluation of T2 on scenes that are decoded anew, in the form of `step_points`."""
    network, sets = make_network(STAGE.seen.stop), SPLIT.class_sets(STAGE)
    rows = []
    with TemporaryDirectory() as folder:
        samples = write_samples(Path(folder), 16, (max(64, size[0]), 2 * max(64, size[0])))
        for count in (2, 4, 8, 16):
            images = LabelledImages(samples[:count], SPLIT, STAGE.seen, native_labels=True)
            time = seconds(lambda images=images: evaluate(network, images, sets, PRESETS["quick"]))
            rows.append(("evaluation", "images", count, 1000 * time))
    return pd.DataFrame(rows, columns=["of", "against", "x", "ms"])


def draw(points: pd.DataFrame) -> Figure:
    """A panel for each quantity."""
    panels = list(points.groupby(["of", "against"], sort=False))
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axes, ((of, against), rows) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.plot(rows["x"], rows["ms"], "o-")
        axes.set(xlabel=against, ylabel=f"{of} (ms)", ylim=(0, None))
    return figure


def main(shape: str, repeats: str) -> None:
    """One of the processes that share a step; the first prints the milliseconds."""
    time = time_step(CIL, STAGE, tuple(json.loads(shape)), int(repeats))["kit"]
    if distributed.is_rank0():
        print(1000 * time)


if __name__ == "__main__":
    main(*sys.argv[1:])
