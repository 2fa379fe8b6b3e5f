"""Training: the configuration and its presets, one loop for all methods, and evaluation."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, default_collate
from tqdm import tqdm

from cilkit.classes import Stage, restrict, unknown
from cilkit.datasets import LabelledImages, resolve
from cilkit.erfnet import ERFNet, add_classes, add_decoder, load_weights, start_as_identity
from cilkit.losses import cross_entropy
from cilkit.methods import Method, Step
from cilkit.metrics import MeanIoU
from cilkit.transforms import Augmentation, Augmented, derive_seed

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no line about the precision


@dataclass(frozen=True)
class TrainConfig:
    """The choices of Sec. IV-A, with the paper's as defaults; preset "released" has the code's."""

    epochs: int = 200
    batch: int = 6  # the last, smaller batch of an epoch is dropped
    learning_rate: float = 5e-4  # Adam's, at the start
    weight_decay: float = 3e-4
    power: float = 0.9  # of the polynomial schedule (1 - t)^power
    schedule: Literal["step", "epoch"] = "step"  # when the learning rate moves
    height: int = 512  # images are resized to this height first, never enlarged
    augmentation: Augmentation = field(default_factory=Augmentation)
    normalise: bool = False  # by the mean and deviation of ImageNet
    encoder_weights: str | None = None  # file with a pre-trained encoder; None: random
    identity_start: bool = False  # new residual blocks begin as the identity: for short trainings
    start: Literal["random", "teacher"] = "random"  # teacher-based students (footnote 2)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    workers: int = 0  # processes that decode and augment; 0: this one

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "height"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; wanted a whole number from 1")
        for name in ("learning_rate", "power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted a positive number")
        for name, choices in (
            ("schedule", ["step", "epoch"]),
            ("start", ["random", "teacher"]),
            ("precision", ["auto", "32-true", "bf16-mixed"]),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(unknown(name, getattr(self, name), choices))


PAPER = TrainConfig(workers=4)
PRESETS = {
    # seconds: for tests, and to see that everything runs
    "smoke": TrainConfig(
        epochs=1,
        batch=4,
        learning_rate=2e-3,
        height=64,
        augmentation=Augmentation(crop=(32, 64)),
        identity_start=True,
    ),
    # minutes on a CPU: the default of the notebooks
    "quick": TrainConfig(
        epochs=8,
        batch=2,  # many small steps teach more in the same time than few large ones
        learning_rate=1e-2,
        height=128,
        augmentation=Augmentation(crop=(96, 192)),
        identity_start=True,
    ),
    # the protocol of Sec. IV-A
    "paper": PAPER,
    # the same with the choices of the authors' released code
    "released": replace(
        PAPER,
        schedule="epoch",
        augmentation=Augmentation(rotation=0.0, flip=0.5, rescale_divides=True),
        normalise=True,
        encoder_weights="data/erfnet_encoder_pretrained.pth.tar",
    ),
}


def get_config(preset: str) -> TrainConfig:
    """The configuration of a preset; a ValueError lists the names there are."""
    if preset not in PRESETS:
        raise ValueError(unknown("preset", preset, list(PRESETS)))
    return PRESETS[preset]


def fit(
    images: LabelledImages, config: TrainConfig, seed: int = 0, name: str = "T1"
) -> tuple[ERFNet, pd.DataFrame]:
    """Train on all the labels of a data set: stage T1, eq. (1), or single-stage SS, eq. (2).

    Shown only the new classes of a stage, it makes the second teacher of LWM, eq. (6). Returns
    the network, with a channel for each visible class, and the history by epoch.
    """
    visible = images.visible

    def loss(logits: Tensor, _: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"ce": cross_entropy(logits.log_softmax(dim=1), restrict(labels, visible))}

    with _seeded(seed, "network"):
        network = _new_network(visible.stop - visible.start, config)
        history = _loop(network, images, loss, config, seed, name)
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
) -> tuple[ERFNet, pd.DataFrame]:
    """Train a method in a stage, with the model of the stage before as its teacher.

    A method with a memory takes remembered images of each earlier stage, oldest first, and a
    model of the new classes alone. Returns the network, with a channel for each old and new
    class, and the history by epoch. Raises ValueError if the data show other labels or images
    than the method declares, or a model is missing or has other classes.
    """
    _check_models(method, stage, teacher, new_teacher)
    _check_labels(method, stage, images, memory)
    new = stage.new.stop - stage.new.start
    fabric = make_fabric(config)
    teachers = [
        _placed(deepcopy(model), fabric, config).eval().requires_grad_(False) if wanted else None
        for model, wanted in ((teacher, method.teacher), (new_teacher, method.memory is not None))
    ]

    def loss(logits: Tensor, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), fabric.autocast():  # (B, O, H, W) and (B, N, H, W)
            teacher_y, new_teacher_y = (
                model(pixels).float().softmax(dim=1) if model is not None else None
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
        history = _loop(network, images, loss, config, seed, name, frozen, memory)
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
    earlier = images.split.stages[: stage.number - 1] if method.memory is not None else ()
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
    if foreign := sorted({sample.city for sample in images.samples} - set(stage.cities)):
        raise ValueError(
            f"{what} may see images of {', '.join(stage.cities)}; the data set shows "
            f"{', '.join(foreign)}. Open it with data.stage({stage.name!r})"
        )


def _loop(
    network: ERFNet,
    images: LabelledImages,
    loss: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    config: TrainConfig,
    seed: int,
    name: str,
    frozen: Sequence[torch.nn.Module] = (),
    memory: Sequence[LabelledImages] = (),
) -> pd.DataFrame:
    """The one training loop; it trains `network` in place and returns the history by epoch.

    loss(logits, pixels, labels) gives the terms by name; `frozen` parts keep their weights and
    their batch-norm statistics; with a `memory`, each batch holds as many remembered images.
    """
    steps = len(images) // config.batch
    if steps == 0:
        raise ValueError(
            f"{name}: a batch of {config.batch} is larger than the data set of {len(images)} "
            "images; use a smaller batch or more images"
        )
    fabric = make_fabric(config)
    for part in frozen:
        part.requires_grad_(False)
    _placed(network, fabric, config)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trainable, config.learning_rate, weight_decay=config.weight_decay)
    model, optimizer = fabric.setup(network, adam)
    parts = [Augmented(images, config.augmentation, seed)]
    parts += [Augmented(m, config.augmentation, seed, f"memory {i}") for i, m in enumerate(memory)]
    history = []
    with tqdm(total=config.epochs * steps, desc=name, unit="step", mininterval=1) as bar:
        for epoch in range(config.epochs):
            started = perf_counter()
            model.train()
            for part in frozen:
                part.eval()
            for part in parts:
                part.epoch = epoch
            sums: dict[str, Tensor] = {}
            for step, (pixels, labels) in enumerate(_batches(parts, config, seed)):
                _set_learning_rate(optimizer, config, epoch, step / steps)
                pixels, labels = pixels.to(fabric.device), labels.to(fabric.device)
                terms = loss(model(pixels), pixels, labels)
                optimizer.zero_grad()
                fabric.backward(sum(terms.values()))
                optimizer.step()
                for term, value in terms.items():
                    sums[term] = sums.get(term, 0) + value.detach()
                bar.update()
            means = {term: value.item() / steps for term, value in sums.items()}
            row = {"epoch": epoch + 1, "learning_rate": optimizer.param_groups[0]["lr"]}
            history.append(row | means | {"seconds": perf_counter() - started})
            bar.set_postfix({term: f"{value:.3f}" for term, value in means.items()})
            if not all(torch.isfinite(value) for value in sums.values()):
                raise FloatingPointError(
                    f"{name}: the loss is {means} in epoch {epoch + 1}; nothing was saved. Lower "
                    f"the learning rate (now {config.learning_rate})"
                )
    network.cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(True)
    return pd.DataFrame(history)


def _batches(
    parts: Sequence[Augmented], config: TrainConfig, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of the first part, each batch joined by one of all others, its memory.

    Orders are drawn from (seed, epoch) alone; the memory starts again as often as it must.
    """
    images, *memory = parts
    loaders = [_loader(images, len(images), config, seed, "order", images.epoch)]
    if memory:
        remembered = ConcatDataset(memory)
        loaders.append(_loader(remembered, len(images), config, seed, "memory order", images.epoch))
    for batches in zip(*loaders, strict=True):
        pixels, labels = zip(*batches, strict=True)
        yield torch.cat(pixels), torch.cat(labels)


def _loader(
    images: Dataset, count: int, config: TrainConfig, seed: int, *purpose: str | int
) -> DataLoader:
    """Batches of `count` images in random order, all once before any comes again."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose))
    rounds = -(-count // len(images))
    order = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
    return DataLoader(
        images,
        config.batch,
        sampler=torch.cat(order)[:count].tolist(),
        drop_last=True,
        num_workers=config.workers,
        generator=generator,
    )


def _set_learning_rate(
    optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int, part: float
) -> None:
    """Polynomial decay. By epoch, the released code counts from -1, so it starts a bit higher."""
    done = epoch + part if config.schedule == "step" else epoch - 1
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * (1 - done / config.epochs) ** config.power


def evaluate(
    network: ERFNet, images: LabelledImages, class_sets: Mapping[str, slice], config: TrainConfig
) -> MeanIoU:
    """Score a network on a data set for all class sets in one pass (Sec. IV-A).

    The channels of the network are the visible classes of the data set, or ValueError.
    """
    visible = images.visible
    if network.num_classes != visible.stop - visible.start:
        raise ValueError(
            f"the network has {network.num_classes} channels but the data set shows the classes "
            f"{', '.join(images.split.names(visible))}; open the test set of the stage after which "
            "the network stands: data.test_set(stage)"
        )
    scores = MeanIoU(class_sets)
    with tqdm(total=len(images), desc="evaluate", unit="image", leave=False, mininterval=1) as bar:
        for pixels, labels in same_size(images, most=8):
            scores.update(predict(network, pixels, config), labels, visible.start)
            bar.update(len(pixels))
    return scores


def same_size(images: LabelledImages, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, in batches of at most `most` neighbours of one size."""
    batch: list[tuple[Tensor, Tensor]] = []
    for index in range(len(images)):
        item = images[index]
        shapes = [part.shape for part in item]
        if batch and (len(batch) == most or shapes != [part.shape for part in batch[0]]):
            yield default_collate(batch)
            batch = []
        batch.append(item)
    yield default_collate(batch)


def predict(network: ERFNet, images: Tensor, config: TrainConfig) -> Tensor:
    """Logits of a network in evaluation mode: images (B, 3, H, W) -> (B, S, H, W), on the CPU.

    It computes on the device and in the precision of training, so that scores repeat exactly;
    the network stays there, in evaluation mode.
    """
    fabric = make_fabric(config)
    _placed(network, fabric, config).eval()
    with torch.no_grad(), fabric.autocast():
        return network(images.to(fabric.device)).float().cpu()


def make_fabric(config: TrainConfig) -> Fabric:
    """Lightning Fabric on the best device at hand, in the precision of `used_precision`."""
    return Fabric(devices=1, precision=used_precision(config))


def used_precision(config: TrainConfig) -> Literal["32-true", "bf16-mixed"]:
    """The configured precision; "auto" is bf16 where the processor multiplies it in hardware."""
    if config.precision != "auto":
        return config.precision
    device = Fabric(devices=1).device
    gains = False
    if device.type == "cuda":
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        gains = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if gains else "32-true"


def _placed(network: ERFNet, fabric: Fabric, config: TrainConfig) -> ERFNet:
    """The network on the device, in the memory format that pays at this precision."""
    bf16 = used_precision(config) == "bf16-mixed"
    memory_format = torch.channels_last if bf16 else torch.contiguous_format
    return network.to(fabric.device, memory_format=memory_format)


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
