"""Processes that need not import torch, the kit or Snakemake again: forked from a server that has.

Where the system cannot fork, they are started anew, and the tests take longer.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

SERVED = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if SERVED else "spawn")
if SERVED:
    PROCESSES.set_forkserver_preload(
        ["cilkit.study.study", "pytest", "snakemake.cli", "smart_open", "tests.known"]
    )


def call(function: Callable, *arguments: object) -> int:
    """Call a function of a module in such a process; its exit status, 1 after an error."""
    process = PROCESSES.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def snakemake(project: Path, arguments: list[str], said: Path) -> None:
    """Snakemake in a copy of the project, for `call`. What it says goes to a file."""
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(project)
    os.environ["PYTHONPATH"] = str(project)  # for the jobs, which are processes
    sys.path.insert(0, str(project))
    for module in [name for name in sys.modules if name.partition(".")[0] == "cilkit"]:
        del sys.modules[module]  # that of the copy counts
    from cilkit.study.batch import main

    main(arguments)
