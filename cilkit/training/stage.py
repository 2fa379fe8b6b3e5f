"""Training: a network on all labels of a data set, or a method in a stage after its teacher."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cilkit.classes import Classes, Stage, channels_of, restrict
from cilkit.data.augmentation import derive_seed
from cilkit.data.images import LabelledImages
from cilkit.files import resolve
from cilkit.methods import FIRST_STAGE, Context, Method, Step
from cilkit.networks import Segmenter, get_network
from cilkit.networks.weights import load_weights
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import forward_logits, make_fabric, same_size, to_device
from cilkit.training.features import outputs_of
from cilkit.training.loop import Checkpoint, Monitor, Training

T = TypeVar("T")


def fit(
    images: LabelledImages,
    config: TrainConfig,
    seed: int = 0,
    name: str = "T1",
    monitor: Monitor | None = None,
    checkpoint: Checkpoint | None = None,
    method: Method = FIRST_STAGE,
) -> tuple[Segmenter, pd.DataFrame]:
    """Train on all the labels of a data set: stage T1, eq. (1), or single-stage SS, eq. (2).

    Shown only the new classes of a stage, it makes the second teacher of LWM, eq. (6). Returns
    the network, with a channel for each visible class, and the history by epoch: the mean of
    each loss term, and in % the scores of `monitor`. With a `checkpoint`, a training that was
    stopped continues from there.
    """
    visible = images.visible
    classes = len(channels_of(visible))

    def loss(logits: Tensor, _: Tensor, labels: Tensor) -> dict[str, Tensor]:
        labels = restrict(labels, visible)
        return method.loss(Step(logits, labels, None, slice(0, 0), slice(0, classes)))

    with _seeded(seed, "network"):
        network = _new_network(classes, config)
        training = Training(network, images, loss, config, seed, name)
        history = training.run(monitor, checkpoint)
    return network, history


def fit_stage(
    method: Method,
    images: LabelledImages,
    stage: Stage,
    teacher: Segmenter,
    config: TrainConfig,
    seed: int = 0,
    memory: Sequence[LabelledImages] = (),
    new_teacher: Segmenter | None = None,
    monitor: Monitor | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Segmenter, pd.DataFrame]:
    """Train a method in a stage, with the model of the stage before as its teacher.

    A method with a memory takes remembered images of each earlier stage, oldest first, and a
    model of the new classes alone. Returns the network, with a channel for each old and new
    class, and the history by epoch, with `monitor` and `checkpoint` as in `fit`. Raises ValueError
    if the data show other labels or images than the method declares, a model is missing or has
    other classes, a layer that the method names is not there, or a frozen encoder would be random.
    """
    _check_models(method, stage, teacher, new_teacher)
    _check_start(method, stage, teacher, config)
    _check_labels(method, stage, images, memory)
    new = stage.new.stop - stage.new.start
    split = images.split
    background = None if split.background is None else split.channel(split.background)
    fabric = make_fabric(config)
    teachers = [
        to_device(deepcopy(model), fabric, config).eval().requires_grad_(False) if wanted else None
        for model, wanted in ((teacher, method.teacher), (new_teacher, method.memory is not None))
    ]

    def answer(model: Segmenter, pixels: Tensor) -> Tensor:
        return forward_logits(model, pixels, fabric, config).softmax(dim=1)  # (B, S, H, W)

    with _seeded(seed, "network"):
        frozen: list[torch.nn.Module] = []
        if method.second_decoder:  # the old decoders stay as they are (Fig. 2)
            network = teacher.with_decoder(new)
            *frozen, new_decoder = network.decoders
            if config.identity_start:
                network.start_as_identity(new_decoder)
        elif config.start == "teacher":
            network = teacher.widened(new)
        else:
            network = _new_network(teacher.num_classes + new, config)
        if method.freeze_encoder:
            frozen.append(network.encoder)
        name = f"{method.name} {stage.name}"
        with (
            outputs_of(network, method.features) as features,
            outputs_of(teachers[0], method.features) as teacher_features,
        ):
            step_loss = method.loss
            if method.prepare is not None:
                over = partial(_over_images, images, partial(answer, teachers[0]))
                context = Context(stage, network, teachers[0], background, over)
                step_loss = method.prepare(context)

            def loss(logits: Tensor, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
                teacher_y, new_teacher_y = (  # (B, O, H, W) and (B, N, H, W)
                    distributed.all_gather(answer(model, pixels)) if model is not None else None
                    for model in teachers
                )
                given = (logits, labels, teacher_y, stage.old, stage.new, new_teacher_y, background)
                return step_loss(Step(*given, features(), teacher_features(), stage.again))

            training = Training(network, images, loss, config, seed, name, frozen, memory)
            history = training.run(monitor, checkpoint)
    return network, history


def _over_images(
    images: LabelledImages,
    answer: Callable[[Tensor], Tensor],
    measure: Callable[[Iterator[tuple[Tensor, Tensor]]], T],
) -> T:
    """`Context.over_images`: rank 0 goes through the images, all ranks get what it measures."""

    def answers() -> Iterator[tuple[Tensor, Tensor]]:
        images.prepare(progress=True)
        with tqdm(total=len(images), desc="prepare", unit="image", leave=False, delay=2) as bar:
            for pixels, labels in same_size(images):
                y = answer(pixels)  # (B, O, h, w)
                yield y, labels.long().to(y.device)
                bar.update(len(pixels))

    return distributed.on_rank0(lambda: measure(answers()))


def _check_models(
    method: Method, stage: Stage, teacher: Segmenter | None, new_teacher: Segmenter | None
) -> None:
    if teacher is None:
        raise ValueError(
            f"{method.name} in {stage.name} starts from the model of the stage before, and none "
            "came. 05_train_t1.ipynb makes that of T1, the method's own notebook the later ones; "
            "Study.run(stage, method) makes what is missing"
        )
    if teacher.num_classes != stage.old.stop:
        raise ValueError(
            f"the teacher knows {teacher.num_classes} classes but stage {stage.name} follows "
            f"{stage.old.stop} old ones; take the model of the stage before {stage.name}"
        )
    new = len(channels_of(stage.labelled))
    if method.memory is not None and (new_teacher is None or new_teacher.num_classes != new):
        came = "none" if new_teacher is None else f"one of {new_teacher.num_classes} classes"
        raise ValueError(
            f"{method.name} needs a second teacher, trained on the {new} classes of "
            f"{stage.name} alone, eq. (6); came: {came}. Study.new_teacher({stage.name!r}) makes it"
        )
    if method.memory is None and new_teacher is not None:
        raise ValueError(f"{method.name} has no second teacher; leave new_teacher out")


def _check_start(method: Method, stage: Stage, teacher: Segmenter, config: TrainConfig) -> None:
    """Whether a student can take over from its teacher what the method wants it to."""
    keeps_layers = method.second_decoder or config.start == "teacher"
    if keeps_layers and not isinstance(teacher, get_network(config.network)):
        way_out = "" if method.second_decoder else ", or set start='random' (footnote 2)"
        raise ValueError(
            f"{method.name} in {stage.name} takes over layers of its teacher, which is of the "
            f"network {type(teacher).__name__}, and network={config.network!r} has others; take a "
            f"teacher of the same network{way_out}"
        )
    if method.freeze_encoder and not keeps_layers:
        raise ValueError(
            f"{method.name} freezes its encoder, so it must keep that of the stage before; but "
            "with start='random' a wider last layer comes with a new encoder (footnote 2). Set "
            "start='teacher' in the configuration, or second_decoder=True in the method"
        )


def _check_labels(
    method: Method, stage: Stage, images: LabelledImages, memory: Sequence[LabelledImages]
) -> None:
    """Whether the data show a method exactly what it declares to need."""
    _check_view(
        f"{method.name} in {stage.name}", images, stage, method.visible(stage), method.hidden
    )
    earlier = images.split.earlier(stage) if method.memory is not None else ()
    if len(memory) != len(earlier):
        raise ValueError(
            f"{method.name} in {stage.name} may remember images of "
            f"{', '.join(s.name for s in earlier) or 'no stage'}; came: {len(memory)} sets of "
            "images. Its field `memory` says what it may keep, Study.memory(stage, method) gives it"
        )
    for remembered, of in zip(memory, earlier, strict=True):
        what = f"the memory of {of.name} of {method.name} in {stage.name}"
        _check_view(what, remembered, of, of.labelled)
        if len(remembered) != method.memory.size:
            raise ValueError(
                f"{what} holds {len(remembered)} images; its size is {method.memory.size}. "
                f"Study.memory({of.name!r}, method) chooses as many"
            )


def _check_view(
    what: str, images: LabelledImages, stage: Stage, visible: Classes, hidden: bool = False
) -> None:
    if images.visible != visible:
        may, shown = (", ".join(images.split.names(s)) for s in (visible, images.visible))
        raise ValueError(
            f"{what} may see labels of {may}; the data set shows {shown}. Open it with "
            f"data.stage({stage.name!r}, labels={'new' if visible == stage.labelled else 'all'!r})"
        )
    if images.hidden != hidden:
        may = "is to tell hidden labels from void ones" if hidden else "may not see what is hidden"
        raise ValueError(
            f"{what} {may}; the data set has hidden={images.hidden}. Open it with "
            f"data.stage({stage.name!r}, hidden={hidden})"
        )
    if foreign := sorted({sample.group for sample in images.samples} - set(stage.cities)):
        raise ValueError(
            f"{what} may see images of {', '.join(stage.cities)}; the data set shows "
            f"{', '.join(foreign)}. Open it with data.stage({stage.name!r})"
        )


def _new_network(classes: int, config: TrainConfig) -> Segmenter:
    network = get_network(config.network)(classes, normalise=config.normalise)
    if config.identity_start:
        network.start_as_identity(network)
    if config.encoder_weights is not None:
        load_weights(network.encoder, resolve(config.encoder_weights))
    return network


@contextmanager
def _seeded(seed: int, *purpose: str) -> Iterator[None]:
    """The global generators (initial weights, dropout) seeded, and put back afterwards."""
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield
