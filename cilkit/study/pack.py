"""Finished runs in one file, to hand out: where it is unpacked, nothing is trained again.

    python -m cilkit.study.pack PRESET=quick SEEDS=0,1 SMALL=yes HALF=yes

`cilkit.study.unpack` puts them into place. A pack is a zip file whose entry `pack.json` says what
is in it, on what it was trained, and the checksum of each file.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from safetensors import torch as safetensors

from cilkit.checks import check_path
from cilkit.data.scenes import StreetScenes
from cilkit.files import resolve
from cilkit.study.parameters import PARAMETERS, parse, seeds_of, switch
from cilkit.study.plan import plan
from cilkit.study.provenance import code_version
from cilkit.study.runs import FILES, SUMS, WEIGHTS, Run, as_json, checksum, read, with_sums
from cilkit.study.study import Study
from cilkit.toyscapes.write import MARK

OPTIONS = (*PARAMETERS, "SEEDS", "FILE", "SMALL", "HALF", "IMAGES")
CONTENTS = "pack.json"  # the entry that says what is in a pack
FORMAT = 1  # of a pack; what an older kit could not read gets a higher one
HALF = "float16"
DRAWN_TRAVEL = 100e6  # bytes: scenes that the kit drew are packed up to this size
COMPRESSED = (".png", ".jpg", ".jpeg")


def pack(
    file: Path | str | None = None,
    data: Path | str = "toyscapes",
    runs: Path | str = "data/runs",
    preset: str = "quick",
    seeds: Sequence[int] = (0,),
    small: bool = False,
    half: bool = False,
    images: bool | None = None,
) -> Path:
    """Write all finished runs of some seeds into a file, and return its path.

    `small` takes the runs of Tables II and III alone, which notebooks 10 to 12 show; `half` rounds
    weights to float16 (see `rounded`); `images` takes the data along, None: only scenes that the
    kit drew. The same runs give the same bytes. Raises FileNotFoundError if there is no run, or
    one of the tables is missing, and ValueError for a run that `Study.run` would train again.
    """
    studies = [Study(data, runs, preset, seed) for seed in seeds]
    scenes = studies[0].data
    if images is None:
        images = (scenes.root / MARK).is_file() and _size(scenes.root) <= DRAWN_TRAVEL
    if file is None:
        marks = "_small" * small + "_half" * half
        file = f"data/pack_{scenes.name}_{preset}_seed{'-'.join(map(str, seeds))}{marks}.zip"
    check_path("FILE", file)
    file = resolve(file)
    _check_free(file)
    chosen = [run for study in studies for run in _chosen(study, small)]
    listed, weights = {}, {}
    with _archive(file) as archive:

        def add(name: str, content: bytes) -> None:
            _add(archive, name, content)
            listed[name] = {"bytes": len(content), "sha256": checksum(content)}

        for run in chosen:
            contents = rounded(run) if half else _contents(run)
            for name, content in contents.items():
                add(f"runs/{_place(run)}/{name}", content)
            weights[_place(run)] = json.loads(contents["config.json"]).get("rounded", {}).get("to")
        for image in _files(scenes.root) if images else []:
            add(_image_name(image, scenes.root), _image(image))
        about = {"data": _described(scenes, images), "preset": preset, "seeds": list(seeds)}
        about["trained_on"] = _once(run.config["environment"] for run in chosen)
        about["runs"] = {
            _place(run): {
                "method": run.config["method"],
                "stage": run.config["stage"],
                "code": run.config["code"],
                "weights": weights[_place(run)] or "as trained",
                "miou": run.scores["miou"],
            }
            for run in chosen
        }
        kit = {"format": FORMAT, "cilkit": version("cilkit"), "code": code_version(None)["shared"]}
        _add(archive, CONTENTS, as_json(kit | about | {"files": listed}))
    return file


def rounded(run: Run) -> dict[str, bytes]:
    """The files of a run, the kernels of its convolutions rounded to float16, half as large.

    Vectors (biases, and what batch norms have learned and counted, of which some are larger than a
    float16 can be) stay as they are, and so do the scores. The configuration records under
    "rounded" the type, and the digest of the weights before. Raises ValueError for a weight that is
    too large for a float16.
    """
    files = _contents(run)
    if run.rounded:
        return files
    state = safetensors.load(files[WEIGHTS])
    for name, value in state.items():
        if value.dim() > 1 and value.is_floating_point():
            state[name] = value.half()
            if not state[name].isfinite().all():
                raise ValueError(
                    f"{name} of {run.folder} has a weight of {value.abs().max():.0f}, too large "
                    "for a float16; pack without HALF=yes"
                )
    files[WEIGHTS] = safetensors.save(state)
    record = {"to": HALF, "digest": run.digest()}
    files["config.json"] = as_json(run.config | {"rounded": record})
    del files[SUMS]
    return with_sums(files)


def is_safe(name: str) -> bool:
    """Whether the name of an entry is a path below its folder, and the same on every system."""
    parts = name.split("/")
    plain = name.isprintable() and not set(name) & set("\\:")
    return plain and all(part and part[0] != "." and part[-1] not in ". " for part in parts)


def is_pack(file: Path) -> bool:
    """Whether a file is a pack, damaged or not."""
    try:
        with ZipFile(file) as archive:
            return CONTENTS in archive.namelist()
    except (BadZipFile, OSError, ValueError):
        return False


def _chosen(study: Study, small: bool) -> list[Run]:
    """The runs of a study that are packed; an error if one is missing, or does not match."""
    found = {run.folder.name: run for run in study.found()}
    names = [run.name for run in plan(study.split)] if small else list(found)
    again = f"make study PRESET={study.preset} SEED={study.seed} trains what is missing"
    if missing := [name for name in names if name not in found]:
        raise FileNotFoundError(
            f"{study.folder} lacks {', '.join(missing)}, which a small pack holds; {again}. Or "
            "leave SMALL out, which packs the runs that are there"
        )
    if not names:
        raise FileNotFoundError(f"no finished run in {study.folder}; {again}")
    differ = study.mismatches()
    if wrong := [f"{name} ({', '.join(differ[name])})" for name in names if differ[name]]:
        raise ValueError(
            f"some runs in {study.folder} are not what this kit trains now, so wherever they are "
            f"unpacked they would be trained again: {'; '.join(wrong)} differ in what stands in "
            "brackets. Train them again (make study), or move them away"
        )
    return [found[name] for name in names]


def _place(run: Run) -> str:
    return f"seed{run.config['seed']}/{run.folder.name}"


def _contents(run: Run) -> dict[str, bytes]:
    """The files of a run as they were saved; a ValueError if one is damaged."""
    files = {name: read(run.folder / name) for name in FILES if name != SUMS}
    return with_sums(files)


def _described(scenes: StreetScenes, images: bool) -> dict:
    split = scenes.split
    return {
        "name": scenes.name,
        "files": scenes.fingerprint(),
        "split": split.name,
        "stages": {stage.name: split.names(stage.new) for stage in split.stages},
        "training_images": len({sample.image for sample in scenes.train}),
        "test_images": len({sample.image for sample in scenes.test}),
        "in_this_file": images,
    }


def _files(root: Path) -> list[Path]:
    """All files of a data set, without those that an operating system hides there."""
    files = (file for file in root.rglob("*") if file.is_file())
    return sorted(f for f in files if not any(part[0] == "." for part in f.relative_to(root).parts))


def _size(root: Path) -> int:
    return sum(file.stat().st_size for file in _files(root))


def _image_name(file: Path, root: Path) -> str:
    name = f"images/{file.relative_to(root).as_posix()}"
    if not is_safe(name):
        raise ValueError(
            f"{file} has a name that other systems cannot have; rename it, or pack with IMAGES=no"
        )
    return name


def _image(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}); check its permissions") from error


def _once(environments: Iterator[dict]) -> list[dict]:
    return [json.loads(text) for text in dict.fromkeys(map(json.dumps, environments))]


# the file


def _check_free(file: Path) -> None:
    """A ValueError if a file is no pack, and would be lost."""
    if file.is_dir():
        raise ValueError(f"FILE is {file}, which is a folder; wanted the name of a file in it")
    if file.exists() and not is_pack(file):
        raise ValueError(f"{file} is there and is no pack; choose another FILE, or move it away")


@contextmanager
def _archive(file: Path) -> Iterator[ZipFile]:
    """An archive that is there whole at the end, or as it was before; an OSError says what to do.

    What is read meanwhile must not raise an OSError.
    """
    unfinished = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as target:
            with ZipFile(target, "w") as archive:
                yield archive
            target.flush()
            os.fsync(target.fileno())
        unfinished.replace(file)
    except OSError as error:
        raise OSError(
            f"{file} could not be written ({error}). Make room on the disk, or choose FILE where "
            "you may write; then run this again"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _add(archive: ZipFile, name: str, content: bytes) -> None:
    """An entry without time, owner and system, so that equal contents give equal files."""
    entry = ZipInfo(name)  # of 1980
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    entry.compress_type = ZIP_STORED if name.endswith(COMPRESSED) else ZIP_DEFLATED
    archive.writestr(entry, content)


def main(*given: str) -> None:
    """Pack the runs of a study: `python -m cilkit.study.pack [DATA=... PRESET=... SEEDS=... ...]`.

    DATA, RUNS, PRESET, SEED and SEEDS say which, as in `make study`. SMALL=yes: those of Tables II
    and III alone. HALF=yes: weights rounded to float16. IMAGES=yes or no: with the data, or
    without. FILE: where to.
    """
    typed = parse(given, OPTIONS)
    names = {"DATA": "data", "RUNS": "runs", "PRESET": "preset", "FILE": "file"}
    options = {names[name]: value for name, value in typed.items() if name in names}
    for name in ("SMALL", "HALF", "IMAGES"):
        if name in typed:
            options[name.lower()] = switch(name, typed[name])
    file = pack(seeds=seeds_of(typed), **options)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(f'to put its runs into place elsewhere: make unpack "FILE={file.name}"')


if __name__ == "__main__":
    main(*sys.argv[1:])
