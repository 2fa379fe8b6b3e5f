"""Where the kit's files lie, how one is written to the disk, and how a run is set aside."""

import os
import uuid
from importlib import resources
from pathlib import Path

HOME_SETTING = "CILKIT_HOME"  # environment variable: the folder of data/ instead of the usual one
RESOURCES = resources.files("cilkit.resources")  # split files and published tables
ABOVE = Path(__file__).resolve().parent.parent
IS_CLONE = (ABOVE / "notebooks" / "00_start_here.ipynb").is_file()  # or an installed package
GUIDE = "data/README.md" if IS_CLONE else "data/README.md in the repository of cilkit"


def _project_folder() -> Path:
    """What CILKIT_HOME names; else the clone that this package lies in, or the current folder.

    A ValueError if CILKIT_HOME names a file.
    """
    if setting := os.environ.get(HOME_SETTING):
        folder = Path(setting).expanduser().resolve()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{HOME_SETTING} is {setting!r}, which is a file; wanted a folder")
        return folder
    return ABOVE if IS_CLONE else Path.cwd()


ROOT = _project_folder()  # the project folder: data, runs and cache lie in its data/


def resolve(path: Path | str) -> Path:
    """A path as the kit reads it: relative ones start at the project folder, not where you are."""
    return (ROOT / Path(path).expanduser()).resolve()


def write(file: Path, content: bytes) -> None:
    """Write a file and flush it to the disk before returning; an OSError says what to do."""
    try:
        with file.open("wb") as unfinished:
            unfinished.write(content)
            unfinished.flush()
            os.fsync(unfinished.fileno())
    except OSError as error:
        raise OSError(
            f"{file} could not be written ({error}). Make room on the disk, or choose RUNS where "
            "you may write; then run this again: what was finished is kept"
        ) from error


def write_atomic(file: Path, content: bytes) -> None:
    """Write a file beside its place and rename it: it is there whole, or as it was before."""
    unfinished = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def set_aside(folder: Path) -> Path:
    """Move a run to `superseded/` beside it, where nothing reads it but nothing is lost."""
    number = 1
    while (target := folder.parent / "superseded" / f"{folder.name}-{number}").exists():
        number += 1
    target.parent.mkdir(exist_ok=True)
    return folder.rename(target)
