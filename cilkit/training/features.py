"""What some layers of a network give, kept while it computes (`Method.features`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cilkit.checks import unknown
from cilkit.training import distributed


@contextmanager
def outputs_of(
    network: nn.Module | None, names: Sequence[str]
) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Watch some layers of a network, by their names in network.named_modules().

    Inside the context it is a function that gives, by name, the output of each layer in the last
    forward pass: (B, C, h, w), at least float32, of the whole batch, with its gradient if it has
    one. Each output can be had once. Nothing is watched without names or without a network.

    Raises ValueError for a name that does not exist, and, in the forward pass or when it is asked
    for, for a layer that gives something else than one such tensor.
    """
    layers = {} if network is None else {name: _layer(network, name) for name in names}
    last: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4:
            came = type(output).__name__
            came += f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
            raise ValueError(_no_map(network, name, f"gives a {came}"))
        last[name] = output if output.dtype == torch.float64 else output.float()

    def take() -> dict[str, Tensor]:
        if silent := [name for name in layers if name not in last]:
            raise ValueError(_no_map(network, silent[0], "took no part in the forward pass"))
        return {name: distributed.all_gather(last.pop(name)) for name in layers}

    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, layer in layers.items()
    ]
    try:
        yield take
    finally:
        for hook in hooks:
            hook.remove()


def _layer(network: nn.Module, name: str) -> nn.Module:
    layers = dict(network.named_modules())
    if name not in layers:
        raise ValueError(unknown("layer", name, _outer(layers)))
    return layers[name]


def _outer(names: Sequence[str]) -> list[str]:
    """The names of a network's parts and of their parts, without the convolutions inside blocks."""
    return [name for name in names if name and name.count(".") <= 2]


def _no_map(network: nn.Module, name: str, what: str) -> str:
    inside = [other for other, _ in network.named_modules() if other.startswith(f"{name}.")]
    others = ", ".join(_outer(inside) or _outer(dict(network.named_modules())))
    return f"layer {name!r} {what}; wanted one tensor (B, C, h, w). Name another one: {others}"
