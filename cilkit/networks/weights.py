"""Published weight files, loaded into a network or its encoder."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cilkit.networks.base import Segmenter
from cilkit.networks.weight_files import listed, read_tensors

PRETRAINING = ("output_conv.", "encoder.output_conv.", "classifier.")  # layers of no use here


def load_weights(network: nn.Module, file: Path | str) -> None:
    """Load a weight file from elsewhere into a network or its encoder.

    Understands the forms in circulation: a state dict, saved by torch.save or as safetensors, as
    such or at any depth of other dicts, with any prefix before its names (`module.`,
    `model.`, and `module.features.encoder.` of the ImageNet encoder), in any floating-point
    precision, from any device. Layers used only in pre-training (`encoder.output_conv`, the
    ImageNet classifier) are left out. All else is a ValueError that says what is in the file and
    what to do; nothing is loaded then.
    """
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(
            f"no weight file {file}; download it there, or start from random weights"
        )
    state = read_tensors(file)
    wanted = network.state_dict()
    found = _under(_prefix(file, state, wanted), state)
    if misfits := list(_misfits(found, wanted)):
        more = f" and {len(misfits) - 6} more" if len(misfits) > 6 else ""
        way_out = "Check that it is a file of this network"
        if isinstance(network, Segmenter):
            way_out = "Check the number of classes, or load only the encoder"
        raise ValueError(
            f"weights {file} do not fit the {type(network).__name__}: {'; '.join(misfits[:6])}"
            f"{more}. {way_out}. The file holds {len(state)} tensors: {listed(state)}"
        )
    if damaged := list(_damaged(found)):
        raise ValueError(
            f"weights {file} are damaged, or of a training that went wrong: {listed(damaged)}; "
            "download it again, or use others"
        )
    network.load_state_dict(found)


def _prefix(file: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stands before the names of the network in a file: "", or such as "state_dict.model."."""
    follow = Counter(  # how many of the wanted names follow a prefix
        name.removesuffix(end)
        for name in state
        for end in _ends(name)
        if end in wanted and not _is_optional(end)
    )
    complete = sum(not _is_optional(key) for key in wanted)
    whole = [prefix for prefix, count in follow.items() if count == complete]
    if len(whole) > 1:
        raise ValueError(
            f"weights {file} are of {len(whole)} networks that fit: {listed(map(repr, whole))}; "
            "save the one that you want in a file of its own, and load that"
        )
    return max(follow, key=follow.get, default="")


def _ends(name: str) -> list[str]:
    """Of "a.b.c": "a.b.c", "b.c" and "c"."""
    parts = name.split(".")
    return [".".join(parts[k:]) for k in range(len(parts))]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it and without layers of the pre-training."""
    named = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    return {key: value for key, value in named.items() if not key.startswith(PRETRAINING)}


def _misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    for key in wanted:
        if key not in state and not _is_optional(key):
            yield f"{key} is missing"
    for key, value in state.items():
        if key not in wanted:
            yield f"{key} has no place in the network"
        elif value.shape != wanted[key].shape:
            yield f"{key} has shape {tuple(value.shape)}, wanted {tuple(wanted[key].shape)}"
        elif wanted[key].is_floating_point() and not _is_plain(value):
            what = ", ".join(map(str, (value.dtype, value.layout, value.device)))
            yield f"{key} is {what}, wanted plain floating-point numbers"


def _damaged(state: Mapping[str, Tensor]) -> Iterator[str]:
    for key, value in state.items():
        if not value.float().isfinite().all():
            yield f"{key} has nan or inf"
        elif key.endswith("running_var") and value.min() < 0:
            yield f"{key} has negative variances"


def _is_optional(key: str) -> bool:
    return key.endswith("num_batches_tracked")  # new in torch 0.4.1


def _is_plain(value: Tensor) -> bool:
    """Neither quantised nor sparse, and not without values (on the device "meta")."""
    return value.is_floating_point() and value.layout == torch.strided and not value.is_meta
