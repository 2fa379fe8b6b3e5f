"""Methods with one part changed: MiB and PLOP, CIL where a class is labelled again; CIL's weights.

    python -m benchmarks.variants variants toyscapes quick 10 11 12
    python -m benchmarks.variants weights toyscapes quick 10 11 12

trains T1 of each seed and each variant in T2, on one thread, and appends scores of T2 in % to
benchmarks/variants.csv, or to weights.csv, what the weights of eq. (10) do taken apart. Runs of T1
are kept in data/runs_variants/. RESULTS.md shows the means. The variants explain results; nothing
in the kit is set by them.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cilkit.classes import belongs
from cilkit.losses import entropy_weight, masked_distillation
from cilkit.methods import LATER_METHODS, METHODS, Context, Method, Step
from cilkit.methods.base import StepLoss
from cilkit.methods.mib import DISTILLATION_WEIGHT, mib_loss
from cilkit.study.study import Study
from cilkit.training.evaluation import evaluate
from cilkit.training.stage import fit_stage

FOLDER = Path(__file__).parent  # of the scores
AGAIN = "CIL, the second class of T1 labelled again"  # sidewalk, on Cityscapes and Toyscapes
COLUMNS = ["data", "preset", "seed", "variant", "task1", "task2", "task12"]


def masked_mib(step: Step) -> dict[str, Tensor]:
    """MiB whose teacher is silent where a new label is, as in eq. (9)."""
    old, _ = step.by_task(step.logits.log_softmax(dim=1))
    mask = ~belongs(step.labels, step.labelled)
    weight = DISTILLATION_WEIGHT / step.old.stop
    kd = weight * masked_distillation(old, step.teacher, mask)
    return {"ce": mib_loss(step)["ce"], "kd": kd}


def scaled(loss: StepLoss, term: str, factor: float) -> StepLoss:
    """A loss of which one term is multiplied."""
    return lambda step: (terms := loss(step)) | {term: factor * terms[term]}


def plop_with(factor: float) -> Callable[[Context], StepLoss]:
    """PLOP with another weight of local POD; 0: its pseudo-labels alone."""
    return lambda context: scaled(LATER_METHODS["PLOP"].prepare(context), "pod", factor)


def variants(old: int) -> dict[str, Method]:
    """The methods to compare; `old` classes are known before the stage."""
    hidden = partial(Method, equation=9, hidden=True)
    like_cil = scaled(masked_mib, "kd", old / DISTILLATION_WEIGHT)  # weight 1, as in eq. (9)
    features = LATER_METHODS["PLOP"].features
    found = {
        "MiB": LATER_METHODS["MiB"],
        "MiB, masked": hidden("MiB, masked", loss=masked_mib),
        "MiB, masked, distillation of weight 1": hidden("MiB, weight 1", loss=like_cil),
        "PLOP": LATER_METHODS["PLOP"],
    }
    found |= {"CIL": METHODS["CIL"], AGAIN: METHODS["CIL"]}
    for title, factor in (("PLOP, POD times 0.01", 0.01), ("PLOP without POD", 0.0)):
        found[title] = hidden(title, prepare=plop_with(factor), features=features)
    return found


def mean_alpha(step: Step) -> Tensor:
    """The mean weight of eq. (10) over the mask of a batch; 1 if the mask is empty."""
    mask = ~belongs(step.labels, step.labelled)  # (B, H, W)
    total = (entropy_weight(step.teacher) * mask).sum()
    return (total / mask.sum().clamp(min=1)).clamp(min=1)


def balance(step: Step) -> dict[str, Tensor]:
    """CIL without weights whose whole distillation has their mean."""
    terms = METHODS["CIL (w/o weights)"].loss(step)
    return terms | {"mkd": mean_alpha(step) * terms["mkd"]}


def attention(step: Step) -> dict[str, Tensor]:
    """CIL with weights of mean 1."""
    terms = METHODS["CIL"].loss(step)
    return terms | {"mkd": terms["mkd"] / mean_alpha(step)}


def weights(_: int) -> dict[str, Method]:
    """CIL with both effects of its weights, with either, and with none (11_entropy_weights)."""
    apart = {"CIL, balance alone": balance, "CIL, attention alone": attention}
    found = {name: Method(name, equation=9, loss=loss) for name, loss in apart.items()}
    return {name: METHODS[name] for name in ("CIL (w/o weights)", "CIL")} | found


GROUPS = {group.__name__: group for group in (variants, weights)}


def score(data: str, preset: str, seed: int, variant: str, method: Method) -> dict[str, object]:
    """A variant in the second stage after the T1 of its seed: its row."""
    study = Study(data, "data/runs_variants", preset, seed)
    first, stage, *later = study.split.stages
    teacher, height = study.run(first.name).network(), study.config.height
    stage = replace(stage, again=(1,) if variant == AGAIN else ())
    scenes = replace(study.data, split=replace(study.split, stages=(first, stage, *later)))
    images = scenes.stage(stage.name, method.labels, height, method.hidden)
    network, _ = fit_stage(method, images, stage, teacher, study.config, seed)
    sets = study.split.class_sets(stage)
    scores = evaluate(network, study.data.test_set(stage.name, height), sets, study.config)
    about = {"data": study.data.name, "preset": preset, "seed": seed, "variant": variant}
    return about | {task: f"{scores.miou(task):.1f}" for task in sets}


def main(group: str, data: str, preset: str, *seeds: str) -> None:
    torch.set_num_threads(1)
    file_of_scores = FOLDER / f"{group}.csv"
    old = Study(data, preset=preset).split.stages[1].old.stop
    for seed in map(int, seeds):
        for variant, method in GROUPS[group](old).items():
            row = score(data, preset, seed, variant, method)
            new = not file_of_scores.exists()
            with file_of_scores.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
