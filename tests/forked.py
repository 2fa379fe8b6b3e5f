"""Snakemake in a process of its own that need not import it, nor torch, again.

Where the system can, it is forked from a server that has imported both; that takes a third of the
time of `python -m snakemake`. The kit itself is imported from the project that is tested.
"""

import multiprocessing
import os
import sys
from pathlib import Path

HEAVY = ["torch", "torchvision.transforms.v2", "lightning_fabric", "pandas", "snakemake.cli"]
SERVED = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if SERVED else "spawn")
if SERVED:
    PROCESSES.set_forkserver_preload(HEAVY)


def snakemake(project: Path, words: list[str], said: Path) -> int:
    """Call Snakemake in a project; the exit status. All that it says goes to a file."""
    process = PROCESSES.Process(target=_work, args=(project, words, said))
    process.start()
    process.join()
    return process.exitcode


def _work(project: Path, words: list[str], said: Path) -> None:
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(project)
    os.environ["PYTHONPATH"] = str(project)  # for the jobs, which are processes
    sys.path.insert(0, str(project))
    from snakemake.cli import main

    main(words)
