"""Settings tried for a preset, judged without any comparison of methods.

    python -m benchmarks.trials SS toyscapes SEED=10 epochs=8 batch=4 crop=128x256 warmup=0.15

trains once, single-stage (SS) or a stage on its own new classes alone (T1, T2, T3), eq. (1). It
takes the preset quick and these changes, on one thread, and appends what came out to
benchmarks/trials.csv. Seeds are 10 and above: the reference scores are of 0 to 4. RESULTS.md shows
the file as a table.
"""

import ast
import csv
import sys
from dataclasses import fields, replace
from pathlib import Path
from time import process_time

import torch
from torch import nn

from cilkit.data.augmentation import Augmentation
from cilkit.data.scenes import open_data
from cilkit.methods import SS
from cilkit.training.config import TrainConfig, get_config
from cilkit.training.evaluation import evaluate, used_precision
from cilkit.training.stage import fit

FILE = Path(__file__).with_name("trials.csv")
FIELDS = ["epochs", "batch", "height", "learning_rate", "weight_decay", "power", "warmup"]
COLUMNS = ["data", "training", "seed", *FIELDS, "crop", "rescale", "jitter"]
COLUMNS += ["miou", "task2", "lowest_class", "cpu_seconds", "steps", "dead_percent", "precision"]
DEAD = 1e-6  # a weight below this is counted as dead


def trial(training: str, data: str, seed: int, config: TrainConfig) -> dict[str, object]:
    """Train SS with all classes, or a stage alone, on one thread: settings, scores in %, seconds.

    `miou` is over all classes that were learned, `task2` that of Task 2 (of SS), and `lowest_class`
    the lowest IoU. Raises ValueError for a seed below 10.
    """
    if seed < 10:
        raise ValueError(f"seed is {seed}; settings are chosen on seeds from 10, others report")
    torch.set_num_threads(1)
    scenes = open_data(data)
    single, augmentation = training == SS.name, config.augmentation
    stage = scenes.split.stages[-1] if single else scenes.split.stage(training)
    if single:
        images = scenes.single_stage(stage.name, config.height)
        sets, everything = scenes.split.class_sets(stage), stage.joint_task
    else:
        images = scenes.stage(stage.name, "new", config.height)
        sets, everything = {stage.task: stage.new}, stage.task
    test = scenes.test_set(stage.name, config.height, labels="all" if single else "new")
    started = process_time()
    network, _ = fit(images, config, seed, training)
    seconds = process_time() - started
    scores = evaluate(network, test, sets, config)
    weights = torch.cat(
        [m.weight.detach().flatten().abs() for m in network.modules() if isinstance(m, nn.Conv2d)]
    )
    return {
        "data": scenes.name,
        "training": training,
        "seed": seed,
        **{name: getattr(config, name) for name in FIELDS},
        "crop": "x".join(map(str, augmentation.crop)),
        "rescale": augmentation.rescale[1],
        "jitter": augmentation.brightness,
        "miou": round(scores.miou(everything), 1),
        "task2": round(scores.miou("task2"), 1) if single else "",
        "lowest_class": round(scores.iou(everything).min().item(), 1),
        "cpu_seconds": round(seconds),
        "steps": len(images) // config.batch * config.epochs,
        "dead_percent": round(100 * (weights < DEAD).double().mean().item()),
        "precision": used_precision(config),
    }


def main(training: str, data: str, *given: str) -> None:
    """One trial from the command line, appended to the file."""
    changes = dict(word.split("=", 1) for word in given)
    seed = int(changes.pop("SEED"))
    values = {name: _value(text) for name, text in changes.items()}
    of_images = {field.name for field in fields(Augmentation)} & values.keys()
    config = get_config("quick", **{k: v for k, v in values.items() if k not in of_images})
    augmentation = replace(config.augmentation, **{name: values[name] for name in of_images})
    config = replace(config, augmentation=augmentation)
    row = trial(training, data, seed, config)
    new = not FILE.is_file()
    with FILE.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


def _value(text: str) -> object:
    """A setting as it was typed: 96x192 is a pair."""
    return tuple(map(int, text.split("x"))) if "x" in text else ast.literal_eval(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
