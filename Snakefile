"""The notebooks as a graph: T1 -> the methods -> the tables, for one data set, preset and seed.

A job is done when its stamp is there; the trainings themselves are kept by cilkit.runs, so a
notebook that is executed again loads every run that still matches.
"""

import sys
from pathlib import Path

from cilkit.classes import unknown
from cilkit.config import get_config
from cilkit.datasets import resolve
from cilkit.parameters import PARAMETERS, check_seed

for key in config:
    if key not in PARAMETERS:
        raise ValueError(unknown("parameter", key, list(PARAMETERS)))
DATA = str(config.get("DATA", "toyscapes"))
RUNS = str(config.get("RUNS", "data/runs"))
PRESET, SEED = config.get("PRESET", "quick"), config.get("SEED", 0)
get_config(PRESET)
check_seed(SEED)

FOLDER = resolve(RUNS) / resolve(DATA).name.lower() / PRESET / f"seed{SEED}"
DONE, EXECUTED = FOLDER / "done", FOLDER / "notebooks"
SOURCES = sorted(map(str, [*Path("cilkit").rglob("*.py"), *Path("data/splits").glob("*.toml")]))
THREADS = max(1, workflow.cores // 2)  # two trainings side by side use two cores best
STUDY = f"{DATA!r}, {RUNS!r}, {PRESET!r}, {SEED}"

TRAININGS = {  # job: what it asks of the study, urgent and long ones first; T3 brings T2 with it
    "T1": "run('T1')",
    "LWM_teacher_T2": "new_teacher('T2')",
    "LWM_teacher_T3": "new_teacher('T3')",
    "LWM": "run('T3', 'LWM')",
    "SS_T3": "run('T3')",
    "CIL": "run('T3', 'CIL')",
    "CIL_wo_weights": "run('T3', 'CIL (w/o weights)')",
    "Michieli": "run('T3', 'Michieli')",
    "LWOF": "run('T3', 'LWOF')",
    "FT": "run('T3', 'FT')",
    "SS_T2": "run('T2')",
    "FE": "run('T3', 'FE')",
}
AFTER = dict.fromkeys(["T1", "LWM_teacher_T2", "LWM_teacher_T3", "SS_T2", "SS_T3"], ["data"])
AFTER["LWM"] = ["T1", "LWM_teacher_T2", "LWM_teacher_T3"]  # all others wait for T1 alone
SINGLE, MODEL_BASED = ["SS_T2", "SS_T3"], ["FT", "FE"]
BEFORE = {  # notebook: the jobs whose runs it looks at
    "00_start_here": ["data"],
    "01_split_cityscapes": ["data"],
    "02_erfnet": ["T1"],
    "03_losses": ["data"],
    "04_metrics": ["T1"],
    "05_train_t1": ["T1", *SINGLE],
    "06_ft_fe": MODEL_BASED,
    "07_lwof": SINGLE + MODEL_BASED + ["LWOF"],
    "08_lwm": SINGLE + MODEL_BASED + ["LWOF", "LWM"],
    "09_michieli": SINGLE + MODEL_BASED + ["LWOF", "LWM", "Michieli"],
    "10_cil": list(TRAININGS),
    "11_entropy_weights": ["T1", "LWOF", "CIL", "CIL_wo_weights"],
    "12_results": list(TRAININGS),
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


for number, (job, call) in enumerate(TRAININGS.items()):

    rule:
        name:
            f"train_{job}"
        input:
            SOURCES,
            [DONE / earlier for earlier in AFTER.get(job, ["T1"])],
        output:
            touch(DONE / job),
        priority: len(TRAININGS) - number
        threads: THREADS
        params:
            code=f"from cilkit import Study; Study({STUDY}).{call}",
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
