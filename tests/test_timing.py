"""Which precision and memory format a training takes, and how the answer is kept."""

import json
from dataclasses import replace

import pytest
import torch

from cilkit.study.study import Study
from cilkit.training import evaluation, timing
from cilkit.training.config import PRESETS
from cilkit.training.evaluation import best_device, evaluate, predict, used_memory_format
from cilkit.training.timing import decided, timed

QUICK = PRESETS["quick"]
FLOAT32 = {"32-true, contiguous": 300.0, "32-true, channels_last": 250.0}
BF16 = {"bf16-mixed, contiguous": 200.0, "bf16-mixed, channels_last": 100.0}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """machine(hardware, times) stands for a processor that multiplies bf16 or does not."""
    if best_device().type != "cpu":
        pytest.skip("only a CPU is timed, and this machine has a GPU")
    monkeypatch.setenv("CILKIT_CACHE", str(tmp_path / "cache"))
    calls = []

    def stands_for(times, bf16=False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16})
        monkeypatch.setattr(timing, "_time", lambda config: calls.append(config) or times)
        return calls

    stands_for({})
    return stands_for


def way(config):
    return config.precision, config.memory_format


def test_the_presets_that_take_minutes_are_timed():
    assert [name for name, config in PRESETS.items() if timing._is_timed(config)] == [
        "quick", "long", "paper", "released",
    ]  # fmt: skip
    assert way(timed(PRESETS["smoke"])) == ("32-true", "contiguous")


def test_a_step_is_timed_once_and_the_answer_kept(machine, capsys):
    calls = machine(FLOAT32)
    assert way(decided(QUICK)) == ("auto", "auto")
    assert way(timed(QUICK)) == way(timed(QUICK)) == way(decided(QUICK))
    assert way(timed(QUICK)) == ("32-true", "channels_last")
    assert len(calls) == 1
    assert capsys.readouterr().out == (
        "A step of 2 x 3 x 96 x 192 on this machine, in ms: 32-true, contiguous 300; "
        "32-true, channels_last 250. Taken: 32-true, channels_last.\n"
    )
    timed(replace(QUICK, batch=3))  # another shape is another question
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("times", "bf16", "fastest"),
    [
        (FLOAT32, False, ("32-true", "channels_last")),
        (FLOAT32 | BF16, True, ("bf16-mixed", "channels_last")),
        ({way: 1 / ms for way, ms in (FLOAT32 | BF16).items()}, True, ("32-true", "contiguous")),
        # not clearly faster than the usual way
        (FLOAT32 | {"32-true, channels_last": 290.0}, False, ("32-true", "contiguous")),
        (FLOAT32 | BF16 | {"32-true, contiguous": 99.0}, True, ("bf16-mixed", "channels_last")),
    ],
)
def test_the_fastest_is_taken_if_it_is_clearly_faster(machine, times, bf16, fastest):
    machine(times, bf16)
    assert way(timed(QUICK)) == fastest


def test_what_is_asked_for_stays(machine):
    machine(FLOAT32 | BF16, bf16=True)
    asked = replace(QUICK, memory_format="contiguous")
    assert way(timed(asked)) == ("bf16-mixed", "contiguous")
    asked = replace(QUICK, precision="32-true")
    assert way(timed(asked)) == ("32-true", "channels_last")
    both = replace(QUICK, precision="bf16-mixed", memory_format="contiguous")
    assert decided(both) == timed(both) == both


def test_bf16_is_not_timed_where_the_processor_does_not_multiply_it(machine):
    machine(FLOAT32)
    assert {precision for precision, _ in timing.ways(QUICK)} == {"32-true"}


def test_the_answer_of_runs_that_agree_is_taken(machine):
    machine(FLOAT32 | BF16, bf16=True)
    run = {"device": "cpu", "precision": "32-true", "memory_format": "contiguous"}
    timed(QUICK)
    assert way(decided(QUICK, [run, run])) == ("32-true", "contiguous")
    other = run | {"memory_format": "channels_last"}
    elsewhere = run | {"device": "cuda", "precision": "bf16-mixed"}
    assert way(decided(QUICK, [run, elsewhere])) == ("32-true", "contiguous")
    for recorded in ([run, other], [elsewhere], [{}]):
        assert way(decided(QUICK, recorded)) == ("bf16-mixed", "channels_last")
    asked = replace(QUICK, memory_format="channels_last")
    assert way(decided(asked, [run])) == ("bf16-mixed", "channels_last")
    machine(FLOAT32)  # here bf16 would be slow
    bf16 = {"device": "cpu", "precision": "bf16-mixed", "memory_format": "channels_last"}
    assert decided(PRESETS["smoke"], [bf16]).precision == "32-true"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"cut off": {"32-', b"\xff\xfe"])
def test_a_damaged_file_of_answers_is_made_again(machine, tmp_path, content):
    calls = machine(FLOAT32)
    timed(QUICK)
    (tmp_path / "cache" / timing.ANSWERS).write_bytes(content)
    assert way(timed(QUICK)) == ("32-true", "channels_last") and len(calls) == 2
    assert list(json.loads((tmp_path / "cache" / timing.ANSWERS).read_bytes()).values()) == [
        FLOAT32
    ]


@pytest.mark.parametrize("times", [None, [250.0], {"32-true, contiguous": "fast"}])
def test_an_answer_that_is_no_table_of_times_is_made_again(machine, tmp_path, times):
    calls = machine(FLOAT32)
    timed(QUICK)
    file = tmp_path / "cache" / timing.ANSWERS
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_bytes()), times)))
    assert way(timed(QUICK)) == ("32-true", "channels_last") and len(calls) == 2
    assert list(json.loads(file.read_bytes()).values()) == [FLOAT32]


def test_where_no_answer_can_be_kept_nothing_is_timed(machine, monkeypatch, tmp_path):
    calls = machine(FLOAT32)
    monkeypatch.setenv("CILKIT_CACHE", "off")
    assert way(timed(QUICK)) == ("32-true", "contiguous")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CILKIT_CACHE", str(tmp_path / "file"))
    assert way(timed(QUICK)) == ("32-true", "contiguous")
    assert not calls


def test_several_processes_keep_to_the_usual_way(machine, monkeypatch):
    machine(FLOAT32)
    monkeypatch.setattr(timing.distributed, "launched_world_size", lambda: 2)
    assert way(timed(QUICK)) == ("32-true", "contiguous")


def test_all_ways_are_timed_and_the_generators_left_alone(monkeypatch):
    monkeypatch.undo()
    before = torch.get_rng_state()
    config = PRESETS["smoke"]
    times = timing._time(config)
    assert set(times) == {", ".join(way) for way in timing.ways()}
    assert all(ms > 0 for ms in times.values())
    assert torch.get_rng_state().equal(before)


def test_a_study_times_before_its_first_training_and_stays_with_the_answer(
    toys, tmp_path, machine, monkeypatch
):
    monkeypatch.setattr(timing, "SMALL", 0)
    calls = machine(FLOAT32)
    study = Study(toys, tmp_path / "runs", "smoke")
    t1 = study.run("T1")
    assert len(calls) == 1 and way(study.config) == ("32-true", "channels_last")
    assert t1.config["environment"]["memory_format"] == "channels_last"
    assert t1.config["train"]["precision"] == "auto" and "memory_format" not in t1.config["train"]

    (tmp_path / "cache" / timing.ANSWERS).unlink()
    machine(FLOAT32 | {"32-true, channels_last": 999.0})
    again = Study(toys, tmp_path / "runs", "smoke")
    assert again.run("T1").digest() == t1.digest()
    student = again.run("T2", "CIL")
    assert student.config["environment"]["memory_format"] == "channels_last"
    asked = Study(toys, tmp_path / "runs", "smoke", memory_format="contiguous")
    student = asked.run("T2", "FT")
    assert student.config["environment"]["memory_format"] == "contiguous"
    assert len(calls) == 1
    test = again.data.test_set("T1", again.config.height)
    found = evaluate(t1.network(), test, {"task1": again.stage("T1").new}, again.config)
    assert found.miou("task1") == t1.miou["task1"]  # repeats exactly


def test_both_formats_give_the_same_but_for_last_digits(tiny, make_network):
    images, network = torch.rand(2, 3, 32, 64), make_network(5)
    contiguous, channels_last = (
        predict(network, images, replace(tiny, memory_format=name)) for name in evaluation.FORMATS
    )
    assert (contiguous - channels_last).abs().max() < 1e-3 * contiguous.abs().max()
    assert used_memory_format(tiny) == "contiguous"
