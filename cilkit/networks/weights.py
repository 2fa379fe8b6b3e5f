"""Published weight files of ERFNet, loaded into a network or its encoder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cilkit.networks.erfnet import Encoder


def load_weights(network: nn.Module, file: Path | str) -> None:
    """Load a published weight file into an ERFNet or an Encoder.

    Understands the forms in circulation: a state dict as such or under the key `state_dict`,
    names with the prefix `module.`, and the ImageNet encoder's `module.features.encoder.`.
    Layers used only in pre-training (`encoder.output_conv`, the ImageNet classifier) are left
    out. Any other mismatch is a ValueError that names the keys; nothing is loaded then.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"no weight file {file}; download it there, or start from random weights"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        state = reference_names(content.get("state_dict", content))
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds other things than tensors")
    except Exception as error:  # foreign bytes may fail in any way
        raise ValueError(f"{file} is not a file of weights: {error}; download it again") from error
    if isinstance(network, Encoder):
        state = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder")}
    wanted = network.state_dict()
    optional = [key for key in wanted if key.endswith("num_batches_tracked")]  # new in torch 0.4.1
    problems = [f"{key} is missing" for key in wanted if key not in [*state, *optional]]
    problems += [f"{key} has no place in the network" for key in state if key not in wanted]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(
            f"weights {file} do not fit the {type(network).__name__}: {'; '.join(problems[:6])}"
            f"{more}. Check the number of classes, or load only the Encoder"
        )
    network.load_state_dict(state)


def reference_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under this module's names, without the pre-training layers."""
    named = {}
    for key, value in state.items():
        name = key.removeprefix("module.").removeprefix("features.")
        if not name.startswith(("encoder.output_conv.", "classifier.")):
            named[name] = value
    return named
