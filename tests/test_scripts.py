"""What draws or writes a committed file is run here, on tiny data and into another folder."""

import os
import runpy
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cilkit.study import study as study_module
from cilkit.study.study import Study

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def study(write_cityscapes, tmp_path_factory) -> Study:
    """A study of 18 test images, whose runs the first test trains."""
    folder = tmp_path_factory.mktemp("picture")
    data = write_cityscapes(folder / "tinyscapes", images=6)
    way = {"precision": "32-true", "memory_format": "contiguous"}  # nothing is left to be timed
    return Study(data, folder / "runs", "smoke", batch=16, height=32, **way)


def test_the_picture_of_the_readme_is_drawn(study, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(study_module, "Study", lambda *what, **more: asked.append(what) or study)
    script = shutil.copy(ROOT / "data" / "picture.py", tmp_path)
    runpy.run_path(script, run_name="__main__")
    assert asked == [("toyscapes", "data/runs", "quick")]  # what `make study` leaves
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "picture.png")
    with (
        Image.open(tmp_path / "picture.png") as drawn,
        Image.open(ROOT / "data/picture.png") as old,
    ):
        assert abs(drawn.width - old.width) < 50 and abs(drawn.height - old.height) < 50
        assert np.unique(drawn.convert("RGB"), axis=None).size > 20


def test_the_picture_shows_the_labels_of_each_stage_and_two_predictions(study):
    figure = runpy.run_path(str(ROOT / "data" / "picture.py"))["picture"](study)
    shown = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.images}
    stages = [stage.name for stage in study.split.stages]
    labels = [f"labels that stage {name} would get" for name in stages]
    assert list(shown) == ["image", *labels, "FT after T3", "CIL after T3"]
    palette = study.split.palette().tolist()
    coloured = np.zeros((32, 64), dtype=int)
    for title, stage in zip(labels, study.split.stages, strict=True):
        own = {tuple(colour) for colour in palette[stage.new]}
        pixels = [tuple(pixel) for pixel in shown[title].reshape(-1, 3).tolist()]
        assert {*pixels} - own == {(0, 0, 0)}  # void
        coloured += np.array([pixel in own for pixel in pixels]).reshape(32, 64)
    assert coloured.max() == 1  # no pixel is labelled by two stages
    assert not np.array_equal(shown["FT after T3"], shown["CIL after T3"])


def test_the_animation_of_the_readme_is_drawn(study, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(study_module, "Study", lambda *what, **more: asked.append(what) or study)
    script = shutil.copy(ROOT / "data" / "explorer.py", tmp_path)
    made = runpy.run_path(script, run_name="__main__")
    assert asked == [("toyscapes", "data/runs", "quick")]  # what `make study` leaves
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "explorer.gif")
    committed = ROOT / "data" / "explorer.gif"
    assert committed.stat().st_size < 1_000_000
    with Image.open(tmp_path / "explorer.gif") as drawn, Image.open(committed) as old:
        for animation in (drawn, old):
            assert animation.n_frames == len(made["TEMPERATURES"]) == 12
            assert animation.width == made["WIDTH"] and animation.info["loop"] == 0
        assert drawn.size == old.size


def test_every_picture_of_the_animation_is_another_and_its_colours_do_not_flicker(study):
    made = runpy.run_path(str(ROOT / "data" / "explorer.py"))
    shown = [np.asarray(picture).astype(int) for picture in made["frames"](study)]
    assert all(not np.array_equal(one, next_) for one, next_ in pairwise(shown))
    still = [picture[: len(picture) // 3, : made["WIDTH"] // 3] for picture in shown]
    assert all(np.array_equal(one, still[0]) for one in still)  # the image
    limited = made["with_one_palette"](list(map(Image.fromarray, np.uint8(shown))))
    assert len({tuple(picture.getpalette()) for picture in limited}) == 1
    off = np.abs(np.asarray([picture.convert("RGB") for picture in limited]) - shown)
    assert off.max() < 48 and off.mean() < 4


def test_a_graph_is_drawn_into_a_file(tmp_path):
    said = "flowchart TB\n\tid0[all]\n\tid1[train - run: T1]\n\tid1 --> id0\n"
    command = [sys.executable, ROOT / "data" / "graph.py", tmp_path / "graph.png"]
    done = subprocess.run(command, input=said, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "graph.png")
    with Image.open(tmp_path / "graph.png") as drawn:
        assert drawn.width > 200


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_constraints_are_written_from_the_dependencies_alone(tmp_path):
    for name in ("Makefile", "pyproject.toml", "data/profiles/local/config.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"  # which would ask a registry
    uv.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > said\nfor last; do :; done\ntouch "$last"\n')
    uv.chmod(0o755)
    path = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "constraints"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().split()
    assert said[:3] == ["pip", "compile", "pyproject.toml"]
    assert {"--all-extras", "--universal", "--no-emit-index-url"} <= {*said}
    assert said[-2:] == ["--output-file", "constraints.txt"]
    assert (tmp_path / "constraints.txt").is_file()
