"""Subnormal numbers count as zero in every thread that computes with the kit.

Weight decay shrinks the weights of dead channels, and Adam's means of their gradients, to subnormal
numbers (below 1.2e-38). Many processors multiply these much slower than others: on an Intel Cascade
Lake a step late in a float32 training took nine times as long. On an AMD Zen 5 it costs nothing.

The setting belongs to a thread, and a thread inherits it from the one that starts it. Torch starts
its threads at the first large operation and keeps them. So `flush` is called when a module of the
kit is imported that computes, and once more where a network starts to compute, as that may be in
another thread than the import (JupyterLab answers a widget in one of its own).
"""

import torch


def flush() -> None:
    """Count subnormal numbers as zero in this thread, and in those that it starts from now on."""
    torch.set_flush_denormal(True)


flush()
