"""The Snakefile: what is done is not done again, a change redoes what depends on it, and jobs
may run elsewhere, fail, or be killed."""

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import forked
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from stages import random_networks, tiny_stages

from cilkit.methods import METHODS
from cilkit.study.pack import pack
from cilkit.study.study import Study
from cilkit.study.unpack import unpack

pytestmark = pytest.mark.xdist_group("graph")  # one dry run serves several tests

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {"12_results"}

METHOD_RUNS = {
    "SS": {"SS_T2", "SS_T3"},
    "LWM": {"LWM_teacher_T2", "LWM_teacher_T3", "LWM_T2", "LWM_T3"},
    "CIL (w/o weights)": {"CIL_wo_weights_T2", "CIL_wo_weights_T3"},
} | {name: {f"{name}_T2", f"{name}_T3"} for name in ("FT", "FE", "LWOF", "Michieli", "CIL")}
TRAININGS = {"T1"}.union(*METHOD_RUNS.values())
OF_A_SEED = NOTEBOOKS | TRAININGS
OF_ALL = {"toyscapes/data", "toyscapes/quick/results"}
RESULTS = ["done", "table_II.csv", "table_III.csv", "claims.csv", "scores.csv"]
RESULTS += ["claim_margins.png", "confusion.png", "figure_4.png", "iou_by_class.png"]
WITHOUT_METHODS = {"00_start_here", "01_split_cityscapes", "02_erfnet", "03_losses", "04_metrics"}


def of_seed(jobs: set[str], seed: int = 0, study: str = "toyscapes/quick") -> set[str]:
    return {f"{study}/seed{seed}/{job}" for job in jobs}


EVERYTHING = of_seed(OF_A_SEED) | OF_ALL


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what the graph is made of."""
    return copied(tmp_path)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> dict[str, str]:
    """The jobs of a fresh clone, with their commands."""
    return planned(copied(tmp_path_factory.mktemp("fresh")))


def copied(folder: Path) -> Path:
    for name in ("cilkit", "notebooks", "data/profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


def arguments(given: tuple[str, ...], config: tuple[str, ...]) -> list[str]:
    return ["--nolock", *given, "--config", *config]


def begun(project: Path, *given: str, config: tuple[str, ...] = ()) -> subprocess.Popen:
    """Snakemake in a project, as a command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments(given, config)],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(project: Path, *given: str, config: tuple[str, ...] = ()) -> tuple[int, str]:
    """The exit status of Snakemake, and all that it said."""
    said = project / "said.txt"
    status = forked.call(forked.snakemake, project, arguments(given, config), said)
    return status, said.read_text(encoding="utf-8")


def planned(project: Path, *config: str, given: tuple[str, ...] = ()) -> dict[str, str]:
    """The jobs that a dry run announces, with what it says of them: "toyscapes/quick/seed0/T1"."""
    status, said = done(project, "--dry-run", "-p", "--cores", "2", *given, config=config)
    assert status == 0, said
    jobs = {}
    for job in re.split(r"^(?:local)?rule (?!all)\w+:", said, flags=re.MULTILINE)[1:]:
        output = re.search(r"^    output: .*?/data/runs/(.*?)(?:, .*)?$", job, re.MULTILINE)[1]
        jobs[output.replace("/done", "")] = job
    return jobs


def command(job: str) -> list[str]:
    """Python and what the job has it run: without its name, its log and its stamp."""
    python, *words = shlex.split(re.search("^Shell command: (.*)$", job, re.MULTILINE)[1])
    assert words[:2] == ["-m", "cilkit.study.job"]
    return [python, *words[5:]]


def finish(project: Path) -> None:
    """Leave the stamps and results of all jobs, as if they had been done now."""
    study = project / "data" / "runs" / "toyscapes" / "quick"
    stamps = [study / "seed0" / "done" / job for job in OF_A_SEED]
    stamps += [study.parent / "done" / "data", *(study / "results" / name for name in RESULTS)]
    now = time.time()
    for stamp in stamps:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        os.utime(stamp, (now, now))


def change(file: Path) -> None:
    """Write to a file, a minute from now: Snakemake compares whole seconds."""
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    later = time.time() + 60
    os.utime(file, (later, later))


# which jobs there are


def test_a_fresh_clone_does_everything_and_a_finished_one_nothing(project, fresh):
    assert fresh.keys() == EVERYTHING
    finish(project)
    assert planned(project).keys() == set()
    assert planned(project, "SEED=1").keys() == of_seed(OF_A_SEED, 1) | {"toyscapes/quick/results"}


def test_the_trainings_make_every_run_of_the_tables(fresh):
    asked = set()
    for job in of_seed(TRAININGS):
        words = command(fresh[job])
        assert words[1:3] == ["-m", "cilkit.study"]
        asked.add(tuple(words[3:5]))
        given = ["DATA=toyscapes", "RUNS=data/runs", "PRESET=quick", "SEED=0"]
        assert words[5:9] == given
    names = ["SS", "LWM teacher", *METHODS]
    assert asked == {("T1", "SS")} | {(stage, name) for name in names for stage in ("T2", "T3")}


def test_a_batch_is_every_seed_of_every_data_set_and_preset(project, camvid_folder):
    batch = planned(
        project, "SEEDS=0,2", f"DATA=toyscapes,{camvid_folder}", "PRESET=smoke,quick", "METHODS=FT"
    )
    studies = [
        f"{data}/{preset}" for data in ("toyscapes", "camvid") for preset in ("smoke", "quick")
    ]
    jobs = {"T1", "FT_T2", "FT_T3"} | WITHOUT_METHODS
    wanted = {job for study in studies for seed in (0, 2) for job in of_seed(jobs, seed, study)}
    wanted |= {f"{study}/results" for study in studies} | {"toyscapes/data", "camvid/data"}
    assert batch.keys() == wanted
    words = command(batch["camvid/smoke/seed2/FT_T3"])
    assert f"DATA={camvid_folder}" in words and "SEED=2" in words
    assert command(batch["camvid/smoke/results"])[-2:] == ["SEED", "0"]  # the first of its seeds


@pytest.mark.parametrize(
    ("methods", "notebooks"),
    [
        ("SS,FT,FE,LWOF", {"05_train_t1", "06_ft_fe", "07_lwof"}),
        ("LWOF,CIL (w/o weights),CIL", {"11_entropy_weights"}),
    ],
)
def test_chosen_methods_are_trained_alone_with_the_notebooks_that_show_no_other(
    project, methods, notebooks
):
    trained = {"T1"}.union(*(METHOD_RUNS[name] for name in methods.split(",")))
    jobs = of_seed(trained | WITHOUT_METHODS | notebooks) | OF_ALL
    assert planned(project, f"METHODS={methods}").keys() == jobs


def test_each_data_set_is_planned_from_its_own_split(project, tmp_path):
    splits = {
        "two": ["old", "new"],
        "three": ["T1", "T2", "T3"],
        "five": ["A", "B", "C", "D", "E"],
        "twelve": [f"stage_{number}" for number in range(1, 13)],
    }
    folders = [str(tiny_stages(tmp_path / name, stages)) for name, stages in splits.items()]
    batch = planned(project, f"DATA={','.join(folders)}", "PRESET=smoke")
    wanted = set()
    for name, (first, *later) in splits.items():
        runs = {run.replace("_T2", "") for run in TRAININGS if run.endswith("_T2")}
        runs = {first} | {f"{run}_{stage}" for run in runs for stage in later}
        assert len(runs) == 1 + 9 * len(later)
        wanted |= of_seed(runs | NOTEBOOKS, study=f"{name}/smoke")
        wanted |= {f"{name}/data", f"{name}/smoke/results"}
    assert batch.keys() == wanted
    job = batch["twelve/smoke/seed0/CIL_stage_12"]
    assert command(job)[3:5] == ["stage_12", "CIL"]
    assert "twelve/smoke/seed0/done/CIL_stage_11" in job
    assert command(batch["two/smoke/seed0/old"])[3:5] == ["old", "SS"]
    # a stage of one data set is none of the other
    foreign = str(project / "data" / "runs" / "two" / "smoke" / "seed0" / "done" / "CIL_B")
    given = f"DATA={folders[0]},{folders[2]}"
    status, said = done(project, "--cores", "1", foreign, config=(given, "PRESET=smoke"))
    assert status != 0 and "unknown run of two 'CIL_B' (did you mean" in said


# in which order


def in_turn(jobs: dict[str, str]) -> list[str]:
    """The jobs by their priority: those that begin first if they can."""
    priority = re.compile(r"^    priority: (\d+)$", re.MULTILINE)
    return sorted(jobs, key=lambda job: int(priority.search(jobs[job])[1]), reverse=True)


def test_notebooks_are_executed_as_soon_as_they_can_and_trainings_in_their_order(fresh):
    names = [job.rpartition("/")[2] for job in in_turn(fresh)]
    assert names[:2] == ["data", "T1"]
    assert names[2 : 2 + len(NOTEBOOKS)] == sorted(NOTEBOOKS) and names[-1] == "results"
    trainings = names[2 + len(NOTEBOOKS) : -1]
    assert {"T1", *trainings} == TRAININGS
    of_05_to_09 = ["SS_T2", "SS_T3", "FT_T2", "FE_T2", "LWOF_T2", "LWM_teacher_T2", "LWM_T2"]
    assert trainings[:9] == [*of_05_to_09, "Michieli_T2", "FT_T3"]
    assert trainings[-2:] == ["CIL_T2", "CIL_T3"]


def test_a_notebook_waits_for_the_runs_that_it_shows_and_for_no_other(fresh):
    def runs(notebook: str) -> set[str]:
        job = fresh[f"toyscapes/quick/seed0/{notebook}"]
        (files,) = re.findall("^    input: (.*)$", job, re.MULTILINE)
        return {file.rpartition("/")[2] for file in files.split(", ") if "seed0/done" in file}

    assert runs("01_split_cityscapes") == runs("03_losses") == set()
    assert runs("02_erfnet") == runs("04_metrics") == {"T1"}
    assert runs("05_train_t1") == {"T1", "SS_T2", "SS_T3"}
    assert runs("06_ft_fe") == {"T1", "FT_T2", "FE_T2"}
    assert runs("08_lwm") == {"T1", "SS_T2", "FT_T2", "FE_T2", "LWOF_T2", "LWM_T2"}
    assert runs("10_cil") == TRAININGS - {"LWM_teacher_T2", "LWM_teacher_T3"}


def test_of_several_studies_the_first_one_is_finished_first(project):
    jobs = in_turn(planned(project, "SEEDS=2,0", "PRESET=smoke,quick", "METHODS=FT"))
    studies = [job.rpartition("/")[0] for job in jobs[1:]]
    order = [f"toyscapes/{preset}/seed{seed}" for preset in ("smoke", "quick") for seed in (2, 0)]
    assert [study for study in dict.fromkeys(studies) if "seed" in study] == order
    assert studies == sorted(studies, key=studies.index)  # none comes between the jobs of another


# what is done again


def test_a_changed_notebook_redoes_itself_alone(project):
    finish(project)
    change(project / "notebooks" / "10_cil.ipynb")
    assert planned(project).keys() == of_seed({"10_cil"})


def test_a_training_done_again_redoes_what_waits_for_it(project):
    finish(project)
    seed = project / "data" / "runs" / "toyscapes" / "quick" / "seed0"
    change(seed / "done" / "LWM_teacher_T3")
    waiting = {"LWM_T3", "10_cil"}
    assert planned(project).keys() == of_seed(waiting) | {"toyscapes/quick/results"}


def test_a_changed_source_redoes_what_is_made_with_it(project):
    finish(project)
    change(project / "cilkit" / "losses.py")
    assert planned(project).keys() == EVERYTHING


def test_after_unpacking_no_training_is_left_to_do(project, toys, tmp_path, monkeypatch):
    random_networks(monkeypatch)
    Study(toys, tmp_path / "here", "smoke").run("T3", "FT")
    file = pack(tmp_path / "pack.zip", toys, tmp_path / "here", "smoke")
    unpack(file, toys, project / "data" / "runs")
    study, asked = "toys/smoke", (f"DATA={toys}", "PRESET=smoke")
    notebooks = of_seed(WITHOUT_METHODS, study=study) | {f"{study}/results"}
    assert planned(project, *asked, "METHODS=FT").keys() == notebooks
    left = of_seed(TRAININGS - {"T1", "FT_T2", "FT_T3"}, study=study)
    assert left < planned(project, *asked).keys() and len(left) == 16
    stamps = {file: file.stat().st_mtime_ns for file in project.rglob("done/*")}
    unpack(file, toys, project / "data" / "runs")  # what was there already stays done
    assert {file: file.stat().st_mtime_ns for file in project.rglob("done/*")} == stamps
    shutil.rmtree(project / "data" / "runs" / study / "seed0" / "FT_T3")
    os.utime(project / "data" / "runs" / study / "seed0" / "done" / "FT_T3", (10**9, 10**9))
    assert planned(project, *asked, "METHODS=FT").keys() == notebooks | of_seed({"FT_T3"}, 0, study)
    unpack(file, toys, project / "data" / "runs")
    assert planned(project, *asked, "METHODS=FT").keys() == notebooks


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("SEEED=3", "unknown parameter 'SEEED' (did you mean 'SEED'?); choose one of: DATA, RUNS"),
        ("SEEDS=0,one", "SEED is 'one'; wanted a whole number from 0"),
        ("SEEDS=0,1,00", "SEEDS is '0,1,00', with 0 in it twice; give it once"),
        ("SEED=1 SEEDS=2,3", "SEED=1 and SEEDS=2,3 are both given; give one of them"),
        ("PRESET=smok", "unknown preset 'smok' (did you mean 'smoke'?); choose one of: smoke"),
        ("METHODS=CIL,LWF", "unknown method 'LWF' (did you mean 'LWOF'?); choose one of: SS, FT"),
        ("DATA=toyscapes,data/toyscape", "no data folder {project}/data/toyscape (did you mean"),
        ("DATA=cilkit", "{project}/cilkit has neither leftImg8bit/ (Cityscapes) nor trainannot/"),
    ],
)
def test_a_parameter_that_is_wrong_is_refused_before_any_job(project, given, message):
    status, said = done(project, "--cores", "2", config=given.split())
    assert status != 0 and message.format(project=project) in said
    assert not (project / "data" / "runs").exists()


@pytest.fixture
def make(project):
    """make(...) shows what make would do in a project that is set up."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (project / ".venv").mkdir()
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, project)
    (project / ".venv" / "ready").touch()

    def make(*given: str) -> subprocess.CompletedProcess:
        # not as a part of the make that may have started the tests, which says where it is
        outside = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        here = {"cwd": project, "env": outside}
        return subprocess.run(["make", *given], capture_output=True, text=True, **here)

    return make


def test_make_hands_on_what_was_given_and_nothing_else(make):
    words = shlex.split(make("--dry-run", "study", "SEEDS=0,1", "RUNS=my runs").stdout)
    assert words[words.index("--config") + 1 :] == ["SEEDS=0,1", "RUNS=my runs"]
    assert "--config" not in make("--dry-run", "study").stdout


@pytest.fixture
def python(project, make) -> Path:
    """In place of the project's Python: it writes down what make hands on, and does nothing."""
    (project / ".venv" / "ready-to-test").touch()
    fake = project / ".venv" / "bin" / "python"
    fake.parent.mkdir()
    report = 'printf "%s\\0" "$MALLOC_MMAP_THRESHOLD_" "$MALLOC_TRIM_THRESHOLD_" "$@" > said.bin'
    fake.write_text(f"#!/bin/sh\n{report}\n")
    fake.chmod(0o755)
    return project / "said.bin"


AWKWARD = [
    *(
        "2024_11_27",
        "007",
        "1e5",
        "true",
        "null",
        "~x",
        "a #b",
        "a: b",
        "{x}",
        "",
        "a ",
        "-",
        "é ü",
    ),
    *(
        "it's",
        '"quoted"',
        "'quoted'",
        "$HOME $$ $(x) ${x}",
        "a\\nb",
        "`x`",
        "%20",
        "a;b&c|d>e",
        "*?[",
    ),
]


def test_make_hands_on_each_value_as_it_was_typed(make, python):
    for first, second in zip(AWKWARD[::2], AWKWARD[1::2], strict=True):
        assert make("study", f"DATA={first}", f"RUNS={second}").returncode == 0
        words = python.read_text(encoding="utf-8").split("\0")[2:-1]
        assert words[words.index("--config") + 1 :] == [f"DATA={first}", f"RUNS={second}"]
    assert "DATA has a line break in it" in make("study", "DATA=a\nb").stderr


def test_make_packs_and_unpacks_what_was_typed(make, python):
    given = ["SEEDS=0,1", "RUNS=my runs", "FILE=it's a pack.zip", "HALF=yes"]
    for target, module in (("pack", "cilkit.study.pack"), ("unpack", "cilkit.study.unpack")):
        assert make(target, *given).returncode == 0
        words = python.read_text(encoding="utf-8").split("\0")[2:-1]
        assert words[:2] == ["-m", module] and {*words[2:]} == {*given}
    make("study", "FILE=x")  # which is not of a study
    assert "FILE=x" not in python.read_text()


def test_what_make_starts_keeps_freed_memory_unless_the_user_says_otherwise(
    make, python, monkeypatch
):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    for target in ("study", "lab", "bench", "test"):
        assert make(target).returncode == 0
        assert python.read_text().split("\0")[:2] == ["1000000000", "2000000000"]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    make("bench")
    assert python.read_text().split("\0")[:2] == ["1000000000", "5"]


def test_root_may_open_the_lab_and_still_on_this_machine_alone(make, python, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for user, allowed in (("0", True), ("1000", False)):
        (tmp_path / "bin" / "id").write_text(f"#!/bin/sh\necho {user}\n")
        (tmp_path / "bin" / "id").chmod(0o755)
        make("lab")
        words = python.read_text().split("\0")
        assert ("--allow-root" in words) == allowed
        assert "--ip=127.0.0.1" in words and not any("token" in word for word in words)
        # executed notebooks lie in data/runs, so they can be opened, too
        assert words[-3:-1] == ["--ServerApp.root_dir=.", "--ServerApp.preferred_dir=notebooks"]


def test_only_on_this_machine_the_study_is_shown_as_one_line(make):
    for profile, shown in (("local", True), ("slurm", False), ("cluster-generic", False)):
        command = make("--dry-run", "study", f"PROFILE={profile}", "SEED=1").stdout.splitlines()[-1]
        assert ("--logger study --config" in command) == shown
    assert "--logger" not in make("--dry-run", "graph").stdout


UV = """
echo "${{UV_TORCH_BACKEND-none}} $*" >>{said}
case "$1 $UV_TORCH_BACKEND" in "pip {fails}") exit 2;; esac
mkdir -p .venv/bin
ln -sf {python} .venv/bin/python
"""


@pytest.fixture
def installer(project, make, tmp_path, monkeypatch):
    """installer(...) gives the calls of uv by which make sets up what is to be made.

    Of each: the build of PyTorch that it asks for, and what is installed. `gpu` says whether
    nvidia-smi is found, `fails` names a build that cannot be had.
    """
    shutil.rmtree(project / ".venv")
    tools, said = tmp_path / "tools", tmp_path / "uv.txt"
    tools.mkdir()
    for name in ("sh", "sed", "id", "make", "mkdir", "ln"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tools))

    def write(name: str, script: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    def installer(*goals: str, gpu: bool = False, fails: str = "no", system: str = "Linux"):
        python = shlex.quote(sys.executable)
        write("uv", UV.format(said=shlex.quote(str(said)), python=python, fails=fails))
        write("uname", f"echo {system}")
        (tools / "nvidia-smi").unlink(missing_ok=True)
        if gpu:
            write("nvidia-smi", "exit 0")
        said.write_text("")
        done = make(f"PYTHON={sys.executable}", *goals)
        assert done.returncode == 0, done.stderr
        calls = [line.split() for line in said.read_text().splitlines()]
        return [(words[0], words[-1]) for words in calls if words[1] == "pip"]

    return installer


def test_pytorch_without_cuda_is_installed_where_no_gpu_is_and_uv_is_there(
    installer, project, monkeypatch
):
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    for given, backend in (
        ({}, "cpu"),
        ({"gpu": True}, "none"),
        ({"system": "Darwin"}, "none"),
        ({"system": "MINGW64_NT"}, "none"),
    ):
        assert installer(".venv/ready", **given) == [(backend, ".[study,site]")]
        shutil.rmtree(project / ".venv")
    # where its index cannot be reached, PyPI's takes its place
    assert installer(".venv/ready", fails="cpu") == [
        ("cpu", ".[study,site]"),
        ("none", ".[study,site]"),
    ]
    shutil.rmtree(project / ".venv")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    assert installer(".venv/ready") == [("cu130", ".[study,site]")]


def test_the_lab_installs_only_what_notebooks_need_and_the_study_the_rest(installer, project):
    lab, study, test = (".venv/ready-for-lab", ".venv/ready", ".venv/ready-to-test")
    assert [extras for _, extras in installer(lab)] == ["."]
    assert installer(lab) == []
    assert [extras for _, extras in installer(study)] == [".[study,site]"]
    shutil.rmtree(project / ".venv")
    assert [extras for _, extras in installer(test, study)] == [".[study,site,test]"]
    (project / ".venv" / "ready-for-lab").unlink(missing_ok=True)
    assert installer("--dry-run", "lab") == []  # a study was here: nothing is missing


def test_runs_are_unpacked_with_what_the_lab_installs(make, project):
    (project / ".venv" / "ready").unlink()
    said = make("--dry-run", "unpack", "FILE=pack.zip").stdout
    assert "ready-for-lab" in said and "[study" not in said
    (project / ".venv" / "ready").touch()  # a study was here: nothing is missing
    assert "ready-for-lab" not in make("--dry-run", "unpack", "FILE=pack.zip").stdout


def test_make_refuses_a_variable_or_a_profile_that_it_does_not_know(make):
    refused = make("--dry-run", "lab", "SED=1", "PRESET=smoke")
    known = "DATA PRESET SEED SEEDS METHODS RUNS FILE SMALL HALF IMAGES PROFILE FIGURES PYTHON"
    assert refused.returncode != 0
    assert f"unknown variable SED; choose from {known}" in refused.stderr
    for goals, name in (
        (["study"], "SMALL"), ([], "FIGURES"), (["lab"], "PRESET"), (["bench"], "SEED"),
        (["pack"], "PROFILE"), (["class", "test"], "FILE"),
    ):  # fmt: skip
        refused = make("--dry-run", *goals, f"{name}=1")
        assert refused.returncode != 0
        assert f"make {' '.join(goals) or 'study'} does not read {name};" in refused.stderr
    refused = make("--dry-run", "study", "PROFILE=slrm")
    assert refused.returncode != 0
    assert "unknown PROFILE slrm; choose from cluster-generic local slurm" in refused.stderr


def test_make_says_how_to_install_the_plugin_that_a_profile_needs(make, project):
    (project / ".venv" / "bin").mkdir()
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (project / "data" / "profiles" / "lsf").mkdir()
    (project / "data" / "profiles" / "lsf" / "config.yaml").write_text("executor: lsf-drmaa\n")
    refused = make("study", "PROFILE=lsf")
    assert refused.returncode != 0
    assert (
        "PROFILE=lsf needs a plugin. To install it: .venv/bin/python -m pip install "
        "snakemake-executor-plugin-lsf-drmaa" in refused.stdout
    )


# as a picture


def test_the_picture_shows_each_job_once_to_the_right_of_all_that_it_waits_for(project):
    status, said = done(project, "--cores", "1", "--dag", "mermaid-js", config=("METHODS=FT",))
    assert status == 0
    axes = runpy.run_path(str(ROOT / "data" / "graph.py"))["draw"](said).axes[0]
    places = {text.get_text().split("\n")[0]: text.get_position() for text in axes.texts}
    shown = {"data", "T1", "FT_T2", "FT_T3", "results", "all"} | WITHOUT_METHODS
    assert places.keys() == shown and len(axes.texts) == len(shown)
    order = ["data", "T1", "FT_T2", "FT_T3", "results", "all"]
    assert [places[name][0] for name in order] == [0, 1, 2, 3, 4, 5]
    lines = {tuple(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert (places["data"], places["T1"]) in lines
    assert (places["data"], places["FT_T2"]) not in lines  # T1 lies on the way


def test_no_picture_is_drawn_of_an_error(tmp_path):
    script = [sys.executable, str(ROOT / "data" / "graph.py"), str(tmp_path / "graph.png")]
    drawn = subprocess.run(script, input="", capture_output=True, text=True)
    assert drawn.returncode != 0 and "no graph came in; snakemake says above" in drawn.stderr
    assert not (tmp_path / "graph.png").exists()


# elsewhere, and when something goes wrong


def needs_plugin(name: str):
    missing = find_spec(f"snakemake_executor_plugin_{name.replace('-', '_')}") is None
    return pytest.mark.skipif(missing, reason=f"snakemake-executor-plugin-{name} is not installed")


LOCAL = ("--profile", "data/profiles/local", "--cores", "1")


def smoke(data: Path) -> tuple[str, str]:
    return f"DATA={data}", "PRESET=smoke"


def stamp(project: Path, job: str, runs: str | Path = "data/runs") -> str:
    return str(project / runs / "toys" / "smoke" / "seed0" / "done" / job)


def opened(project: Path, runs: str | Path = "data/runs") -> Path:
    """The project, with its data looked at: that job would import torch for nothing."""
    looked_at = project / runs / "toys" / "done" / "data"
    looked_at.parent.mkdir(parents=True)
    looked_at.touch()
    return project


KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}


def with_notebooks(project: Path, **sources: str) -> None:
    """Replace notebooks by ones of a single cell: with_notebooks(project, _03_losses="1 / 0")."""
    for name, source in sources.items():
        file = project / "notebooks" / f"{name[1:]}.ipynb"
        cells = [new_code_cell("DATA = RUNS = PRESET = SEED = 0"), new_code_cell(source)]
        cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), file)


@needs_plugin("slurm")
def test_on_slurm_each_training_asks_for_a_gpu_and_each_job_for_memory_and_time(project):
    profile = ("--profile", "data/profiles/slurm", "--quiet", "host")
    plan = planned(project, "PRESET=paper", given=profile)
    resources = {
        name: dict(re.findall(r"(\w+)=(\S+?)(?:,|$)", line))
        for name, job in plan.items()
        if (line := re.search("^    resources: (.*)$", job, re.MULTILINE)[1])
    }
    training = resources["toyscapes/paper/seed0/CIL_T2"]
    assert training["gpu"] == "1"
    assert int(training["mem_mb"]) >= 8000 and int(training["runtime"]) >= 600
    notebook = resources["toyscapes/paper/seed0/10_cil"]
    assert "gpu" not in notebook and int(notebook["mem_mb"]) > 0 and int(notebook["runtime"]) > 0


@needs_plugin("cluster-generic")
@pytest.mark.skipif(os.name == "nt", reason="the submitter of the tests starts its jobs with sh")
def test_a_submitter_runs_the_jobs_in_other_processes(project, toys, tmp_path):
    runs = tmp_path / "runs of 'é' #1 $HOME \\n \"x\"" / "2024_11_27"  # text stays text there, too
    data = tmp_path / "it's $HOME"
    data.symlink_to(toys)
    shown = "import os\nprint([os.environ[f'MALLOC_{n}_THRESHOLD_'] for n in ('MMAP', 'TRIM')])"
    with_notebooks(opened(project, runs), _02_erfnet=shown)  # it waits for T1
    wanted = stamp(project, "02_erfnet", runs)
    plain = "env -u MALLOC_MMAP_THRESHOLD_ -u MALLOC_TRIM_THRESHOLD_"  # a node knows of neither
    script = (
        f"{plain} {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'tests' / 'submitter.py'))}"
    )
    jobs = tmp_path / "jobs of the cluster"
    submitter = f"{script} {shlex.quote(str(jobs))}"
    status, said = done(
        project,
        *("--profile", "data/profiles/cluster-generic", "--latency-wait", "5"),
        *("--seconds-between-status-checks", "1"),
        *("--set-threads", "train=1"),  # on a busy machine, a second one costs more than it gains
        *("--cluster-generic-submit-cmd", f"{submitter} submit"),
        *("--cluster-generic-status-cmd", f"{submitter} status"),
        wanted,
        config=(f"DATA={data}", f"RUNS={runs}", "PRESET=smoke"),
    )
    assert status == 0, said
    assert Path(wanted).is_file()
    assert {file.name: file.read_text() for file in jobs.glob("*.status")} == {
        "1.status": "0\n",
        "2.status": "0\n",
    }
    seed = runs / "toys" / "smoke" / "seed0"
    trained = "T1:"  # how the bar of a training begins
    assert trained in (seed / "logs" / "T1.txt").read_text(encoding="utf-8")
    assert trained not in said and trained not in (jobs / "1.out").read_text()
    executed = (seed / "notebooks" / "02_erfnet.ipynb").read_text(encoding="utf-8")
    assert "['1000000000', '2000000000']" in executed


def test_what_fails_is_named_and_can_be_read_and_the_rest_goes_on(project, toys):
    with_notebooks(opened(project), _01_split_cityscapes="print('here')", _03_losses="1 / 0")
    jobs = [stamp(project, job) for job in ("03_losses", "01_split_cityscapes")]
    given = (*LOCAL, *jobs, "--prioritize", jobs[0], "--logger", "study")
    status, said = done(project, *given, config=smoke(toys))
    assert status != 0
    assert not Path(jobs[0]).exists() and Path(jobs[1]).exists()
    executed = project / "data" / "runs" / "toys" / "smoke" / "seed0" / "notebooks"
    ending = said[said.index("These jobs did not finish") :]
    assert str(executed / "03_losses.ipynb") in ending and "01_split_cityscapes" not in ending
    # the console names what ends or fails; what papermill and kernels say is in the logs
    log, job = executed.parent / "logs" / "03_losses.txt", "03_losses (toys, smoke, seed 0)"
    assert f"\n{job} FAILED: ZeroDivisionError: division by zero (log: {log})\n" in said
    path = os.path.relpath(executed / "01_split_cityscapes.ipynb", project)
    line = "trainings 0 of 0 | notebooks 1 of 2 (1 did not finish) | about 1 s left"
    assert (
        f"\n01_split_cityscapes (toys, smoke, seed 0) is done | {line} | look at {path}\n" in said
    )
    assert "Executing" in log.read_text() and "Executing" not in said and "IPKernelApp" not in said
    assert "CalledProcessError" not in said and "Finished jobid" not in said
    cells = nbformat.read(executed / "03_losses.ipynb", as_version=4).cells
    (error,) = [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]
    assert error.ename == "ZeroDivisionError"
    with_notebooks(project, _03_losses="print('mended')")
    status, said = done(project, *LOCAL, *jobs, config=smoke(toys))
    assert status == 0 and Path(jobs[0]).exists() and "01_split_cityscapes" not in said


def test_results_are_what_the_notebook_makes_and_those_of_an_earlier_study_stay(project, toys):
    opened(project)
    study = project / "data" / "runs" / "toys" / "smoke"
    for run in ("T1", "SS_T2", "SS_T3"):  # as if they had been trained
        (study / "seed0" / "done").mkdir(parents=True, exist_ok=True)
        Path(stamp(project, run)).touch()
    earlier, made = study / "results" / "confusion.png", study / "results" / "scores.csv"
    earlier.parent.mkdir()
    earlier.write_bytes(b"of all methods")
    source = f"import pathlib\npathlib.Path({str(made)!r}).write_text('miou\\n9')"
    with_notebooks(project, _12_results=source)
    wanted, config = str(study / "results" / "done"), (*smoke(toys), "METHODS=SS")
    status, said = done(project, *LOCAL, wanted, config=config)
    assert status == 0, said
    assert made.is_file() and earlier.read_bytes() == b"of all methods"
    with_notebooks(project, _12_results=f"{source}\n1 / 0")
    status, said = done(project, *LOCAL, wanted, config=config)
    assert status != 0 and "12_results (toys, smoke) FAILED: ZeroDivisionError" in said
    assert made.is_file() and earlier.read_bytes() == b"of all methods"
    assert (study / "results" / "12_results.ipynb").is_file()  # with the error in it
    status, said = done(project, "--report", "report.html", config=config)
    assert status == 0, said
    report = (project / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in ("scores.csv", "confusion.png", "toys, smoke"))


@pytest.fixture(scope="module")
def killed(toys, tmp_path_factory) -> Path:
    """A project whose batch was killed when T1 was done and the job after it at work."""
    if os.name == "nt":
        pytest.skip("Windows has no process groups to kill")
    project = opened(copied(tmp_path_factory.mktemp("killed")))
    slow = "import pathlib, time\nif not pathlib.Path('began').exists():\n"
    slow += "    pathlib.Path('began').touch()\n    time.sleep(600)\nprint('at the second try')"
    with_notebooks(project, _02_erfnet=slow)
    process = begun(project, *LOCAL, stamp(project, "02_erfnet"), config=smoke(toys))
    until = time.time() + 120
    while not (project / "notebooks" / "began").exists() and time.time() < until:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return project


def test_a_batch_that_is_killed_goes_on_without_repeating_what_was_finished(killed, toys):
    assert Path(stamp(killed, "T1")).exists() and not Path(stamp(killed, "02_erfnet")).exists()
    run = killed / "data" / "runs" / "toys" / "smoke" / "seed0" / "T1" / "config.json"
    made = [file.stat().st_mtime_ns for file in (Path(stamp(killed, "T1")), run)]
    status, said = done(killed, *LOCAL, stamp(killed, "02_erfnet"), config=smoke(toys))
    assert status == 0 and Path(stamp(killed, "02_erfnet")).exists()
    executed = run.parents[1] / "notebooks" / "02_erfnet.ipynb"
    assert "at the second try" in executed.read_text(encoding="utf-8")
    # the job of T1 would have touched its stamp, a training its run
    assert [file.stat().st_mtime_ns for file in (Path(stamp(killed, "T1")), run)] == made


def test_runs_of_another_version_are_set_aside_and_made_anew(killed, toys, tmp_path):
    project = shutil.copytree(killed, tmp_path / "another")
    losses = project / "cilkit" / "losses.py"
    losses.write_text(losses.read_text().replace("clamp(min=1)", "clamp(min=0.5)"))
    for done_before in (project / "data" / "runs" / "toys").rglob("done/*"):
        os.utime(done_before, (0, time.time() - 60))  # Snakemake compares whole seconds
    status, said = done(project, *LOCAL, stamp(project, "T1"), config=smoke(toys))
    seed = project / "data" / "runs" / "toys" / "smoke" / "seed0"
    log = (seed / "logs" / "T1.txt").read_text(encoding="utf-8")
    assert status == 0 and "T1 was trained with other code: training again." in log
    assert (seed / "superseded" / "T1-1").is_dir() and (seed / "T1").is_dir()
