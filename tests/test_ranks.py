"""Two processes that share a training beside one that has it alone.

This file is also what torchrun runs: `run` and `die` are what such a process does. The two that
`work` are started as torchrun would, but from a server, which saves their imports.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SIZE, _make_network, _small, _write_cityscapes
from filelock import Timeout
from forked import PROCESSES
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.ops import StochasticDepth

from cilkit.data.augmentation import Augmentation
from cilkit.data.scenes import StreetScenes, open_data
from cilkit.files import ROOT
from cilkit.methods import METHODS, Method, Step
from cilkit.networks.erfnet import ERFNet
from cilkit.study import runs, study
from cilkit.study.__main__ import main
from cilkit.study.study import Study
from cilkit.training import distributed
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.config import PRESETS, differences
from cilkit.training.evaluation import evaluate, make_fabric
from cilkit.training.stage import fit, fit_stage

CONFIG = replace(
    PRESETS["smoke"],
    epochs=2,
    batch=2,
    height=32,
    augmentation=Augmentation(crop=(16, 32)),
    precision="32-true",
)


def sharpest(step: Step) -> dict[str, torch.Tensor]:
    """No sum over pixels, and nothing of the kit in it: shares of it do not add up."""
    return {"top": step.logits.amax() - step.logits.std(), "one": step.logits.mean() ** 2}


TRAININGS = {
    "T1": None,
    **{name: _small(name) for name in ("FT", "FE", "LWM", "CIL", "ILT", "MiB", "PLOP")},
    "mine": Method("mine", 1, sharpest),
}

pytestmark = [
    pytest.mark.xdist_group("ranks"),  # one worker makes the fixtures, once
    pytest.mark.skipif(
        torch.backends.mps.is_available() or not torch.distributed.is_available(),
        reason="MPS is one device, which several processes cannot share",
    ),
]


# what one process does alone, and two together


class ImageByImage:
    """A layer that gives the same for an image, to the last digit, in any batch; for teachers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return super().forward(x)
        return torch.cat([super(ImageByImage, self).forward(image[None]) for image in x])


LAYERS = {  # the ones whose rounding depends on the batch
    kind: type(kind.__name__, (ImageByImage, kind), {}) for kind in (nn.Conv2d, nn.ConvTranspose2d)
}


def train(
    name: str, scenes: StreetScenes, networks: dict[int, ERFNet]
) -> tuple[ERFNet, pd.DataFrame]:
    method = TRAININGS[name]
    if method is None:
        return fit(scenes.stage("T2").subset(range(4)), CONFIG)
    given = {}
    if method.memory is not None:
        given["memory"] = [scenes.stage("T1").subset(range(2))]
        given["new_teacher"] = networks[6]
    images = scenes.stage("T2", method.labels, hidden=method.hidden).subset(range(4))
    return fit_stage(method, images, scenes.split.stage("T2"), networks[5], CONFIG, **given)


def work(root: Path, folder: Path) -> None:
    """Trainings in both precisions, and scores; the first process writes them down."""
    scenes, tensors = open_data(root), {}
    networks = {classes: _make_network(classes, size=SIZE) for classes in (5, 6, 19)}
    for network in networks.values():
        for layer in network.modules():
            layer.__class__ = LAYERS.get(type(layer), type(layer))
    make_fabric(CONFIG)
    for name, precision in [("CIL", "32-true"), *((name, "64-true") for name in TRAININGS)]:
        with patch("cilkit.training.evaluation.used_precision", lambda _, p=precision: p):
            network, history = train(name, scenes, networks)
        numbers = history.drop(columns="seconds").to_numpy().tolist()
        weights = [weight.detach().flatten() for weight in network.state_dict().values()]
        tensors[f"{name} {precision} history"] = torch.tensor(numbers, dtype=torch.float64)
        tensors[f"{name} {precision} weights"] = torch.cat(weights)
    everything, sets = scenes.single_stage("T3"), {"task12": slice(0, 11), "task123": slice(0, 19)}
    for images in (everything, everything.subset(range(6))):
        scores = evaluate(networks[19], images, sets, CONFIG)
        tensors |= {f"{len(images)} {task}": counts for task, counts in scores.counts.items()}
    if distributed.is_rank0():
        save_file(tensors, folder / "tensors")


def die(root: str, folder: Path) -> None:
    """A run whose second process is killed in the second step; the first one is kept."""
    gather, calls = distributed.all_gather, []

    def killed_at_last(share: torch.Tensor) -> torch.Tensor:
        calls.append(share)  # logits and labels of each step
        if len(calls) == 3 and not distributed.is_rank0():
            os.kill(os.getpid(), signal.SIGKILL)
        return gather(share)

    keen = type("Keen", (FileCheckpoint,), {"due": lambda self: True})
    with (
        patch.object(distributed, "all_gather", killed_at_last),
        patch.object(study, "FileCheckpoint", keen),
    ):
        run(root, folder)


def run(root: Path, folder: Path, stage: str = "T2") -> None:
    """LWM in a stage and all that comes before it, from the command line, in a few steps."""
    tiny = replace(CONFIG, batch=6, epochs=1)
    with patch.dict(METHODS, LWM=_small("LWM")), patch.dict(PRESETS, smoke=tiny):
        main(stage, "LWM", f"DATA={root}", f"RUNS={folder}", "PRESET=smoke")


def as_torchrun_would(rank: int, port: int, root: Path, folder: Path) -> None:
    """One of two processes that share `work`."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
    all_of_them = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    given = own | all_of_them | {"MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in given.items()})
    work(root, folder)


def torchrun(*command: object) -> subprocess.CompletedProcess:
    """Two processes on this machine; a training that hangs is an error after four minutes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*start, *map(str, command)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny scenes of unlike pixels: of equal ones, rounding decides which wins a pooling."""
    root, rng = tmp_path_factory.mktemp("data") / "noisyscapes", np.random.default_rng(0)
    for file in _write_cityscapes(root, images=3).rglob("leftImg8bit/**/*.png"):
        pixels = np.asarray(Image.open(file))
        noise = rng.integers(0, 60, pixels.shape, dtype=np.uint8)
        Image.fromarray(pixels // 2 + noise).save(file)
    return root


@pytest.fixture(scope="module")
def alone(noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process finds in `work`."""
    folder = tmp_path_factory.mktemp("alone")
    work(noisy, folder)
    return load_file(folder / "tensors")


@pytest.fixture(scope="module")
def together(noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What two processes find in `work`."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(rank, port, noisy, folder) for rank in range(2)]
    pair = [PROCESSES.Process(target=as_torchrun_would, args=given) for given in arguments]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in pair] == [0, 0]
    return load_file(folder / "tensors")


# the same training


@pytest.mark.parametrize("name", TRAININGS)
def test_in_float64_two_processes_train_as_one_to_the_last_digits(alone, together, name):
    for what in ("history", "weights"):
        found, wanted = together[f"{name} 64-true {what}"], alone[f"{name} 64-true {what}"]
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_in_float32_rounding_is_all_that_differs(alone, together):
    """Adam enlarges it: a bias before a batch norm has a gradient of nothing but rounding."""
    found, wanted = together["CIL 32-true history"], alone["CIL 32-true history"]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_two_processes_count_every_pixel_as_one_does(alone, together):
    counted = [key for key in alone if "task" in key]
    assert counted == ["51 task12", "51 task123", "6 task12", "6 task123"]
    for key in counted:  # 51 images are seven batches, and of 6 one process has none
        assert alone[key].sum() > 0 and together[key].equal(alone[key]), key


def test_in_one_process_the_layers_are_those_of_torch():
    x = torch.randn(4, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    for ours, theirs in (
        (distributed.BatchNorm2d(8), nn.BatchNorm2d(8)),
        (distributed.Dropout2d(0.5), nn.Dropout2d(0.5)),
        (distributed.Dropout(0.5), nn.Dropout(0.5)),
    ):
        for training in (True, False):
            found = []
            for layer in (ours.train(training), theirs.train(training)):
                torch.manual_seed(1)
                found.append(layer(x))
            assert found[0].equal(found[1])
            assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (distributed.Dropout2d, nn.Dropout2d, (4, 8, 5, 6)),
        (distributed.Dropout, nn.Dropout, (4, 8, 5, 6)),
        (distributed.Dropout, nn.Dropout, (4, 7)),
    ],
)
def test_two_ranks_drop_what_one_process_drops_of_the_whole_batch(monkeypatch, ours, theirs, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    wanted = theirs(0.5)(x)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    found = torch.empty_like(x)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        torch.manual_seed(1)
        found[rank::2] = ours(0.5)(x[rank::2])
    assert found.equal(wanted) and 0 < (found == 0).sum() < found.numel()


@pytest.mark.parametrize(
    ("layer", "is_shared"),
    [
        (nn.BatchNorm2d(4), True),
        (nn.Dropout2d(0.3), True),
        (nn.Dropout(0.3), True),
        (nn.GroupNorm(2, 4), True),
        (nn.Dropout3d(0.0), True),
        (nn.BatchNorm2d(4, momentum=None), False),
        (nn.BatchNorm2d(4, affine=False), False),
        (nn.BatchNorm2d(4, track_running_stats=False), False),
        (nn.BatchNorm1d(4), False),
        (nn.SyncBatchNorm(4), False),
        (nn.AlphaDropout(0.3), False),
        (StochasticDepth(0.3, "row"), False),
    ],
    ids=str,
)
def test_a_layer_that_two_processes_cannot_share_is_named(monkeypatch, layer, is_shared):
    network, kind = nn.Sequential(nn.Conv2d(3, 4, 1), layer), type(layer)
    distributed.share_batch(network)  # one process takes any
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    if is_shared:
        distributed.share_batch(network)
        assert type(network[1]) is distributed.SHARED.get(kind, kind)
    else:
        with pytest.raises(ValueError, match="layer '1', .*cannot share it: train in one process"):
            distributed.share_batch(network)


# one writer, and a way on after a death


def files(folder: Path) -> list[str]:
    """All files below a folder but locks."""
    found = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return sorted(file.relative_to(folder).as_posix() for file in found)


@pytest.fixture(scope="module")
def broken(noisy: Path, tmp_path_factory: pytest.TempPathFactory):
    """How a training ended one of whose processes was killed, and three copies of its folder."""
    folders = tmp_path_factory.mktemp("broken")
    done = torchrun(__file__, "die", noisy, folders / "0")
    return done, *(shutil.copytree(folders / "0", folders / str(k)) for k in (1, 2, 3))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_training_one_of_whose_processes_is_killed_ends_with_an_error(broken):
    done, folder, *_ = broken
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert files(folder) == ["noisyscapes/smoke/seed0/.T1.checkpoint"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_after_that_two_processes_go_on_and_one_of_them_writes(broken, noisy, tmp_path):
    _, _, folder, _ = broken
    done = torchrun(__file__, "run", noisy, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("T1 goes on from epoch 1, step 1.") == 1
    assert done.stdout.count("task12") == 1 and done.stderr.count("LWM T2:   0%") == 1
    run(noisy, tmp_path)
    assert files(folder) == files(tmp_path)
    for found in runs.find(folder):
        wanted = runs.load(tmp_path / found.folder.relative_to(folder))
        teachers = {"teacher", "new_teacher"}  # their last digits differ
        assert set(differences(found.config, wanted.config)) <= teachers
        assert [r.config["environment"]["processes"] for r in (found, wanted)] == [2, 1]
        numbers = [r.history.drop(columns="seconds").filter(regex="ce|kd") for r in (found, wanted)]
        pd.testing.assert_frame_equal(*numbers, rtol=1e-2)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_two_processes_began_one_may_end(broken, noisy, capsys):
    run(noisy, broken[3], "T1")
    assert "T1 goes on from epoch 1, step 1." in capsys.readouterr().out


# what cannot be


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "launched_world_size", lambda: 4)
    text = "4 processes cannot share a batch of 6 images evenly; start a number .*: 1, 2, 3, 6$"
    with pytest.raises(ValueError, match=text):
        Study(tmp_path / "no data", tmp_path, "paper")
    assert distributed.world_size() == 1


def test_who_waits_for_a_run_lets_the_others_know(monkeypatch, tmp_path):
    tries = []

    class Busy:
        def __init__(self, file):
            self.file = file

        def acquire(self, timeout):
            assert timeout < distributed.PATIENCE.total_seconds()
            tries.append(timeout)
            if len(tries) < 3:
                raise Timeout(self.file)

        def release(self):
            tries.append("released")

    told = []
    monkeypatch.setattr(study, "FileLock", Busy)
    monkeypatch.setattr(distributed, "on_rank0", lambda call: told.append(call()) or told[-1])
    with study._exclusive(tmp_path / "runs" / "T1"):
        assert told == [False, False, True]
    assert tries[-1] == "released"


if __name__ == "__main__":
    {"die": die, "run": run}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
