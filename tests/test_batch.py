"""What `make study` asks for, and what one of its jobs says."""

import os
import re
from itertools import combinations, pairwise

import pytest
from stages import tiny_stages

from cilkit.methods import FIRST_STAGE, LATER_METHODS, METHODS, NEW_TEACHER, SS
from cilkit.study import batch, job
from cilkit.study.batch import encoded, read

CHOICES = [method.name for method in (SS, *METHODS.values(), *LATER_METHODS.values())]


def test_nothing_given_is_the_quick_study_of_all_methods_on_toyscapes():
    asked = read({})
    assert asked.data == {"toyscapes": "toyscapes"} and asked.runs == "data/runs"
    assert (asked.presets, asked.seeds) == (["quick"], [0])
    assert asked.methods == [SS, *METHODS.values()]
    stages = [run.stage.name for run in asked.plans["toyscapes"].values()]
    assert [stages.count(name) for name in ("T1", "T2", "T3")] == [1, 9, 9]


def test_each_method_and_each_pair_is_planned_with_what_it_needs_and_nothing_else():
    for chosen in [*combinations(CHOICES, 1), *combinations(CHOICES, 2)]:
        runs = read({"METHODS": ",".join(chosen)}).plans["toyscapes"]
        later = [run for run in runs.values() if run.stage.number > 1]
        teacher = {NEW_TEACHER.name} if "LWM" in chosen else set()
        assert {run.method.name for run in later} == {*chosen} | teacher
        assert len(later) == 2 * (len(chosen) + len(teacher))
        assert [run.method for run in runs.values() if run.stage.number == 1] == [FIRST_STAGE]
        order = list(runs)
        for run in runs.values():
            assert all(order.index(needed.name) < order.index(run.name) for needed in run.needs)


def test_each_data_set_has_the_stages_of_its_own_split(tmp_path):
    names = {"one": ["only"], "two": ["B", "A"], "twelve": [f"s{k}" for k in range(12)]}
    folders = [str(tiny_stages(tmp_path / name, stages)) for name, stages in names.items()]
    plans = read({"DATA": ",".join(folders), "METHODS": "CIL"}).plans
    assert list(plans["one"]) == ["only"]
    assert list(plans["two"]) == ["B", "CIL_A"]
    assert list(plans["twelve"]) == ["s0"] + [f"CIL_s{k}" for k in range(1, 12)]
    chain = list(plans["twelve"].values())
    assert all(run.teacher == before for before, run in pairwise(chain))


TEXTS = [
    *("2024_11_27", "007", "1e5", "true", "null", "nan", "~", "a #b", "a: b", "{}", "{x", "[1]"),
    *(" a ", "-", "é ü", "it's", '"quoted"', "'quoted'", "'a\"b`", "$HOME", "a\\nb", "%20", "@x"),
    *("@text:x", "a=b", "", "!tag", "&anchor", "a,b"),
]


def test_a_value_is_the_text_that_was_typed_whatever_snakemake_makes_of_it():
    from snakemake.cli import parse_config
    from snakemake_interface_executor_plugins.utils import format_cli_arg

    for text in TEXTS:
        word = encoded(f"RUNS={text}")
        config = parse_config([word])
        assert batch._decoded(config["RUNS"]) == text
        # as it is handed to a job on a cluster, in double quotes of a shell
        assert not set("\"'`$\\ \t{}") & set(word.partition("=")[2])
        assert format_cli_arg("--config", [word]) == f"--config '{word}'"
    assert encoded("--dry-run") == "--dry-run" and encoded("train:gpu=1") == "train:gpu=1"


@pytest.mark.parametrize("folder", ["2024_11_27", "007", "true", "a #b", "it's", "$HOME", "{x}/é"])
def test_a_folder_is_found_under_the_name_that_was_typed(folder, tmp_path):
    data = tiny_stages(tmp_path / folder / "tiny", ["A", "B"])
    asked = read({"DATA": str(data), "RUNS": str(tmp_path / folder.replace("{x}", "x"))})
    assert asked.data == {"tiny": str(data)}
    assert list(asked.plans["tiny"])[:2] == ["A", "SS_B"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"RUNS": 20241127}, "RUNS is 20241127: Snakemake did not leave it as it was typed. Use"),
        ({"DATA": {"a": "b"}}, "DATA is {'a': 'b'}: Snakemake did not leave it"),
        ({"RUNS": None}, "RUNS is None: Snakemake did not leave it"),
        ({"RUNS": ""}, "RUNS is ''; wanted a path"),
        ({"RUNS": "a\tb"}, "RUNS is 'a\\tb'; its character '\\t' cannot be handed to the jobs"),
        ({"DATA": "a\udce4"}, "its character '\\udce4' cannot be handed to the jobs"),
        ({"RUNS": "runs/{a"}, "and Snakemake reads '{' there as a wildcard; choose another folder"),
        ({"DATA": "x/{a}"}, "DATA: '{a}' gives files their names, and Snakemake reads '{' there"),
        ({"SEED": "1,2"}, "SEED is '1,2'; wanted a whole number from 0"),
        ({"SEEDS": "0,1_0"}, "SEED is '1_0'; wanted a whole number from 0"),
        ({"PRESET": "1"}, "unknown preset '1'"),
        ({"METHODS": "LWM teacher"}, "unknown method 'LWM teacher'"),
    ],
)
def test_what_cannot_be_meant_is_named_before_the_first_job(config, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(config)


def test_a_folder_with_a_comma_is_no_list_of_two_and_a_link_is_the_way_out(tmp_path):
    data = tiny_stages(tmp_path / "a, b", ["A", "B"])
    for given in (str(data), f"toyscapes,{data}", f"{data},toyscapes"):
        with pytest.raises(ValueError, match="there is a folder .*a, b'; but a comma stands"):
            read({"DATA": given})
    link = tmp_path / "link"
    link.symlink_to(data, target_is_directory=True)
    assert read({"DATA": f"toyscapes,{link}"}).data == {"toyscapes": "toyscapes", "a, b": str(link)}
    with pytest.raises(FileNotFoundError, match="no data folder .*c"):  # a list, but of nothing
        read({"DATA": str(tmp_path / "c,d")})


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("print('words')", 0, ""),
        ("raise ValueError('no\\nsuch')", 1, "a job FAILED: such (log: {log})"),
        ("import sys; sys.stderr.write('\\rT1: 9%\\rT1: 10%\\n\\n'); sys.exit(3)", 3, "T1: 10%"),
        (
            "import sys; sys.stderr.write('\\nAborted!\\n'); sys.exit(1)",
            1,
            "a job was stopped (log",
        ),
        ("import os; os._exit(1)", 1, "a job FAILED: its log is empty (log: {log})"),
    ],
)
def test_a_job_writes_to_its_log_and_says_why_it_failed(code, status, said, tmp_path, capfd):
    log, stamp = tmp_path / "it's a log.txt", tmp_path / "stamp"
    assert job.main("a job", str(log), str(stamp), "-c", code) == status
    out = capfd.readouterr().out
    assert said.format(log=log) in out and out.count("\n") == bool(status)
    assert stamp.exists() == (status == 0)
    assert "words" not in out and (log.read_text() == "words\n" or status)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_job_that_was_killed_or_stopped_says_so(tmp_path, capfd):
    log = tmp_path / "log.txt"
    for name, said in (("KILL", "FAILED: it was ended by signal 9"), ("INT", "was stopped")):
        # a shell's & lets all that follows ignore SIGINT
        code = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code += f"; os.kill(os.getpid(), signal.SIG{name}); signal.pause()"
        assert job.main("a job", str(log), str(tmp_path / "stamp"), "-c", code) != 0
        assert f"a job {said} (log: {log})" in capfd.readouterr().out
    assert not (tmp_path / "stamp").exists()
