"""Training: a network on all labels of a data set, or a method in a stage after its teacher."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import pandas as pd
import torch
from torch import Tensor

from cilkit.classes import Stage, restrict
from cilkit.data.augmentation import derive_seed
from cilkit.data.images import LabelledImages
from cilkit.files import resolve
from cilkit.methods import FIRST_STAGE, Method, Step
from cilkit.networks.erfnet import ERFNet, add_classes, add_decoder, start_as_identity
from cilkit.networks.weights import load_weights
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import forward_logits, make_fabric, to_device
from cilkit.training.loop import Checkpoint, Monitor, Training


def fit(
    images: LabelledImages,
    config: TrainConfig,
    seed: int = 0,
    name: str = "T1",
    monitor: Monitor | None = None,
    checkpoint: Checkpoint | None = None,
    method: Method = FIRST_STAGE,
) -> tuple[ERFNet, pd.DataFrame]:
    """Train on all the labels of a data set: stage T1, eq. (1), or single-stage SS, eq. (2).

    Shown only the new classes of a stage, it makes the second teacher of LWM, eq. (6). Returns
    the network, with a channel for each visible class, and the history by epoch: the mean of
    each loss term, and in % the scores of `monitor`. With a `checkpoint`, a training that was
    stopped continues from there.
    """
    visible = images.visible
    classes = visible.stop - visible.start

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
    teacher: ERFNet,
    config: TrainConfig,
    seed: int = 0,
    memory: Sequence[LabelledImages] = (),
    new_teacher: ERFNet | None = None,
    monitor: Monitor | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[ERFNet, pd.DataFrame]:
    """Train a method in a stage, with the model of the stage before as its teacher.

    A method with a memory takes remembered images of each earlier stage, oldest first, and a
    model of the new classes alone. Returns the network, with a channel for each old and new
    class, and the history by epoch, with `monitor` and `checkpoint` as in `fit`. Raises ValueError
    if the data show other labels or images than the method declares, or a model is missing or has
    other classes.
    """
    _check_models(method, stage, teacher, new_teacher)
    _check_labels(method, stage, images, memory)
    new = stage.new.stop - stage.new.start
    fabric = make_fabric(config)
    teachers = [
        to_device(deepcopy(model), fabric, config).eval().requires_grad_(False) if wanted else None
        for model, wanted in ((teacher, method.teacher), (new_teacher, method.memory is not None))
    ]

    def loss(logits: Tensor, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        teacher_y, new_teacher_y = (  # (B, O, H, W) and (B, N, H, W)
            distributed.all_gather(forward_logits(model, pixels, fabric, config).softmax(dim=1))
            if model is not None
            else None
            for model in teachers
        )
        return method.loss(Step(logits, labels, teacher_y, stage.old, stage.new, new_teacher_y))

    with _seeded(seed, "network"):
        frozen: list[torch.nn.Module] = []
        if method.second_decoder:  # the old decoders stay as they are (Fig. 2)
            network = add_decoder(teacher, new)
            *frozen, new_decoder = network.decoders
            if config.identity_start:
                start_as_identity(new_decoder)
        elif config.start == "teacher":
            network = add_classes(teacher, new)
        else:
            network = _new_network(teacher.num_classes + new, config)
        if method.freeze_encoder:
            frozen.append(network.encoder)
        name = f"{method.name} {stage.name}"
        training = Training(network, images, loss, config, seed, name, frozen, memory)
        history = training.run(monitor, checkpoint)
    return network, history


def _check_models(
    method: Method, stage: Stage, teacher: ERFNet | None, new_teacher: ERFNet | None
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
    new = stage.new.stop - stage.new.start
    if method.memory is not None and (new_teacher is None or new_teacher.num_classes != new):
        came = "none" if new_teacher is None else f"one of {new_teacher.num_classes} classes"
        raise ValueError(
            f"{method.name} needs a second teacher, trained on the {new} new classes of "
            f"{stage.name} alone, eq. (6); came: {came}. Study.new_teacher({stage.name!r}) makes it"
        )
    if method.memory is None and new_teacher is not None:
        raise ValueError(f"{method.name} has no second teacher; leave new_teacher out")


def _check_labels(
    method: Method, stage: Stage, images: LabelledImages, memory: Sequence[LabelledImages]
) -> None:
    """Whether the data show a method exactly what it declares to need."""
    _check_view(f"{method.name} in {stage.name}", images, stage, method.visible(stage))
    earlier = images.split.earlier(stage) if method.memory is not None else ()
    if len(memory) != len(earlier):
        raise ValueError(
            f"{method.name} in {stage.name} may remember images of "
            f"{', '.join(s.name for s in earlier) or 'no stage'}; came: {len(memory)} sets of "
            "images. Its field `memory` says what it may keep, Study.memory(stage, method) gives it"
        )
    for remembered, of in zip(memory, earlier, strict=True):
        what = f"the memory of {of.name} of {method.name} in {stage.name}"
        _check_view(what, remembered, of, of.new)
        if len(remembered) != method.memory.size:
            raise ValueError(
                f"{what} holds {len(remembered)} images; its size is {method.memory.size}. "
                f"Study.memory({of.name!r}, method) chooses as many"
            )


def _check_view(what: str, images: LabelledImages, stage: Stage, visible: slice) -> None:
    if images.visible != visible:
        may, shown = (", ".join(images.split.names(s)) for s in (visible, images.visible))
        raise ValueError(
            f"{what} may see labels of {may}; the data set shows {shown}. Open it with "
            f"data.stage({stage.name!r}, labels={'new' if visible == stage.new else 'all'!r})"
        )
    if foreign := sorted({sample.group for sample in images.samples} - set(stage.cities)):
        raise ValueError(
            f"{what} may see images of {', '.join(stage.cities)}; the data set shows "
            f"{', '.join(foreign)}. Open it with data.stage({stage.name!r})"
        )


def _new_network(classes: int, config: TrainConfig) -> ERFNet:
    network = ERFNet(classes, normalise=config.normalise)
    if config.identity_start:
        start_as_identity(network)
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
