"""Rows of the report, interleaved timing, and the peak of the memory that tensors take."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Row:
    """One figure: its value, and the goal it has to keep if there is one."""

    name: str
    value: float
    unit: str = ""
    goal: float | None = None
    want: Literal["at most", "at least"] = "at most"
    skipped: str = ""  # why there is no value

    def outcome(self) -> str:
        """`yes`, `no`, or nothing where no goal was set or nothing was measured."""
        if self.goal is None or self.skipped:
            return ""
        holds = self.value <= self.goal if self.want == "at most" else self.value >= self.goal
        return "yes" if holds else "no"

    def cells(self) -> list[str]:
        """Figure, value, goal and outcome, as the table shows them."""
        value = f"not measured: {self.skipped}" if self.skipped else f"{self.value:.3g} {self.unit}"
        goal = "" if self.goal is None else f"{self.want} {self.goal:g} {self.unit}"
        return [self.name, value.strip(), goal.strip(), self.outcome()]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [["figure", "value", "goal", "holds"], ["---"] * 4, *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def device() -> torch.device:
    """The device on which the kit would train."""
    return Fabric(devices=1).device


def now() -> float:
    """The time in seconds, once the device has finished what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = now()
    work()
    return now() - started


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each work, called in turn (A B A B ...) after one call to warm up.

    A machine that slows down for a while slows both sides of a ratio.
    """
    for work in works.values():
        work()
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: statistics.median(time[name] for time in times) for name in works}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """That many threads for the operations of torch, and the former number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(work: Callable[[], object]) -> int:
    """Most bytes that tensors made in a call take at one time, on the device of training."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))
