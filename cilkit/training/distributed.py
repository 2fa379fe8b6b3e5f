"""One training on several processes (ranks), as torchrun starts them; without torchrun, one.

All ranks hold the same network. Rank r computes the images i of a batch with i % world_size = r.
What depends on the whole batch is computed from the whole batch:

- batch norm takes mean and variance over all shares, and their gradient goes back to all;
- dropout draws the masks of the whole batch on every rank, which uses its share of them;
- a loss gets the logits, labels and features of all shares, so its denominators are those of its
  equation, for any method, one written in a notebook included. On each rank only that rank's own
  logits have a gradient; the sum of these gradients over the ranks is the gradient of the loss.

The last point costs traffic (56 MB of logits a step for the paper's batch and 19 classes) and the
time of the loss on every rank. In return, no method depends on the world size. In one process,
none of this does anything.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

T = TypeVar("T")

# How long a rank waits for the others before the training ends with an error. If a process dies,
# torchrun ends the training at once; this is for one that hangs, or a node that is gone. It must be
# longer than what rank 0 does alone: writing a run, rating the images for a memory.
PATIENCE = timedelta(minutes=30)


def launched_world_size() -> int:
    """How many processes torchrun has started for this training; 1 without it."""
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def world_size() -> int:
    """How many processes share the training, since `make_fabric` has connected them."""
    connected = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if connected else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_rank0() -> bool:
    """Whether this is the one that prints and writes."""
    return rank() == 0


def shard(whole: Tensor) -> Tensor:
    """This rank's share of what has a row for each image of one batch or of several."""
    return whole[rank() :: world_size()]


def all_gather(share: Tensor) -> Tensor:
    """The whole batch from the shares of all ranks, (b, ...) -> (b * ranks, ...).

    It undoes `shard`. This rank's rows keep their gradient; those of other ranks have none.
    """
    if world_size() == 1:
        return share
    shares = _of_all(share.detach())
    shares[rank()] = share
    return torch.stack(shares, dim=1).flatten(0, 1)


def on_rank0(function: Callable[[], T]) -> T:
    """The result of a function that rank 0 alone calls; the others wait and receive it."""
    if world_size() == 1:
        return function()
    told = [function() if is_rank0() else None]
    distributed.broadcast_object_list(told)
    return told[0]


def gather_objects(value: T) -> list[T]:
    """The values of all ranks, in order."""
    told = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(told, value)
    return told


def share_batch(network: nn.Module) -> None:
    """Let batch norm and dropout of a network use the whole batch; in one process they do already.

    Both keep their weights, settings and names. Raises ValueError for other layers of which the kit
    knows that they would see one share alone. It cannot know all: a layer of your own that draws at
    random, or takes a mean over the batch, computes with the share of its process.
    """
    if world_size() == 1:
        return
    for name, module in network.named_modules():
        if not _can_share(module):
            raise ValueError(
                f"layer {name!r}, {module}, depends on the whole batch, and several processes "
                f"cannot share it: train in one process, or use one of "
                f"{', '.join(kind.__name__ for kind in SHARED)} in their usual form"
            )
        module.__class__ = SHARED.get(type(module), type(module))  # the same state, another forward


def _can_share(module: nn.Module) -> bool:
    """Whether a layer computes the same from shares as from the whole batch, as far as is known."""
    if not isinstance(module, _BatchNorm | _DropoutNd | StochasticDepth):
        return True
    if type(module) not in (*SHARED, *SHARED.values()):
        return getattr(module, "p", ...) == 0  # a dropout that drops nothing
    if isinstance(module, nn.BatchNorm2d):
        return module.affine and module.track_running_stats and module.momentum is not None
    return True


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the whole batch, of which each rank holds a share of the same size."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        own_variance, own_mean = torch.var_mean(exact, dim=(0, 2, 3), correction=0)  # (C,) each
        means, variances = _Gather.apply(torch.stack([own_mean, own_variance])).unbind(1)  # (R, C)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)  # (C,)
        self._remember(mean, variance, world_size() * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (pixels / (pixels - 1)), self.momentum)
        self.num_batches_tracked += 1


class Dropout2d(nn.Dropout2d):
    """Dropout of feature maps whose masks are those that one process draws for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or world_size() == 1:
            return super().forward(x)
        masks = super().forward(x.new_ones(world_size() * len(x), x.shape[1], 1, 1))
        return x * shard(masks)


class Dropout(nn.Dropout):
    """Dropout of single numbers, in the same way."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or world_size() == 1:
            return super().forward(x)
        masks = super().forward(x.new_ones(world_size() * len(x), *x.shape[1:]))
        return x * shard(masks)


SHARED = {nn.BatchNorm2d: BatchNorm2d, nn.Dropout2d: Dropout2d, nn.Dropout: Dropout}


class _Gather(torch.autograd.Function):
    """The tensors of all ranks, stacked; backward adds up the gradients of all ranks."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return torch.stack(_of_all(x))

    @staticmethod
    def backward(_, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[rank()]


def _of_all(x: Tensor) -> list[Tensor]:
    x = x.contiguous()
    found = [torch.empty_like(x) for _ in range(world_size())]
    distributed.all_gather(found, x)
    return found
