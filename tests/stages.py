"""Tiny data sets with stages of one's own, of any number and of any names; and runs at once."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import _write_cityscapes

from cilkit.networks.erfnet import ERFNet
from cilkit.splits import load_split
from cilkit.study import study


def tiny_stages(root: Path, names: Sequence[str], images: int = 1) -> Path:
    """Write a Cityscapes of its own split: one class and one city with some images a stage."""
    lines = ['name = "own"', 'layout = "cityscapes"', "void = [0]", "[test]", 'cities = ["tested"]']
    lines += ["[classes]"]
    for number in range(1, len(names) + 1):
        lines += [f"class{number} = {{ id = {number}, colour = [{20 * number}, 99, 9] }}"]
    for number, name in enumerate(names, start=1):
        lines += ["[[stages]]", f'name = "{name}"', f'classes = ["class{number}"]']
        lines += [f'cities = ["city{number}"]']
    root.mkdir(parents=True)
    (root / "split.toml").write_text("\n".join(lines), encoding="utf-8")
    return _write_cityscapes(root, images, load_split(root / "split.toml"))


def random_networks(patch: pytest.MonkeyPatch) -> list[str]:
    """Let trainings hand back random networks at once; their names, in the order they come in."""
    names = []

    def network(seed, *classes):
        with torch.random.fork_rng():
            torch.manual_seed(100 * seed + len(names))  # each training gives other weights
            return ERFNet(*classes).eval()

    history = pd.DataFrame({"epoch": [1], "ce": [1.0]})

    def fit(images, config, seed=0, name="T1", monitor=None, checkpoint=None, method=None):
        names.append(name)
        return network(seed, images.visible.stop - images.visible.start), history

    def fit_stage(
        method, images, stage, teacher, config, seed=0, memory=(), new_teacher=None, **looking
    ):
        names.append(f"{method.name} {stage.name}")
        assert teacher.num_classes == stage.old.stop
        old = teacher.classes
        new = stage.new.stop - stage.new.start
        classes = [*old, new] if method.second_decoder else [stage.new.stop]
        return network(seed, *classes), history

    patch.setattr(study, "fit", fit)
    patch.setattr(study, "fit_stage", fit_stage)
    return names
