"""What lies on a disk, and a disk that is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cilkit.files import ROOT


def listing(*folders: Path) -> dict[str, object]:
    """All files with their sizes and contents, links with their targets; locks do not count."""
    found: dict[str, object] = {}
    for folder in folders:
        for parent, names, files in os.walk(folder):
            for path in (Path(parent, name) for name in [*files, *names]):
                if path.is_symlink():
                    found[str(path)] = os.readlink(path)
                elif path.is_file() and path.suffix != ".lock":
                    small = not path.is_relative_to(ROOT)
                    found[str(path)] = path.open("rb").read() if small else path.stat()[6:9]
    return found


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Every file is cut off after so many bytes, by the system itself."""
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
