"""What a process takes of the machine's memory: resident, with all that Python and torch hold.

`python -m benchmarks.memory WORK FOLDER SHAPE ...` is what one of the measured processes runs.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
import torch

from benchmarks.scenes import SPLIT, STAGE, as_if_large, make_network, samples_in, write_samples
from benchmarks.steps import CIL, PAPER, QUICK, config_of
from benchmarks.timing import Row
from cilkit.data.images import LabelledImages
from cilkit.files import ROOT
from cilkit.networks.erfnet import ERFNet
from cilkit.study.machine import MEMORY
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.config import PRESETS
from cilkit.training.evaluation import evaluate
from cilkit.training.loop import Monitor
from cilkit.training.stage import fit_stage

Shape = tuple[int, int, int]  # images in a batch, height, width
MONITORED = 2  # images that are scored during the small training


def memory(
    shape: Shape = PAPER,
    size: tuple[int, int] = (1024, 2048),
    small: Shape = QUICK,
    epochs: int = 50,
    warm: int = 10,
) -> list[Row]:
    """Peaks of a training and of an evaluation at Cityscapes size, and growth over epochs.

    The goal of the training is what `cilkit.study.machine` wants to be free; of the growth, 2 % in
    40 epochs: in the 200 epochs of the paper, a process would take a tenth more.
    """
    wanted = 2 * 2**30 + MEMORY * shape[0] * shape[1] * shape[2]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder, max(shape[0], small[0] * 4 + MONITORED), size)
        trained = in_own_process("training", folder, shape)
        evaluated = in_own_process("evaluation", folder, shape)
        grown = in_own_process("small_training", folder, small, epochs)
    at = "{} x {}".format(*size)
    return [
        Row("process with the kit imported", trained["imported"] / 1e6, "MB"),
        Row(
            "peak of a CIL T2 training, {} x 3 x {} x {}, images of {}".format(*shape, at),
            trained["peak"] / 1e6, "MB", wanted / 1e6,
        ),
        Row(f"peak of an evaluation, images and labels of {at}", evaluated["peak"] / 1e6, "MB"),
        *growth_rows("CIL T2 training, {} x 3 x {} x {}".format(*small), grown["after"], warm),
    ]  # fmt: skip


def growth_rows(what: str, after: list[int], warm: int) -> list[Row]:
    """What a process took after epoch `warm`, and how much more after the last one."""
    first, growth = after[warm - 1], after[-1] - after[warm - 1]
    return [
        Row(f"{what}, after epoch {warm}", first / 1e6, "MB"),
        Row(f"its growth from epoch {warm} to epoch {len(after)}", growth / 1e6, "MB"),
        Row("the same, of the process", 100 * growth / first, "%", 2),
    ]


def in_own_process(work: str, folder: Path, shape: Shape, *more: int) -> dict:
    """What a work of this file returns in a fresh process, with as many threads as here."""
    told = [work, str(folder), json.dumps(shape), str(torch.get_num_threads()), *map(str, more)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *told],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def training(folder: Path, shape: Shape, steps: int = 4) -> dict[str, float]:
    """CIL in T2 for a few steps, as the preset paper has it, but without worker processes.

    Images are decoded into a new cache on disk and read from there.
    """
    config = replace(config_of(shape), epochs=steps, workers=0)
    samples = samples_in(folder, shape[0])
    with as_if_large():
        images = LabelledImages(samples, SPLIT, STAGE.new, config.height)
        fit_stage(CIL, images, STAGE, ERFNet(STAGE.old.stop), config)
    return {"peak": peak()}


def evaluation(folder: Path, shape: Shape) -> dict[str, float]:
    """All scores of T2 at native size on as many images, which are decoded as above."""
    config = PRESETS["paper"]
    samples = samples_in(folder, shape[0])
    with as_if_large():
        images = LabelledImages(samples, SPLIT, STAGE.seen, config.height, native_labels=True)
        evaluate(make_network(STAGE.seen.stop), images, SPLIT.class_sets(STAGE), config)
    return {"peak": peak()}


def small_training(
    folder: Path,
    shape: Shape,
    epochs: int,
    each: Callable[[str, pd.DataFrame], None] = lambda *_: None,
) -> dict[str, list[int]]:
    """CIL in T2 with four steps an epoch, scores and checkpoints: memory after each epoch.

    `each` is called after an epoch, as `Monitor.show` is.
    """
    after = []

    def show(name: str, history: pd.DataFrame) -> None:
        each(name, history)
        after.append(psutil.Process().memory_info().rss)

    config = replace(config_of(shape), epochs=epochs, workers=0, height=2 * shape[1])
    count = 4 * shape[0]
    samples = samples_in(folder, count + MONITORED)
    images = LabelledImages(samples[:count], SPLIT, STAGE.new, config.height)
    scored = LabelledImages(samples[count:], SPLIT, STAGE.seen, config.height)
    monitor = Monitor(scored, SPLIT.class_sets(STAGE), show)
    checkpoint = FileCheckpoint(folder / "checkpoint", {}, seconds=1)
    fit_stage(
        CIL, images, STAGE, ERFNet(STAGE.old.stop), config, monitor=monitor, checkpoint=checkpoint
    )
    checkpoint.remove()
    return {"after": after}


def peak() -> int:
    """The most resident bytes that this process has had.

    On Linux, `resource` also counts what the process that started this one had; /proc does not.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


WORKS = {work.__name__: work for work in (training, evaluation, small_training)}


def main(work: str, folder: str, shape: str, threads: str, *more: str) -> None:
    """Print what a work returns, and what the process had before it, as a line of JSON."""
    torch.set_num_threads(int(threads))
    imported = psutil.Process().memory_info().rss
    found = WORKS[work](Path(folder), tuple(json.loads(shape)), *map(int, more))
    print(json.dumps(found | {"imported": imported}))


if __name__ == "__main__":
    main(*sys.argv[1:])
