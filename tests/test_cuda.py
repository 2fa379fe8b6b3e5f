"""What a GPU must compute as a CPU does, and what is promised of it alone.

On CUDA the same seed need not give the same weights, as some of its sums have no fixed order. Under
`torch.use_deterministic_algorithms(True)` they have one, and then a training that was stopped ends
with the bits of one that was not. Counts of given logits are the same everywhere.
"""

from dataclasses import replace

import pytest
import torch
from test_loop import Stop, Stopping, same

from cilkit import fast_metrics, metrics
from cilkit.classes import VOID
from cilkit.methods import LATER_METHODS, METHODS, Step
from cilkit.metrics import MeanIoU
from cilkit.training import loop
from cilkit.training.evaluation import evaluate, make_fabric, predict, same_size
from cilkit.training.stage import fit, fit_stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA is not available here")

OLD, NEW = slice(0, 5), slice(5, 11)
SETS = {"task1": OLD, "task2": NEW, "task12": slice(0, 11)}


@pytest.fixture
def deterministic(monkeypatch):
    """Only algorithms that give the same bits each time; cuBLAS needs a setting of its own."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def train(scenes, tiny, make_network, small):
    """train(name, checkpoint, ...): two epochs of three steps of a method in T2, or of "T1"."""

    def run(name, kept=None, **changes):
        config = replace(tiny, **{"epochs": 2, "batch": 2, "workers": 1} | changes)
        if name == "T1":
            return fit(scenes.stage("T2").subset(range(6)), config, 0, name, checkpoint=kept)
        method, given = small(name), {}
        if method.memory is not None:
            given = {"memory": [scenes.stage("T1").subset(range(2))]}
            given["new_teacher"] = make_network(6, seed=1)
        images = scenes.stage("T2", method.labels, hidden=method.hidden).subset(range(6))
        stage, teacher = scenes.split.stage("T2"), make_network(5)
        return fit_stage(method, images, stage, teacher, config, checkpoint=kept, **given)

    return run


def make_step(device: str) -> Step:
    """The same random step on a device, with a gradient at its logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 11, 24, 40, generator=generator)
    labels = torch.randint(0, 12, (2, 24, 40), generator=generator)
    labels[labels == 11] = VOID
    teacher = (4 * torch.randn(2, 5, 24, 40, generator=generator)).softmax(dim=1)
    new_teacher = (4 * torch.randn(2, 6, 24, 40, generator=generator)).softmax(dim=1)
    logits, labels, teacher, new_teacher = (
        part.to(device) for part in (logits, labels, teacher, new_teacher)
    )
    return Step(logits.requires_grad_(), labels, teacher, OLD, NEW, new_teacher)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_a_cpu_to_float32(name):
    found = {}
    for device in ("cpu", "cuda"):
        step = make_step(device)
        terms = METHODS[name].loss(step)
        sum(terms.values()).backward()
        found[device] = {key: value.detach().cpu() for key, value in terms.items()}
        found[device]["gradient"] = step.logits.grad.cpu()
    assert found["cpu"].keys() == found["cuda"].keys()
    for key, value in found["cpu"].items():
        torch.testing.assert_close(found["cuda"][key], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["T1", *METHODS, *LATER_METHODS])
def test_every_method_trains_and_stays_finite(train, name, precision):
    network, history = train(name, precision=precision)
    assert len(history) == 2 and history.map(lambda value: abs(value) < 1e6).all(axis=None)
    for weight in network.parameters():
        assert weight.isfinite().all() and weight.dtype == torch.float32
        assert weight.device.type == "cpu" and weight.is_contiguous()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["T1", *METHODS, *LATER_METHODS])
def test_a_stopped_training_ends_with_the_same_bits_where_algorithms_are_deterministic(
    train, deterministic, tmp_path, name, precision
):
    unbroken = train(name, precision=precision)
    for stop_after in (2, 3):  # in the middle of an epoch, and at its end
        file = tmp_path / f"{stop_after}.checkpoint"
        with pytest.raises(Stop):
            train(name, Stopping(file, stop_after), precision=precision)
        assert same(train(name, Stopping(file), precision=precision), unbroken)


def test_four_workers_augment_where_none_were_asked_for(train, monkeypatch):
    asked, batches = [], loop._batches

    def note(sources, config, *more):
        asked.append(config.workers)
        return batches(sources, config, *more)

    monkeypatch.setattr(loop, "_batches", note)
    train("T1", workers=0)
    train("T1", workers=1)
    assert asked == [loop.WORKERS_ON_CUDA] * 2 + [1] * 2


@pytest.mark.parametrize("predictions", [metrics.best_channels, fast_metrics.best_channels])
@pytest.mark.parametrize("steps", [2, 2**20])  # many equal logits, and hardly any
def test_counts_of_given_logits_are_those_of_a_cpu(predictions, steps):
    generator = torch.Generator().manual_seed(0)
    logits = (steps * torch.rand(3, 11, 24, 40, generator=generator)).floor()
    labels = torch.randint(0, 12, (3, 48, 80), generator=generator, dtype=torch.uint8)
    labels[labels == 11] = VOID
    counted = []
    for device in ("cpu", "cuda"):
        scores = MeanIoU(SETS, predictions)
        scores.update(logits.to(device), labels.to(device))
        counted.append(scores.counts)
    assert all(counted[0][name].equal(counted[1][name]) for name in SETS)
    assert counted[0]["task12"].sum() == (labels != VOID).sum()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_evaluation_counts_what_a_cpu_counts_of_the_same_logits(
    scenes, tiny, make_network, precision
):
    config, network = replace(tiny, precision=precision), make_network(11)
    images = scenes.test_set("T2", config.height)
    found, alone = evaluate(network, images, SETS, config), MeanIoU(SETS)
    for pixels, labels in same_size(images):
        alone.update(predict(network, pixels, config), labels)
    assert all(found.counts[name].equal(alone.counts[name]) for name in SETS)


def test_float32_is_float32_in_convolutions(tiny):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 64, 24, 40, generator=generator)
    weight = torch.randn(64, 64, 3, 3, generator=generator)
    exact = torch.nn.functional.conv2d(image.double(), weight.double())

    def error() -> float:
        found = torch.nn.functional.conv2d(image.cuda(), weight.cuda()).cpu().double()
        return ((found - exact).norm() / exact.norm()).item()

    torch.backends.cudnn.allow_tf32 = True  # as torch sets it
    with_tf32 = error()
    make_fabric(replace(tiny, precision="32-true"))
    without = error()
    assert without < 2e-6
    if torch.cuda.get_device_capability() >= (8, 0):  # older ones have no TF32
        assert with_tf32 > 1e-5


def test_logits_in_float32_are_near_those_in_float64_whatever_the_batch(tiny, make_network):
    images = torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    config, network = replace(tiny, precision="32-true"), make_network(11)
    together = predict(network, images, config)
    alone = torch.cat([predict(network, image[None], config) for image in images])
    exact = network.cpu().double()(images.double())
    for found in (together, alone):
        assert (
            found - exact
        ).norm() / exact.norm() < 1e-3  # on a CPU 5e-5; TF32 is 8000 times coarser
