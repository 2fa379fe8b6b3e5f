"""Networks by name: ERFNet, that of the paper, and others; and published weights for them."""

from cilkit import subnormals  # noqa: F401  these count as zero from here on
from cilkit.checks import unknown
from cilkit.networks.base import Segmenter
from cilkit.networks.erfnet import ERFNet
from cilkit.networks.lraspp import LRASPP

# what TrainConfig(network=...) may name; NETWORKS["mine"] = MyNetwork adds one
NETWORKS: dict[str, type[Segmenter]] = {"ERFNet": ERFNet, "LRASPP": LRASPP}

__all__ = ["NETWORKS", "Segmenter", "get_network"]


def get_network(name: str) -> type[Segmenter]:
    """The network of that name; a ValueError lists the names there are."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(
            f"{unknown('network', name, list(NETWORKS))}. One of your own needs an entry, before "
            f"it is used: NETWORKS[{name!r}] = its class, a Segmenter"
        )
    return NETWORKS[name]
