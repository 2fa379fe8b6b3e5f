"""`python -m benchmarks [figure ...]` prints what was measured as a Markdown table."""

import argparse
import os
import platform
import sys
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.data import epoch, reading
from benchmarks.explorers import explorers
from benchmarks.growth import curves
from benchmarks.memory import memory
from benchmarks.scoring import evaluation
from benchmarks.start import imports
from benchmarks.steps import losses, step
from benchmarks.timing import device, table

FIGURES = {
    work.__name__: work
    for work in (step, losses, epoch, reading, evaluation, imports, explorers, curves, memory)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="figure", help=", ".join(FIGURES))
    parser.add_argument("--threads", type=int, default=2, help="of torch on a CPU (2)")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.figures if name not in FIGURES]:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(FIGURES)}")
    torch.set_num_threads(chosen.threads)
    rows = []
    for name in chosen.figures or FIGURES:
        started = perf_counter()
        rows += FIGURES[name]()
        print(f"{name}: {perf_counter() - started:.0f} s", file=sys.stderr)
    print(f"\n{machine()}\n\n{table(rows)}")


def machine() -> str:
    """Processor, threads, versions, and whether glibc keeps freed memory, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    kept = [f"{name}={value}" for name, value in sorted(os.environ.items()) if "MALLOC_" in name]
    return (
        f"{device().type}, {processor}, {torch.get_num_threads()} threads, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{' '.join(kept) or 'MALLOC_* not set: see the Makefile'}"
    )


if __name__ == "__main__":
    main()
