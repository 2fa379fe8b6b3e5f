"""The runs of a pack put into place, so that nothing is trained again.

    python -m cilkit.study.unpack FILE=pack_toyscapes_quick_seed0.zip

Before anything is put there, all of it is unpacked beside and checked: every checksum, the code,
the data, and that `Study.run` would load each run. What is there already is never overwritten.
"""

import json
import os
import re
import shutil
import stat
import struct
import sys
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from cilkit.checks import check_path, nearest
from cilkit.data.scenes import open_data
from cilkit.files import GUIDE, ROOT, resolve, write
from cilkit.study.pack import CONTENTS, FORMAT, is_safe
from cilkit.study.parameters import parse
from cilkit.study.provenance import code_version
from cilkit.study.runs import FILES, checksum, load
from cilkit.study.study import Study, check_folder
from cilkit.training.config import get_config

OPTIONS = ("FILE", "DATA", "RUNS")
# what reading a damaged zip file may raise
DAMAGE = (BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError)
DAMAGE += (struct.error, zlib.error)
RUN_FILE = re.compile(rf"runs/(seed(?:0|[1-9]\d*)/\w+)/({'|'.join(map(re.escape, FILES))})")


def unpack(
    file: Path | str, data: Path | str | None = None, runs: Path | str = "data/runs"
) -> list[Path]:
    """Put the runs of a pack into the folder `runs`, and return the folders that are new there.

    `data` is the folder of the data set that they were trained on; None: that of the kit's own
    scenes, or data/<name> for data that travel in the pack, which are put there if it is free.
    Equal runs stay as they are. Raises ValueError, before anything is put into place, for a pack
    that is damaged, or of other code or data, and for a run that is there and differs.
    """
    check_path("FILE", file)
    check_path("RUNS", runs)
    with _opened(resolve(file)) as pack:
        _check_code(pack)
        folder = resolve(runs) / pack.name / pack.preset
        check_folder(runs, folder)
        there = _runs_there(pack, folder)
        root, brought = _data_folder(pack, data)
        with _beside(resolve(runs)) as new, _beside(root.parent if brought else new) as images:
            _extract(pack, new, images / root.name if brought else None)
            _check_runs(pack, images / root.name if brought else root, new, brought)
            if brought:
                _put(images / root.name, root)
            places = [place for place in pack.runs if place not in there]
            for place in places:
                _put(new / pack.name / pack.preset / place, folder / place)
        _stamp(pack, folder, places)
    return [folder / place for place in places]


# what a pack says, and whether it can be trusted


@dataclass(frozen=True)
class Pack:
    """An opened pack, its names checked: what it says of itself, and its other entries."""

    file: Path
    archive: ZipFile
    about: dict
    entries: dict[str, ZipInfo]

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.about["data"]["name"]

    @property
    def preset(self) -> str:
        return self.about["preset"]

    @property
    def usual_data(self) -> str:
        """DATA where nothing else is said, and the data are the kit's own or travel."""
        return "toyscapes" if self.name == "toyscapes" else f"data/{self.name}"

    @property
    def runs(self) -> list[str]:
        """Its runs, such as "seed0/CIL_T2"."""
        found = (RUN_FILE.fullmatch(name) for name in self.entries)
        return list(dict.fromkeys(match[1] for match in found if match))

    def read(self, name: str) -> bytes:
        """An entry as it was packed; a ValueError if it is damaged."""
        content = _content(self.file, self.archive, name)
        if checksum(content) != self.checksum(name):
            raise _damaged(self.file, f"{name} has another checksum")
        return content

    def checksum(self, name: str) -> str:
        return self.about["files"][name]["sha256"]


@contextmanager
def _opened(file: Path) -> Iterator[Pack]:
    """A pack to read from; a FileNotFoundError or a ValueError says why it cannot be."""
    if not file.is_file():
        near = [other.name for other in file.parent.glob("*.zip")] if file.parent.is_dir() else []
        raise FileNotFoundError(
            f"no pack {file}{nearest(file.name, near)}; FILE names the file that was handed out. A "
            f"relative path starts at {ROOT}"
        )
    try:
        archive = ZipFile(file)
    except DAMAGE as error:
        raise _damaged(file, error) from error
    with archive:
        yield _checked(file, archive)


def _checked(file: Path, archive: ZipFile) -> Pack:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if CONTENTS not in names:
        raise _damaged(file, f"it has no {CONTENTS}")
    if len({name.casefold() for name in names}) < len(names):
        raise _damaged(file, "two of its names are equal")
    if links := [e.filename for e in entries if stat.S_IFMT(e.external_attr >> 16) & ~stat.S_IFREG]:
        raise _damaged(file, f"{links[0]!r} is no plain file")
    about = _about(file, archive)
    found = {entry.filename: entry for entry in entries if entry.filename != CONTENTS}
    listed = {name: entry["bytes"] for name, entry in about["files"].items()}
    sizes = {name: entry.file_size for name, entry in found.items()}
    if wrong := {*listed.items()} ^ {*sizes.items()}:
        raise _damaged(file, f"{min(wrong)[0]!r} is not as {CONTENTS} lists it")
    pack = Pack(file, archive, about, found)
    wanted = {f"runs/{place}/{name}" for place in pack.runs for name in FILES}
    images = {name for name in found if name.startswith("images/") and is_safe(name)}
    if wrong := {*found} ^ (wanted | images):
        raise _damaged(file, f"{min(wrong)!r} is no file of a run or of a data set, or is missing")
    return pack


def _about(file: Path, archive: ZipFile) -> dict:
    """What a pack says of itself, in the form that this kit knows."""
    try:
        about = json.loads(_content(file, archive, CONTENTS))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    match about:
        case {
            "format": int(form),
            "cilkit": str(),
            "code": str(),
            "preset": str(),
            "data": {"name": str(name), "files": str(), "in_this_file": bool()},
            "files": dict(files),
        } if (
            form == FORMAT
            and is_safe(name)
            and "/" not in name
            and all(
                isinstance(entry, dict)
                and isinstance(entry.get("bytes"), int)
                and isinstance(entry.get("sha256"), str)
                for entry in files.values()
            )
        ):
            return about
        case {"format": int(form)} if form > FORMAT:
            raise ValueError(
                f"{file} has format {form}, and this kit reads {FORMAT}; get a newer kit, or ask "
                "for a pack that was made with this one"
            )
    raise _damaged(file, f"its {CONTENTS} is not as the kit writes it")


def _content(file: Path, archive: ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except DAMAGE as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, why: object) -> ValueError:
    return ValueError(
        f"{file} is damaged, or no pack ({why}). Nothing was put into place. Get the file again, "
        "or make one: python -m cilkit.study.pack"
    )


# whether it fits what is here


def _check_code(pack: Pack) -> None:
    theirs, here = pack.about["code"], code_version(None)["shared"]
    if theirs != here:
        raise ValueError(
            f"the runs of {pack.file} were trained with other code (cilkit "
            f"{pack.about['cilkit']}, code {theirs}; here {here}), so they would be trained again "
            "here. Unpack it in the version of the kit that it was made with, or ask for a new pack"
        )
    get_config(pack.preset)  # a ValueError if there is none


def _runs_there(pack: Pack, folder: Path) -> set[str]:
    """The runs of a pack that are there already; a ValueError if one differs."""
    there, differ = set(), []
    for place in pack.runs:
        if not os.path.lexists(folder / place):
            continue
        others = [
            name
            for name in FILES
            if _checksum(folder / place / name) != pack.checksum(f"runs/{place}/{name}")
        ]
        there.add(place)
        differ += [f"{place} ({', '.join(others)})"] if others else []
    if differ:
        raise ValueError(
            f"{folder} holds runs that differ from those of {pack.file} in the files in brackets: "
            f"{'; '.join(differ)}. Nothing was put into place. Choose another RUNS, or move these "
            "runs away"
        )
    return there


def _checksum(file: Path) -> str | None:
    try:
        return checksum(file.read_bytes())
    except OSError:
        return None


def _data_folder(pack: Pack, data: Path | str | None) -> tuple[Path, bool]:
    """Where the data set of a pack lies, and whether the pack brings it there."""
    travels = pack.about["data"]["in_this_file"]
    if data is None and pack.usual_data != "toyscapes" and not travels:
        raise ValueError(
            f"the runs of {pack.file} were trained on {pack.name!r}, which is not in it; give the "
            f"folder of your copy: DATA=path/to/{pack.name}"
        )
    data = pack.usual_data if data is None else data
    check_path("DATA", data)
    root = ROOT / "data" / data if data == "toyscapes" else resolve(data)
    if root.name.lower() != pack.name:
        raise ValueError(
            f"DATA is {str(data)!r}, and the runs of {pack.file} were trained on {pack.name!r}; "
            "give a folder of this name: it is a part of where notebooks look for runs"
        )
    if travels and not (root.is_dir() and any(root.iterdir())):
        return root, True
    return open_data(data).root, False


def _check_runs(pack: Pack, root: Path, folder: Path, brought: bool) -> None:
    """A ValueError if the unpacked runs were not loaded here, but trained again."""
    wrong = []
    for seed in sorted({place.partition("/")[0] for place in pack.runs}):
        study = Study(root, folder, pack.preset, int(seed.removeprefix("seed")))
        if study.data.fingerprint() != pack.about["data"]["files"]:
            raise ValueError(_other_data(pack, root, brought))
        differ = {f"{seed}/{name}": fields for name, fields in study.mismatches().items()}
        wrong += [f"{place} ({', '.join(fields)})" for place, fields in differ.items() if fields]
        if lost := [p for p in pack.runs if p.startswith(f"{seed}/") and p not in differ]:
            raise _damaged(pack.file, f"{lost[0]} has not the name of a run")
    if wrong:
        raise ValueError(
            f"some runs of {pack.file} are not what this kit trains, so they would be trained "
            f"again here; they differ in what stands in brackets: {'; '.join(wrong)}. Nothing was "
            "put into place. Unpack it in the version of the kit that it was made with, or ask "
            "for a new pack"
        )


def _other_data(pack: Pack, root: Path, brought: bool) -> str:
    if brought:
        return f"{pack.file} has other data in it than its runs were trained on; ask for a new pack"
    said = f"{root} holds other data than the runs of {pack.file} were trained on. "
    if pack.about["data"]["in_this_file"]:
        return said + "Move it away and unpack again: the right data are in the pack"
    if pack.name == "toyscapes":
        said += "Other versions of Pillow or numpy, or other processors, may draw other pixels. "
    return said + "Ask for a pack with the data in it (IMAGES=yes), or give their folder in DATA"


# into place


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A hidden folder in a folder, gone at the end."""
    hidden = folder / f".unpack-{uuid.uuid4().hex[:8]}"
    try:
        hidden.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"nothing can be written to {folder} ({error}); choose RUNS and DATA where it can"
        ) from error
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _extract(pack: Pack, folder: Path, images: Path | None) -> None:
    """Write all runs, as a folder RUNS would hold them, and the data if they are wanted."""
    for name in tqdm(pack.entries, "unpack", unit="file", leave=False, delay=2):
        kind, _, rest = name.partition("/")
        target = folder / pack.name / pack.preset / rest
        if kind == "images":
            if images is None:
                continue
            target = images / rest
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, pack.read(name))


def _put(folder: Path, target: Path) -> None:
    """Rename a folder into its place, which is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    try:
        folder.rename(target)
    except OSError as error:
        raise OSError(
            f"{target} could not be put into place ({error}); what was, is whole. If something "
            "else was made there meanwhile, move it away; then unpack again"
        ) from error


def _stamp(pack: Pack, folder: Path, new: list[str]) -> None:
    """Tell the graph of `make study` that these trainings are done, and that the data are there."""
    now = time.time()
    stamps = {folder.parent / "done" / "data": False}
    for place in pack.runs:
        seed, _, name = place.partition("/")
        stamps[folder / seed / "done" / name] = place in new
    for stamp, is_new in stamps.items():
        if is_new or not stamp.exists():
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
            os.utime(stamp, (now, now))  # all the same: none is older than what it waits for


def main(*given: str) -> None:
    """Unpack a file: `python -m cilkit.study.unpack FILE=... [DATA=... RUNS=...]`."""
    typed = parse(given, OPTIONS)
    if "FILE" not in typed:
        raise ValueError("no pack is given; wanted FILE=path/to/pack.zip")
    new = unpack(**{name.lower(): value for name, value in typed.items()})
    with _opened(resolve(typed["FILE"])) as pack:
        seeds = dict.fromkeys(place.partition("/")[0].removeprefix("seed") for place in pack.runs)
        asked = {"DATA": pack.usual_data} | typed | {"PRESET": pack.preset}
        asked["SEED"] = " or ".join(seeds)
    print(f"{len(new)} runs put into place, {len(pack.runs) - len(new)} were there")
    if any(load(folder).rounded for folder in new):
        print(f"their weights are rounded; {GUIDE} says what that means")
    shown = ", ".join(f"{name} = {value}" for name, value in asked.items() if name != "FILE")
    print(f"notebooks and make study find them with {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
