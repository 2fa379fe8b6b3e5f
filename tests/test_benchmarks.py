"""The benchmarks still run, and both sides of each ratio compute the same."""

import inspect
import subprocess
import sys
from dataclasses import replace
from mmap import mmap
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import (
    data,
    explorers,
    growth,
    memory,
    scoring,
    start,
    steps,
    textbook,
    trials,
    variants,
)
from benchmarks.__main__ import FIGURES, machine
from benchmarks.scenes import SPLIT, STAGE, make_network, random_batch, write_samples
from benchmarks.timing import Row, interleaved, peak_memory, table
from cilkit.classes import VOID
from cilkit.data.augmentation import Augmentation
from cilkit.data.images import LabelledImages
from cilkit.data.scenes import open_data
from cilkit.losses import entropy_weight
from cilkit.methods import METHODS, Step
from cilkit.training import distributed
from cilkit.training.config import PRESETS
from cilkit.training.timing import ways

TINY = (2, 32, 64)  # images, height, width


def test_the_textbook_loss_is_the_kits():
    torch.manual_seed(0)
    logits = torch.randn(2, 11, 4, 8)
    teacher = torch.randn(2, 5, 4, 8).softmax(dim=1)
    labels = torch.randint(5, 11, (2, 4, 8)).where(torch.rand(2, 4, 8) > 0.5, VOID)
    terms = METHODS["CIL"].loss(Step(logits, labels, teacher, slice(0, 5), slice(5, 11)))
    written_out = textbook.cil_loss(logits, labels, teacher, 5)
    assert written_out.item() == pytest.approx(sum(terms.values()).item(), rel=1e-5)


def test_the_textbook_reads_what_the_kit_reads(tmp_path: Path):
    samples = write_samples(tmp_path, 6, (64, 128))
    images = LabelledImages(samples, SPLIT, STAGE.new, height=32, native_labels=True)
    for index in range(6):
        for read, wanted in zip(textbook.decode(images, index), images[index], strict=True):
            assert read.equal(wanted)


def test_the_textbook_augments_as_the_paper_says(tmp_path: Path):
    images = LabelledImages(write_samples(tmp_path, 1, (64, 128)), SPLIT, STAGE.new, height=32)
    drawn = []
    for seed in range(2):
        torch.manual_seed(seed)
        image, labels = textbook.training_sample(images, 0, Augmentation(crop=(32, 64)))
        assert image.shape == (3, 32, 64) and labels.shape == (32, 64)  # no factor is below 1
        assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
        assert set(labels.unique().tolist()) <= {*range(5, 11), VOID}
        drawn.append(image)
    assert not drawn[0].equal(drawn[1]) and drawn[0].std() > 0.01


def test_the_textbook_counts_what_the_kit_counts(tmp_path: Path):
    samples = write_samples(tmp_path, 2, (64, 128))
    images = LabelledImages(samples, SPLIT, scoring.STAGE.seen, 32, native_labels=True)
    network = make_network(19, size=(32, 64))
    assert network(images[0][0][None]).argmax(dim=1).unique().numel() > 2
    assert scoring.miscounted(network, images, PRESETS["smoke"]) == 0


@pytest.mark.parametrize("way", ways())
def test_the_references_train(way):
    pixels, labels = random_batch(2, (32, 64), STAGE.new)
    student, teacher = make_network(11), make_network(5)
    for step in (
        textbook.bare_step(student, pixels, torch.ones(2, 11, 32, 64), way),
        textbook.textbook_step(student, teacher, pixels, labels),
    ):
        before = student.decoder.output_conv.weight.detach().clone()
        step()
        assert not student.decoder.output_conv.weight.equal(before)


def one_in_its_own(in_own_process):
    """Of the works whose memory is measured one runs in a fresh process, the others in this one."""

    def run(work: str, folder: Path, shape: memory.Shape, *more: int) -> dict:
        if work == "evaluation":
            return in_own_process(work, folder, shape, *more)
        return memory.WORKS[work](folder, shape, *more) | {"imported": 1}

    return run


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "imports"])
def test_a_figure_is_measured(name: str, monkeypatch, scenes, tmp_path: Path):
    monkeypatch.setattr(data, "open_data", lambda name: open_data(scenes.root))
    monkeypatch.setattr(data, "CAMVID", tmp_path / "nowhere")
    monkeypatch.setattr(memory, "in_own_process", one_in_its_own(memory.in_own_process))
    rows = {
        "step": lambda: steps.step([TINY], repeats=3, size=(64, 128)),
        "losses": lambda: steps.losses(TINY, repeats=1),
        "epoch": lambda: data.epoch(epochs=1, most=2),
        "reading": lambda: data.reading(1, (64, 128), repeats=1),
        "explorers": lambda: explorers.explorers(1, {(64, 128): 150}),
        "evaluation": lambda: scoring.evaluation(2, (64, 128), repeats=1),
        "curves": lambda: growth.curves(1, (2, 16, 32), tmp_path / "curves.png", processes=(2,)),
        "memory": lambda: memory.memory((2, 32, 64), (64, 128), (1, 16, 32), 4, 2),
    }[name]()
    assert all(row.value >= 0 for row in rows)
    assert all(row.name in table(rows) for row in rows)


def test_processes_that_share_a_step_have_their_own_part_of_the_batch(monkeypatch):
    got = []

    def loss(step: Step) -> dict[str, torch.Tensor]:
        got.append(step.labels)
        return {"mean": step.logits.mean()}

    monkeypatch.setattr(distributed, "shard", lambda whole: whole[:1])
    steps.time_step(replace(METHODS["CIL"], loss=loss), STAGE, TINY, repeats=1)
    assert [len(labels) for labels in got] == [1, 1]


def test_a_training_that_keeps_tensors_is_found_to_grow(tmp_path: Path):
    write_samples(tmp_path, 6, (64, 128))
    kept = []

    def grown(**leak) -> float:
        after = memory.small_training(tmp_path, (1, 16, 32), 5, **leak)["after"]
        first, growth, share = memory.growth_rows("a training", after, warm=2)
        assert share.outcome() == ("yes" if share.value <= 2 else "no")
        assert share.value == pytest.approx(100 * growth.value / first.value)
        return growth.value

    tight = grown()
    leaking = grown(each=lambda *_: kept.append(torch.ones(2**24)))  # 67 MB an epoch
    assert leaking - tight > 0.8 * 3 * 67


def test_a_peak_stays_after_its_memory_was_given_back():
    before = memory.peak()
    unused = before - psutil.Process().memory_info().rss
    with mmap(-1, unused + 2**27) as fresh:  # torch might get pages that are still resident
        fresh.write(bytes(len(fresh)))
    assert memory.peak() >= before + 2**26


def test_a_peak_is_not_that_of_the_process_which_started_this_one():
    source = inspect.getsource(memory.peak)
    source = f"import sys\nfrom pathlib import Path\n{source}\nprint(peak())"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert int(done.stdout) < 2**27 < memory.peak()


def test_imports_are_timed_in_interpreters_of_their_own(monkeypatch):
    ran = []
    monkeypatch.setattr(start.subprocess, "run", lambda command, check: ran.append(command[-1]))
    assert len(start.imports(repeats=1)) == 3
    assert ran == ["import torch", "import torch, cilkit"] * 2


def test_the_line_of_the_machine_says_whether_freed_memory_is_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "5")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert machine().endswith("MALLOC_MMAP_THRESHOLD_=5")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    assert machine().endswith("MALLOC_* not set: see the Makefile")


def test_a_row_says_whether_its_goal_holds():
    assert Row("a", 1.0, "x", 1.1).cells() == ["a", "1 x", "at most 1.1 x", "yes"]
    assert Row("a", 3.9, "x", 4, "at least").outcome() == "no"
    assert Row("a", 3.9).outcome() == ""
    skipped = Row("a", 0, "x", 4, skipped="no GPU")
    assert skipped.cells() == ["a", "not measured: no GPU", "at most 4 x", ""]


def test_works_are_timed_in_turn():
    order = []
    works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    assert interleaved(works, repeats=2).keys() == {"a", "b"}
    assert "".join(order) == "ababab"


def test_peak_memory_is_of_what_lives_at_one_time():
    assert peak_memory(lambda: [torch.zeros(2**20) for _ in range(3)]) >= 3 * 2**22

    def one_after_another() -> None:
        for _ in range(3):
            torch.zeros(2**20)

    assert 2**22 <= peak_memory(one_after_another) < 3 * 2**22


def test_a_trial_appends_what_a_training_reached(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trials, "FILE", tmp_path / "trials.csv")
    given = ["SEED=10", "epochs=1", "batch=4", "crop=16x32", "height=32"]
    given += ["learning_rate=1e-3", "hue=0.0"]
    trials.main("SS", str(scenes.root), *given)
    trials.main("T2", str(scenes.root), *given)
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == ",".join(trials.COLUMNS) and len(lines) == 3
    row = dict(zip(trials.COLUMNS, lines[1].split(","), strict=True))
    assert (row["training"], row["crop"], row["learning_rate"]) == ("SS", "16x32", "0.001")
    assert (row["rescale"], row["jitter"]) == ("1.0", "0.1")  # of quick
    assert 0 <= float(row["lowest_class"]) <= float(row["miou"]) <= 100
    with pytest.raises(ValueError, match="seed is 0; settings are chosen on seeds from 10"):
        trials.main("SS", str(scenes.root), "SEED=0")


def test_balance_and_attention_are_the_two_factors_of_the_weights():
    torch.manual_seed(0)
    labels = torch.randint(5, 11, (2, 4, 8)).where(torch.rand(2, 4, 8) > 0.5, VOID)
    teacher = torch.randn(2, 5, 4, 8).softmax(dim=1)
    step = Step(torch.randn(2, 11, 4, 8), labels, teacher, slice(0, 5), slice(5, 11))
    mean = entropy_weight(teacher)[labels == VOID].mean().item()
    terms = {name: method.loss(step) for name, method in variants.weights(5).items()}
    plain, both, balance, attention = (terms[name]["mkd"].item() for name in terms)
    assert balance == pytest.approx(mean * plain) and attention == pytest.approx(both / mean)
    assert mean > 1.1 and len({term["ce"].item() for term in terms.values()}) == 1
    none = variants.mean_alpha(replace(step, labels=torch.full_like(labels, 5)))
    assert none == 1  # no pixel for the teacher


def test_the_trials_on_record_have_the_columns_of_a_trial_and_no_seed_that_is_reported():
    head, *lines = trials.FILE.read_text().splitlines()
    assert head == ",".join(trials.COLUMNS)
    assert all(int(line.split(",")[2]) >= 10 for line in lines)
