"""In which precision and memory format a training takes the least time on this processor.

Which one that is differs from processor to processor. So the first training on a machine times a
few steps in each, and keeps the answer beside the decoded images; a study then stays with it.
"""

import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from filelock import FileLock

from cilkit.data.store import cache_folder
from cilkit.files import write_atomic
from cilkit.networks import get_network
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import (
    FORMATS,
    best_device,
    make_fabric,
    to_device,
    used_memory_format,
    used_precision,
)

ANSWERS = "step_times.json"  # in the cache
ROUNDS = 7  # steps in each way that are timed, in turn, after one to warm up
CLASSES = 16  # of the network that is timed
MARGIN = 1.05  # another way than the usual one has to be faster by this factor
SMALL = 2**14  # pixels of a batch; a training with fewer takes seconds, and is not timed

OPEN = TrainConfig()  # it leaves both to the machine

Way = tuple[str, str]  # precision and memory format


def decided(config: TrainConfig, recorded: Iterable[Mapping[str, str]] = ()) -> TrainConfig:
    """The configuration with what "auto" stands for, as far as that is known without timing.

    `recorded` are the environments of runs that it is to go with: if all on such a device agree,
    theirs is taken where this machine can do it. Else the answer of an earlier timing, if any.
    """
    before = {
        (run["precision"], run.get("memory_format"))
        for run in recorded
        if run.get("device") == best_device().type
    }
    if len(before) == 1 and before <= set(ways(config)):
        return _set(config, *before)
    if not _is_timed(config):
        return _set(config, way_of(config))
    times = _read(cache_folder() / ANSWERS).get(_question(config))
    return config if times is None else _set(config, _fastest(config, times))


def timed(config: TrainConfig) -> TrainConfig:
    """The configuration with the precision and memory format that are fastest here.

    Where there is no answer yet, steps are timed and a line says so. Of several processes that ask
    at once, one works and the others wait. Where no answer can be kept, the usual way is taken.
    """
    known = decided(config)
    if "auto" not in (known.precision, known.memory_format):
        return known
    file, question = cache_folder() / ANSWERS, _question(config)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{ANSWERS}.lock")):  # freed by the system if we crash
            answers = _read(file)
            if question not in answers:
                answers[question] = _time(config)
                write_atomic(file, (json.dumps(answers, indent=1) + "\n").encode())
                _tell(config, answers[question])
    except (OSError, NotImplementedError):  # the latter: filelock, of a disk without locks
        return _set(config, way_of(config))
    return _set(config, _fastest(config, answers[question]))


def ways(config: TrainConfig = OPEN) -> list[Way]:
    """What a configuration leaves open: the precisions and formats that can be fast here."""
    hardware = used_precision(replace(config, precision="auto"))
    precisions, formats = [config.precision], [config.memory_format]
    if config.precision == "auto":
        precisions = list(dict.fromkeys([hardware, "32-true"]))
    if config.memory_format == "auto":
        formats = list(FORMATS)
    return list(product(precisions, formats))


def way_of(config: TrainConfig) -> Way:
    """The precision and the memory format of a configuration; for "auto", the usual ones."""
    return used_precision(config), used_memory_format(config)


def _set(config: TrainConfig, way: Way) -> TrainConfig:
    precision, memory_format = way
    return replace(config, precision=precision, memory_format=memory_format)


def _is_timed(config: TrainConfig) -> bool:
    """Whether it pays, and can be kept: on a CPU, in one process, and not for seconds of work."""
    pixels = config.batch * config.augmentation.crop[0] * config.augmentation.crop[1]
    alone = best_device().type == "cpu" and distributed.launched_world_size() == 1
    return alone and pixels >= SMALL and len(ways(config)) > 1 and cache_folder() is not None


def _question(config: TrainConfig) -> str:
    """What an answer holds for."""
    return ", ".join(
        [
            _processor_name(),
            f"{torch.get_num_threads()} threads",
            f"torch {torch.__version__}",
            config.network,
            _shape(config),
        ]
    )


def _shape(config: TrainConfig) -> str:
    return "{} x 3 x {} x {}".format(config.batch, *config.augmentation.crop)


def _processor_name() -> str:
    """Of a CPU, with the instructions that torch uses: they differ between guests of one host."""
    name = platform.processor() or platform.machine()
    table = Path("/proc/cpuinfo")  # Linux
    if table.is_file():
        lines = table.read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _read(file: Path) -> dict[str, dict[str, float]]:
    """All answers: for each question the milliseconds of a step by way; without damaged ones."""
    try:
        answers = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    answers = answers if isinstance(answers, dict) else {}
    return {question: times for question, times in answers.items() if _are_times(times)}


def _are_times(times: object) -> bool:
    return isinstance(times, dict) and all(isinstance(value, float) for value in times.values())


def _fastest(config: TrainConfig, times: Mapping[str, float]) -> Way:
    """The fastest of the ways that are open, and the usual one if none is clearly faster."""
    usual = way_of(config)
    known = {way: times[name] for way in ways(config) if (name := ", ".join(way)) in times}
    if usual not in known:
        return usual
    best = min(known, key=known.get)
    return best if known[usual] > MARGIN * known[best] else usual


def _time(config: TrainConfig) -> dict[str, float]:
    """The milliseconds of a step, by way: the medians of steps that take turns."""
    with torch.random.fork_rng(devices=[]):
        steps = {way: _step(_set(config, way)) for way in ways()}
        seconds: dict[Way, list[float]] = {way: [] for way in steps}
        for _ in range(1 + ROUNDS):
            for way, step in steps.items():
                started = perf_counter()
                step()
                seconds[way].append(perf_counter() - started)
    return {", ".join(way): round(1000 * median(values[1:]), 3) for way, values in seconds.items()}


def _step(config: TrainConfig) -> Callable[[], None]:
    """Forward, backward and Adam on random pixels, with a given gradient in place of a loss."""
    fabric, crop = make_fabric(config), config.augmentation.crop
    network = to_device(get_network(config.network)(CLASSES), fabric, config).train()
    pixels = to_device(torch.rand(config.batch, 3, *crop), fabric, config)
    gradient = torch.randn(config.batch, CLASSES, *crop) / pixels.numel()
    adam = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        with fabric.autocast():
            logits = network(pixels)
        adam.zero_grad()
        logits.backward(gradient.to(logits.dtype))
        adam.step()

    return step


def _tell(config: TrainConfig, times: Mapping[str, float]) -> None:
    shown = "; ".join(f"{way} {value:.0f}" for way, value in times.items())
    print(f"A step of {_shape(config)} on this machine, in ms: {shown}. Taken: "
          f"{', '.join(_fastest(config, times))}.")  # fmt: skip
