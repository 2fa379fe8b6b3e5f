"""Each network of the kit in a short study, and a student of another network than its teacher.

    python -m benchmarks.networks toyscapes quick

trains T1, SS and CIL in all stages with every network in NETWORKS, one thread, seed 0, and then CIL
in the second stage from random weights (footnote 2), once as an ERFNet and once as each other
network, after the same ERFNet. It prints scores of all learned classes together, in %, parameters,
and the seconds of the trainings. Runs are kept in data/runs_networks/.
"""

import sys
from dataclasses import replace

import pandas as pd
import torch

from cilkit.methods import CIL, SS
from cilkit.networks import NETWORKS
from cilkit.study.study import Study
from cilkit.training.evaluation import evaluate
from cilkit.training.stage import fit_stage


def studied(data: str, preset: str, name: str) -> dict[str, object]:
    """A network in every stage: its row."""
    study = Study(data, f"data/runs_networks/{name}", preset, network=name)
    first, *later = study.split.stages
    runs = {first.name: study.run(first.name)}
    for method in (SS.name, CIL.name):
        runs |= {f"{method} {stage.name}": study.run(stage.name, method) for stage in later}
    scores = {
        title: run.miou[study.stage(run.config["stage"]).joint_task] for title, run in runs.items()
    }
    parameters = sum(weight.numel() for weight in runs[first.name].network().parameters())
    seconds = sum(run.history["seconds"].sum() for run in runs.values())
    return {"parameters": parameters} | scores | {"seconds": seconds}


def student(data: str, preset: str, name: str) -> dict[str, object]:
    """A student with random weights in the second stage, after an ERFNet: its row."""
    study = Study(data, "data/runs_networks/ERFNet", preset)
    first, stage = study.split.stages[:2]
    config = replace(study.config, network=name, start="random")
    teacher, images = (
        study.run(first.name).network(),
        study.data.stage(stage.name, "new", config.height),
    )
    network, history = fit_stage(CIL, images, stage, teacher, config)
    test = study.data.test_set(stage.name, config.height)
    scores = evaluate(network, test, study.split.class_sets(stage), config)
    return {
        f"CIL {stage.name}": scores.miou(stage.joint_task),
        "seconds": history["seconds"].sum(),
    }


def main(data: str, preset: str) -> None:
    torch.set_num_threads(1)
    rows = {name: studied(data, preset, name) for name in NETWORKS}
    rows |= {f"ERFNet, then {name}": student(data, preset, name) for name in NETWORKS}
    print(pd.DataFrame.from_dict(rows, "index").round(1).to_markdown())


if __name__ == "__main__":
    main(*sys.argv[1:])
