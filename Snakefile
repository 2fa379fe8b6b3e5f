"""A study as a graph: data x preset x seed x method x stage, then the notebooks, then the tables.

    make study SEEDS=0,1,2 DATA=toyscapes,path/to/camvid METHODS=CIL,LWOF

A job is done when its stamp is there; the trainings themselves are kept by cilkit.runs, so a job
that is done again loads every run that still matches. Where the jobs run is not said here but in
a profile (data/profiles/README.md).
"""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

from snakemake.utils import available_cpu_count

from cilkit.checks import unknown
from cilkit.splits import load_split
from cilkit.training.config import get_config
from cilkit.data.scenes import open_data
from cilkit.files import resolve
from cilkit.methods import METHODS
from cilkit.checks import check_path, check_seed
from cilkit.study.parameters import PARAMETERS, several
from cilkit.study.plan import run_name
from cilkit.methods import NEW_TEACHER

# what was asked for: all of it is checked here, before the first job

OPTIONS = [*PARAMETERS, "SEEDS", "METHODS"]
for key in config:
    if key not in OPTIONS:
        raise ValueError(unknown("parameter", key, OPTIONS))
if {"SEED", "SEEDS"} <= config.keys():
    raise ValueError(
        f"SEED={config['SEED']} and SEEDS={config['SEEDS']} are both given; give one of them"
    )
RUNS = str(config.get("RUNS", "data/runs"))
check_path("RUNS", RUNS)
PRESETS = several("PRESET", config.get("PRESET", "quick"))
for preset in PRESETS:
    get_config(preset)
SEEDS = several("SEEDS", config["SEEDS"]) if "SEEDS" in config else [config.get("SEED", 0)]
for seed in SEEDS:
    check_seed(seed)
CHOSEN = several("METHODS", config["METHODS"]) if "METHODS" in config else ["SS", *METHODS]
for method in CHOSEN:
    if method not in ("SS", *METHODS):
        raise ValueError(unknown("method", method, ["SS", *METHODS]))
DATA = {}  # name of its folder: what was given
for data in map(str, several("DATA", config.get("DATA", "toyscapes"))):
    if (name := resolve(data).name.lower()) in DATA:
        raise ValueError(
            f"{DATA[name]} and {data} would write to the same folder {name}; rename one, or give "
            "them one by one, each with RUNS of its own"
        )
    if data != "toyscapes":  # which the first job draws
        open_data(data)
    DATA[name] = data

# the jobs

STUDY = resolve(RUNS) / "{data}" / "{preset}"
RESULTS, OF_SEED = STUDY / "results", STUDY / "seed{seed}"
DATA_DONE, RESULTS_DONE, DONE = STUDY.parent / "done" / "data", RESULTS / "done", OF_SEED / "done"
LOGS, EXECUTED = OF_SEED / "logs", OF_SEED / "notebooks"
SOURCES = sorted(map(str, [*Path("cilkit").rglob("*.py"), *Path("cilkit/resources").rglob("*.*")]))
THREADS = max(1, available_cpu_count() // 2)  # two trainings side by side use two cores best

TRAININGS = {"T1": ("T1", "SS", [])}  # run: its stage, its method, the runs that it is made from
for method in CHOSEN:
    for before, stage in pairwise(load_split("cityscapes").stages):
        needs = [] if method == "SS" else [run_name(before, method)]
        if method != "SS" and METHODS[method].memory is not None:
            needs.append(run_name(stage, NEW_TEACHER.name))
            TRAININGS[needs[-1]] = (stage.name, NEW_TEACHER.name, [])
        TRAININGS[run_name(stage, method)] = (stage.name, method, needs)

UP_TO_LWOF = ["T1", "SS", "FT", "FE", "LWOF"]
SHOWN = {  # notebook: whose runs it looks at; it would train those that are missing
    "00_start_here": [],
    "01_split_cityscapes": [],
    "02_erfnet": ["T1"],
    "03_losses": [],
    "04_metrics": ["T1"],
    "05_train_t1": ["T1", "SS"],
    "06_ft_fe": ["T1", "FT", "FE"],
    "07_lwof": UP_TO_LWOF,
    "08_lwm": [*UP_TO_LWOF, "LWM"],
    "09_michieli": [*UP_TO_LWOF, "LWM", "Michieli"],
    "10_cil": ["T1", "SS", *METHODS],
    "11_entropy_weights": ["T1", "LWOF", "CIL (w/o weights)", "CIL"],
}
NOTEBOOKS = [name for name, shown in SHOWN.items() if {*shown} <= {"T1", *CHOSEN}]
LEFT_OUT = [name for name in SHOWN if name not in NOTEBOOKS]
EVERY = {"data": DATA, "preset": PRESETS, "seed": SEEDS}

# what a job asks of a cluster. There Snakemake itself takes 0.9 GB of it, the process of a quick
# training 1.1; not measured for the long presets: CUDA, and four processes that decode
MEMORY = {"smoke": 4000, "quick": 4000}  # MB, by preset
MINUTES = {"smoke": 15, "quick": 60}
PAPERMILL = (
    "{sys.executable:q} -m papermill {input.notebook} {log:q} --kernel python3 --cwd notebooks "
    "--no-progress-bar -r DATA {params.data:q} -r RUNS {RUNS:q} -r PRESET {wildcards.preset} "
    "-p SEED {params.seed}"
)


def stamps(wildcards, jobs):
    """The stamps of some jobs of one study."""
    return [str(DONE / job).format(**dict(wildcards.items())) for job in jobs]


def looked_at(wildcards):
    """The stamps of the runs that a notebook shows."""
    shown = SHOWN[wildcards.notebook]
    runs = [run for run, (_, method, _) in TRAININGS.items() if method in shown]
    return stamps(wildcards, ["T1", *runs] if shown else [])


def conclusion():
    """The commands of the last job: for each data set and preset, Tables II and III."""
    said = []
    for folder in map(str, expand(STUDY, **EVERY)):
        tables = f"{shlex.quote(sys.executable)} -m cilkit.results {shlex.quote(folder)}"
        said += [f"echo {shlex.quote(line)}" for line in ("", folder)] + [tables]
    if LEFT_OUT:
        said.append(f"echo 'left out, as they show other methods too: {' '.join(LEFT_OUT)}'")
    return " && ".join([*said, "echo 'executed notebooks: notebooks/ of each seed there'"])


def unfinished():
    """What the jobs left that began and did not end: their logs, or executed notebooks."""
    stamp_of = {LOGS / f"{run}.txt": DONE / run for run in TRAININGS}
    stamp_of |= {EXECUTED / f"{name}.ipynb": DONE / name for name in NOTEBOOKS}
    stamp_of |= {RESULTS / "12_results.ipynb": RESULTS_DONE}
    return [
        file
        for log, stamp in stamp_of.items()
        for file, done in zip(expand(log, **EVERY), expand(stamp, **EVERY), strict=True)
        if Path(file).exists() and not Path(done).exists()
    ]


onerror:
    if left := unfinished():
        print("These jobs did not finish; the error stands at the end of the log or notebook:")
        print(*left, sep="\n")


localrules:
    all,
    data,


wildcard_constraints:
    data="|".join(map(re.escape, DATA)),
    preset="|".join(PRESETS),
    seed="[0-9]+",
    run="|".join(TRAININGS),
    notebook="|".join(SHOWN),


rule all:
    default_target: True
    input:
        expand(DONE / "{notebook}", notebook=NOTEBOOKS, **EVERY),
        expand(RESULTS_DONE, **EVERY),
    params:
        commands=conclusion(),
    shell:
        "{params.commands}"


rule data:
    input:
        SOURCES,
    output:
        touch(DATA_DONE),
    params:
        code=lambda wildcards: (
            f"from cilkit.datasets import open_data; open_data({DATA[wildcards.data]!r})"
        ),
    shell:
        "{sys.executable:q} -c {params.code:q}"


rule train:
    input:
        SOURCES,
        DATA_DONE,
        lambda wildcards: stamps(wildcards, TRAININGS[wildcards.run][2]),
    output:
        touch(DONE / "{run}"),
    log:
        LOGS / "{run}.txt",
    priority: 1  # notebooks can wait
    threads: THREADS
    resources:
        gpu=1,  # asked of a cluster; on this machine it limits nothing
        mem_mb=lambda wildcards: MEMORY.get(wildcards.preset, 16000),
        runtime=lambda wildcards: MINUTES.get(wildcards.preset, 1440),
    params:
        stage=lambda wildcards: TRAININGS[wildcards.run][0],
        method=lambda wildcards: TRAININGS[wildcards.run][1],
        data=lambda wildcards: f"DATA={DATA[wildcards.data]}",
        runs=f"RUNS={RUNS}",
    shell:
        "{sys.executable:q} -m cilkit.study {params.stage} {params.method:q} {params.data:q} "
        "{params.runs:q} PRESET={wildcards.preset} SEED={wildcards.seed} 2>&1 | tee {log:q}"


rule notebook:
    input:
        SOURCES,
        DATA_DONE,
        looked_at,
        notebook="notebooks/{notebook}.ipynb",
    output:
        touch(DONE / "{notebook}"),
    log:  # not an output: Snakemake would delete the one that failed
        EXECUTED / "{notebook}.ipynb",
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        data=lambda wildcards: DATA[wildcards.data],
        seed=lambda wildcards: wildcards.seed,
    shell:
        PAPERMILL


rule results:  # once for all seeds
    input:
        SOURCES,
        lambda wildcards: expand(
            DONE / "{run}", data=wildcards.data, preset=wildcards.preset, seed=SEEDS, run=TRAININGS
        ),
        notebook="notebooks/12_results.ipynb",
    output:
        touch(RESULTS_DONE),
        [  # update: those of the last time stay if this one fails
            report(update(RESULTS / file), category="{data}, {preset}", labels={"result": file})
            for file in ("table_II.csv", "table_III.csv", "claims.csv", "scores.csv")
            + ("claim_margins.png", "confusion.png", "figure_4.png", "iou_by_class.png")
        ],
    log:
        RESULTS / "12_results.ipynb",
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        data=lambda wildcards: DATA[wildcards.data],
        seed=SEEDS[0],
    shell:
        PAPERMILL
