"""The one training loop of all methods: batches, learning rate, history, checkpoints.

A training that was stopped goes on from its last checkpoint and ends with the same weights, bit
for bit, as one that was not: everything random is drawn from (seed, epoch, index), or its
generator is part of the checkpoint. Several processes may share a training; see
`cilkit.training.distributed`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm import tqdm

from cilkit.classes import Classes
from cilkit.data.augmentation import Augmented, derive_seed
from cilkit.data.images import LabelledImages
from cilkit.limits import usable_cores
from cilkit.networks import Segmenter
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import evaluate, make_fabric, to_device

Loss = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]

WORKERS_ON_CUDA = 4  # where a configuration asks for none: one process is slower than a GPU


@dataclass(frozen=True)
class Monitor:
    """A few images that are scored during a training, for display only: nothing is chosen by them.

        images      for example of a held-back city, with labels of the classes that are learned
        class_sets  as in `evaluate`; each becomes a column of the history, in %
        show        show(name, history) is called after each epoch

    Scored are every second epoch, or every twentieth part of a longer training, and the last one.
    """

    images: LabelledImages
    class_sets: Mapping[str, Classes]
    show: Callable[[str, pd.DataFrame], None] | None = None

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to score after an epoch, counted from 1."""
        return epoch % max(2, epochs // 20) == 0 or epoch == epochs


class Checkpoint(Protocol):
    """Where the state of a training is kept; `FileCheckpoint` keeps it in a file."""

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The last state, None if there is none."""

    def due(self) -> bool:
        """Whether it is time to save again."""

    def save(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Keep a state instead of the one before."""


class Training:
    """One training: the network, its optimiser, and how far they are.

    loss(logits, pixels, labels) gives the terms by name; `frozen` parts keep their weights and
    their batch-norm statistics; with a `memory`, each batch holds as many replayed images again.
    Under torchrun each rank has the logits and labels of the whole batch, but only the pixels of
    its share.
    """

    def __init__(
        self,
        network: Segmenter,
        images: LabelledImages,
        loss: Loss,
        config: TrainConfig,
        seed: int,
        name: str,
        frozen: Sequence[nn.Module] = (),
        memory: Sequence[LabelledImages] = (),
    ):
        self.steps = len(images) // config.batch  # of an epoch
        if self.steps == 0:
            raise ValueError(
                f"{name}: a batch of {config.batch} is larger than the data set of {len(images)} "
                "images; use a smaller batch or more images"
            )
        self.network, self.loss, self.config, self.seed = network, loss, config, seed
        self.name, self.frozen = name, frozen
        for module in frozen:
            module.requires_grad_(False)
        self.fabric = make_fabric(config)
        if self.fabric.device.type == "cuda" and config.workers == 0:
            self.config = replace(config, workers=WORKERS_ON_CUDA)
        distributed.share_batch(network)
        to_device(network, self.fabric, config)
        self.adam = torch.optim.Adam(
            [weight for weight in network.parameters() if weight.requires_grad],
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,  # one call of Adam for all weights, on the CPU too
        )
        self.model, self.optimizer = self.fabric.setup(network, self.adam)
        named = {"new": images} | {f"memory {i}": stage for i, stage in enumerate(memory)}
        self.sources = [
            Augmented(source, config.augmentation, seed, name, progress=distributed.is_rank0())
            for name, source in named.items()
        ]
        for source in self.sources[1:]:  # one batch holds images of all, so of one size
            source.crop = self.sources[0].crop
        self.history: list[dict] = []  # a row for each finished epoch
        self._start_epoch()

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def _start_epoch(self) -> None:
        self.step = 0  # finished steps of this epoch
        self.sums: dict[str, Tensor] = {}
        self.seconds = 0.0

    def run(
        self, monitor: Monitor | None = None, checkpoint: Checkpoint | None = None
    ) -> pd.DataFrame:
        """Train to the end, from the checkpoint's state if it has one; returns the history.

        Raises FloatingPointError in the step after the one in which the loss is not finite.
        """
        if checkpoint is not None and (kept := distributed.on_rank0(checkpoint.load)) is not None:
            self._restore(*kept)
        total, done = self.config.epochs * self.steps, self.epoch * self.steps + self.step
        shown = {"desc": self.name, "unit": "step", "disable": not distributed.is_rank0()}
        with tqdm(total=total, initial=done, mininterval=1, **shown) as bar:
            while self.epoch < self.config.epochs:
                self._run_epoch(bar, checkpoint)
                scores = self._score(monitor)
                self._finish_epoch(bar, scores)
                if monitor is not None and monitor.show is not None and distributed.is_rank0():
                    monitor.show(self.name, pd.DataFrame(self.history))
        self.optimizer.zero_grad()
        self.network.cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(True)
        return pd.DataFrame(self.history)

    def _run_epoch(self, bar: tqdm, checkpoint: Checkpoint | None) -> None:
        before, started = self.seconds, perf_counter()
        self.model.train()
        for module in self.frozen:
            module.eval()
        for source in self.sources:
            source.epoch = self.epoch
        for pixels, labels in self._batches_left():
            for group in self.adam.param_groups:
                group["lr"] = learning_rate(self.config, self.epoch, self.step / self.steps)
            pixels = to_device(pixels, self.fabric, self.config)
            labels = labels.to(self.fabric.device)
            logits = distributed.all_gather(self.model(pixels))
            terms = self.loss(logits, pixels, distributed.all_gather(labels))
            self._check_sums()  # of the steps before: their values are there without waiting
            self.optimizer.zero_grad()
            # Fabric takes the mean of the ranks' gradients; wanted is their sum
            self.fabric.backward(sum(terms.values()) * distributed.world_size())
            self.optimizer.step()
            for term, value in terms.items():
                self.sums[term] = self.sums.get(term, 0) + value.detach()
            self.step += 1
            self.seconds = before + perf_counter() - started
            bar.update()
            if checkpoint is not None and distributed.is_rank0() and checkpoint.due():
                self._check_sums()
                if all(w.isfinite().all() for w in self.network.parameters()):  # else it fails soon
                    checkpoint.save(*self._state())
        self._check_sums()

    def _batches_left(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch from step `self.step` on; without workers once these fail.

        Worker processes need what a container or a scheduler may not give: shared memory, more
        processes, open files. An error that has another reason comes again without them.
        """
        try:
            yield from _batches(self.sources, self.config, self.seed, self.step)
            return
        except (OSError, RuntimeError) as error:
            if self.config.workers == 0:
                raise
            reason = (str(error).strip() or repr(error)).splitlines()[-1]
        print(
            f"{self.name}: the worker processes failed ({reason}). From here on this process "
            "decodes the images itself: the weights are the same, an epoch may take longer. In a "
            "container, more shared memory helps: docker run --shm-size=1g"
        )
        self.config = replace(self.config, workers=0)
        yield from self._batches_left()

    def _check_sums(self) -> None:
        sums = {term: value.item() for term, value in self.sums.items()}
        if not all(math.isfinite(value) for value in sums.values()):
            raise FloatingPointError(
                f"{self.name}: the loss is {sums} in step {self.step} of epoch {self.epoch + 1}; "
                f"nothing was saved from there on. Lower the learning rate (now "
                f"{self.config.learning_rate})"
            )

    def _score(self, monitor: Monitor | None) -> dict[str, float]:
        if monitor is None:
            return {}
        if not monitor.due(self.epoch + 1, self.config.epochs):
            return dict.fromkeys(monitor.class_sets, math.nan)
        found = evaluate(self.network, monitor.images, monitor.class_sets, self.config)
        return {name: found.miou(name) for name in monitor.class_sets}

    def _finish_epoch(self, bar: tqdm, scores: dict[str, float]) -> None:
        means = {term: value.item() / self.steps for term, value in self.sums.items()}
        last = learning_rate(self.config, self.epoch, 1 - 1 / self.steps)
        row = {"epoch": self.epoch + 1, "learning_rate": last}
        self.history.append(row | means | scores | {"seconds": self.seconds})
        bar.set_postfix({term: f"{value:.3f}" for term, value in means.items()})
        self._start_epoch()

    def _state(self) -> tuple[dict[str, Tensor], dict]:
        """All that the rest of the training depends on: tensors, and what fits into JSON."""
        tensors = {f"network.{k}": value for k, value in self.network.state_dict().items()}
        for index, kept in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in kept.items()}
        tensors |= {f"sums.{term}": value for term, value in self.sums.items()}
        tensors |= {f"random.{kind}": get() for kind, (get, _) in self._generators().items()}
        facts = {
            "history": self.history,
            "step": self.step,
            "seconds": self.seconds,
            "terms": list(self.sums),
        }
        return tensors, facts

    def _restore(self, tensors: dict[str, Tensor], facts: dict) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            prefix += "."
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        device = self.fabric.device
        self.network.load_state_dict(under("network"))
        self.adam.load_state_dict(self._adam_state(under("adam")))
        self.history, self.step, self.seconds = facts["history"], facts["step"], facts["seconds"]
        self.sums = {term: tensors[f"sums.{term}"].to(device) for term in facts["terms"]}
        for kind, (_, put) in self._generators().items():
            put(tensors[f"random.{kind}"])

    def _adam_state(self, tensors: Mapping[str, Tensor]) -> dict:
        """Adam's own state_dict from tensors that are named by the index of a weight and a key."""
        state = self.adam.state_dict()
        for name, value in tensors.items():
            index, key = int(name.split(".")[0]), name.split(".")[1]
            weight = self.adam.param_groups[0]["params"][index]
            if value.shape == weight.shape:  # in its memory format, which a file does not keep
                value = torch.empty_like(weight).copy_(value)
            state["state"].setdefault(index, {})[key] = value
        return state

    def _generators(self) -> dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
        """The global generators that dropout draws from: how to read and how to set each."""
        generators = {"cpu": (torch.get_rng_state, torch.set_rng_state)}
        backend = getattr(torch, self.fabric.device.type)
        if self.fabric.device.type in ("cuda", "mps"):
            generators[self.fabric.device.type] = (backend.get_rng_state, backend.set_rng_state)
        return generators


def _batches(
    sources: Sequence[Augmented], config: TrainConfig, seed: int, done: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of the first source without its first `done` batches, with as many replayed images.

    The replayed images of a batch come from all other sources together, which start again as often
    as needed. Orders are drawn from (seed, epoch) alone. Each rank gets its share of each batch.
    """
    images, *memory = sources
    loaders = [_loader(images, len(images), config, done, seed, "order", images.epoch)]
    if memory:
        remembered, purpose = ConcatDataset(memory), ("memory order", images.epoch)
        loaders.append(_loader(remembered, len(images), config, done, seed, *purpose))
    for batches in zip(*loaders, strict=True):
        pixels, labels = zip(*batches, strict=True)
        yield torch.cat(pixels), torch.cat(labels)


def _loader(
    images: Dataset, count: int, config: TrainConfig, done: int, seed: int, *purpose: str | int
) -> DataLoader:
    """Batches of `count` images in random order, all once before any comes again."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose))
    rounds = -(-count // len(images))
    order = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
    whole = torch.cat(order)[done * config.batch : count - count % config.batch]
    return DataLoader(
        images,
        config.batch // distributed.world_size(),
        sampler=distributed.shard(whole).tolist(),
        num_workers=min(config.workers, usable_cores()),
        generator=generator,
    )


def learning_rate(config: TrainConfig, epoch: int, part: float) -> float:
    """Polynomial decay. By epoch, the released code counts from -1, so it starts a bit higher.

    A warm-up multiplies it by a factor that rises from 0 to 1.
    """
    done = (epoch + part if config.schedule == "step" else epoch - 1) / config.epochs
    decay = (1 - done) ** config.power
    rise = min(1.0, max(0.0, done) / config.warmup) if config.warmup > 0 else 1.0
    return config.learning_rate * decay * rise
