"""Predictions of a network, its scores on a data set, and the device and precision for both."""

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from cilkit import subnormals
from cilkit.classes import Classes, channels_of
from cilkit.data.images import LabelledImages
from cilkit.fast_metrics import best_channels
from cilkit.limits import usable_cores
from cilkit.metrics import MeanIoU
from cilkit.networks import Segmenter
from cilkit.training import distributed
from cilkit.training.config import TrainConfig

Placed = TypeVar("Placed", Segmenter, Tensor)

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
EVALUATION_BATCH = 4, 2**19  # images that are evaluated in one pass, and their pixels, at most

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no line about the precision


def evaluate(
    network: Segmenter,
    images: LabelledImages,
    class_sets: Mapping[str, Classes],
    config: TrainConfig,
) -> MeanIoU:
    """Score a network on a data set for all class sets in one pass (Sec. IV-A).

    Several ranks share the images, and each returns the scores of all images. The channels of the
    network are the visible classes of the data set, or ValueError.
    """
    visible = images.visible
    if network.num_classes != len(channels_of(visible)):
        raise ValueError(
            f"the network has {network.num_classes} channels but the data set shows the classes "
            f"{', '.join(images.split.names(visible))}; open the test set of the stage after which "
            "the network stands: data.test_set(stage)"
        )
    images.prepare(progress=distributed.is_rank0())
    scores, share = MeanIoU(class_sets, best_channels), _share(images)
    hidden = {"leave": False, "delay": 2, "disable": not distributed.is_rank0()}
    with tqdm(total=len(share), desc="evaluate", unit="image", **hidden) as bar:
        for pixels, labels in same_size(share):
            logits, first = _by_class(_logits(network, pixels, config), visible)
            scores.update(logits, labels.to(logits.device), first)
            bar.update(len(pixels))
    found = distributed.gather_objects(scores.counts)
    scores.counts = {name: sum(counts[name] for counts in found) for name in class_sets}
    return scores


def _by_class(logits: Tensor, visible: Classes) -> tuple[Tensor, int]:
    """Logits whose channels are classes that follow each other, and the first of these classes.

    For a model of a set of classes, those between them that it does not know never win.
    """
    if isinstance(visible, slice):
        return logits, visible.start
    size = (len(logits), max(visible) + 1, *logits.shape[2:])
    spread_out = logits.new_full(size, -torch.inf)
    spread_out[:, list(visible)] = logits
    return spread_out, 0


def _share(images: LabelledImages) -> LabelledImages:
    """The images that this rank evaluates: if all are of one size, whole batches of `evaluate`."""
    if distributed.world_size() == 1:
        return images
    batch = torch.arange(len(images)) // evaluation_batch_size(images.load(0)[0])
    own = batch % distributed.world_size() == distributed.rank()
    return images.subset(own.nonzero()[:, 0].tolist())


def evaluation_batch_size(image: Tensor) -> int:
    """How many images as large as (3, h, w) are evaluated in one pass."""
    images, pixels = EVALUATION_BATCH
    return max(1, min(images, pixels // image[0].numel()))


def same_size(images: LabelledImages) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, (B, 3, h, w) in [0, 1], and their labels, uint8.

    A batch holds at most `evaluation_batch_size` neighbouring images, all of one size.
    """
    batch: list[tuple[Tensor, Tensor]] = []
    for index in range(len(images)):
        item = images.load(index)
        shapes = [part.shape for part in item]
        if batch and (
            len(batch) == evaluation_batch_size(item[0])
            or shapes != [part.shape for part in batch[0]]
        ):
            yield _joined(batch)
            batch = []
        batch.append(item)
    if batch:
        yield _joined(batch)


def _joined(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    pixels, labels = default_collate(batch)
    return pixels / 255, labels  # stacked as bytes: a quarter of the copying


def predict(network: Segmenter, images: Tensor, config: TrainConfig) -> Tensor:
    """Logits of a network in evaluation mode: images (B, 3, H, W) -> (B, S, H, W), on the CPU.

    It computes on the device and in the precision of training, so that scores repeat exactly;
    the network stays there, in evaluation mode.
    """
    return _logits(network, images, config).cpu()


def _logits(network: Segmenter, images: Tensor, config: TrainConfig) -> Tensor:
    """The same, still on the device: where scores are counted, only the counts leave it."""
    subnormals.flush()
    fabric = _kept_fabric(used_precision(config), distributed.launched_world_size())
    to_device(network, fabric, config).eval()
    return forward_logits(network, images, fabric, config)


def forward_logits(
    network: Segmenter, images: Tensor, fabric: Fabric, config: TrainConfig
) -> Tensor:
    """Logits without a gradient, float32 on the device: (B, 3, H, W) -> (B, S, H, W).

    The network must be on the device and in evaluation mode.
    """
    with torch.no_grad(), fabric.autocast():
        logits = network(to_device(images, fabric, config))
    # type and layout in one pass: a softmax or a search along the channels wants them contiguous
    return logits.to(torch.float32, memory_format=torch.contiguous_format)


def make_fabric(config: TrainConfig) -> Fabric:
    """Lightning Fabric on the best device at hand, in the precision of `used_precision`.

    Under torchrun it connects the processes, each with a device of its own. A ValueError says
    so if they cannot share the batch evenly.
    """
    subnormals.flush()
    processes = distributed.launched_world_size()
    if config.batch % processes:
        even = [str(n) for n in range(1, config.batch + 1) if config.batch % n == 0]
        raise ValueError(
            f"{processes} processes cannot share a batch of {config.batch} images evenly; start a "
            f"number that divides it, on all nodes together: {', '.join(even)}"
        )
    return _new_fabric(used_precision(config), processes)


@cache  # Lightning asks all installed packages for callbacks, which takes as long as an image
def _kept_fabric(precision: str, processes: int) -> Fabric:
    """The Fabric of all predictions; each training has its own."""
    return _new_fabric(precision, processes)


def _new_fabric(precision: str, processes: int) -> Fabric:
    """Of the processes that torchrun has started; variables of a scheduler, such as SLURM's, say
    what a job may use, not that its processes train together, so Lightning is not to read them.
    """
    _use_own_cores()
    if precision == "32-true":
        _use_whole_float32()
    if processes == 1:
        return Fabric(devices=1, precision=precision, plugins=LightningEnvironment())
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = {"devices": here, "num_nodes": processes // here}
    strategy, launcher = DDPStrategy(timeout=distributed.PATIENCE), TorchElasticEnvironment()
    fabric = Fabric(strategy=strategy, plugins=launcher, precision=precision, **nodes)
    fabric.launch()
    return fabric


@cache  # once: a number of threads that is set later stays
def _use_own_cores() -> None:
    """Let torch compute with as many threads as a container has cores; it counts the host's."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def _use_whole_float32() -> None:
    """Let cuDNN multiply all 24 bits of a float32 in its convolutions, in the whole process.

    By default it rounds the factors to the 11 bits of TF32, and results change by 1e-4 with the
    batch. On a CPU, and under autocast to bf16, the setting changes nothing.
    """
    torch.backends.cudnn.allow_tf32 = False


def used_precision(config: TrainConfig) -> Literal["32-true", "bf16-mixed"]:
    """The configured precision; "auto" is bf16 where the processor multiplies it in hardware."""
    if config.precision != "auto":
        return config.precision
    device = best_device()
    gains = False
    if device.type == "cuda":
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        gains = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16-mixed" if gains else "32-true"


def used_memory_format(config: TrainConfig) -> Literal["contiguous", "channels_last"]:
    """The configured memory format of networks and images; "auto" follows the precision.

    channels_last is faster in bf16 on all processors that were tried, and in float32 on some: a
    `Study` times it, see `cilkit.training.timing`.
    """
    if config.memory_format != "auto":
        return config.memory_format
    return "channels_last" if used_precision(config) == "bf16-mixed" else "contiguous"


@cache
def best_device() -> torch.device:
    """The device that Lightning Fabric chooses: a GPU if there is one."""
    return Fabric(devices=1, plugins=LightningEnvironment()).device


def to_device(what: Placed, fabric: Fabric, config: TrainConfig) -> Placed:
    """A network or images (B, 3, H, W) on the device, in the memory format of `config`.

    Images also get the type of its precision, so that student and teacher see the same ones.
    """
    if isinstance(what, Tensor) and used_precision(config) == "bf16-mixed":
        what = what.bfloat16()  # weights stay in float32
    return what.to(fabric.device, memory_format=FORMATS[used_memory_format(config)])
