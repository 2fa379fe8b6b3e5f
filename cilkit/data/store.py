"""Decoded images kept on disk: a file each, made again when its source changes, deleted at will."""

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from uuid import uuid4

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from cilkit.files import ROOT
from cilkit.limits import usable_cores

SETTING = "CILKIT_CACHE"  # environment variable: "off", or a folder for the cache
MIN_FREE_BYTES = 2**29  # bytes of the disk that stay free


def cache_folder() -> Path | None:
    """Where decoded images lie, data/cache/ unless CILKIT_CACHE names another; None for "off"."""
    setting = os.environ.get(SETTING) or "data/cache"
    return None if setting == "off" else ROOT / Path(setting).expanduser()


def read(entry: Path, stamp: Mapping[str, str]) -> dict[str, Tensor] | None:
    """The tensors of an entry, memory-mapped; None if it is missing, damaged or stale."""
    try:
        with safe_open(entry, "pt") as file:
            if file.metadata() == stamp:
                return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError):
        pass
    return None


def fill(
    folder: Path,
    wanted: Mapping[Path, Mapping[str, str]],
    make: Callable[[Path], dict[str, Tensor]],
    size: int,
) -> None:
    """Make the entries that are missing or stale, about `size` bytes each, with a bar.

    Says first how much room that takes. Finished entries stay, so a stopped fill goes on where it
    was; of several processes one works and the others wait. Where there is too little room, or
    nothing can be written, a line says so and the images stay uncached. Errors of `make` are
    raised.
    """
    if all(map(_is_valid, wanted, wanted.values())):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # freed by the system if we crash
            for unfinished in folder.glob(".*.part"):
                unfinished.unlink()
            todo = [entry for entry in wanted if not _is_valid(entry, wanted[entry])]
            if todo and _has_room(folder, len(todo) * size):
                _write_all(todo, wanted, make)
    except (OSError, NotImplementedError) as error:  # the latter: filelock, of a disk without locks
        print(
            f"Cache: cannot write to {folder} ({error}); images are decoded each time. Set "
            f"{SETTING} to another folder, or to off"
        )


def _is_valid(entry: Path, stamp: Mapping[str, str]) -> bool:
    return read(entry, stamp) is not None


def _has_room(folder: Path, need: int) -> bool:
    free = shutil.disk_usage(folder).free
    sizes = f"Cache: {need / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB are free."
    if need + MIN_FREE_BYTES > free:
        print(
            f"{sizes} That is too little, so images are decoded each time. Make room, or set "
            f"{SETTING} to another folder"
        )
        return False
    print(f"{sizes} {SETTING}=off leaves it out; it may be deleted at any time.")
    return True


def _write_all(
    todo: list[Path],
    wanted: Mapping[Path, Mapping[str, str]],
    make: Callable[[Path], dict[str, Tensor]],
) -> None:
    def write(entry: Path) -> None:
        unfinished = entry.with_name(f".{entry.name}-{uuid4().hex[:8]}.part")
        try:
            unfinished.write_bytes(save(make(entry), metadata=dict(wanted[entry])))
            unfinished.replace(entry)  # it is there whole or not at all
        finally:
            unfinished.unlink(missing_ok=True)

    pool = ThreadPoolExecutor(usable_cores())  # decoding leaves the interpreter free
    try:
        jobs = [pool.submit(write, entry) for entry in todo]
        for job in tqdm(as_completed(jobs), "cache", len(jobs), unit="image", mininterval=1):
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
