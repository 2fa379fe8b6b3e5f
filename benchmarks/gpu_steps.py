"""Steps a second of 6 x 3 x 192 x 640 on a GPU, in the forms in which a training could run.

    python -m benchmarks.gpu_steps FILE [IMAGES HEIGHT WIDTH]

Prints a line a figure, and keeps all of them in FILE (JSON), written anew after each. A bare step
is that of `textbook.bare_step` and the teacher's forward pass: CIL in T2 without its loss. On a CPU
what needs CUDA is left out, with the reason.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from queue import Empty
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.scenes import SPLIT, STAGE, Noise, random_batch
from benchmarks.steps import PAPER, time_step
from benchmarks.timing import Row, device, now, seconds
from cilkit.data.augmentation import Augmented
from cilkit.files import write_atomic
from cilkit.methods import METHODS
from cilkit.networks.erfnet import ERFNet
from cilkit.training.config import PRESETS
from cilkit.training.evaluation import used_precision
from cilkit.training.loop import WORKERS_ON_CUDA, _loader

Shape = tuple[int, int, int]  # images in a batch, height, width
SECONDS, ROUNDS = 0.3, 5  # a figure is the median of so many rounds of about so many seconds
TOGETHER = 2, 4, 8  # processes that share the device
PATIENCE = 120  # seconds that a process waits for the others to be ready


@dataclass(frozen=True)
class Form:
    """In which form a bare step is computed."""

    bf16: bool = True
    channels_last: bool = True
    tf32: bool = False  # of cuDNN's convolutions in float32
    compiled: bool = False
    graph: bool = False  # recorded once as a CUDA graph, then replayed

    def __str__(self) -> str:
        number = "bf16" if self.bf16 else "float32 with TF32" if self.tf32 else "float32"
        words = [number, "channels_last" if self.channels_last else "contiguous"]
        words += ["compiled"] * self.compiled + ["CUDA graph"] * self.graph
        return ", ".join(words)


FORMS = (
    *(Form(bf16, layout) for bf16 in (False, True) for layout in (False, True)),
    *(Form(False, layout, tf32=True) for layout in (False, True)),
)
# what may fail or take long comes last
PREPARED = Form(graph=True), Form(compiled=True), Form(compiled=True, graph=True)


def figures(shape: Shape = PAPER, together: tuple[int, ...] = TOGETHER) -> Iterator[Row]:
    """All figures, one after another."""
    yield from own_steps(shape)
    for form in FORMS:
        yield bare_figure(form, shape)
    for count in together:
        yield side_by_side(count, shape)
    yield from samples(shape)
    for form in PREPARED:
        yield bare_figure(form, shape)


def own_steps(shape: Shape) -> Iterator[Row]:
    """The kit's own steps, as `fit_stage` runs them on a batch that is there already."""
    used = used_precision(PRESETS["paper"])
    for precision in dict.fromkeys((used, "32-true")):
        for name, stage in (("CIL", "T2"), ("CIL", "T3"), ("LWM", "T3")):
            time = time_step(METHODS[name], SPLIT.stage(stage), shape, 20, precision=precision)
            yield _rate(f"{name} {stage} step of the kit, {precision}", 1 / time["kit"])


def bare_figure(form: Form, shape: Shape) -> Row:
    """Bare steps a second in one form."""
    name = f"bare step, {form}"
    if reason := _why_not(form):
        return Row(name, 0, skipped=reason)
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = form.tf32
        return _rate(name, steps_a_second(bare_step(form, shape)))
    except Exception as error:  # a form that fails on this machine is a result, too
        return Row(name, 0, skipped=f"{type(error).__name__}: {error}".splitlines()[0][:200])
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _why_not(form: Form) -> str:
    on_cuda = device().type == "cuda"
    if not on_cuda and (form.tf32 or form.compiled or form.graph):
        return "it needs CUDA"
    return ""


def bare_step(form: Form, shape: Shape) -> Callable[[], None]:
    """Teacher, student and Adam on one random batch, with a given gradient instead of a loss."""
    pixels, gradient = _inputs(shape)
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    pixels = pixels.to(torch.bfloat16 if form.bf16 else torch.float32, memory_format=layout)
    student = ERFNet(STAGE.seen.stop).to(pixels.device, memory_format=layout).train()
    teacher = ERFNet(STAGE.old.stop).to(pixels.device, memory_format=layout).eval()
    adam = torch.optim.Adam(
        student.parameters(), weight_decay=3e-4, fused=True, capturable=form.graph
    )
    forward = [torch.compile(model) if form.compiled else model for model in (student, teacher)]

    def step() -> None:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=form.bf16):
            with torch.no_grad():
                forward[1](pixels)
            logits = forward[0](pixels)
        adam.zero_grad()
        logits.backward(gradient.to(logits.dtype))
        adam.step()

    return recorded(step) if form.graph else step


def _inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, H, W), and the gradient of their logits (B, S, H, W)."""
    batch, *size = shape
    pixels = random_batch(batch, tuple(size), STAGE.new)[0].to(device())
    gradient = torch.randn(batch, STAGE.seen.stop, *size, device=pixels.device)
    return pixels, gradient / gradient[:, 0].numel()


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph: all its kernels are started by one call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def steps_a_second(step: Callable[[], None]) -> float:
    """The median rate of some rounds, the device being waited for at the end of each alone."""
    for _ in range(3):
        step()
    count = max(1, round(SECONDS / seconds(step)))

    def round_of_steps() -> None:
        for _ in range(count):
            step()

    return median(count / seconds(round_of_steps) for _ in range(ROUNDS))


def side_by_side(count: int, shape: Shape) -> Row:
    """Steps a second of several processes together that share the device, in the kit's form."""
    bf16 = used_precision(PRESETS["paper"]) == "bf16-mixed"
    form = Form(bf16, channels_last=bf16)
    name = f"bare steps of {count} processes together, {form}"
    context = multiprocessing.get_context("spawn")  # a fork of this one could not use CUDA
    ready, found = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=_share, args=(form, shape, ready, found)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        return _rate(name, sum(found.get(timeout=2 * PATIENCE) for _ in processes))
    except Empty:
        return Row(name, 0, skipped="a process failed, see its error")
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _share(form: Form, shape: Shape, ready, found) -> None:
    """Steps a second of one of the processes, all of which start and stop together."""
    step = bare_step(form, shape)
    for _ in range(3):
        step()
    ready.wait(PATIENCE)
    started, done = now(), 0
    while perf_counter() - started < SECONDS * ROUNDS:
        for _ in range(5):
            step()
        done += 5
        now()  # no process may queue up more work than it has time for
    found.put(done / (now() - started))


class Picture(Noise):
    """Images without files that are in memory, as those of a small data set are."""

    @cached_property
    def picture(self) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and labels (H, W), both uint8."""
        return super().load(0)

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """The same picture for every index."""
        return self.picture


def samples(shape: Shape) -> Iterator[Row]:
    """Batches of augmented images a second by the worker processes of one training.

    Each epoch starts its workers anew; that is timed as well. The images are 512 x 1024.
    """
    batch, *crop = shape
    config = replace(PRESETS["paper"], batch=batch, workers=WORKERS_ON_CUDA)
    augmentation = replace(config.augmentation, crop=tuple(crop))
    count = 25
    images = Picture((512, 1024), STAGE, batch * count, STAGE.new)
    augmented = Augmented(images, augmentation, seed=0)  # loads the picture, before any worker

    def batches(number: int) -> float:
        loader = _loader(augmented, batch * number, config, 0, 0, "order")
        return seconds(partial(list, loader))

    one, many = (median(batches(number) for _ in range(3)) for number in (1, count))
    workers = f"{config.workers} workers"
    yield _rate(f"batches of samples, {workers}", (count - 1) / max(many - one, 1e-9))
    yield Row(f"an epoch of one batch, {workers} started and ended", 1000 * one, "ms")


def _rate(name: str, a_second: float) -> Row:
    return Row(name, a_second, "a second")


def main(file: str, *shape: str) -> None:
    """Measure all figures, print each and keep them in a file."""
    rows = []
    for row in figures(*[tuple(map(int, shape))] if shape else ()):
        rows.append(row)
        print(": ".join(row.cells()[:2]), flush=True)
        kept = [{k: v for k, v in asdict(row).items() if k not in ("goal", "want")} for row in rows]
        write_atomic(Path(file), (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
