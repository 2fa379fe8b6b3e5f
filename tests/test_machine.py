from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
from stages import tiny_stages

from cilkit.study import machine
from cilkit.study.machine import check, in_words, time_presets
from cilkit.study.study import Study
from cilkit.training.config import PRESETS

GB = 10**9


@pytest.fixture
def study(scenes, tmp_path, monkeypatch) -> Study:
    monkeypatch.setattr("cilkit.limits.OWN_CGROUPS", tmp_path / "none")  # no limits but the host's
    return Study(scenes.root, tmp_path / "runs", "quick")


def test_a_machine_that_has_all_is_told_nothing(study, monkeypatch):
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=64e9))
    monkeypatch.setattr(machine, "ROOT", study.folder)  # a project without .venv
    found = check(study)
    assert list(found.index) == ["packages", "kernel", "device", "memory", "disk", "data"]
    assert (found["what to do"] == "").all()
    assert found.loc["packages", "here"].startswith("all there; Python 3.")
    assert not study.folder.exists()


def test_missing_and_old_packages_are_named_with_what_is_wanted(study, monkeypatch):
    wanted = ["torch>=99", "nopackage>=1", 'other>=3; extra == "test"', "pandas>=2"]
    monkeypatch.setattr(machine, "requires", lambda name: wanted)
    here, todo = check(study).loc["packages"]
    assert here.endswith("(wanted >=99), nopackage missing (wanted >=1)")
    assert here.startswith("torch 2.") and todo == "pip install -c constraints.txt -e ."


def test_outside_a_clone_the_advice_needs_none_of_its_files(study, monkeypatch, tmp_path):
    (tmp_path / ".venv").mkdir()  # of something else
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "IS_CLONE", False)
    monkeypatch.setattr(machine, "requires", lambda name: ["torch>=99", "nopackage>=1,<3"])
    found = check(study)
    assert found.loc["packages", "what to do"] == "pip install 'torch>=99' 'nopackage<3,>=1'"
    assert found.loc["kernel"].tolist() == [f"of {machine.sys.prefix}", ""]


def test_a_kernel_of_another_environment_is_named(study, monkeypatch, tmp_path):
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    here, todo = check(study).loc["kernel"]
    assert here == f"of {machine.sys.prefix}" and "make lab" in todo
    monkeypatch.setattr(machine.sys, "prefix", str(tmp_path / ".venv"))
    assert check(study).loc["kernel"].tolist() == ["of the project", ""]


def test_too_little_memory_or_disk_for_the_preset_is_said_with_the_way_out(study, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(0.1 * GB))
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=GB))
    found = check(study)
    assert found.loc["memory", "here"].startswith("1.0 GB free, about ")
    assert "smaller preset" in found.loc["memory", "what to do"]
    assert found.loc["disk", "here"] == "0.1 GB free, about 0.2 GB wanted"
    assert "name another disk in RUNS" in found.loc["disk", "what to do"]


def test_too_little_shared_memory_is_said_where_worker_processes_need_it(study, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.Path, "is_dir", lambda path: True)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(64 * 2**20))
    assert machine._shared_memory(study) == []  # quick has no workers
    paper = Study(study.data.root, study.folder, "paper")
    ((name, here, todo),) = machine._shared_memory(paper)
    assert (name, here) == ("shared memory", "0.07 GB free, about 0.27 GB wanted")
    assert todo == "docker run --shm-size=1g; else trainings go on without worker processes"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(GB))
    assert machine._shared_memory(paper)[0][2] == ""


def test_the_cache_of_large_images_counts_as_wanted_disk(study, monkeypatch):
    before = check(study).loc["disk", "here"]
    monkeypatch.setattr("cilkit.data.store.DISK_CACHE_ABOVE", 0)
    images = study.data.stage("T1", height=32)
    files = len(study.data.train) + len(study.data.test)
    assert images.cache_size() == files * 4 * 32 * 64
    images = study.data.stage("T1", height=16)  # labels of test images stay at their native size
    trained, tested = len(study.data.train), len(study.data.test)
    assert images.cache_size() == trained * 4 * 16 * 32 + tested * (3 * 16 * 32 + 32 * 64)
    assert study.data.test_set("T1", height=16).cache_size() == images.cache_size()
    monkeypatch.setenv("CILKIT_CACHE", "off")
    assert images.cache_size() == 0 and check(study).loc["disk", "here"] == before


def counted(study: Study, more: dict[str, int]) -> list[str]:
    """The row of the data, if the full data set has one image a city, but these of some cities."""
    cities = [*(city for stage in study.split.stages for city in stage.cities)]
    cities += study.split.test_cities
    images = dict.fromkeys(cities, 1) | {"erfurt": 109} | more
    split = replace(study.split, images=tuple(images.items()))
    return machine._data(SimpleNamespace(data=replace(study.data, split=split)))[1:]


def test_the_images_of_each_city_are_counted_against_the_split(study):
    found = f"17 training and 3 test images in {study.data.root}"
    assert counted(study, {}) == (found, "")
    here, todo = counted(study, {"ulm": 95, "lindau": 59})
    assert here == f"{found} (the full data set has 172)"
    assert todo == "unpack or download the data again: ulm has 1 of 95, lindau has 1 of 59"
    assert counted(study, {"ulm": 0})[1] == "unpack or download the data again: ulm has 1 of 0"
    # all cities have fewer: drawn scenes, or a part that was chosen
    assert machine._data(study)[1:] == (f"{found} (the full data set has 3366)", "")


def test_the_real_camvid_is_complete(camvid, tmp_path):
    here, todo = check(Study(camvid, tmp_path / "runs", "quick")).loc["data"]
    assert here == f"468 training and 233 test images in {camvid.resolve()}" and todo == ""


def test_the_paper_preset_without_a_gpu_is_advised_against(scenes, tmp_path, monkeypatch):
    device = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    monkeypatch.setattr(machine, "make_fabric", lambda config: device)
    for preset, wanted in (("paper", "use PRESET = 'quick'"), ("quick", "")):
        study = Study(scenes.root, tmp_path, preset)
        assert check(study).loc["device", "what to do"].startswith(wanted)
        assert bool(check(study).loc["device", "what to do"]) == bool(wanted)


def test_every_preset_is_timed_by_its_own_steps(study, monkeypatch):
    def fit_stage(method, images, stage, teacher, config):
        assert (config.epochs, config.encoder_weights) == (2, None)
        steps = len(images) // config.batch
        seen.append(steps)
        return None, machine.pd.DataFrame({"seconds": [99.0, 0.25 * steps]})

    seen = []
    monkeypatch.setattr(machine, "fit_stage", fit_stage)
    table = time_presets(study)
    assert list(table.index) == list(PRESETS) and (table["a step [ms]"] == 250).all()
    # T1 4 images, T2 7, T3 6; a quarter of a second a step
    batch, epochs = PRESETS["quick"].batch, PRESETS["quick"].epochs
    assert table.loc["quick", "T1"] == in_words(4 // batch * epochs * 0.25)
    of_each = [4, *[7, 6] * 8, 4 + 7, 4 + 7 + 6]
    steps = sum(images // batch for images in of_each)
    assert table.loc["quick", "all trainings"] == in_words(steps * epochs * 0.25)
    assert seen == [7 // config.batch for config in PRESETS.values()]


def test_a_preset_is_really_timed(study, monkeypatch):
    monkeypatch.setattr(machine, "PRESETS", {"smoke": PRESETS["smoke"]})
    table = time_presets(study)
    assert table.loc["smoke", "a step [ms]"] > 0 and table.loc["smoke", "T1"].endswith(" s")
    assert not study.folder.exists()  # nothing is kept


@pytest.mark.parametrize(
    ("stages", "runs", "images"),
    # of each later stage k SS sees 3k images, seven methods and the second teacher 3
    [("A", 1, 3), ("A B", 10, 33), ("A B C D E", 37, 141), (" ".join("ABCDEFGHIJKL"), 100, 498)],
)
def test_time_and_disk_are_those_of_the_plan_of_any_split(
    stages, runs, images, tmp_path, monkeypatch
):
    def fit(images, config):
        return None, machine.pd.DataFrame({"seconds": [99.0, 100.0 * len(images)]})

    def fit_stage(method, images, stage, teacher, config):
        return fit(images, config)

    monkeypatch.setattr(machine, "fit", fit)
    monkeypatch.setattr(machine, "fit_stage", fit_stage)
    one_by_one = replace(PRESETS["quick"], batch=1, epochs=8)
    monkeypatch.setattr(machine, "PRESETS", {"quick": one_by_one})
    monkeypatch.setattr(machine, "RUN", 10**12)
    study = Study(tiny_stages(tmp_path / "own", stages.split(), images=3), tmp_path, "quick")
    table = time_presets(study)
    assert list(table.columns) == ["a step [ms]", "A", "all trainings"]
    assert table.loc["quick", "A"] == in_words(3 * 8 * 100)
    assert table.loc["quick", "all trainings"] == in_words(images * 8 * 100)
    assert check(study).loc["disk", "here"].endswith(f"about {1000 * runs}.0 GB wanted")


def test_too_few_images_for_a_batch_are_said_in_the_table(tmp_path):
    study = Study(tiny_stages(tmp_path / "own", ["A", "B"], images=1), tmp_path, "quick")
    table = time_presets(study)
    assert (table["a step [ms]"] == "–").all()
    assert (table["all trainings"] == "too few images for a batch").all()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (7200, "2 h"),
        (200_000, "2 days"),
        (float("nan"), "too few images for a batch"),
    ],
)
def test_a_time_to_wait_in_words(seconds, words):
    assert in_words(seconds) == words
