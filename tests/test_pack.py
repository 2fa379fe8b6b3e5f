"""Runs that travel: packed here, put into place elsewhere, and nothing is trained again there."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disk import full_disk, listing
from safetensors import torch as safetensors
from stages import random_networks, tiny_stages

from cilkit.data.scenes import open_data
from cilkit.files import ROOT
from cilkit.methods import FT, METHODS, Method
from cilkit.results import reference
from cilkit.results.scores import by_configuration, check_comparable
from cilkit.splits import load_split
from cilkit.study import pack as pack_module
from cilkit.study import runs, study, unpack
from cilkit.study.pack import CONTENTS, pack
from cilkit.study.plan import plan
from cilkit.study.provenance import settings
from cilkit.study.runs import FILES, SUMS, WEIGHTS, checksum
from cilkit.study.study import Study
from cilkit.training import evaluation
from cilkit.training.config import PRESETS

pytestmark = pytest.mark.xdist_group("pack")  # they share their runs

TABLES = ["A", "SS_B", *(f"{name}_B" for name in ("FT", "FE", "LWOF", "LWM_teacher", "LWM"))]
TABLES += ["Michieli_B", "CIL_wo_weights_B", "CIL_B"]


def mine_loss(step):
    """A method of a notebook, which no other place knows."""
    return {"ce": step.logits.mean()}


MINE = Method("mine", equation=1, loss=mine_loss)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Tiny images of two stages, which are not the kit's own."""
    return tiny_stages(tmp_path_factory.mktemp("data") / "tiny", ["A", "B"], images=20)


@pytest.fixture(scope="module")
def source(data, tmp_path_factory) -> Path:
    """A folder RUNS: seed 0 has the runs of the tables, PLOP and one's own; seed 1 has A and FT."""
    folder = tmp_path_factory.mktemp("source") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        random_networks(patch)
        for method in ("SS", *METHODS, "PLOP", MINE):
            Study(data, folder, "smoke").run("B", method)
        Study(data, folder, "smoke", seed=1).run("B", "FT")
    return folder


@pytest.fixture(scope="module")
def make(data, source, tmp_path_factory) -> Callable[..., Path]:
    """make(small=True) is a pack of the source, made once."""
    made: dict[str, Path] = {}

    def make(**given) -> Path:
        if (key := str(given)) not in made:
            file = tmp_path_factory.mktemp("packs") / "runs.zip"
            made[key] = pack(file, data, source, "smoke", **given)
        return made[key]

    return make


@pytest.fixture(scope="module")
def two(data, source, tmp_path_factory) -> Path:
    """A RUNS with nothing but A and FT_B, for what needs no more."""
    folder = tmp_path_factory.mktemp("two") / "runs"
    for name in ("A", "FT_B"):
        shutil.copytree(place(source) / name, place(folder) / name)
    return folder


@pytest.fixture(scope="module")
def pair(two, data, tmp_path_factory) -> Path:
    """A pack of A and FT_B."""
    return pack(tmp_path_factory.mktemp("pair") / "pair.zip", data, two, "smoke")


@pytest.fixture
def nothing_is_trained(monkeypatch) -> None:
    for name in ("fit", "fit_stage"):
        monkeypatch.setattr(study, name, lambda *_, **__: pytest.fail("it was trained"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def listing_below(folder: Path) -> dict[str, object]:
    """All files of a folder and their contents, wherever the folder lies."""
    return {str(Path(file).relative_to(folder)): c for file, c in listing(folder).items()}


def place(folder: Path, seed: int = 0, data: str = "tiny") -> Path:
    return folder / data / "smoke" / f"seed{seed}"


def names(file: Path) -> set[str]:
    """The runs in a pack."""
    return {place.partition("/")[2] for place in contents(file)["runs"]}


def contents(file: Path) -> dict:
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read(CONTENTS))


def rewritten(file: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A pack with some other entries, whose list of contents is right again."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    about = json.loads(entries.pop(CONTENTS))
    about["files"] = {
        name: {"bytes": len(content), "sha256": checksum(content)}
        for name, content in entries.items()
    }
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in (entries | {CONTENTS: json.dumps(about).encode()}).items():
            archive.writestr(name, content)
    return target


def changed(**fields):
    """A change of what a pack says of itself."""

    def change(entries: dict[str, bytes]) -> None:
        entries[CONTENTS] = json.dumps(json.loads(entries[CONTENTS]) | fields).encode()

    return change


# there and back


def test_every_run_is_loaded_where_threads_and_precision_are_others_and_none_is_trained(
    make, data, source, tmp_path, nothing_is_trained, monkeypatch
):
    here = Study(data, source, "smoke")
    precisions = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}
    other = precisions[evaluation.used_precision(here.config)]
    monkeypatch.setattr(evaluation, "used_precision", lambda _: other)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    elsewhere = shutil.copytree(data, tmp_path / "another place" / "Tiny")
    new = unpack.unpack(make(seeds=(0, 1)), elsewhere, tmp_path / "theirs")
    assert len(new) == len(TABLES) + 2 + 2
    there = Study(elsewhere, tmp_path / "theirs", "smoke")
    for method in ("SS", *METHODS, "PLOP", MINE):
        run, was = there.run("B", method), here.run("B", method)
        assert run.scores == was.scores and run.config == was.config
        weights = was.network().state_dict()
        assert all(value.equal(weights[k]) for k, value in run.network().state_dict().items())
    assert Study(elsewhere, tmp_path / "theirs", "smoke", seed=1).run("B", FT).config["seed"] == 1
    for folder in new:
        assert files_in(folder) == files_in(source / folder.relative_to(tmp_path / "theirs"))


def test_a_clone_at_another_path_loads_what_was_trained_here(toys, tmp_path):
    trained = Study(toys, tmp_path / "here", "smoke").run("T1")
    file = pack(tmp_path / "for a class.zip", toys, tmp_path / "here", "smoke", half=True)
    clone = tmp_path / "their clone"
    for name in ("cilkit", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    own = {name: value for name, value in os.environ.items() if name[:6] != "CILKIT"}
    own |= {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    start = "import json, runpy, sys, torch; torch.cpu.get_capabilities = dict"  # without bf16
    start += """
for sys.argv[:] in json.loads(sys.argv[1]):
    runpy.run_module(sys.argv[0], run_name='__main__')
    print("that was", sys.argv[0], file=sys.stderr)
"""
    commands = [["cilkit.study.unpack", f"FILE={file}"]]
    commands += [["cilkit.study", "T1", "SS", "DATA=data/toys", "PRESET=smoke"]]
    done = subprocess.run(
        [sys.executable, "-c", start, json.dumps(commands)],
        cwd=tmp_path, env=own, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 runs put into place, 0 were" in done.stdout
    there = place(clone / "data" / "runs", data="toys") / "T1"
    _, shown = done.stderr.split("that was cilkit.study.unpack")
    assert "epoch" not in done.stdout + shown and "step" not in shown
    with zipfile.ZipFile(file) as archive:
        packed = {name: archive.read(f"runs/seed0/T1/{name}") for name in FILES}
    assert files_in(there) == packed
    assert str(there) in done.stdout and f"{trained.miou['task1']:.1f}" in done.stdout


def test_what_is_there_and_equal_stays_and_what_is_missing_is_added(
    pair, data, two, tmp_path, nothing_is_trained
):
    (first,) = [new for new in unpack.unpack(pair, data, tmp_path) if new.name == "A"]
    shutil.rmtree(place(tmp_path) / "FT_B")
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert [new.name for new in unpack.unpack(pair, data, tmp_path)] == ["FT_B"]
    assert unpack.unpack(pair, data, tmp_path) == []
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]
    assert files_in(place(tmp_path) / "FT_B") == files_in(place(two) / "FT_B")


def test_equal_runs_make_equal_packs_wherever_they_lie(two, data, pair, tmp_path):
    moved = shutil.copytree(two, tmp_path / "moved")
    for file in moved.rglob("*.json"):
        os.utime(file, (0, 0))
    assert pack(tmp_path / "again.zip", data, moved, "smoke").read_bytes() == pair.read_bytes()


def test_a_pack_says_what_it_holds_in_words_and_with_the_checksums_of_its_files(pair, two):
    about, run = contents(pair), runs.load(place(two) / "FT_B")
    assert about["data"]["name"] == "tiny" and about["data"]["stages"]["A"] == ["class1"]
    assert about["data"]["files"] == run.config["files"] and not about["data"]["in_this_file"]
    assert (about["preset"], about["seeds"]) == ("smoke", [0])
    assert about["trained_on"] == [run.config["environment"]]
    assert about["code"] == run.config["code"]["shared"]
    listed = about["runs"]["seed0/FT_B"]
    assert listed["miou"] == run.scores["miou"] and listed["weights"] == "as trained"
    assert listed["code"] == run.config["code"]
    assert len(about["files"]) == 2 * len(FILES)
    for name, entry in about["files"].items():
        content = (two / "tiny" / "smoke" / name.removeprefix("runs/")).read_bytes()
        assert entry == {"bytes": len(content), "sha256": checksum(content)}
    assert str(two) not in json.dumps(about)


# which runs


def test_a_pack_has_all_runs_of_its_seeds_and_a_small_one_those_of_the_tables(make):
    assert names(make()) == {*TABLES, "PLOP_B", "mine_B"}
    assert names(make(small=True, half=True)) == {*TABLES}
    assert contents(make(seeds=(0, 1)))["seeds"] == [0, 1]
    assert {"seed1/A", "seed1/FT_B"} < contents(make(seeds=(0, 1)))["runs"].keys()


def test_runs_that_were_set_aside_or_are_not_finished_stay_behind(two, data, tmp_path):
    folder = shutil.copytree(two, tmp_path / "runs")
    shutil.copytree(place(folder) / "A", place(folder) / "superseded" / "A-1")
    shutil.copytree(place(folder) / "A", place(folder) / "CIL_B")
    (place(folder) / "CIL_B" / WEIGHTS).unlink()
    assert names(pack(tmp_path / "a.zip", data, folder, "smoke")) == {"A", "FT_B"}


def test_a_run_whose_teacher_is_another_or_not_there_is_not_packed(two, data, source, tmp_path):
    folder = shutil.copytree(two, tmp_path / "runs")
    shutil.rmtree(place(folder) / "A")
    with pytest.raises(ValueError, match=r"trained again: FT_B \(teacher\) differ in what stands"):
        pack(tmp_path / "a.zip", data, folder, "smoke")
    shutil.copytree(place(source) / "mine_B", place(folder) / "mine_B")
    with pytest.raises(ValueError, match=r"FT_B \(teacher\); mine_B \(teacher\) differ"):
        pack(tmp_path / "a.zip", data, folder, "smoke")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("file", [WEIGHTS, "scores.json"])
def test_a_damaged_run_is_not_packed(two, data, tmp_path, file):
    folder = shutil.copytree(two, tmp_path / "runs")
    content = (place(folder) / "FT_B" / file).read_bytes()
    (place(folder) / "FT_B" / file).write_bytes(content[:-3] + b"xyz")
    with pytest.raises(ValueError, match=f"FT_B.{file} is not as it was saved"):
        pack(tmp_path / "a.zip", data, folder, "smoke")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


# half precision


@pytest.fixture
def halved(make, data, tmp_path) -> Study:
    """The study where a small pack of half precision was unpacked."""
    unpack.unpack(make(small=True, half=True), data, tmp_path / "halved")
    return Study(data, tmp_path / "halved", "smoke")


def test_rounded_weights_are_half_as_large_and_their_checksums_are_right(halved, data, source):
    for run in halved.found():
        was = runs.load(place(source) / run.folder.name)
        sizes = [(one.folder / WEIGHTS).stat().st_size for one in (run, was)]
        assert sizes[0] < 0.52 * sizes[1]
        for file in FILES:
            if file != SUMS:
                runs.read(run.folder / file)
        assert (run.rounded, was.rounded) == ("float16", None)
        assert run.scores == was.scores and run.history.equals(was.history)
        assert run.config == was.config | {"rounded": {"to": "float16", "digest": was.digest()}}


def test_a_rounded_network_is_the_one_that_was_trained_to_three_digits(halved, source):
    networks = [runs.load(folder / "FE_B").network() for folder in (halved.folder, place(source))]
    states = [network.state_dict() for network in networks]
    assert all(value.dtype == states[1][name].dtype for name, value in states[0].items())
    for name, value in states[0].items():
        if value.dim() > 1:
            assert not value.equal(states[1][name])
            assert torch.allclose(value, states[1][name], rtol=2**-11, atol=2**-25)
        else:
            assert value.equal(states[1][name])  # such as a variance, which may be above 65504
    images = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [network(images) for network in networks]
    assert torch.allclose(*logits, rtol=0.01, atol=0.01) and not logits[0].equal(logits[1])


def test_students_of_rounded_teachers_match_and_are_not_trained(halved, nothing_is_trained):
    for method in ("SS", *METHODS):
        run = halved.run("B", method)
        assert run.rounded and run.config["teacher"] in (None, halved.run("A").digest())
    assert run.miou.size


def test_a_training_that_goes_on_from_rounded_weights_records_it_for_tables_and_the_reference(
    data, tmp_path, capsys, monkeypatch
):
    chain = tiny_stages(tmp_path / "chain", ["A", "B", "C"], images=4)
    random_networks(monkeypatch)
    first = Study(chain, tmp_path / "first", "smoke")
    first.run("A")
    file = pack(tmp_path / "half.zip", chain, first.folder.parents[2], "smoke", half=True)
    unpack.unpack(file, chain, tmp_path / "second")
    second = Study(chain, tmp_path / "second", "smoke")
    last = second.run("C", "CIL")
    said = capsys.readouterr().out
    assert "The weights of A are rounded to float16; CIL_B is trained from them" in said
    assert "CIL_C is trained" not in said  # its teacher is what was trained here
    for run in (last, second.run("B", "CIL")):
        assert run.config["environment"]["teacher_weights"] == "float16" and run.rounded is None
    assert last.config["teacher"] == second.run("B", "CIL").digest()
    assert "teacher_weights" not in second.run("C", "SS").config["environment"]
    whole = first.run("C", "CIL")
    check_comparable([second.run("A"), first.run("B", "FT")])  # its scores are those of before
    with pytest.raises(ValueError, match="differ in teacher_weights; a table holds runs of one"):
        check_comparable([whole, last])
    assert len(by_configuration([whole, last])) == 2


def test_a_training_from_rounded_weights_is_no_reference(make_run):
    about = dict.fromkeys(reference.MEASURED_ON, "x") | {"teacher_weights": "float16"}
    found = [
        make_run(
            planned.method.name,
            planned.stage.name,
            miou={"task1": 1.0},
            train=settings(PRESETS["quick"]),
            environment=about,
        )
        for planned in plan(load_split())
    ]
    with pytest.raises(ValueError, match="a pack, whose weights are rounded to float16; a ref"):
        reference.rows_of(found)


def test_what_is_rounded_is_not_rounded_again(halved, data, make, tmp_path):
    again = pack(tmp_path / "again.zip", data, tmp_path / "halved", "smoke", half=True)
    kept = pack(tmp_path / "kept.zip", data, tmp_path / "halved", "smoke")
    files = contents(make(small=True, half=True))["files"]
    assert contents(again)["files"] == contents(kept)["files"] == files
    assert {run["weights"] for run in contents(kept)["runs"].values()} == {"float16"}


def test_a_weight_that_is_too_large_for_a_float16_is_refused(two, data, tmp_path):
    folder = shutil.copytree(two, tmp_path / "runs")
    shutil.rmtree(place(folder) / "FT_B")
    state = safetensors.load((place(folder) / "A" / WEIGHTS).read_bytes())
    state["decoder.output_conv.weight"][0, 0, 0, 0] = 1e5
    contents = files_in(place(folder) / "A") | {WEIGHTS: safetensors.save(state)}
    del contents[SUMS]
    for name, content in runs.with_sums(contents).items():
        (place(folder) / "A" / name).write_bytes(content)
    with pytest.raises(ValueError, match="has a weight of 100000, too large for a float16; pack w"):
        pack(tmp_path / "half.zip", data, folder, "smoke", half=True)
    assert names(pack(tmp_path / "whole.zip", data, folder, "smoke")) == {"A"}


# the data


def test_scenes_that_the_kit_drew_travel_and_others_only_if_asked(
    toys, two, data, tmp_path, monkeypatch
):
    random_networks(monkeypatch)
    Study(toys, tmp_path / "runs", "smoke").run("T1")
    drawn = pack(tmp_path / "drawn.zip", toys, tmp_path / "runs", "smoke")
    assert contents(drawn)["data"]["in_this_file"]
    unpack.unpack(drawn, tmp_path / "new" / "toys", tmp_path / "theirs")
    assert listing_below(tmp_path / "new" / "toys") == listing_below(toys)
    assert open_data(tmp_path / "new" / "toys").fingerprint() == open_data(toys).fingerprint()
    without = pack(tmp_path / "without.zip", toys, tmp_path / "runs", "smoke", images=False)
    assert without.stat().st_size < drawn.stat().st_size
    assert len(unpack.unpack(without, tmp_path / "new" / "toys", tmp_path / "again")) == 1
    monkeypatch.setattr(pack_module, "DRAWN_TRAVEL", 1000)
    large = pack(tmp_path / "large.zip", toys, tmp_path / "runs", "smoke")
    assert not contents(large)["data"]["in_this_file"]
    (data / ".hidden").mkdir(exist_ok=True)
    (data / ".hidden" / "notes.txt").touch()
    asked = pack(tmp_path / "asked.zip", data, two, "smoke", images=True)
    (data / ".hidden" / "notes.txt").unlink()
    (tmp_path / "third" / "tiny").mkdir(parents=True)  # an empty folder is free
    unpack.unpack(asked, tmp_path / "third" / "tiny", tmp_path / "third" / "runs")
    assert listing_below(tmp_path / "third" / "tiny") == listing_below(data)


def test_data_that_are_there_and_others_are_left_alone(toys, tmp_path, monkeypatch):
    random_networks(monkeypatch)
    Study(toys, tmp_path / "runs", "smoke").run("T1")
    mine = shutil.copytree(toys, tmp_path / "mine" / "toys")
    next(mine.glob("gtFine/val/*/*.png")).write_bytes(b"other")
    before = listing(mine)
    for images, way_out in ((True, "Move it away and unpack again"), (False, "Ask for a pack wi")):
        file = pack(tmp_path / "a.zip", toys, tmp_path / "runs", "smoke", images=images)
        with pytest.raises(ValueError, match=f"holds other data than the runs of .*{way_out}"):
            unpack.unpack(file, mine, tmp_path / "theirs")
        assert listing(mine) == before and not listing(tmp_path / "theirs")


# whole or not at all


def test_a_disk_that_is_full_leaves_no_half_pack_and_the_one_before(two, data, pair, tmp_path):
    file = shutil.copy(pair, tmp_path / "pack.zip")
    before = listing(tmp_path)
    with full_disk(10**6), pytest.raises(OSError, match=r"could not be written \(.*\). Make room"):
        pack(file, data, two, "smoke", half=True)
    assert listing(tmp_path) == before
    with full_disk(10**6), pytest.raises(OSError, match=r"could not be written \(.*\). Make room"):
        unpack.unpack(file, data, tmp_path / "runs")
    assert listing(tmp_path) == before
    pack(file, data, two, "smoke", half=True)
    assert len(unpack.unpack(file, data, tmp_path / "runs")) == 2


def test_unpacking_that_ends_half_way_leaves_whole_runs_and_goes_on(
    pair, data, tmp_path, monkeypatch
):
    put = unpack._put

    def stopped(folder, target):
        if target.name == "FT_B":
            raise KeyboardInterrupt
        put(folder, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unpack, "_put", stopped)
        unpack.unpack(pair, data, tmp_path)
    assert [run.folder.name for run in runs.find(tmp_path)] == ["A"]
    assert {path.name for path in place(tmp_path).iterdir()} == {"A"}
    assert [new.name for new in unpack.unpack(pair, data, tmp_path)] == ["FT_B"]


def test_a_run_that_came_meanwhile_is_not_overwritten(pair, data, two, tmp_path, monkeypatch):
    check = unpack._check_runs

    def and_meanwhile(*given):
        check(*given)
        shutil.copytree(place(two) / "A", place(tmp_path) / "FT_B")

    monkeypatch.setattr(unpack, "_check_runs", and_meanwhile)
    with pytest.raises(OSError, match="FT_B could not be put into place .*move it away; then unp"):
        unpack.unpack(pair, data, tmp_path)
    assert files_in(place(tmp_path) / "FT_B") == files_in(place(two) / "A")


@pytest.fixture
def miniature(tmp_path) -> Path:
    """A pack of a run with a few bytes in each file, of which every bit can be tried."""
    about = {"format": 1, "cilkit": "0.1.0", "code": "x", "preset": "smoke", "files": {}}
    about["data"] = {"name": "tiny", "files": "0123", "in_this_file": False}
    with zipfile.ZipFile(tmp_path / "mini.zip", "w") as archive:
        for name in FILES:
            pack_module._add(archive, f"runs/seed0/A/{name}", name.encode())
            entry = {"bytes": len(name), "sha256": checksum(name.encode())}
            about["files"][f"runs/seed0/A/{name}"] = entry
        pack_module._add(archive, CONTENTS, json.dumps(about).encode())
    return tmp_path / "mini.zip"


def read_all(file: Path) -> dict[str, bytes]:
    with unpack._opened(file) as opened:
        return {name: opened.read(name) for name in opened.entries}


def test_a_pack_with_one_bit_flipped_or_cut_off_is_refused_or_as_it_was(miniature, tmp_path):
    whole, right = miniature.read_bytes(), read_all(miniature)
    refused = 0
    for position in range(len(whole)):
        for content in (
            whole[:position],
            *(
                whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]
                for bit in (0, 3, 7)
            ),
        ):
            miniature.write_bytes(content)
            try:
                assert read_all(miniature) == right
            except ValueError as error:
                assert "is damaged, or no pack" in str(error) or "has format" in str(error)
                refused += 1
    assert refused > 2 * len(whole)


@pytest.mark.parametrize(
    "name",
    [
        "runs/../../A/config.json",
        "/runs/seed0/A/config.json",
        "C:/runs/seed0/A/config.json",
        "runs\\seed0\\A\\config.json",
        "runs/seed0/A/../B/config.json",
        "runs/seed0/A/more.json",
        "runs/seed00/A/config.json",
        "runs/seed0/.A/config.json",
        "runs/seed0/A/",
        "images/../x.png",
        "images//x.png",
        "images/.git/config",
        "images/a:b.png",
        "images/a\x01.png",
        "images/a./b.png",
        "elsewhere/x.png",
        "RUNS/seed0/A/config.json",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(
    pair, data, tmp_path, name
):
    evil = rewritten(pair, tmp_path / "evil.zip", lambda entries: entries.update({name: b"x"}))
    before = listing(tmp_path)
    with pytest.raises(ValueError, match="evil.zip is damaged, or no pack"):
        unpack.unpack(evil, data, tmp_path / "runs")
    assert listing(tmp_path) == before


def test_a_run_that_no_study_would_find_is_refused(pair, data, tmp_path):
    def rename(entries: dict[str, bytes]) -> None:
        for name in [name for name in entries if "FT_B" in name]:
            entries[name.replace("FT_B", "superseded")] = entries.pop(name)

    evil = rewritten(pair, tmp_path / "evil.zip", rename)
    with pytest.raises(ValueError, match="seed0/superseded has not the name of a run"):
        unpack.unpack(evil, data, tmp_path / "runs")
    assert not listing(tmp_path / "runs")


def test_a_link_in_a_pack_is_refused(pair, data, tmp_path):
    with zipfile.ZipFile(pair) as archive, zipfile.ZipFile(tmp_path / "l.zip", "w") as other:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("A/config.json"):
                entry.external_attr = 0o120777 << 16
            other.writestr(entry, content)
    with pytest.raises(ValueError, match="'runs/seed0/A/config.json' is no plain file"):
        unpack.unpack(tmp_path / "l.zip", data, tmp_path / "runs")


def test_a_pack_of_a_later_form_asks_for_a_newer_kit(pair, data, tmp_path):
    later = rewritten(pair, tmp_path / "later.zip", changed(format=2))
    with pytest.raises(ValueError, match="has format 2, and this kit reads 1; get a newer kit"):
        unpack.unpack(later, data, tmp_path / "runs")


# as commands


def test_the_commands_say_what_they_made_and_what_comes_next(two, data, tmp_path, capsys):
    given = (f"DATA={data}", f"RUNS={two}", "PRESET=smoke", f"FILE={tmp_path / 'a b.zip'}")
    pack_module.main(*given, "HALF=yes", "IMAGES=no", "SEEDS=0")
    assert "a b.zip: " in capsys.readouterr().out
    unpack.main(f"FILE={tmp_path / 'a b.zip'}", f"DATA={data}", f"RUNS={tmp_path}")
    said = capsys.readouterr().out
    assert "2 runs put into place, 0 were there" in said and "weights are rounded; " in said
    assert f"DATA = {data}, RUNS = {tmp_path}, PRESET = smoke, SEED = 0" in said
    unpack.main(f"FILE={tmp_path / 'a b.zip'}", f"DATA={data}", f"RUNS={tmp_path}")
    said = capsys.readouterr().out
    assert "0 runs put into place, 2 were there" in said and "rounded" not in said


def test_a_pack_is_named_after_what_it_holds(two, data, tmp_path, monkeypatch):
    monkeypatch.setattr("cilkit.files.ROOT", tmp_path)
    for given, name in (
        ({}, "pack_tiny_smoke_seed0.zip"),
        ({"half": True}, "pack_tiny_smoke_seed0_half.zip"),
    ):
        assert pack(data=data, runs=two, preset="smoke", **given) == tmp_path / "data" / name
