import json
import math
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors import safe_open

from cilkit.classes import Stage
from cilkit.files import ROOT, set_aside
from cilkit.methods import METHODS
from cilkit.metrics import MeanIoU
from cilkit.results.export import save_results
from cilkit.results.scores import by_configuration, check_comparable, overview
from cilkit.results.tables import field_table, highlight
from cilkit.splits import load_split
from cilkit.study import runs
from cilkit.study.plan import run_name
from cilkit.study.provenance import plain
from cilkit.study.runs import FILES, NOTEBOOKS, Run, maker
from cilkit.training.config import differences

SPLIT = load_split()
HISTORY = pd.DataFrame({"epoch": [1, 2], "learning_rate": [2e-3, 1e-3], "ce": [1.5, 0.1 + 0.2]})


@pytest.fixture(scope="module")
def network(make_network):
    return make_network(5)


@pytest.fixture
def config():
    return {
        "data": "toyscapes",
        "preset": "smoke",
        "seed": 0,
        "method": "T1",
        "stage": "T1",
        "train": {"normalise": False, "learning_rate": 5e-4},
        "split": plain(asdict(SPLIT)),
        "teacher": None,
    }


@pytest.fixture
def scores():
    """IoU of road 3 / (3 + 1 + 2), of sidewalk 4 / 7; vegetation never seen; no pixel of task2."""
    scores = MeanIoU({"task1": slice(0, 3), "task2": slice(5, 7)})
    scores.counts["task1"][:2, :2] = torch.tensor([[3, 1], [2, 4]])
    return scores


@pytest.fixture
def save(network, config, scores):
    """save(folder, ...) writes a run; what is given replaces a field of its config."""

    def save(folder, network=network, history=HISTORY, **changes) -> Run:
        return runs.save(folder, network, config | changes, history, scores, SPLIT)

    return save


def left_over(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# there and back


def test_a_reloaded_network_gives_the_same_logits(save, network, tmp_path):
    save(tmp_path / "T1")
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    again = runs.load(tmp_path / "T1").network()
    assert not again.training
    with torch.no_grad():
        logits = network(images)
        assert again(images).equal(logits) and logits.std() > 0.01
    assert all(again.state_dict()[key].equal(value) for key, value in network.state_dict().items())


def test_a_network_of_several_decoders_comes_back_whole(save, make_network, tmp_path):
    network = make_network(5, 6, 8, normalise=True)
    run = save(tmp_path / "FT_T3", network, train={"normalise": True})
    again = run.network()
    assert again.classes == (5, 6, 8)
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert again(images).equal(network(images))


def test_a_network_in_another_memory_format_is_saved_too(save, make_network, tmp_path):
    network = make_network(5).to(memory_format=torch.channels_last)
    again = save(tmp_path / "T1", network).network()
    assert all(again.state_dict()[key].equal(value) for key, value in network.state_dict().items())


def test_a_run_is_read_without_unpickling_anything(save, network, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle can run any code")

    save(tmp_path / "T1")
    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert runs.load(tmp_path / "T1").network().num_classes == 5
    with safe_open(tmp_path / "T1" / "weights.safetensors", "pt") as weights:
        assert set(weights.keys()) == network.state_dict().keys()


def test_config_and_history_come_back_as_they_were(save, config, tmp_path):
    saved = save(tmp_path / "T1")
    for run in (saved, runs.load(tmp_path / "T1")):
        assert run.folder == tmp_path / "T1"
        assert run.config == config | {"decoders": [5]}
        pd.testing.assert_frame_equal(run.history, HISTORY, check_exact=True)


def test_scores_come_back_with_the_names_of_the_classes(save, scores, tmp_path):
    save(tmp_path / "T1")
    run = runs.load(tmp_path / "T1")
    assert list(run.miou.index) == ["task1", "task2"]
    assert run.miou["task1"] == scores.miou("task1") == 100 * (3 / 6 + 4 / 7) / 2
    assert math.isnan(run.miou["task2"])
    iou = run.iou("task1")
    assert list(iou.index) == ["road", "sidewalk", "vegetation"]
    assert iou["road"] == 50 and iou["sidewalk"] == pytest.approx(400 / 7)
    assert math.isnan(iou["vegetation"])
    assert run.miou.name == iou.name == "T1"


def test_the_confusion_matrix_has_labels_in_rows(save, tmp_path):
    confusion = save(tmp_path / "T1").confusion("task1")
    assert confusion.loc["road", "sidewalk"] == 1  # labelled road, predicted sidewalk
    assert confusion.loc["sidewalk", "road"] == 2
    assert confusion.to_numpy().tolist() == [[3, 1, 0], [2, 4, 0], [0, 0, 0]]


def test_saved_scores_are_strict_json(save, tmp_path):
    save(tmp_path / "T1")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "T1" / "scores.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["miou"]["task2"] is None and content["iou"]["task1"]["vegetation"] is None


def test_the_digest_is_of_the_weights(save, make_network, tmp_path):
    one = save(tmp_path / "a")
    same = save(tmp_path / "b", seed=7)
    other = save(tmp_path / "c", make_network(5, seed=1))
    assert one.digest() == same.digest() == runs.load(tmp_path / "a").digest()
    assert other.digest() != one.digest()
    assert len(one.digest()) == 16


# names


def stage(name: str, number: int) -> Stage:
    return Stage(name, number, slice(0, 5), slice(5, 11), ())


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("CIL", "CIL_T2"),
        ("CIL (w/o weights)", "CIL_wo_weights_T2"),
        ("SS", "SS_T2"),
        ("my method, take 2!", "my_method_take_2_T2"),
        ("../../etc", "etc_T2"),
    ],
)
def test_a_run_folder_is_named_after_method_and_stage(method, name):
    assert run_name(stage("T2", 2), method) == name


def test_the_first_stage_is_shared_by_all_methods():
    assert run_name(stage("T1", 1), "CIL") == run_name(stage("T1", 1), "T1") == "T1"


# whole or not at all


@pytest.mark.parametrize("file", FILES)
def test_a_half_written_folder_is_not_a_run(save, tmp_path, file):
    run = save(tmp_path / "T1")
    assert runs.is_finished(run.folder) and len(runs.find(tmp_path)) == 1
    (run.folder / file).unlink()
    assert not runs.is_finished(run.folder)
    assert runs.find(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=f"is not a finished run, it lacks {file}; move"):
        runs.load(run.folder)


def test_a_run_is_five_files_and_leaves_nothing_beside_it(save, tmp_path):
    save(tmp_path / "deep" / "down" / "T1")
    assert left_over(tmp_path / "deep" / "down") == ["T1"]
    assert left_over(tmp_path / "deep" / "down" / "T1") == sorted(FILES)


@pytest.mark.parametrize("which", ["history", "scores"])
def test_saving_that_fails_half_way_leaves_nothing(save, tmp_path, monkeypatch, which):
    def fail(*_, **__):
        raise OSError("disk full")

    if which == "history":
        monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    else:
        monkeypatch.setattr(MeanIoU, "miou", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "T1")
    assert left_over(tmp_path) == []
    monkeypatch.undo()
    assert runs.is_finished(save(tmp_path / "T1").folder)


def test_a_run_that_was_finished_meanwhile_stays(save, make_network, tmp_path):
    first = save(tmp_path / "T1", seed=1)
    second = save(tmp_path / "T1", make_network(5, seed=1), seed=2)
    assert second.config["seed"] == 1
    assert second.digest() == first.digest()
    assert left_over(tmp_path) == ["T1"]


def test_a_half_written_folder_in_the_way_does_not_cost_the_new_run(save, tmp_path):
    (save(tmp_path / "T1", seed=1).folder / "weights.safetensors").unlink()
    assert save(tmp_path / "T1", seed=2).config["seed"] == 2
    assert runs.is_finished(tmp_path / "T1")


def test_others_may_read_a_run(save, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()  # with the permissions that this user gives to every folder
    run = save(tmp_path / "T1")
    assert run.folder.stat().st_mode == beside.stat().st_mode
    (beside / "file").touch()
    modes = {(run.folder / name).stat().st_mode for name in FILES}
    assert modes == {(beside / "file").stat().st_mode}


# finding


def test_find_skips_what_was_set_aside_and_what_is_unfinished(save, tmp_path):
    save(tmp_path / "toyscapes" / "quick" / "seed0" / "T1")
    save(tmp_path / "toyscapes" / "quick" / "seed1" / "T1", seed=1)
    set_aside(save(tmp_path / "toyscapes" / "quick" / "seed0" / "CIL_T2", method="CIL").folder)
    save(tmp_path / "toyscapes" / "quick" / "seed0" / ".T1-writing")
    (save(tmp_path / "toyscapes" / "quick" / "seed2" / "T1").folder / "config.json").unlink()
    found = [
        run.folder.relative_to(tmp_path / "toyscapes" / "quick") for run in runs.find(tmp_path)
    ]
    assert [str(folder) for folder in found] == ["seed0/T1", "seed1/T1"]


def test_find_also_works_inside_hidden_folders_and_in_none(save, tmp_path):
    save(tmp_path / ".cache" / "superseded" / "T1")
    assert len(runs.find(tmp_path / ".cache" / "superseded")) == 1
    assert runs.find(tmp_path / "nowhere") == []


def test_set_aside_moves_a_run_out_of_sight_and_loses_nothing(save, tmp_path):
    moved = []
    for seed in (1, 2):
        moved.append(set_aside(save(tmp_path / "T1", seed=seed).folder))
        assert not (tmp_path / "T1").exists()
    assert moved == [tmp_path / "superseded" / "T1-1", tmp_path / "superseded" / "T1-2"]
    assert [runs.load(folder).config["seed"] for folder in moved] == [1, 2]


def test_a_missing_run_is_answered_with_those_there_are(save, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run 'T1' in .* \(found: none\); 05_train_t1"):
        runs.load(tmp_path / "T1")
    save(tmp_path / "CIL_T2")
    save(tmp_path / "T1")
    with pytest.raises(FileNotFoundError, match=r"no run 'FT_T2' in .* \(found: CIL_T2, T1\)"):
        runs.load(tmp_path / "FT_T2")


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("T1", "05_train_t1.ipynb"),
        ("SS_T3", "05_train_t1.ipynb"),
        ("FT_T2", "06_ft_fe.ipynb"),
        ("FE_T3", "Study.run(stage, method)"),
        ("LWOF_T2", "07_lwof.ipynb"),
        ("LWM_T3", "Study.run(stage, method)"),
        ("LWM_teacher_T2", "08_lwm.ipynb"),
        ("Michieli_T2", "09_michieli.ipynb"),
        ("CIL_T2", "10_cil.ipynb"),
        ("CIL_wo_weights_T3", "10_cil.ipynb"),
        ("my_method_T2", "Study.run(stage, method)"),
    ],
)
def test_a_missing_run_is_answered_with_what_makes_it(tmp_path, name, maker):
    with pytest.raises(FileNotFoundError) as error:
        runs.load(tmp_path / name)
    assert str(error.value).endswith(f"; {maker} saves {name!r}, run that first")


def test_every_method_has_a_notebook_that_is_there():
    assert {"T1", "SS", *METHODS} <= set(NOTEBOOKS)
    assert all((ROOT / "notebooks" / f"{name}.ipynb").is_file() for name in NOTEBOOKS.values())


# what may stand in one table


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"preset": "paper"}, "preset"),
        ({"data": "camvid"}, "data"),
        ({"train": {"epochs": 9, "batch": 2}}, "epochs"),
        ({"train": {"epochs": 9, "batch": 3}}, "epochs, batch"),
        ({"code": {"shared": "89ab", "method": "CIL"}}, "code"),
        ({"split": {"name": "camvid"}}, "split"),
        ({"files": "4567"}, "files"),
        ({"data": "camvid", "split": {"name": "camvid"}}, "data, split"),
        ({"environment": {"precision": "bf16-mixed"}}, "precision"),
        ({"environment": {"torch": "2.11.0", "device": "cuda"}}, "torch, device"),
    ],
)
def test_runs_of_several_configurations_are_refused_and_the_fields_named(make_run, changes, fields):
    one, other = make_run("SS", "T2"), make_run("CIL", "T2", seed=1, **changes)
    for found in ([one, other], [other, one], [one, make_run("FT", "T2"), other]):
        with pytest.raises(ValueError, match=f" differ in {fields}; a table holds runs of one"):
            check_comparable(found)
    with pytest.raises(ValueError, match="^runs/seed0/SS_T2 and runs/seed1/CIL_T2 differ in "):
        check_comparable([one, other])


def test_builds_of_one_release_of_torch_may_stand_in_one_table(make_run):
    builds = ("2.15.0+cu132", "2.15.0+cpu", "2.15.0")
    check_comparable(
        [
            make_run("SS", "T2", seed, environment={"torch": build, "torchvision": "0.29.2+cpu"})
            for seed, build in enumerate(builds)
        ]
    )


def test_seeds_methods_stages_and_teachers_may_stand_in_one_table(make_run):
    student = make_run(
        "LWM", "T3", seed=1, teacher="ab", new_teacher="cd", environment={"threads": 1}
    )
    check_comparable([make_run("T1", "T1"), make_run("SS", "T2"), student])
    check_comparable([student])
    check_comparable([])


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"seed": 0, "train": {"epochs": 8, "batch": 2}}, []),
        ({"seed": 1, "train": {"epochs": 8, "batch": 2}}, ["seed"]),
        ({"seed": 1, "train": {"epochs": 8, "batch": 3}}, ["batch", "seed"]),
        ({"seed": 0, "train": {"epochs": 8}}, ["batch"]),
        ({"seed": 0}, ["epochs", "batch"]),
        ({"train": {"epochs": 8, "batch": 2}}, ["seed"]),
        ({"seed": 0, "train": {"epochs": 8, "batch": 2}, "environment": "elsewhere"}, []),
    ],
)
def test_differences_are_named_and_those_of_the_training_by_their_own_names(found, names):
    assert differences(found, {"seed": 0, "train": {"epochs": 8, "batch": 2}}) == names


def test_a_method_has_one_definition_in_a_table(make_run):
    def mine(stage, seed, definition):
        code = {"shared": "4567", "method": definition}
        return make_run("mine", stage, seed, code=code)

    seed0 = [make_run("T1", "T1"), mine("T2", 0, "one"), mine("T3", 0, "one")]
    seed1 = [make_run("T1", "T1", 1), mine("T2", 1, "one"), mine("T3", 1, "one")]
    check_comparable(seed0 + seed1)
    changed = [*seed1[:2], mine("T3", 1, "another")]
    for found in (seed0 + changed, changed + seed0):
        with pytest.raises(ValueError, match="/mine_T2 and runs/seed1/mine_T3 d") as error:
            check_comparable(found)
        assert "differ in the definition of 'mine'; a table" in str(error.value)
        assert "seeds 0, 1 (5 runs); seed 1 (mine_T3)." in str(error.value)
        assert by_configuration(found)[1] == changed[2:]


@pytest.fixture
def three_seeds(make_run):
    """Two seeds of this kit, and one of an older one."""
    old = {"code": {"shared": "old", "method": None}}
    seeds = ((0, old), (1, {}), (2, {}))
    trainings = (("T1", "T1"), ("SS", "T2"))
    return [make_run(*training, seed, **kit) for seed, kit in seeds for training in trainings]


def test_an_error_about_mixed_runs_says_which_seeds_match_and_how_to_go_on(three_seeds):
    with pytest.raises(ValueError) as error:
        check_comparable(three_seeds)
    assert str(error.value) == (
        "runs/seed1/T1_T1 and runs/seed0/T1_T1 differ in code; a table holds runs of one "
        "configuration, and here are 2: seeds 1, 2 (4 runs); seed 0 (T1_T1, SS_T2). Choose the "
        "runs of one, such as by_configuration(found)[0], or run the notebooks again with "
        "the seeds of the others (make study SEEDS=...), which replaces what does not match"
    )


def test_the_runs_of_one_configuration_can_be_chosen_and_then_stand_in_a_table(three_seeds):
    chosen, old = by_configuration(three_seeds)
    assert chosen == three_seeds[2:] and old == three_seeds[:2]
    check_comparable(chosen)
    assert by_configuration([]) == []


def test_an_overview_says_which_seeds_match(three_seeds):
    assert overview(three_seeds).to_dict("split")["data"] == [
        [1, 1, 2, ""],
        [1, 2, 2, ""],
        [2, 0, 2, "code"],
    ]
    assert list(overview([])) == ["configuration", "seed", "runs", "differs in"]


def test_an_overview_names_a_definition_that_changed(make_run):
    def mine(stage, seed, definition):
        return make_run("mine", stage, seed, code={"shared": "4567", "method": definition})

    found = [make_run("T1", "T1", 0), mine("T2", 0, "one"), mine("T2", 1, "two")]
    found += [mine("T3", 1, "two"), mine("T2", 2, "two"), make_run("T1", "T1", 2)]
    # T1 of both goes with the first definition, and the second one has as many runs
    assert overview(found).to_dict("split")["data"] == [
        [1, 0, 2, ""],
        [1, 2, 1, ""],
        [2, 1, 2, "the definition of 'mine'"],
        [2, 2, 1, "the definition of 'mine'"],
    ]
    larger = overview([*found, mine("T3", 2, "two")])
    assert larger["differs in"].tolist() == ["", "", *["the definition of 'mine'"] * 2]


def test_a_copy_of_a_run_is_no_second_seed(make_run):
    with pytest.raises(ValueError, match="^runs/seed0/CIL_T2 and .* are both CIL in T2 with seed "):
        check_comparable([make_run("CIL", "T2"), make_run("SS", "T2"), make_run("CIL", "T2")])


# all scores


def test_scores_are_one_row_for_each_run_and_task(save, tmp_path):
    save(tmp_path / "toyscapes" / "smoke" / "seed0" / "T1")
    save(tmp_path / "toyscapes" / "smoke" / "seed3" / "CIL_T2", seed=3, method="CIL", stage="T2")
    table = runs.scores(tmp_path)
    assert list(table) == ["data", "preset", "seed", "method", "stage", "task", "miou"]
    assert table.drop(columns="miou").values.tolist() == [
        ["toyscapes", "smoke", 0, "T1", "T1", "task1"],
        ["toyscapes", "smoke", 0, "T1", "T1", "task2"],
        ["toyscapes", "smoke", 0, "T1", "T1", "old"],
        ["toyscapes", "smoke", 0, "T1", "T1", "all"],
        ["toyscapes", "smoke", 0, "T1", "T1", "average"],
        ["toyscapes", "smoke", 3, "CIL", "T2", "task1"],
        ["toyscapes", "smoke", 3, "CIL", "T2", "task2"],
    ]
    miou = 100 * (3 / 6 + 4 / 7) / 2
    assert table["miou"].tolist() == pytest.approx(
        [miou, math.nan, miou, miou, miou, miou, math.nan], nan_ok=True
    )
    assert table["miou"].dtype == float


def test_scores_of_several_data_sets_and_presets_come_together(save, tmp_path):
    for data, preset, seed in (
        ("toyscapes", "quick", 0),
        ("camvid", "quick", 1),
        ("c", "paper", 2),
    ):
        folder = tmp_path / data / preset / f"seed{seed}" / "T1"
        save(folder, data=data, preset=preset, seed=seed)
    table = runs.scores(str(tmp_path))
    pd.testing.assert_frame_equal(table, runs.scores(tmp_path))
    assert sorted(table.value_counts(["data", "preset", "seed"]).to_dict().items()) == [
        (("c", "paper", 2), 5),
        (("camvid", "quick", 1), 5),
        (("toyscapes", "quick", 0), 5),
    ]


def test_relative_paths_start_at_the_project_folder_as_in_a_study(save, tmp_path, monkeypatch):
    monkeypatch.setattr("cilkit.files.ROOT", tmp_path / "project")
    save(tmp_path / "project" / "data" / "runs" / "toyscapes" / "T1")
    elsewhere = tmp_path / "project" / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for folder in ("data/runs", Path("data/runs"), "../project/data/runs"):
        assert len(runs.scores(folder)) == 5 and len(runs.find(folder)) == 1
    run = runs.load(Path("data/runs/toyscapes/T1"))
    assert run.folder == tmp_path / "project" / "data" / "runs" / "toyscapes" / "T1"
    assert run.network().num_classes == 5


def test_results_notebooks_and_stamps_beside_the_seeds_are_no_runs(save, table, figure, tmp_path):
    save(tmp_path / "seed0" / "T1")
    save_results(tmp_path / "results", {"scores": table, "figure": figure})
    (tmp_path / "results" / "scores.json").write_text("{}")
    for beside in ("notebooks", "done", "seed0/notebooks", "seed0/done"):
        (tmp_path / beside).mkdir()
        (tmp_path / beside / "12_results.ipynb").touch()
    assert [run.folder for run in runs.find(tmp_path)] == [tmp_path / "seed0" / "T1"]


def test_scores_of_no_run_are_an_empty_table_with_the_same_columns(tmp_path):
    table = runs.scores(tmp_path)
    assert len(table) == 0
    assert list(table) == ["data", "preset", "seed", "method", "stage", "task", "miou"]


def test_scores_can_be_read_without_the_weights_being_loaded(save, tmp_path, monkeypatch):
    save(tmp_path / "T1")
    monkeypatch.setattr(runs.safetensors, "load", lambda _: pytest.fail("weights were loaded"))
    assert len(runs.scores(tmp_path)) == 5


def test_scores_of_some_runs_are_those_of_their_folder(save, tmp_path):
    found = [save(tmp_path / "CIL_T2", method="CIL", stage="T2"), save(tmp_path / "T1")]
    pd.testing.assert_frame_equal(runs.scores(found), runs.scores(tmp_path))
    assert runs.scores(found[1:])["method"].unique().tolist() == ["T1"]


def test_a_run_can_be_moved_with_its_folder(save, network, tmp_path):
    save(tmp_path / "runs" / "T1")
    shutil.move(tmp_path / "runs", tmp_path / "archive")
    run = runs.load(tmp_path / "archive" / "T1")
    assert run.network().num_classes == 5 and len(runs.scores(tmp_path / "archive")) == 5


# the scores of the field


@pytest.fixture
def chain(make_run):
    """CIL in three stages and SS in T3; each class has its channel as its IoU, plus the stage."""

    def scored(method, stage, teacher, **tasks) -> Run:
        run = make_run(method, stage, 0, tasks, teacher=teacher)
        split = run.split
        names = split.names(split.stage(stage).seen)
        joint = split.stage(stage).joint_task
        iou = {joint: {name: k + split.stage(stage).number for k, name in enumerate(names)}}
        folder = run.folder.with_name(run_name(split.stage(stage), method))
        return replace(run, folder=folder, scores=run.scores | {"iou": iou})

    return [
        scored("T1", "T1", None, task1=90.0),
        scored("CIL", "T2", "a", task1=85.0, task2=60.0, task12=50.0),
        scored("CIL", "T3", "b", task1=70.0, task2=62.0, task12=48.0, task3=40.0, task123=30.0),
        scored("SS", "T3", None, task1=95.0, task2=70.0, task12=60.0, task3=50.0, task123=45.0),
    ]


def test_the_scores_of_the_field_are_those_worked_out_by_hand(chain):
    table = runs.scores(chain).pivot(index=["method", "stage"], columns="task", values="miou")
    wanted = {
        ("T1", "T1"): {"old": 3.0, "all": 3.0, "average": 3.0},
        ("CIL", "T2"): {"old": 4.0, "new": 9.5, "all": 7.0, "average": (90 + 7) / 2},
        ("CIL", "T3"): {"old": 5.0, "new": 14.5, "all": 12.0, "average": (90 + 50 + 12) / 3},
        ("SS", "T3"): {"old": 5.0, "new": 14.5, "all": 12.0},
    }
    wanted["CIL", "T2"]["forgetting"] = 90.0 - 85.0
    wanted["CIL", "T3"]["forgetting"] = ((90.0 - 70.0) + (60.0 - 62.0)) / 2
    found = {key: row[list(runs.FIELD)].dropna().to_dict() for key, row in table.iterrows()}
    for key, scores in wanted.items():
        assert found[key] == pytest.approx(scores), key


def test_the_table_of_the_field_has_a_row_for_each_stage_and_method_and_no_other(chain):
    table = field_table(chain)
    assert table.index.tolist() == [("T2", "CIL"), ("T3", "SS"), ("T3", "CIL")]
    assert list(table) == ["old", "new", "all", "average", "forgetting"]
    assert table.loc[("T3", "CIL"), "forgetting"] == 9.0
    assert table.loc[("T3", "SS")].isna().tolist() == [False] * 3 + [True] * 2
    assert field_table([]).empty and list(field_table([])) == list(table)


def test_an_average_over_stages_wants_all_of_them(chain):
    scores = runs.scores([run for run in chain if run.folder.name != "CIL_T2"])
    at_t3 = scores[(scores["method"] == "CIL") & (scores["stage"] == "T3")]["task"].tolist()
    assert {"old", "new", "all"} <= set(at_t3) and not {"average", "forgetting"} & set(at_t3)


def test_a_class_without_pixels_does_not_count_in_a_mean(chain):
    ious = chain[0].scores["iou"]["task1"]
    ious |= {next(iter(ious)): None}  # 1, and 2 to 5 are left
    scores = runs.scores(chain[:1]).set_index("task")["miou"]
    assert scores["old"] == scores["all"] == 3.5


# results for a paper or a talk


@pytest.fixture
def table():
    return pd.DataFrame({"Task 1∪2": [90.04, 80.0, math.nan]}, index=["CIL", "FT", "50 % less"])


@pytest.fixture
def figure():
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    return figure


def test_a_table_is_saved_as_csv_and_latex(table, tmp_path):
    save_results(tmp_path / "new" / "folder", {"one": table})
    assert left_over(tmp_path / "new" / "folder") == ["one.csv", "one.tex"]
    again = pd.read_csv(tmp_path / "new" / "folder" / "one.csv", index_col=0)
    pd.testing.assert_frame_equal(again, table)
    lines = (tmp_path / "new" / "folder" / "one.tex").read_text().splitlines()
    assert lines == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r" & Task 1$\cup$2 \\",
        r"\midrule",
        r"CIL & 90.0 \\",
        r"FT & 80.0 \\",
        r"50 \% less & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_highlighted_table_keeps_its_marks_in_latex_and_its_numbers_in_csv(tmp_path):
    rows = [("T1, T2", method) for method in ("SS", "FT", "FE", "CIL")]
    index = pd.MultiIndex.from_tuples(rows, names=["stages", "method"])
    table = pd.DataFrame({"Task 1∪2": [70.7, 29.26, math.nan, 67.7]}, index)
    save_results(tmp_path, {"one": highlight(table)})
    lines = (tmp_path / "one.tex").read_text().splitlines()
    cells = {line.split(" & ")[1]: line.split(" & ")[2] for line in lines if line.count("&") == 2}
    assert cells["SS"] == r"70.7 \\" and cells["FE"] == r"-- \\"
    assert cells["CIL"] == r"\bfseries 67.7 \\" and cells["FT"] == r"\underline{29.3} \\"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "one.csv", index_col=[0, 1]), table)


def test_a_figure_is_saved_as_png_and_svg(figure, tmp_path):
    save_results(tmp_path, {"one": figure})
    assert left_over(tmp_path) == ["one.png", "one.svg"]
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("}svg")


def test_results_are_saved_again_over_those_of_before(table, figure, tmp_path):
    save_results(tmp_path, {"one": table, "two": figure})
    save_results(tmp_path, {"one": table + 1})
    assert left_over(tmp_path) == ["one.csv", "one.tex", "two.png", "two.svg"]
    assert "91.04" in (tmp_path / "one.csv").read_text()


@pytest.mark.parametrize("broken", ["one.csv", "one.tex", "two.png", "two.svg"])
def test_writing_that_fails_half_way_leaves_the_results_of_before(
    table, figure, tmp_path, monkeypatch, broken
):
    save_results(tmp_path, {"one": table, "two": figure})
    before = (tmp_path / broken).read_bytes()
    write = Path.write_bytes

    def write_half(file, content):
        write(file, content[:10] if broken in file.name else content)
        if broken in file.name:
            raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        save_results(tmp_path, {"one": table + 1, "two": figure})
    assert (tmp_path / broken).read_bytes() == before
    assert left_over(tmp_path) == ["one.csv", "one.tex", "two.png", "two.svg"]


def test_runs_of_an_older_kit_are_refused_by_name(make_run):
    old, new = make_run("CIL", "T2", code="0123456789abcdef"), make_run("SS", "T2")
    for found in ([new, old], [old, new]):
        with pytest.raises(ValueError, match="differ in code; a table holds"):
            check_comparable(found)


def test_a_setting_that_only_one_of_two_runs_has_is_a_difference(make_run):
    one = make_run("CIL", "T2", train={"epochs": 8})
    more = make_run("SS", "T2", train={"epochs": 8, "new_setting": 3})
    for found in ([one, more], [more, one]):
        with pytest.raises(ValueError, match="differ in new_setting"):
            check_comparable(found)


def test_signs_that_latex_reads_as_commands_are_escaped_once(tmp_path):
    table = pd.DataFrame({"learning_rate": ["06_ft_fe & 50 %"]})
    save_results(tmp_path, {"one": table})
    latex = (tmp_path / "one.tex").read_text(encoding="utf-8")
    assert r"learning\_rate" in latex and r"06\_ft\_fe \& 50 \% " in latex
    save_results(tmp_path, {"two": pd.DataFrame({"a": ["50 %"]}).style.format(escape="latex")})
    assert r" 50 \% " in (tmp_path / "two.tex").read_text(encoding="utf-8")
    assert "06_ft_fe & 50 %" in (tmp_path / "one.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "stage", "what"),
    [
        ("T1", "T1", "05_train_t1"),
        ("SS", "T3", "05_train_t1"),
        ("FT", "T2", "06_ft_fe"),
        ("FT", "T3", "study.run('T3', 'FT')"),
        ("LWM teacher", "T3", "study.run('T3', 'LWM teacher')"),
        ("CIL", "T3", "10_cil"),
        ("PLOP", "T2", "study.run('T2', 'PLOP')"),
    ],
)
def test_a_missing_run_is_made_by_the_notebook_that_tells_of_its_stage(method, stage, what):
    assert maker(method, stage, "T2") == what
