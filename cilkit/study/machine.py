"""What this machine lacks for a study, in plain words, and how long each preset takes on it."""

import platform
import shutil
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pandas as pd
import psutil
from packaging.requirements import Requirement

from cilkit.files import GUIDE, IS_CLONE, ROOT
from cilkit.limits import free_memory, usable_cores
from cilkit.methods import CIL
from cilkit.networks import get_network
from cilkit.study.plan import PlannedRun, plan
from cilkit.study.progress import in_words
from cilkit.study.study import Study
from cilkit.training.config import PRESETS, TrainConfig
from cilkit.training.evaluation import make_fabric, used_precision
from cilkit.training.stage import fit, fit_stage

MEMORY = (
    2500  # bytes a pixel of a batch, with a teacher (tensors took 1070 in bf16, 2070 in float32)
)
RUN = 12e6  # bytes of a run folder
STEPS = 5  # of each of two epochs; the second one is timed


def check(study: Study) -> pd.DataFrame:
    """What a study wants of a machine, what is there, and what to do where that is not enough."""
    rows = [
        _packages(),
        _kernel(),
        _device(study),
        _memory(study),
        *_shared_memory(study),
        _disk(study),
        _data(study),
    ]
    return pd.DataFrame(rows, columns=["", "here", "what to do"]).set_index("")


def time_presets(study: Study) -> pd.DataFrame:
    """How long each preset takes here, from ten steps of CIL in the second stage of the study.

    Columns: ms for a step; how long for the first stage, and for all trainings of the plan. With a
    single stage the steps are those of its training.
    """
    rows = {}
    images = [trained_images(study, run) for run in plan(study.split)]
    for name, config in PRESETS.items():
        step = _seconds_of_a_step(study, config)
        steps = [n // config.batch * config.epochs for n in images]  # of each training
        spans = [steps[0] * step, sum(steps) * step]
        shown = round(1000 * step) if step == step else "–"  # NaN: too few images
        rows[name] = [shown, *map(in_words, spans)]
    columns = ["a step [ms]", study.split.stages[0].name, "all trainings"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def trained_images(study: Study, run: PlannedRun) -> int:
    """How many images an epoch of a training goes through."""
    earlier = study.split.earlier(run.stage) if run.method.images == "all" else ()
    return sum(len(study.data.images(stage)) for stage in (*earlier, run.stage))


def _seconds_of_a_step(study: Study, config: TrainConfig) -> float:
    """The second of two short epochs: the first one decodes, and prepares the processor."""
    stage = study.split.stages[:2][-1]
    images = study.data.stage(stage.name, "new", config.height)
    config = replace(config, epochs=2, encoder_weights=None, workers=0)
    images = images.subset(range(min(len(images), STEPS * config.batch)))
    if len(images) < config.batch:
        return float("nan")
    if stage.number == 1:
        _, history = fit(images, config)
    else:
        teacher = get_network(config.network)(stage.old.stop, normalise=config.normalise)
        _, history = fit_stage(CIL, images, stage, teacher, config)
    return history["seconds"].iloc[-1] / (len(images) // config.batch)


def _packages() -> tuple[str, str, str]:
    wrong, install = [], []
    for line in requires("cilkit") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            try:
                found = version(wanted.name)
            except PackageNotFoundError:
                found = "missing"
            if found == "missing" or not wanted.specifier.contains(found, prereleases=True):
                wrong.append(f"{wanted.name} {found} (wanted {wanted.specifier})")
                install.append(f"'{wanted.name}{wanted.specifier}'")
    here = ", ".join(wrong) or f"all there; Python {platform.python_version()}"
    what = "-c constraints.txt -e ." if IS_CLONE else " ".join(install)
    return "packages", here, f"pip install {what}" if wrong else ""


def _kernel() -> tuple[str, str, str]:
    own = ROOT / ".venv"
    if not (IS_CLONE and own.is_dir()):
        return "kernel", f"of {sys.prefix}", ""
    if Path(sys.prefix).resolve() != own.resolve():
        return "kernel", f"of {sys.prefix}", "start JupyterLab by `make lab`, or choose its kernel"
    return "kernel", "of the project", ""


def _device(study: Study) -> tuple[str, str, str]:
    device = make_fabric(study.config).device.type
    cores = min(usable_cores(), psutil.cpu_count(logical=False) or usable_cores())
    here = f"{device}, {used_precision(study.config)}, {cores} cores"
    slow = device == "cpu" and study.preset in ("paper", "released")
    return "device", here, "use PRESET = 'quick', or a machine with a GPU" if slow else ""


def _memory(study: Study) -> tuple[str, str, str]:
    config, free = study.config, free_memory()
    height, width = config.augmentation.crop
    need = 2 * 2**30 + MEMORY * config.batch * height * width  # 2 GiB: Python, and decoded images
    here = f"{free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB wanted"
    todo = "close other programs, or use a smaller preset, or Study(..., batch=...)"
    return "memory", here, todo if free < need else ""


def _shared_memory(study: Study) -> list[tuple[str, str, str]]:
    """On Linux, batches of worker processes lie in a file system in memory."""
    config, folder = study.config, Path("/dev/shm")
    workers = min(config.workers, usable_cores())
    if workers == 0 or not folder.is_dir():
        return []
    height, width = config.augmentation.crop
    batch = config.batch * height * width * (3 * 4 + 8)  # float32 pixels, int64 labels
    need = 2 * batch * (2 * workers + 1)  # two of each worker and one in use; LWM twice as many
    free = shutil.disk_usage(folder).free
    here = f"{free / 1e9:.2f} GB free, about {need / 1e9:.2f} GB wanted"
    todo = "docker run --shm-size=1g; else trainings go on without worker processes"
    return [("shared memory", here, todo if free < need else "")]


def _disk(study: Study) -> tuple[str, str, str]:
    there = next(path for path in (study.folder, *study.folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    images = study.data.stage(study.split.stages[0].name, height=study.config.height)
    need = RUN * len(plan(study.split)) + images.cache_size()
    here = f"{free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB wanted"
    todo = f"make room, name another disk in RUNS, or set CILKIT_CACHE=off ({GUIDE})"
    return "disk", here, todo if free < need else ""


def _data(study: Study) -> tuple[str, str, str]:
    data = study.data
    if data.name == "toyscapes":
        return "data", "Toyscapes, drawn by the kit", f"for Cityscapes or CamVid: {GUIDE}"
    here = Counter(sample.group for sample in (*data.train, *data.test))
    full = {city: n for city, n in data.split.images if city in here}
    train, test = ({sample.image for sample in part} for part in (data.train, data.test))
    found = f"{len(train)} training and {len(test)} test images in {data.root}"
    wrong = [f"{city} has {here[city]} of {n}" for city, n in full.items() if here[city] != n]
    if not wrong:
        return "data", found, ""
    found += f" (the full data set has {sum(full.values())})"
    if len(wrong) == len(full) and all(here[city] < n for city, n in full.items()):
        return "data", found, ""  # drawn scenes, or a part that was chosen
    names = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    return "data", found, f"unpack or download the data again: {names}"
