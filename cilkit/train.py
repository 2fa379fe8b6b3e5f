"""Training: the configuration and its presets, one loop for all methods, and evaluation."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Literal

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from cilkit.classes import Stage, unknown
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
        epochs=9,
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

    Returns the network, with a channel for each visible class, and the history by epoch.
    """

    def loss(logits: Tensor, _: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"ce": cross_entropy(logits.log_softmax(dim=1), labels)}

    with _seeded(seed, "network"):
        network = _new_network(images.visible.stop, config)
        history = _loop(network, images, loss, config, seed, name)
    return network, history


def fit_stage(
    method: Method,
    images: LabelledImages,
    stage: Stage,
    teacher: ERFNet,
    config: TrainConfig,
    seed: int = 0,
) -> tuple[ERFNet, pd.DataFrame]:
    """Train a method in a stage, with the model of the stage before as its teacher.

    Returns the network, with a channel for each old and new class, and the history by epoch.
    """
    new = stage.new.stop - stage.new.start
    if teacher.num_classes != stage.old.stop:
        raise ValueError(
            f"the teacher knows {teacher.num_classes} classes but stage {stage.name} follows "
            f"{stage.old.stop} old ones; take the model of the stage before {stage.name}"
        )
    fabric = make_fabric(config)
    frozen_teacher = _placed(deepcopy(teacher), fabric, config).eval().requires_grad_(False)

    def loss(logits: Tensor, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        teacher_y = None
        if method.teacher:
            with torch.no_grad(), fabric.autocast():
                teacher_y = frozen_teacher(pixels).float().softmax(dim=1)  # (B, O, H, W)
        return method.loss(Step(logits, labels, teacher_y, stage.old, stage.new))

    with _seeded(seed, "network"):
        if method.second_decoder:  # the old decoders stay as they are (Fig. 2)
            network = add_decoder(teacher, new)
            *frozen, new_decoder = network.decoders
            if config.identity_start:
                start_as_identity(new_decoder)
        elif config.start == "teacher":
            network, frozen = add_classes(teacher, new), []
        else:
            network, frozen = _new_network(teacher.num_classes + new, config), []
        name = f"{method.name} {stage.name}"
        history = _loop(network, images, loss, config, seed, name, frozen)
    return network, history


def _loop(
    network: ERFNet,
    images: LabelledImages,
    loss: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    config: TrainConfig,
    seed: int,
    name: str,
    frozen: list[torch.nn.Module] | None = None,
) -> pd.DataFrame:
    """The one training loop; it trains `network` in place and returns the history by epoch.

    loss(logits, pixels, labels) gives the terms by name; `frozen` parts keep their weights and
    their batch-norm statistics.
    """
    steps = len(images) // config.batch
    if steps == 0:
        raise ValueError(
            f"{name}: a batch of {config.batch} is larger than the data set of {len(images)} "
            "images; use a smaller batch or more images"
        )
    fabric = make_fabric(config)
    for part in frozen or []:
        part.requires_grad_(False)
    _placed(network, fabric, config)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trainable, config.learning_rate, weight_decay=config.weight_decay)
    model, optimizer = fabric.setup(network, adam)
    augmented = Augmented(images, config.augmentation, seed)
    history = []
    with tqdm(total=config.epochs * steps, desc=name, unit="step", mininterval=1) as bar:
        for epoch in range(config.epochs):
            started = perf_counter()
            model.train()
            for part in frozen or []:
                part.eval()
            augmented.epoch = epoch
            sums: dict[str, Tensor] = {}
            for step, (pixels, labels) in enumerate(_batches(augmented, config, seed)):
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


def _batches(augmented: Augmented, config: TrainConfig, seed: int) -> DataLoader:
    """One epoch in an order drawn from (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", augmented.epoch))
    order = torch.randperm(len(augmented), generator=generator).tolist()
    return DataLoader(
        augmented,
        config.batch,
        sampler=order,
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
    """Score a network on a data set for all class sets in one pass (Sec. IV-A)."""
    scores = MeanIoU(class_sets)
    with tqdm(total=len(images), desc="evaluate", unit="image", leave=False, mininterval=1) as bar:
        for pixels, labels in _same_size(images, most=8):
            scores.update(predict(network, pixels, config), labels)
            bar.update(len(pixels))
    return scores


def _same_size(images: LabelledImages, most: int) -> Iterator[tuple[Tensor, Tensor]]:
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
