"""Tiny data sets with stages of one's own, of any number and of any names."""

from collections.abc import Sequence
from pathlib import Path

from conftest import _write_cityscapes

from cilkit.splits import load_split


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
