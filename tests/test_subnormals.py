"""Subnormal numbers count as zero in every process and thread in which the kit computes."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cilkit.data.augmentation import Augmented
from cilkit.files import ROOT

MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in (ROOT / "cilkit").rglob("*.py")
}


def left_over(pixels: int = 2**20) -> list[int]:
    """How many products, in each half of a tensor, are subnormal, or come from a subnormal one.

    Two threads of torch compute a half each.
    """
    made = torch.full((pixels,), 1e-30) * torch.full((pixels,), 1e-10)
    used = torch.full((pixels,), 1e-40) * torch.full((pixels,), 1e10)
    return ((made != 0) | (used != 0)).view(2, -1).sum(dim=1).tolist()


class LeftOver(Augmented):
    """A data set whose item is what `left_over` finds in the process that makes it."""

    def __init__(self):
        """There are no images."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(left_over())


def in_a_worker(start: str) -> list[int]:
    """`left_over` in a process of a DataLoader that was started in a way."""
    (found,) = DataLoader(LeftOver(), num_workers=1, multiprocessing_context=start)
    return found[0].tolist()


# a program that has a thread before it imports the kit, and computes with the kit in both
PROGRAM = """
import json, threading
imported, found = threading.Event(), {}

def predict_in_a_thread():
    imported.wait()
    network, config = ERFNet(2), get_config("smoke", precision="32-true")
    predict(network, torch.rand(1, 3, 128, 256), config)
    found["a thread that was there before"] = left_over()

thread = threading.Thread(target=predict_in_a_thread)
thread.start()
import torch
from cilkit import ERFNet, cross_entropy
torch.set_num_threads(2)
logits, labels = torch.randn(4, 5, 256, 256), torch.zeros(4, 256, 256, dtype=torch.long)
cross_entropy(logits.log_softmax(dim=1), labels)  # large enough for two threads
from cilkit.training.config import get_config
from cilkit.training.evaluation import predict
from test_subnormals import in_a_worker, left_over
found["the first thread"] = left_over()
imported.set()
thread.join()
found |= {f"a worker by {start}": in_a_worker(start) for start in ("fork", "spawn")}
print(json.dumps(found))
"""


@pytest.mark.skipif(not torch.set_flush_denormal(True), reason="this processor cannot flush")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_every_thread_and_worker_flushes_whatever_came_first():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4 and all(left == [0, 0] for left in found.values()), found


def imports(module: str) -> set[str]:
    """What a module of the kit imports when it is imported, and the packages that it lies in."""
    parts = module.split(".")
    found = {".".join(parts[:end]) for end in range(2, len(parts))}
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if "torch" in imports(name)])
def test_a_module_that_computes_makes_the_setting_first(module):
    reached, todo = set(), [module]
    while todo:
        if (name := todo.pop()) not in reached:
            reached.add(name)
            todo += imports(name) & MODULES.keys()
    assert "cilkit.subnormals" in reached
