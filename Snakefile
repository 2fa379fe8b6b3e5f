"""A study as a graph: data x preset x seed x method x stage, then the notebooks, then the tables.

    make study SEEDS=0,1,2 DATA=toyscapes,path/to/camvid METHODS=CIL,LWOF

A job is done when its stamp is there; the trainings themselves are kept by cilkit.study.runs, so a
job that is done again loads every run that still matches. What was asked for is read by
cilkit.study.batch, and what a job says by cilkit.study.job. Where the jobs run is not said here
but in a profile (data/profiles/README.md).
"""

import os
import re
import shlex
import sys
from itertools import product
from pathlib import Path

from snakemake.logging import logger
from snakemake.utils import available_cpu_count

from cilkit.checks import unknown
from cilkit.files import resolve
from cilkit.methods import FIRST_STAGE, LATER_METHODS, METHODS, SS
from cilkit.methods import CIL, CIL_UNWEIGHTED, FE, FT, LWM, LWOF, MICHIELI
from cilkit.study.batch import read
from cilkit.study.job import say, short_path
from cilkit.study.progress import Job, Progress, effort
from cilkit.training.config import get_config

BATCH = read(config)  # all that was asked for is checked here, before the first job

# what glibc frees it keeps for the next batch, in every process that a job starts
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1000000000")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "2000000000")

# the jobs

STUDY = resolve(BATCH.runs) / "{data}" / "{preset}"
RESULTS, OF_SEED = STUDY / "results", STUDY / "seed{seed}"
DATA_DONE, RESULTS_DONE, DONE = STUDY.parent / "done" / "data", RESULTS / "done", OF_SEED / "done"
LOGS, EXECUTED = OF_SEED / "logs", OF_SEED / "notebooks"
DATA_LOG, RESULTS_LOG = STUDY.parent / "logs" / "data.txt", STUDY / "logs" / "12_results.txt"
SOURCES = sorted(map(str, [*Path("cilkit").rglob("*.py"), *Path("cilkit/resources").rglob("*.*")]))
THREADS = max(1, available_cpu_count() // 2)  # two trainings side by side use two cores best

LATER = [method for method in LATER_METHODS.values() if method in BATCH.methods]  # 13 trains none
UP_TO_LWOF = [FIRST_STAGE, SS, FT, FE, LWOF]
SHOWN = {  # notebook: whose runs it looks at; it would train those that are missing
    "00_start_here": [FIRST_STAGE],
    "01_split_cityscapes": [],
    "02_erfnet": [FIRST_STAGE],
    "03_losses": [],
    "04_metrics": [FIRST_STAGE],
    "05_train_t1": [FIRST_STAGE, SS],
    "06_ft_fe": [FIRST_STAGE, FT, FE],
    "07_lwof": UP_TO_LWOF,
    "08_lwm": [*UP_TO_LWOF, LWM],
    "09_michieli": [*UP_TO_LWOF, LWM, MICHIELI],
    "10_cil": [FIRST_STAGE, SS, *METHODS.values()],
    "11_entropy_weights": [FIRST_STAGE, LWOF, CIL_UNWEIGHTED, CIL],
    "13_after_the_paper": [FIRST_STAGE, MICHIELI, CIL, *LATER],
}
SECOND_STAGE = ["06_ft_fe", "07_lwof", "08_lwm", "09_michieli"]  # they look at no later one
TRAINED = [FIRST_STAGE, *BATCH.methods]
NOTEBOOKS = [name for name, shown in SHOWN.items() if all(one in TRAINED for one in shown)]
LEFT_OUT = [name for name in SHOWN if name not in NOTEBOOKS]
EVERY = {"data": BATCH.data, "preset": BATCH.presets, "seed": BATCH.seeds}

# what a job asks of a cluster. There Snakemake itself takes 0.9 GB of it, the process of a quick
# training 1.1; not measured for the long presets: CUDA, and four processes that decode
MEMORY = {"smoke": 4000, "quick": 4000}  # MB, by preset
MINUTES = {"smoke": 15, "quick": 60}
JOB = "{sys.executable:q} -m cilkit.study.job {params.job:q} {log[0]:q} {output:q} "
PAPERMILL = JOB + (
    "-m papermill {input.notebook} {log.executed:q} --kernel python3 --cwd notebooks "
    "--no-progress-bar -r DATA {params.data:q} -r RUNS {BATCH.runs:q} -r PRESET {wildcards.preset} "
    "-p SEED {params.seed}"
)


def study(wildcards):
    """Which data set, preset and seed a job is for."""
    return {name: wildcards[name] for name in EVERY}


def planned(wildcards):
    """The run that a job trains; a ValueError if the split of its data asks for no such run."""
    data, run, runs = wildcards["data"], wildcards["run"], BATCH.plans[wildcards["data"]]
    if run not in runs:
        raise ValueError(unknown(f"run of {data}", run, list(runs)))
    return runs[run]


def typed(method):
    """A method as `python -m cilkit.study` takes it: in the first stage all are the same."""
    return SS.name if method == FIRST_STAGE else method.name


def needed(wildcards):
    """The stamps of the runs that a training is made from."""
    runs = planned(wildcards).needs
    return expand(DONE / "{run}", run=[run.name for run in runs], **study(wildcards))


def shown_in(notebook, plan):
    """The runs of a plan that a notebook shows."""
    runs = [run for run in plan.values() if run.method in SHOWN[notebook]]
    return [run for run in runs if notebook not in SECOND_STAGE or run.stage.number <= 2]


def looked_at(wildcards):
    """The stamps of the runs that a notebook shows."""
    runs = shown_in(wildcards["notebook"], BATCH.plans[wildcards["data"]])
    return expand(DONE / "{run}", run=[run.name for run in runs], **study(wildcards))


def trained(wildcards):
    """The stamps of all runs of a data set and preset."""
    of_all = EVERY | {"data": wildcards["data"], "preset": wildcards["preset"]}
    return expand(DONE / "{run}", run=BATCH.plans[wildcards["data"]], **of_all)


def jobs_in_turn():
    """All jobs by their stamps, in the order in which they take their turn.

    The studies come as they were given. In each, T1 is trained first; a notebook is executed as
    soon as its runs are there; the other trainings go in the order in which notebooks show them.
    """
    jobs = {}

    def add(kind, stamp, file, job, needs, *work, **of):
        stamp, file = (str(path).format(**of) for path in (stamp, file))
        study = ", ".join(f"seed {value}" if key == "seed" else value for key, value in of.items())
        jobs[stamp] = Job(f"{job} ({study})", kind, Path(file), needs, *work)

    for data in BATCH.data:
        add("data", DATA_DONE, DATA_LOG, "data", [], data=data)
    for data, preset, seed in product(*EVERY.values()):
        of = {"data": data, "preset": preset, "seed": seed}
        drawn, plan = str(DATA_DONE).format(**of), BATCH.plans[data]
        first = [name for name, run in plan.items() if run.method == FIRST_STAGE]
        shown = [run for notebook in NOTEBOOKS for run in shown_in(notebook, plan)]
        trainings = [one.name for run in shown for one in (*run.needs, run)]
        for job in dict.fromkeys([*first, *NOTEBOOKS, *trainings, *plan]):
            this = of | {"run": job, "notebook": job}
            if job in NOTEBOOKS:
                needs = [drawn, *looked_at(this)]
                add("notebook", DONE / job, EXECUTED / f"{job}.ipynb", job, needs, **of)
            else:
                run, needs = planned(this), [drawn, *needed(this)]
                work = effort(run, get_config(preset)), f"{data}/{preset}"
                add("training", DONE / job, LOGS / f"{job}.txt", job, needs, *work, **of)
        if seed == BATCH.seeds[-1]:
            executed, needs = RESULTS / "12_results.ipynb", trained(of)
            add("notebook", RESULTS_DONE, executed, "12_results", needs, data=data, preset=preset)
    return jobs


JOBS = jobs_in_turn()


def name_of(wildcards, output):
    """What a job is called on the console."""
    return JOBS[output[0]].name


def turn(*stamp):
    """The priority of a job by its place in JOBS: of those that can begin, the first ones do."""
    places = {stamp: len(JOBS) - place for place, stamp in enumerate(JOBS)}
    return lambda wildcards: places[str(Path(*stamp)).format(**wildcards)]


def reported():
    """The tables and figures that are there now; which of them 12_results makes, the runs decide.

    As outputs of its job they would be deleted where it makes fewer of them than before.
    """
    found = []
    for data, preset in product(BATCH.data, BATCH.presets):
        folder, shown = Path(str(RESULTS).format(data=data, preset=preset)), f"{data}, {preset}"
        for file in sorted([*folder.glob("*.csv"), *folder.glob("*.png")]):
            found += [report(str(file), category=shown, labels={"result": file.name})]
    return found


def conclusion():
    """The commands of the last job: for each data set and preset what came out; what to open."""
    said = []
    for folder in map(Path, expand(STUDY, **EVERY)):
        tables = f"{shlex.quote(sys.executable)} -m cilkit.results {shlex.quote(str(folder))}"
        said += [f"echo {shlex.quote(line)}" for line in ("", short_path(folder))] + [tables]
    if LEFT_OUT:
        said.append(f"echo 'left out, as they show other methods too: {' '.join(LEFT_OUT)}'")
    files = EXECUTED / "00_start_here.ipynb", RESULTS / "12_results.ipynb"
    first = [short_path(Path(expand(file, **EVERY)[0])) for file in files]
    opened = f"To open in JupyterLab (make lab): {' and '.join(first)}, and those beside them"
    return " && ".join([*said, f"echo {shlex.quote(opened)}"])


def unfinished():
    """What the jobs left that began and did not end: their logs, or executed notebooks."""
    left = [(DATA_LOG, DATA_DONE, EVERY), (RESULTS / "12_results.ipynb", RESULTS_DONE, EVERY)]
    left += [(EXECUTED / f"{name}.ipynb", DONE / name, EVERY) for name in NOTEBOOKS]
    for data, runs in BATCH.plans.items():
        left += [(LOGS / f"{run}.txt", DONE / run, EVERY | {"data": data}) for run in runs]
    return [
        file
        for log, stamp, of in left
        for file, done in zip(expand(log, **of), expand(stamp, **of), strict=True)
        if Path(file).exists() and not Path(done).exists()
    ]


onstart:
    logger.info("", extra={"progress": Progress(JOBS)})  # for cilkit.study.console
    say("\n".join(["The jobs write to logs/ and notebooks/ in:", *expand(OF_SEED, **EVERY)]))


onerror:
    if left := unfinished():
        said = "These jobs did not finish; the error stands at the end of the log or notebook:"
        say("\n".join([said, *left]))


localrules:
    all,
    data,


wildcard_constraints:
    data="|".join(map(re.escape, BATCH.data)),
    preset="|".join(BATCH.presets),
    seed="[0-9]+",
    run="|".join(dict.fromkeys(run for runs in BATCH.plans.values() for run in runs)),
    notebook="|".join(SHOWN),


rule all:
    default_target: True
    input:
        expand(DONE / "{notebook}", notebook=NOTEBOOKS, **EVERY),
        expand(RESULTS_DONE, **EVERY),
        reported(),
    params:
        commands=conclusion(),
    shell:
        "{params.commands}"


rule data:
    input:
        SOURCES,
    output:
        DATA_DONE,
    log:
        DATA_LOG,
    priority: turn(DATA_DONE)
    params:
        job=name_of,
        code=lambda wildcards: (
            "from cilkit.data.scenes import open_data; "
            f"open_data({BATCH.data[wildcards.data]!r})"
        ),
    shell:
        JOB + "-c {params.code:q}"


rule train:
    input:
        SOURCES,
        DATA_DONE,
        needed,
    output:
        DONE / "{run}",
    log:
        LOGS / "{run}.txt",
    priority: turn(DONE, "{run}")
    threads: THREADS
    resources:
        gpu=1,  # asked of a cluster; on this machine it limits nothing
        mem_mb=lambda wildcards: MEMORY.get(wildcards.preset, 16000),
        runtime=lambda wildcards: MINUTES.get(wildcards.preset, 1440),
    params:
        job=name_of,
        stage=lambda wildcards: planned(wildcards).stage.name,
        method=lambda wildcards: typed(planned(wildcards).method),
        data=lambda wildcards: BATCH.data[wildcards.data],
    shell:
        JOB + "-m cilkit.study {params.stage} {params.method:q} DATA={params.data:q} "
        "RUNS={BATCH.runs:q} PRESET={wildcards.preset} SEED={wildcards.seed}"


rule notebook:
    input:
        SOURCES,
        DATA_DONE,
        looked_at,
        notebook="notebooks/{notebook}.ipynb",
    output:
        DONE / "{notebook}",
    log:  # not an output: Snakemake would delete the one that failed
        text=LOGS / "{notebook}.txt",
        executed=EXECUTED / "{notebook}.ipynb",
    priority: turn(DONE, "{notebook}")
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        job=name_of,
        data=lambda wildcards: BATCH.data[wildcards.data],
        seed=lambda wildcards: wildcards.seed,
    shell:
        PAPERMILL


rule results:  # once for all seeds
    input:
        SOURCES,
        trained,
        notebook="notebooks/12_results.ipynb",
    output:
        RESULTS_DONE,
    log:
        text=RESULTS_LOG,
        executed=RESULTS / "12_results.ipynb",
    priority: turn(RESULTS_DONE)
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        job=name_of,
        data=lambda wildcards: BATCH.data[wildcards.data],
        seed=BATCH.seeds[0],
    shell:
        PAPERMILL
