"""The training loop from outside: what it shows while it runs, and how it goes on after a stop."""

import json
import math
import random
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from forked import PROCESSES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from cilkit.data.augmentation import Augmented
from cilkit.data.scenes import open_data
from cilkit.methods import LATER_METHODS, METHODS
from cilkit.training import checkpoint
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import evaluate
from cilkit.training.loop import Monitor
from cilkit.training.stage import fit, fit_stage

CONFIG = {"data": "tinyscapes", "seed": 0, "train": {"epochs": 2}}


class Stop(Exception):
    """What ends a training from outside."""


class Stopping(FileCheckpoint):
    """Saves after every step, and stops the training after some of them."""

    def __init__(self, file, stop_after=math.inf, config=CONFIG):
        super().__init__(file, config, seconds=0)
        self.left = stop_after

    def save(self, tensors, facts):
        super().save(tensors, facts)
        self.left -= 1
        if self.left <= 0:
            raise Stop


@pytest.fixture
def train(scenes, tiny, make_network, small):
    """train(name, checkpoint, ...): two epochs of three steps of a method in T2.

    "T1" is a training on all labels that are there, here those of the new classes.
    """
    config = replace(tiny, epochs=2, batch=2)

    def run(name, kept=None, config=config, monitor=None):
        if name == "T1":
            images = scenes.stage("T2", "new").subset(range(6))
            return fit(images, config, 0, name, monitor, kept)
        method, given = small(name), {}
        if method.memory is not None:
            given = {"memory": [scenes.stage("T1").subset(range(2))]}
            given["new_teacher"] = make_network(6, seed=1)
        images = scenes.stage("T2", method.labels, hidden=method.hidden).subset(range(6))
        return fit_stage(
            method, images, scenes.split.stage("T2"), make_network(5), config,
            monitor=monitor, checkpoint=kept, **given,
        )  # fmt: skip

    return run


def same(one, other) -> bool:
    """Whether two trainings gave the same bits; the seconds may differ."""
    (network, history), (other_network, other_history) = one, other
    states = [n if isinstance(n, dict) else n.state_dict() for n in (network, other_network)]
    weights = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    histories = [h.drop(columns="seconds") for h in (history, other_history)]
    return weights and histories[0].equals(histories[1])


# going on


@pytest.mark.parametrize("name", ["T1", *METHODS, *LATER_METHODS])
def test_a_stopped_training_ends_with_the_same_bits_as_an_unbroken_one(train, tmp_path, name):
    file = tmp_path / "a.checkpoint"
    for more in (1, 2, 2):  # in the middle of an epoch, between epochs, before the end
        with pytest.raises(Stop):
            train(name, Stopping(file, stop_after=more))
    assert same(train(name, Stopping(file)), train(name))


def test_in_bf16_too_and_adam_goes_on_in_the_memory_format_of_the_weights(
    train, tiny, tmp_path, monkeypatch
):
    """A file keeps no strides, and on CUDA the fused Adam refuses any but those of the weights."""
    config = replace(tiny, epochs=2, batch=2, precision="bf16-mixed")
    unbroken, loaded = train("T1", config=config), []

    def load(self, state):
        put(self, state)
        for weight, kept in self.state.items():
            loaded.append((weight.stride(), kept["exp_avg"].stride(), kept["exp_avg_sq"].stride()))

    put = torch.optim.Adam.load_state_dict
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", load)
    with pytest.raises(Stop):
        train("T1", Stopping(tmp_path / "a", 4), config)
    assert same(train("T1", Stopping(tmp_path / "a"), config), unbroken)
    weights = list(unbroken[0].parameters())
    assert len(loaded) == len(weights)
    assert all(of_weight == of_mean == of_square for of_weight, of_mean, of_square in loaded)
    assert loaded[0][0] != weights[0].stride()  # a trained network is contiguous again


def test_a_training_may_be_stopped_again_and_again(train, tmp_path, capsys):
    file, stops = tmp_path / "T1.checkpoint", 0
    while True:
        try:
            found = train("T1", Stopping(file, stop_after=1))
            break
        except Stop:
            stops += 1
    assert stops == 6  # one for each step
    assert same(found, train("T1"))
    assert "T1 goes on from epoch 2, step 1." in capsys.readouterr().out


def test_no_image_of_finished_steps_is_read_again(train, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        train("T1", Stopping(tmp_path / "a", stop_after=5))
    seen = []
    read = Augmented.__getitem__
    monkeypatch.setattr(
        Augmented, "__getitem__", lambda self, i: seen.append((self.epoch, i)) or read(self, i)
    )
    train("T1", Stopping(tmp_path / "a"))
    assert len(seen) == 2 and {epoch for epoch, _ in seen} == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_change_nothing_of_it(train, tiny, tmp_path, workers):
    config = replace(tiny, epochs=2, batch=2, workers=workers)
    with pytest.raises(Stop):
        train("T1", Stopping(tmp_path / "a", stop_after=4), config)
    assert same(train("T1", Stopping(tmp_path / "a"), config), train("T1"))


def test_a_checkpoint_of_another_configuration_is_set_aside(train, tmp_path, capsys):
    file, other = tmp_path / "T1.checkpoint", CONFIG | {"train": {"epochs": 3}, "seed": 1}
    with pytest.raises(Stop):
        train("T1", Stopping(file, 3, other))
    assert same(train("T1", Stopping(file)), train("T1"))
    assert "unfinished training of T1 is of other epochs, seed: starting" in capsys.readouterr().out
    assert (tmp_path / "superseded" / "T1.checkpoint-1").is_file()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no facts"])
def test_a_damaged_checkpoint_is_set_aside(train, tmp_path, capsys, damage):
    file = tmp_path / "T1.checkpoint"
    with pytest.raises(Stop):
        train("T1", Stopping(file, 3))
    content = {"cut": file.read_bytes()[:-1000], "empty": b"", "text": b"hello" * 99}.get(damage)
    if content is None:
        with safe_open(file, "pt") as kept:
            tensors = {key: kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118
        save_file(tensors, file, {"config": json.dumps(CONFIG)})
    else:
        file.write_bytes(content)
    assert same(train("T1", Stopping(file)), train("T1"))
    assert "unfinished training of T1 is damaged" in capsys.readouterr().out


def test_a_stop_in_the_middle_of_writing_leaves_the_state_before(train, tmp_path, monkeypatch):
    file = tmp_path / "T1.checkpoint"
    with pytest.raises(Stop):
        train("T1", Stopping(file, 2))
    before = file.read_bytes()

    def half(path, content):
        path.write_bytes(content[:1000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "write", half)
        with pytest.raises(OSError, match="No space left"):
            train("T1", Stopping(file))
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    assert same(train("T1", Stopping(file)), train("T1"))


def test_a_checkpoint_is_due_after_its_seconds_and_gone_when_removed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoint, "perf_counter", lambda: now)
    kept = FileCheckpoint(tmp_path / "T1.checkpoint", CONFIG, seconds=20)
    assert not kept.due()
    now = 120.0
    assert kept.due()
    kept.save({"x": torch.ones(2)}, {"history": [], "step": 0})
    assert not kept.due() and kept.file.is_file()
    kept.remove()
    kept.remove()
    assert not kept.file.exists() and kept.load() is None


def test_weights_that_are_no_numbers_are_not_kept(train, tiny, tmp_path):
    file = tmp_path / "T1.checkpoint"
    wild = replace(tiny, epochs=2, batch=2, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"T1: .* in step \d of epoch 1; .* \(now 1e\+30"):
        train("T1", Stopping(file), wild)
    if file.exists():
        tensors, _ = FileCheckpoint(file, CONFIG).load()
        weights = [t for key, t in tensors.items() if key.endswith("weight")]
        assert weights and all(weight.isfinite().all() for weight in weights)


def live(root: str, folder: str, config: TrainConfig) -> None:
    """The life of a process that trains, saves after every step, and leaves its result."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own one is shared by processes, and leaks if one dies
    folder = Path(folder)
    images = open_data(root).stage("T2").subset(range(6))
    network, history = fit(images, config, 0, "T1", checkpoint=Stopping(folder / "T1.checkpoint"))
    history.to_csv(folder / "history.csv", index=False)
    save_file(network.state_dict(), folder / "unfinished")
    (folder / "unfinished").rename(folder / "weights")


def result(folder: Path):
    """Weights and history that `live` left."""
    return load_file(folder / "weights"), pd.read_csv(folder / "history.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork a server of processes")
def test_a_process_killed_at_ten_moments_ends_with_the_same_bits(scenes, tiny, tmp_path):
    config, draw = replace(tiny, epochs=3, batch=2), random.Random(0)

    def start(folder):
        process = PROCESSES.Process(target=live, args=(str(scenes.root), str(folder), config))
        process.start()
        return process

    def train_to_the_end(folder, most_kills):
        """How often the process was killed on the way, and how often while it wrote."""
        folder.mkdir()
        kills = while_writing = 0
        while not (folder / "weights").exists():
            part, deadline = folder / "T1.checkpoint.part", time.monotonic() + 20
            part.unlink(missing_ok=True)
            process = start(folder)
            if kills < most_kills:  # in turn at any moment, and in the middle of writing
                while not part.exists() and process.is_alive() and time.monotonic() < deadline:
                    time.sleep(0.001)
                process.join(draw.uniform(0, 0.3) if kills % 2 else 0)
            else:
                process.join()
            kills += process.is_alive()
            process.kill()
            process.join()
            while_writing += part.exists()
        return kills, while_writing

    train_to_the_end(tmp_path / "unbroken", most_kills=0)
    killed = while_writing = rounds = 0
    while killed < 10 or not while_writing:
        rounds += 1
        folder = tmp_path / f"broken {rounds}"
        kills, parts = train_to_the_end(folder, most_kills=5)
        killed, while_writing = killed + kills, while_writing + parts
        assert same(result(folder), result(tmp_path / "unbroken")), (rounds, kills)
    print(f"{killed} kills, {while_writing} while writing, {rounds} trainings")


# looking on


def test_monitor_images_are_scored_in_every_second_epoch_and_the_last(train, tiny, scenes):
    shown = []
    monitor = Monitor(
        scenes.monitor_set("T2", 32),
        {"task2": slice(5, 11)},
        lambda n, h: shown.append((n, len(h))),
    )
    config = replace(tiny, epochs=3, batch=6)
    _, history = train("CIL", config=config, monitor=monitor)
    assert shown == [("CIL T2", 1), ("CIL T2", 2), ("CIL T2", 3)]
    columns = ["epoch", "learning_rate", "ce", "mkd", "task2", "seconds"]
    assert list(history) == columns
    assert history["task2"].isna().tolist() == [True, False, False]
    assert history["task2"].dropna().between(0, 100).all()


@pytest.mark.parametrize(
    ("epochs", "wanted"), [(1, [1]), (8, [2, 4, 6, 8]), (200, list(range(10, 201, 10)))]
)
def test_long_trainings_are_scored_twenty_times(scenes, epochs, wanted):
    monitor = Monitor(scenes.monitor_set("T1"), {})
    assert [e for e in range(1, epochs + 1) if monitor.due(e, epochs)] == wanted


@pytest.mark.parametrize("name", ["T1", "FE", "LWM"])
def test_looking_on_changes_no_bit(train, scenes, name):
    labels = "new" if name == "T1" else "all"
    monitor = Monitor(scenes.monitor_set("T2", 32, labels), {"task2": slice(5, 11)})
    monitored, history = train(name, monitor=monitor)
    assert same((monitored, history.drop(columns="task2")), train(name))


def test_the_scores_are_those_of_an_evaluation_at_that_moment(train, scenes, tiny):
    images, sets = scenes.monitor_set("T2", 32), {"task12": slice(0, 11)}
    network, history = train("CIL", monitor=Monitor(images, sets))
    assert history["task12"].iloc[-1] == evaluate(network, images, sets, tiny).miou("task12")


def test_a_history_survives_the_checkpoint_with_its_empty_scores(train, scenes, tmp_path):
    monitor = Monitor(scenes.monitor_set("T2", 32), {"task2": slice(5, 11)})
    unbroken = train("CIL", monitor=monitor)
    with pytest.raises(Stop):
        train("CIL", Stopping(tmp_path / "a", 4), monitor=monitor)
    assert same(train("CIL", Stopping(tmp_path / "a"), monitor=monitor), unbroken)
    assert isinstance(unbroken[1], pd.DataFrame) and math.isnan(unbroken[1]["task2"].iloc[0])
