import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pandas as pd
import pytest
import torch
from stages import random_networks

from cilkit.classes import VOID, belongs, restrict
from cilkit.data.augmentation import Augmentation
from cilkit.files import RESOURCES, ROOT, set_aside
from cilkit.losses import cross_entropy, masked_distillation
from cilkit.methods import LATER_METHODS, METHODS, Memory, Method
from cilkit.methods.lwm import balanced, confident
from cilkit.networks import NETWORKS
from cilkit.networks.erfnet import ERFNet
from cilkit.networks.lraspp import LRASPP
from cilkit.study import runs, study
from cilkit.study.__main__ import main
from cilkit.study.study import Study
from cilkit.training.checkpoint import FileCheckpoint
from cilkit.training.evaluation import evaluate
from cilkit.training.memory import rate


def my_loss(step):
    """A method of this file: labels where there are any, the teacher elsewhere."""
    log_y = step.logits.log_softmax(dim=1)
    return {
        "ce": cross_entropy(log_y[:, step.new], restrict(step.labels, step.new)),
        "kd": masked_distillation(
            log_y[:, step.old], step.teacher, ~belongs(step.labels, step.new)
        ),
    }


MINE = Method("mine", equation=9, loss=my_loss)
HERE = os.environ | {"PYTHONPATH": str(ROOT)}  # for a process that starts elsewhere


@pytest.fixture
def open_study(scenes, tmp_path, tiny):
    """open_study(...) opens the tiny study; what is given replaces a field of its configuration."""

    def open_study(data=scenes.root, seed=0, folder=tmp_path / "runs", **changes) -> Study:
        settings = {name: getattr(tiny, name) for name in ("batch", "height", "augmentation")}
        settings |= {"precision": tiny.precision} | changes
        return Study(data, folder, "smoke", seed, **settings)

    return open_study


@pytest.fixture
def trained(monkeypatch):
    """The names of the trainings, in order; they hand back random networks at once."""
    return random_networks(monkeypatch)


# networks of another kind


def test_a_study_of_another_network_keeps_its_name_with_the_runs(open_study, capsys):
    run = open_study(network="LRASPP").run("T2", "CIL")
    assert run.config["train"]["network"] == "LRASPP"
    assert isinstance(run.network(), LRASPP) and run.network().num_classes == 11
    assert open_study(network="LRASPP").run("T2", "CIL").digest() == run.digest()
    capsys.readouterr()
    assert isinstance(open_study().run("T1").network(), ERFNet)
    assert "T1 was trained with other network: training again." in capsys.readouterr().out


def test_a_network_of_your_own_is_trained_by_name_and_missed_if_it_is_not_there(
    open_study, monkeypatch
):
    class Mine(LRASPP):
        """A network of a notebook."""

    monkeypatch.setitem(NETWORKS, "mine", Mine)
    run = open_study(network="mine").run("T1")
    assert isinstance(run.network(), Mine) and run.config["code"]["network"] is not None
    monkeypatch.setitem(NETWORKS, "mine", ERFNet)
    with pytest.raises(
        ValueError, match="weights of .*T1 are not those of network 'mine' as it is"
    ):
        run.network()
    monkeypatch.delitem(NETWORKS, "mine")
    with pytest.raises(ValueError, match=r"unknown network 'mine'.*NETWORKS\['mine'\] = "):
        run.network()
    with pytest.raises(ValueError, match="unknown network 'mine'"):
        open_study(network="mine")


# trained once, loaded ever after


def test_a_run_is_trained_once_and_then_loaded(open_study, trained):
    first = open_study().run("T1")
    again = open_study().run("T1")
    assert trained == ["T1"]
    assert again.digest() == first.digest() and again.scores == first.scores


def test_of_two_that_ask_for_the_same_run_one_trains_and_the_other_waits(
    open_study, trained, monkeypatch
):
    fit, started = study.fit, Barrier(2)

    def slow(*arguments, **looking):
        time.sleep(0.5)  # long enough for the other to ask, too
        return fit(*arguments)

    def ask(_):
        one = open_study()
        started.wait()
        return one.run("T1").digest()

    monkeypatch.setattr(study, "fit", slow)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(ask, range(2))
    assert trained == ["T1"]
    assert first == second


def test_a_run_lies_in_a_folder_by_data_preset_and_seed(open_study, trained, tmp_path):
    one = open_study()
    assert one.run("T1").folder == tmp_path / "runs" / "tinyscapes" / "smoke" / "seed0" / "T1"
    other = open_study(seed=3)
    assert other.run("T2", "CIL").folder == other.folder / "CIL_T2"
    assert other.folder == tmp_path / "runs" / "tinyscapes" / "smoke" / "seed3"
    assert trained == ["T1", "T1", "CIL T2"]  # another seed has a first stage of its own


def test_all_methods_share_the_first_stage(open_study, trained, small):
    one = open_study()
    for method in METHODS:
        one.run("T2", small(method))
    students = [name for name in trained if name != "LWM_teacher_T2"]
    assert students == ["T1"] + [f"{method} T2" for method in METHODS]
    assert one.run("T1", "FT").digest() == one.run("T1").digest()


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_of_a_stage_is_the_same_methods_model_of_the_stage_before(
    open_study, trained, small, method
):
    one, method = open_study(), small(method)
    last = one.run("T3", method)
    students = [name for name in trained if not name.startswith("LWM_teacher")]
    assert students == ["T1", f"{method.name} T2", f"{method.name} T3"]
    assert last.config["teacher"] == one.run("T2", method).digest()
    assert one.run("T2", method).config["teacher"] == one.run("T1").digest()
    assert one.run("T1").config["teacher"] is None
    assert last.config["decoders"] == ([5, 6, 8] if method.second_decoder else [19])
    assert len(students) == 3 and (len(trained) > 3) == (method.name == "LWM")
    assert (last.config["new_teacher"] is None) == (method.name != "LWM")


@pytest.fixture
def given(trained, monkeypatch) -> dict[str, dict]:
    """What fit_stage was given, by the name of the training."""
    given = {}
    fake = study.fit_stage

    def fit_stage(method, images, stage, **more):
        given[f"{method.name} {stage.name}"] = {"images": images, **more}
        return fake(method, images, stage, **more)

    monkeypatch.setattr(study, "fit_stage", fit_stage)
    return given


def same_weights(network, run) -> bool:
    one, other = network.state_dict(), run.network().state_dict()
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_fit_stage_gets_the_saved_teacher_and_the_new_labels(open_study, given):
    one = open_study(seed=5)
    one.run("T2", "CIL")
    got = given["CIL T2"]
    assert same_weights(got["teacher"], one.run("T1"))
    assert got["images"].visible == slice(5, 11) and got["images"].height == 32
    assert (got["config"], got["seed"]) == (one.config, 5)
    assert list(got["memory"]) == [] and got.get("new_teacher") is None


@pytest.mark.parametrize("method", [*METHODS, *LATER_METHODS])
def test_fit_stage_gets_the_labels_that_a_method_declares(open_study, given, small, method):
    one, method = open_study(), small(method)
    one.run("T3", method)
    for stage in ("T2", "T3"):
        images = given[f"{method.name} {stage}"]["images"]
        assert images.visible == method.visible(one.stage(stage))
        assert images.hidden == method.hidden
        assert images.samples == one.data.stage(stage).samples


def test_ss_is_trained_on_everything_up_to_its_stage_without_a_teacher(
    open_study, trained, monkeypatch
):
    seen = {}
    fake = study.fit

    def fit(images, config, seed=0, name="T1", **looking):
        seen[name] = (images.visible, len(images))
        return fake(images, config, seed, name)

    monkeypatch.setattr(study, "fit", fit)
    one = open_study()
    run = one.run("T2")
    assert run.folder.name == "SS_T2" and run.config["method"] == "SS"
    assert run.config["teacher"] is None and trained == ["SS_T2"]
    assert one.run("T3", "SS").folder.name == "SS_T3"
    assert one.run("T1", "SS").folder.name == "T1"
    assert seen == {
        "SS_T2": (slice(0, 11), 11),
        "SS_T3": (slice(0, 19), 17),
        "T1": (slice(0, 5), 4),
    }


def test_a_run_is_scored_on_the_class_sets_of_its_stage(open_study, trained):
    one = open_study()
    assert list(one.run("T1").miou.index) == ["task1"]
    assert list(one.run("T2", "CIL").miou.index) == ["task1", "task2", "task12"]
    tasks = ["task1", "task2", "task12", "task3", "task123"]
    assert list(one.run("T3", "CIL").miou.index) == list(one.run("T3").miou.index) == tasks


# a memory


def test_lwm_trains_a_second_teacher_for_each_stage_before_its_student(open_study, given, small):
    one = open_study(seed=2)
    students = {stage: one.run(stage, small("LWM")) for stage in ("T2", "T3")}
    for stage, classes in (("T2", 6), ("T3", 8)):
        teacher = one.new_teacher(stage)
        assert teacher.folder == one.folder / f"LWM_teacher_{stage}"
        assert teacher.config["decoders"] == [classes]
        assert (teacher.config["method"], teacher.config["teacher"]) == ("LWM teacher", None)
        assert same_weights(given[f"LWM {stage}"]["new_teacher"], teacher)
        assert students[stage].config["new_teacher"] == teacher.digest()


def test_the_order_of_trainings_for_lwm_is_t1_then_a_teacher_and_a_student_each(
    open_study, trained, small
):
    one = open_study()
    one.run("T3", small("LWM"))
    assert trained == ["T1", "LWM_teacher_T2", "LWM T2", "LWM_teacher_T3", "LWM T3"]
    one.run("T3", small("LWM"))
    one.new_teacher("T2")
    assert len(trained) == 5


def test_the_second_teacher_learns_the_new_classes_alone_and_is_scored_on_them_alone(
    open_study, trained, monkeypatch
):
    seen = []
    fake = study.fit

    def fit(images, *arguments, **looking):
        seen.append(images)
        return fake(images, *arguments)

    monkeypatch.setattr(study, "fit", fit)
    one = open_study()
    for stage, task in (("T2", "task2"), ("T3", "task3")):
        run = one.new_teacher(stage)
        assert list(run.miou.index) == [task]
        assert list(run.iou(task).index) == one.split.names(one.stage(stage).new)
        images = seen.pop()
        assert images.visible == one.stage(stage).new
        assert images.samples == one.data.stage(stage).samples
        test = one.data.test_set(stage, 32, labels="new")
        scores = evaluate(run.network(), test, {task: one.stage(stage).new}, one.config)
        assert scores.counts[task].tolist() == run.scores["confusion"][task]
    assert trained == ["LWM_teacher_T2", "LWM_teacher_T3"]
    assert one.new_teacher("T1").digest() == one.run("T1").digest()  # all its classes are new


def test_the_memory_holds_images_of_each_earlier_stage_with_the_labels_of_that_stage(
    open_study, given, small
):
    one, method = open_study(), small("LWM")
    one.run("T3", method)
    assert [m.visible for m in given["LWM T2"]["memory"]] == [slice(0, 5)]
    assert [m.visible for m in given["LWM T3"]["memory"]] == [slice(0, 5), slice(5, 11)]
    for remembered, name in zip(given["LWM T3"]["memory"], ("T1", "T2"), strict=True):
        stage = one.stage(name)
        assert len(remembered) == 2
        assert {sample.group for sample in remembered.samples} <= set(stage.cities)
        assert remembered.samples == one.memory(name, method).samples
        labels = torch.stack([remembered[index][1] for index in range(2)])
        assert labels.shape == (2, 32, 64)  # of the height in training
        assert set(labels.unique().tolist()) <= {*range(stage.new.start, stage.new.stop), VOID}
        assert (labels != VOID).any()
    assert given["LWM T2"]["memory"][0].samples == given["LWM T3"]["memory"][0].samples


def test_the_images_of_a_memory_are_rated_by_the_methods_own_model_of_their_stage(
    open_study, trained, small
):
    one, method = open_study(), replace(small("LWM"), memory=Memory(confident, 2))
    for stage, model in (("T1", one.run("T1")), ("T2", one.run("T2", method))):
        wanted = rate(one.data.stage(stage, height=32), model.network(), one.config)
        pd.testing.assert_frame_equal(one.ratings(stage, method), wanted)
        surest = wanted["confidence"].nlargest(2).index
        samples = [one.data.stage(stage).samples[index] for index in surest]
        assert list(one.memory(stage, method).samples) == samples


def test_the_seed_of_the_study_draws_the_memory(open_study, trained, small):
    def remembered(seed):
        one = open_study(seed=seed)
        return tuple(sample.group for sample in one.memory("T1", small("LWM")).samples)

    assert remembered(0) == remembered(0)
    assert len({remembered(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("memory", [Memory(balanced, 3), Memory(confident, 2)])
def test_another_memory_is_another_run(open_study, trained, capsys, small, memory):
    one, method = open_study(), small("LWM")
    one.run("T3", method)
    other = replace(method, memory=memory)
    run = one.run("T3", other)
    teachers = ["LWM_teacher_T2", "LWM_teacher_T3"]
    assert trained == ["T1", teachers[0], "LWM T2", teachers[1], "LWM T3", "LWM T2", "LWM T3"]
    printed = capsys.readouterr().out
    assert "LWM_T2 was trained with other code: training again." in printed
    assert_trained_again(run, "teacher, code", printed)
    one.run("T3", other)
    assert len(trained) == 7


def test_a_student_of_another_second_teacher_is_trained_again(open_study, trained, capsys, small):
    one = open_study()
    one.run("T2", small("LWM"))
    set_aside(one.new_teacher("T2").folder)
    run = one.run("T2", small("LWM"))
    assert trained[3:] == ["LWM_teacher_T2", "LWM T2"]
    assert_trained_again(run, "new_teacher", capsys.readouterr().out)


def test_a_memory_larger_than_a_stage_is_refused_before_anything_is_trained(open_study, trained):
    with pytest.raises(ValueError, match="memory of 20 images, but a stage it remembers has only"):
        open_study().run("T2", "LWM")
    assert trained == []


def test_a_method_without_memory_has_none_to_show(open_study, trained):
    with pytest.raises(
        ValueError, match=r"CIL has no memory; give it one: replace\(method, memory"
    ):
        open_study().memory("T1", "CIL")
    assert trained == []


def test_all_runs_of_a_study_appear_in_the_table_of_scores(open_study, trained, tmp_path):
    one = open_study()
    one.run("T2", "FT")
    table = runs.scores(tmp_path / "runs")
    assert set(table["data"]) == {"tinyscapes"} and set(table["preset"]) == {"smoke"}
    assert table[["method", "stage", "task"]].values.tolist() == [
        ["FT", "T2", "task1"],
        ["FT", "T2", "task2"],
        ["FT", "T2", "task12"],
        *(["FT", "T2", name] for name in runs.FIELD),
        ["T1", "T1", "task1"],
        *(["T1", "T1", name] for name in ("old", "all", "average")),
    ]


def test_a_run_exists_once_it_is_finished(open_study, trained):
    one = open_study()
    assert not one.exists("T1") and not one.exists("T2", "CIL")
    run = one.run("T1")
    assert one.exists("T1") and one.exists("T1", "CIL") and not one.exists("T2", "CIL")
    (run.folder / "scores.json").unlink()
    assert not one.exists("T1")


def test_a_run_records_where_it_was_trained_and_matches_elsewhere_too(
    open_study, trained, monkeypatch
):
    with monkeypatch.context() as patch:
        environment, other = study.environment, {"torch": "2.11.0", "machine": "other"}
        patch.setattr(study, "environment", lambda config: environment(config) | other)
        assert open_study().run("T1").config["environment"]["torch"] == "2.11.0"
    open_study().run("T1")
    assert trained == ["T1"]
    environment = open_study(seed=1).run("T1").config["environment"]
    assert environment["torch"] == torch.__version__ and environment["precision"] == "32-true"


# what does not match is set aside


def assert_trained_again(run, differing: str, printed: str) -> None:
    name = run.folder.name
    moved = run.folder.parent / "superseded" / f"{name}-1"
    assert f"{name} was trained with other {differing}: training again." in printed
    assert f"The old run lies in {moved}." in printed
    assert runs.load(moved).digest() != run.digest()


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"epochs": 2}, "epochs"),
        ({"learning_rate": 1e-3, "normalise": True}, "learning_rate, normalise"),
        ({"augmentation": Augmentation(crop=(16, 32), flip=0.5)}, "augmentation"),
    ],
)
def test_another_configuration_is_named_and_trained_again(
    open_study, trained, capsys, changes, differing
):
    open_study().run("T1")
    run = open_study(**changes).run("T1")
    assert trained == ["T1", "T1"]
    assert_trained_again(run, differing, capsys.readouterr().out)
    open_study(**changes).run("T1")
    assert len(trained) == 2  # the new run matches
    assert capsys.readouterr().out == ""


def test_changed_files_are_noticed(open_study, trained, capsys, folder):
    open_study(folder).run("T1")
    label = next((folder / "gtFine" / "val" / "lindau").iterdir())
    label.write_bytes(label.read_bytes() + b"more")
    assert_trained_again(open_study(folder).run("T1"), "files", capsys.readouterr().out)


def test_a_changed_split_is_noticed(open_study, trained, capsys, folder):
    open_study(folder).run("T1")
    text = (RESOURCES / "splits" / "cityscapes.toml").read_text()
    (folder / "split.toml").write_text(text.replace("[128, 64, 128]", "[0, 64, 128]"))
    assert_trained_again(open_study(folder).run("T1"), "split", capsys.readouterr().out)


def test_a_run_copied_from_another_seed_is_noticed(open_study, trained, capsys):
    zero, one = open_study(seed=0), open_study(seed=1)
    zero.run("T1")
    shutil.copytree(zero.folder, one.folder)
    assert_trained_again(one.run("T1"), "seed", capsys.readouterr().out)
    assert trained == ["T1", "T1"]


def test_a_student_of_another_teacher_is_trained_again(open_study, trained, capsys):
    one = open_study()
    one.run("T3", "CIL")
    set_aside(one.run("T1").folder)
    run = one.run("T2", "CIL")
    assert trained == ["T1", "CIL T2", "CIL T3", "T1", "CIL T2"]
    assert_trained_again(run, "teacher", capsys.readouterr().out)
    assert_trained_again(one.run("T3", "CIL"), "teacher", capsys.readouterr().out)


def test_changed_code_is_noticed(open_study, trained, capsys, monkeypatch):
    open_study().run("T1")
    monkeypatch.setattr(study, "code_version", lambda method, network: "another")
    assert_trained_again(open_study().run("T1"), "code", capsys.readouterr().out)


def test_a_method_rewritten_under_its_name_is_trained_again(open_study, trained, capsys):
    one = open_study()
    one.run("T2", MINE)

    def other_loss(step):
        return my_loss(step) | {"more": step.logits.mean()}

    run = one.run("T2", replace(MINE, loss=other_loss))
    assert trained == ["T1", "mine T2", "mine T2"]
    assert_trained_again(run, "code", capsys.readouterr().out)


def test_a_half_written_run_is_trained_again_and_saved(open_study, trained):
    one = open_study()
    (one.run("T1").folder / "weights.safetensors").unlink()
    run = one.run("T1")
    assert trained == ["T1", "T1"] and runs.is_finished(run.folder)


def test_a_training_that_stops_leaves_no_run(open_study, trained, monkeypatch):
    def stop(*_, **looking):
        raise KeyboardInterrupt

    one = open_study()
    with monkeypatch.context() as patch:
        patch.setattr(study, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            one.run("T1")
    assert not one.exists("T1")
    one.run("T1")
    assert trained == ["T1"]


# the real thing


def test_a_method_written_by_hand_is_trained_saved_and_loaded(open_study):
    one = open_study()
    run, tasks = one.run("T2", MINE), ["task1", "task2", "task12"]
    assert run.folder.name == "mine_T2" and run.config["method"] == "mine"
    assert list(run.history) == ["epoch", "learning_rate", "ce", "kd", *tasks, "seconds"]
    assert run.network().num_classes == 11
    changed = run.folder.stat().st_mtime_ns
    again = one.run("T2", MINE)
    assert again.digest() == run.digest()
    assert again.folder.stat().st_mtime_ns == changed


def test_lwm_goes_through_all_stages_with_its_memory_and_teachers(open_study, small):
    one = open_study()
    for stage, classes in (("T2", 11), ("T3", 19)):
        run = one.run(stage, small("LWM"))
        columns = ["ce_new", "ce_memory", "kd_old", "kd_new", *run.miou.index]
        assert list(run.history) == ["epoch", "learning_rate", *columns, "seconds"]
        assert run.network().num_classes == classes
    assert [len(one.memory(stage, small("LWM"))) for stage in ("T1", "T2")] == [2, 2]
    tasks = ["task1", "task2", "task12", "task3", "task123"]
    assert list(run.miou.index) == tasks and run.miou.between(0, 100).all()


@pytest.mark.parametrize(("method", "keeps"), [("FE", True), ("FT", False)])
def test_fe_scores_old_tasks_after_t2_and_t3_exactly_as_when_they_were_learned(
    open_study, method, keeps
):
    one = open_study(epochs=3, batch=2, learning_rate=1e-2)
    t1, t2, t3 = one.run("T1"), one.run("T2", method), one.run("T3", method)

    def counts(run, task):
        return run.scores["confusion"][task]

    assert (counts(t2, "task1") == counts(t1, "task1")) == keeps
    for task in ("task1", "task2", "task12"):
        assert (counts(t3, task) == counts(t2, task)) == keeps
        assert (t3.scores["iou"][task] == t2.scores["iou"][task]) == keeps


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("stage", "method"), [("T1", "SS"), ("T2", "FT"), ("T2", "CIL")])
def test_a_reloaded_run_scores_exactly_what_it_scored_in_training(
    open_study, precision, stage, method
):
    one = open_study(precision=precision)
    run = one.run(stage, method)
    loaded, sets = runs.load(run.folder), one.split.class_sets(one.stage(stage))
    scores = evaluate(loaded.network(), one.data.test_set(stage, 32), sets, one.config)
    assert list(sets) == list(loaded.miou.index)
    for name in sets:
        assert scores.counts[name].tolist() == loaded.scores["confusion"][name]
        assert scores.miou(name) == loaded.miou[name]


@pytest.mark.parametrize("method", ["CIL", "LWM"])
def test_the_same_study_in_another_folder_gives_the_same_run(open_study, tmp_path, small, method):
    here = open_study().run("T2", small(method))
    there = open_study(folder=tmp_path / "elsewhere").run("T2", small(method))
    assert here.digest() == there.digest() and here.scores == there.scores


# what cannot be


def test_relative_folders_start_at_the_project(scenes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    one = Study(scenes.root, "data/runs", "smoke")
    assert one.folder == ROOT / "data" / "runs" / "tinyscapes" / "smoke" / "seed0"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True, None])
def test_a_seed_is_a_whole_number_from_0(scenes, tmp_path, seed):
    with pytest.raises(ValueError, match="SEED is .*; wanted a whole number from 0"):
        Study(scenes.root, tmp_path, "smoke", seed)


def test_an_unknown_preset_is_answered_before_the_data_is_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"unknown preset 'smok' \(did you mean 'smoke'\?\)"):
        Study(tmp_path / "no data", tmp_path, "smok")


def test_a_setting_the_configuration_does_not_have_is_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"unknown setting 'epoch' \(did you mean 'epochs'\?\)"):
        Study(scenes.root, tmp_path, "smoke", epoch=3)
    with pytest.raises(ValueError, match="epochs is 0"):
        Study(scenes.root, tmp_path, "smoke", epochs=0)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data folder .*nowhere"):
        Study(tmp_path / "nowhere", tmp_path, "smoke")


@pytest.mark.parametrize("stage", ["T1", "T2"])
def test_an_unknown_method_is_refused_in_every_stage(open_study, trained, stage):
    with pytest.raises(ValueError, match=r"unknown method 'CLI' \(did you mean 'CIL'\?\)"):
        open_study().run(stage, "CLI")
    assert trained == []


def test_an_unknown_stage_is_refused(open_study, trained):
    with pytest.raises(ValueError, match="unknown stage 'T4'; choose one of: T1, T2, T3"):
        open_study().run("T4", "CIL")
    with pytest.raises(ValueError, match="unknown stage 'T4'"):
        open_study().exists("T4")
    assert trained == []


def test_a_stopped_training_goes_on_when_its_cell_is_run_again(
    open_study, tmp_path, monkeypatch, capsys
):
    class Stopping(FileCheckpoint):
        def due(self):
            return True

        def save(self, tensors, facts):
            super().save(tensors, facts)
            if facts["step"] == 1:
                raise KeyboardInterrupt

    def files(one):
        return sorted(file.name for file in one.folder.iterdir() if "lock" not in file.name)

    unbroken = open_study(folder=tmp_path / "unbroken", batch=2).run("T1")
    one = open_study(batch=2)
    with monkeypatch.context() as patch:
        patch.setattr(study, "FileCheckpoint", Stopping)
        with pytest.raises(KeyboardInterrupt):
            one.run("T1")
    assert files(one) == [".T1.checkpoint"] and not one.exists("T1")
    assert "run the cell again, and it goes on" in capsys.readouterr().out
    run = one.run("T1")
    assert files(one) == ["T1"]
    assert "T1 goes on from epoch 1, step 1." in capsys.readouterr().out
    assert run.digest() == unbroken.digest() and run.scores == unbroken.scores


def test_a_training_begun_on_another_machine_starts_again(open_study, monkeypatch, capsys):
    one = open_study()
    environment = study.environment

    def stop(self, tensors, facts):
        FileCheckpoint.save(self, tensors, facts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stopping = type("Stopping", (FileCheckpoint,), {"due": lambda self: True, "save": stop})
        patch.setattr(study, "FileCheckpoint", stopping)
        patch.setattr(study, "environment", lambda c: environment(c) | {"torch": "1.0"})
        with pytest.raises(KeyboardInterrupt):
            one.run("T1")
    one.run("T1")
    assert "unfinished training of T1 is of other torch: starting again" in capsys.readouterr().out


def test_who_wants_to_look_is_shown_each_epoch(open_study):
    shown = []
    one = open_study(show=lambda name, history: shown.append((name, list(history))), epochs=2)
    one.run("T1")
    columns = ["epoch", "learning_rate", "ce", "task1", "seconds"]
    assert shown == [("T1", columns), ("T1", columns)]


# from the command line


def test_one_run_can_be_asked_for_on_the_command_line(toys, tmp_path, capsys):
    given = ["T2", "CIL (w/o weights)", f"DATA={toys}", f"RUNS={tmp_path / 'my runs'}"]
    given += ["PRESET=smoke", "SEED=2"]
    command = [sys.executable, "-m", "cilkit.study", *given]
    done = subprocess.run(command, cwd=tmp_path, env=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = Study(toys, tmp_path / "my runs", "smoke", 2)
    run = one.run("T2", "CIL (w/o weights)")
    assert [run.folder.name for run in runs.find(tmp_path)] == ["CIL_wo_weights_T2", "T1"]
    assert str(run.folder) in done.stdout and "task12" in done.stdout
    capsys.readouterr()
    main(*given)
    again = capsys.readouterr()
    assert again.out == done.stdout  # loaded: a training shows its steps
    assert "step" in done.stderr and "step" not in again.err


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("SS", ["SS_T3"]),
        ("FE", ["T1", "FE T2", "FE T3"]),
        ("LWM teacher", ["LWM_teacher_T3"]),
    ],
)
def test_the_command_line_takes_every_name_of_the_tables(scenes, tmp_path, trained, name, made):
    main("T3", name, f"DATA={scenes.root}", f"RUNS={tmp_path}", "PRESET=smoke")
    assert trained == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "given no stage and no method; wanted a stage and a method: python -m cilkit.study"),
        (["T2"], "given T2; wanted a stage and a method"),
        (["T2", "CIL", "(w/o", "weights)"], r"given T2 CIL \(w/o weights\); .* .quote a name"),
        (
            ["T2", "CILL"],
            r"unknown method 'CILL' \(did you mean 'CIL'\?\); .*: SS, LWM teacher, FT",
        ),
        (["T4", "CIL"], "unknown stage 'T4'; choose one of: T1, T2, T3"),
        (["T2", "CIL", "SEDE=1"], r"unknown parameter 'SEDE' \(did you mean 'SEED'\?\)"),
        (["T2", "CIL", "--seed=1"], r"unknown parameter '--seed' \(did you mean 'SEED'\?\)"),
        (["T2", "CIL", "SEED=1", "SEED=2"], "SEED is given twice, 1 and '2'; give it once"),
        (["T2", "CIL", "SEED="], "SEED has no value; wanted SEED=..., or leave it out"),
        (["T2", "CIL", "SEED=one"], "SEED is 'one'; wanted a whole number from 0"),
        (["T2", "CIL", "PRESET=smok"], r"unknown preset 'smok' \(did you mean 'smoke'\?\)"),
    ],
)
def test_a_command_line_that_is_wrong_is_refused(scenes, tmp_path, trained, given, message):
    here = [f"DATA={scenes.root}", f"RUNS={tmp_path / 'runs'}"]
    with pytest.raises(ValueError, match=message):
        main(*given, *here)
    assert trained == [] and not (tmp_path / "runs").exists()
