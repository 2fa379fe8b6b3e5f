"""What the system allows this process of its cores and memory; a container has less than its host.

Control groups (cgroups) set the limits of containers and of jobs on a cluster, in one of two
versions: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/index.html beside it.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # on Linux


def usable_cores() -> int:
    """How many processor cores this process may keep busy, at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    for folder in _cgroups("cpu"):
        quota, period = _numbers(folder / "cpu.max", 2)  # microseconds
        if quota == math.inf:
            (quota,), (period,) = (
                _numbers(folder / f"cpu.cfs_{name}_us", 1) for name in ("quota", "period")
            )
        if 0 < quota < math.inf:  # -1: no limit
            cores = min(cores, round(quota / period))
    return max(1, cores)


def free_memory() -> float:
    """Bytes of memory that this process can still have."""
    free = psutil.virtual_memory().available
    for folder in _cgroups("memory"):
        for limit, used, files in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            (most,), (taken,) = _numbers(folder / limit, 1), _numbers(folder / used, 1)
            if max(most, taken) < math.inf:
                lines = (folder / "memory.stat").read_text().splitlines()
                cached = dict(line.split() for line in lines).get(files, 0)  # given back if needed
                free = min(free, max(0, most - taken + int(cached)))
    return free


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, from its own upwards."""
    if not OWN_CGROUPS.is_file():
        return
    for line in OWN_CGROUPS.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = CGROUPS / controller if controllers else CGROUPS  # version 1, version 2
            folder = top / own.lstrip("/")
            yield from (
                f for f in (folder, *folder.parents) if f.is_dir() and f.is_relative_to(top)
            )


def _numbers(file: Path, count: int) -> list[float]:
    """The numbers in a file; infinity for "max", and if there is no such file."""
    words = file.read_text().split() if file.is_file() else ["max"] * count
    return [math.inf if word == "max" else float(word) for word in words]
