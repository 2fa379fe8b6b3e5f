"""A training's state in a file, so that a stopped training can continue from there."""

import hashlib
import json
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import Tensor

from cilkit import files
from cilkit.training.config import differences


class FileCheckpoint:
    """The last state of one training in one file, written atomically.

    A state is written beside the file and renamed, so a crash leaves the previous state. The state
    of another configuration is set aside, and so is a damaged file.
    """

    def __init__(self, file: Path, config: dict, seconds: float = 20):
        """A state continues only under an equal `config`; a new one is due every `seconds`."""
        self.file, self.config, self.seconds = file, config, seconds
        self._unfinished = file.with_name(f"{file.name}.part")
        self._last = perf_counter()

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """Tensors and facts as they were saved; None, and a line that says why, if they cannot be.

        Nothing is unpickled.
        """
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as content:
                texts = content.metadata()
                tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            if texts.pop("sum") != _sum(tensors, texts):
                raise ValueError("it has another checksum")
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
            return self._refuse(f"is damaged ({type(error).__name__}: {error})")
        config, facts = json.loads(texts["config"]), json.loads(texts["facts"])
        differ = differences(config, self.config)
        if differ:
            return self._refuse(f"is of other {', '.join(differ)}")
        print(f"{self._name} goes on from epoch {len(facts['history']) + 1}, step {facts['step']}.")
        return tensors, facts

    @property
    def _name(self) -> str:
        return self.file.stem.removeprefix(".")

    def _refuse(self, why: str) -> None:
        old = files.set_aside(self.file)
        print(f"The unfinished training of {self._name} {why}: starting again. It lies in {old}.")

    def due(self) -> bool:
        """Whether the last saving is long enough ago."""
        return perf_counter() - self._last >= self.seconds

    def save(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Keep a state instead of the one before, which stays until this one is on the disk."""
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        texts = {"config": json.dumps(self.config), "facts": json.dumps(facts)}
        texts["sum"] = _sum(tensors, texts)
        try:
            files.write(self._unfinished, safetensors.save(tensors, texts))
            self._unfinished.replace(self.file)
        finally:
            self._unfinished.unlink(missing_ok=True)
        self._last = perf_counter()

    def remove(self) -> None:
        """Forget the state: the training is done."""
        for file in (self.file, self._unfinished):
            file.unlink(missing_ok=True)


def _sum(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    """A checksum of all that a state is: a file of weights has none of its own."""
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
