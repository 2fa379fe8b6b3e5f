"""The notebooks as a graph: T1 -> the methods -> the tables, for one data set, preset and seed.

A job is done when its stamp is there; the trainings themselves are kept by cilkit.runs, so a
notebook that is executed again loads every run that still matches.
"""

import sys
from pathlib import Path

from cilkit.datasets import resolve

DATA = str(config.get("DATA", "toyscapes"))
RUNS = str(config.get("RUNS", "data/runs"))
PRESET = str(config.get("PRESET", "quick"))
SEED = int(config.get("SEED", 0))

FOLDER = resolve(RUNS) / resolve(DATA).name.lower() / PRESET / f"seed{SEED}"
DONE, EXECUTED = FOLDER / "done", FOLDER / "notebooks"
SOURCES = sorted(map(str, [*Path("cilkit").rglob("*.py"), *Path("data/splits").glob("*.toml")]))
THREADS = max(1, workflow.cores // 2)  # two trainings side by side use two cores best
STUDY = f"{DATA!r}, {RUNS!r}, {PRESET!r}, {SEED}"

TRAININGS = {  # job: stage and method; a method's run in T3 brings its run in T2 with it
    "T1": ("T1", "SS"),
    "SS_T2": ("T2", "SS"),
    "SS_T3": ("T3", "SS"),
    "FT": ("T3", "FT"),
    "CIL_wo_weights": ("T3", "CIL (w/o weights)"),
    "CIL": ("T3", "CIL"),
}
BEFORE = {  # notebook: the jobs whose runs it looks at
    "00_start_here": ["data"],
    "01_split_cityscapes": ["data"],
    "02_erfnet": ["T1"],
    "03_losses": ["data"],
    "04_metrics": ["T1"],
    "05_train_t1": ["SS_T2", "SS_T3"],
    "06_ft_fe": ["FT"],
    "10_cil": ["SS_T2", "SS_T3", "FT", "CIL_wo_weights", "CIL"],
    "12_results": ["05_train_t1", "06_ft_fe", "10_cil"],
}


rule all:
    default_target: True
    input:
        [DONE / name for name in BEFORE],
    params:
        folder=FOLDER,
        executed=EXECUTED,
    shell:
        "{sys.executable:q} -m cilkit.tables {params.folder:q} && "
        "echo 'executed notebooks: {params.executed}'"


rule data:
    input:
        SOURCES,
    output:
        touch(DONE / "data"),
    params:
        code=f"from cilkit.datasets import open_data; open_data({DATA!r})",
    shell:
        "{sys.executable:q} -c {params.code:q}"


for job, (stage, method) in TRAININGS.items():

    rule:
        name:
            f"train_{job}"
        input:
            SOURCES,
            DONE / ("data" if job == "T1" else "T1"),
        output:
            touch(DONE / job),
        priority: 2 if job == "T1" else 1
        threads: workflow.cores if job == "T1" else THREADS  # all others wait for T1
        params:
            code=f"from cilkit import Study; Study({STUDY}).run({stage!r}, {method!r})",
        shell:
            "{sys.executable:q} -c {params.code:q}"


for name, before in BEFORE.items():

    rule:
        name:
            f"notebook_{name}"
        input:
            SOURCES,
            [DONE / job for job in before],
            notebook=f"notebooks/{name}.ipynb",
        output:
            touch(DONE / name),
        log:  # not an output: Snakemake would delete the one that failed
            EXECUTED / f"{name}.ipynb",
        threads: THREADS
        params:
            strings=f"-r DATA {DATA!r} -r RUNS {RUNS!r} -r PRESET {PRESET!r}",
            seed=SEED,
        shell:
            "{sys.executable:q} -m papermill {input.notebook} {log:q} --kernel python3 "
            "--cwd notebooks --no-progress-bar {params.strings} -p SEED {params.seed}"
