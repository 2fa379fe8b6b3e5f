"""One colour for each method and stage, readable on white and told apart."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from cilkit.explore.colours import LINES, OF_METHOD, OF_STAGE, OWN_METHODS, colours, hatches
from cilkit.methods import FIRST_STAGE, LATER_METHODS, METHODS, SS

EVERY = [*OF_METHOD.values(), *OF_STAGE, *OWN_METHODS, *LINES]


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2: 0 is black, 1 white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", EVERY)
def test_every_colour_can_be_read_on_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3


def test_every_method_has_a_colour_of_its_own():
    assert set(OF_METHOD) == {FIRST_STAGE.name, SS.name, *METHODS, *LATER_METHODS}
    for one, other in combinations(OF_METHOD.values(), 2):
        apart = sum((a - b) ** 2 for a, b in zip(to_rgb(one), to_rgb(other), strict=True)) ** 0.5
        assert apart > 0.25, f"{one} and {other} look alike"


# what an eye without red or green cones gets of linear RGB: Machado, Oliveira, Fernandes 2009
EYES = {
    "all cones": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def oklab(linear: np.ndarray) -> np.ndarray:
    """Linear RGB as lightness and two axes of colour (Ottosson 2020), where equal steps look so."""
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    axes = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(axes) @ np.cbrt(np.array(cones) @ linear.clip(0, 1))


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("palette", [list(OF_METHOD.values()), OF_STAGE[:3]], ids=len)
def test_methods_and_stages_can_be_told_apart_with_red_green_blindness(eye, palette):
    rgb = np.array([to_rgb(colour) for colour in palette])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    looks = [oklab(np.array(EYES[eye]) @ colour) for colour in linear]
    apart = {
        (one, other): np.linalg.norm(looks[one] - looks[other])
        for one, other in combinations(range(len(looks)), 2)
    }
    assert min(apart.values()) > 0.055  # a step that can just be seen is about 0.02


def test_a_method_keeps_its_colour_with_any_stage_and_beside_any_other():
    names = ["CIL", "CIL T2", "CIL after T2", "CIL, T3"]
    assert set(colours(names)) == {OF_METHOD["CIL"]}
    assert colours(["SS", "CIL"]) == [OF_METHOD["SS"], OF_METHOD["CIL"]]


def test_a_method_of_ones_own_gets_a_colour_that_no_other_has():
    mine, theirs = colours(["CIL (mine)", "CIL"])
    assert theirs == OF_METHOD["CIL"] and mine not in OF_METHOD.values()


def test_a_stage_its_images_and_its_task_have_one_colour():
    assert colours(["D2", "Task 2"]) == [OF_STAGE[1]] * 2
    assert colours(["Task 1", "Task 2"]) == list(OF_STAGE[:2])


def test_the_stages_of_one_method_differ_by_hatch():
    assert hatches(["FT T2", "FE T2", "FT T3", "FE T3"]) == ["", "", "///", "///"]
    assert hatches(["FT T2", "FE T2"]) == ["", ""]
