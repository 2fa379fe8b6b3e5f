from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure

from cilkit.classes import Split, task_title
from cilkit.explore import plots
from cilkit.methods import METHODS
from cilkit.results import claims
from cilkit.results.scores import methods_of, paper_scores
from cilkit.splits import load_split
from cilkit.study import runs

JOINT = (("T2", "task12"), ("T3", "task123"))  # the cross-task scores


@pytest.fixture
def found(make_run):
    """Three seeds of three methods, one of which is not the paper's; the same score twice."""
    scores = {"SS": (60.0, 60.0, 66.0), "CIL": (50.0, 52.0, 57.0), "mine": (40.0, 45.0, 41.0)}
    return [
        make_run(method, stage, seed, {task: values[seed] + plus})
        for method, values in scores.items()
        for seed in (0, 1, 2)
        for (stage, task), plus in zip(JOINT, (0, -20), strict=True)
    ]


def drawn(found) -> Figure:
    return plots.seed_dots(runs.scores(found), paper_scores(), methods_of(found), load_split())


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def dots(ax, row: int) -> np.ndarray:
    """The dots of a row, (n, 2): score and height; each row has its own, then its diamond."""
    filled = [c for c in ax.collections if len(c.get_offsets()) and len(c.get_facecolor())]
    places = np.concatenate([np.asarray(c.get_offsets(), dtype=float) for c in filled])
    return places[(places[:, 1] > row - 0.5) & (places[:, 1] < row + 0.5)]


def test_every_seed_is_a_dot_in_the_row_of_its_method(found):
    figure = drawn(found)
    assert names(figure) == ["SS", *METHODS, "mine"]
    for ax, plus in zip(figure.axes, (0, -20), strict=True):
        for method, values in (("SS", (60, 60, 66)), ("CIL", (50, 52, 57)), ("mine", (40, 45, 41))):
            here = dots(ax, names(figure).index(method))
            assert here[:, 0].tolist() == [value + plus for value in values]
        assert len(dots(ax, names(figure).index("FT"))) == 0


def test_dots_of_equal_scores_lie_side_by_side_and_a_seed_keeps_its_height(found):
    figure = drawn(found)
    first, last = dots(figure.axes[0], 0), dots(figure.axes[1], len(METHODS) + 1)
    assert len({height for _, height in first}) == 3
    assert (first[:, 1] - 0).tolist() == pytest.approx(last[:, 1] - (len(METHODS) + 1))
    assert list(first[:, 1]) == sorted(first[:, 1])  # the axis points down: seed 0 is on top
    assert figure.axes[0].yaxis_inverted()


def test_the_mean_is_a_line_and_the_papers_score_a_hollow_diamond(found):
    figure = drawn(found)
    row = names(figure).index("CIL")
    for ax, mean, (stage, task) in zip(figure.axes, (53, 33), JOINT, strict=True):
        lines = [line for c in ax.collections for line in getattr(c, "get_segments", list)()]
        (here,) = [line for line in lines if line.size and abs(line[:, 1].mean() - row) < 0.1]
        assert here[:, 0].tolist() == [mean, mean]
        hollow = [c for c in ax.collections if len(c.get_facecolor()) == 0 and len(c.get_offsets())]
        places = [tuple(c.get_offsets()[0]) for c in hollow]
        assert (paper_scores().loc[(stage, "CIL"), task], row) in places


def test_a_method_has_the_colour_that_it_has_in_other_figures(found):
    figure = drawn(found)
    bars = plots.score_bars(pd.DataFrame({"task1": 1.0}, ["SS", *METHODS]))
    own = {c.get_label(): c.patches[0].get_facecolor() for c in bars.axes[0].containers}
    colours = {
        round(c.get_offsets()[0][1]): c.get_facecolor()[0]
        for c in figure.axes[0].collections
        if len(c.get_offsets()) == 3 and len(c.get_facecolor())
    }
    for row, method in ((0, "SS"), (names(figure).index("CIL"), "CIL")):
        assert same_color(to_rgb(colours[row]), to_rgb(own[method]))


def test_one_seed_and_none_can_be_drawn_as_well(found):
    def legend(figure):
        return figure.legends[0].get_texts()[0].get_text()

    one = drawn([run for run in found if run.config["seed"] == 1])
    assert dots(one.axes[0], 0).tolist() == [[60, 0]]
    assert legend(one) == "seed 1" and legend(drawn([])) == "no run yet"
    assert legend(drawn(found)) == "seed 0, 1, 2, from top to bottom"


def test_the_margins_of_several_seeds_have_their_intervals_drawn(found):
    claim = claims.Claim(
        "CIL is above mine in Task 1∪2.",
        "here",
        lambda s: s("CIL", "T2", "task12") - s("mine", "T2", "task12"),
    )
    ledger = claims.check(found, [claim])
    (row,) = ledger.to_dict("records")
    (ax,) = plots.claim_margins(ledger).axes
    lines = [line for c in ax.collections for line in getattr(c, "get_segments", list)()]
    assert [line[:, 0].tolist() for line in lines] == [[row["low"], row["high"]]]
    assert row["low"] < row["margin"] == 11 < row["high"]  # of 10, 7 and 16


# other stages than the paper's

OWN = {
    2: ["A", "B"],
    3: ["base", "signs", "people"],
    5: ["A", "B", "C", "D", "E"],
    12: [f"S{k}" for k in range(1, 13)],
}


@pytest.fixture(params=OWN, ids=lambda count: f"{count} stages")
def own(request, write_split, tmp_path) -> Split:
    """Splits of some stages, of which none is called as in the paper."""
    return write_split(tmp_path, *OWN[request.param])


def overlaps(figure: Figure, texts: list) -> list[tuple[str, str]]:
    """Which of some texts cover each other once they are drawn."""
    figure.savefig(BytesIO(), dpi=100)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [
        (one, other)
        for k, (one, box) in enumerate(boxes)
        for other, next_box in boxes[k + 1 :]
        if box.overlaps(next_box)
    ]


def test_the_seeds_of_each_extension_have_a_panel_and_no_diamond(make_run, own):
    found = [
        make_run(method, stage.name, seed, {stage.joint_task: 10.0 * stage.number + seed}, own)
        for stage in own.stages[1:]
        for method in ("SS", "CIL")
        for seed in (0, 1)
    ]
    methods = methods_of(found)
    figure = plots.seed_dots(runs.scores(found), paper_scores(own), methods, own)
    assert [ax.get_title() for ax in figure.axes] == [f"after {s.name}" for s in own.stages[1:]]
    row = methods.index("CIL")
    for ax, stage in zip(figure.axes, own.stages[1:], strict=True):
        assert ax.get_xlabel() == f"mIoU of {task_title(stage.joint_task)} [%]"
        assert dots(ax, row)[:, 0].tolist() == [10 * stage.number, 10 * stage.number + 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["mean"]
    shown = [ax.xaxis.label for ax in figure.axes] + [ax.title for ax in figure.axes]
    assert not overlaps(figure, [*shown, *figure.axes[0].get_yticklabels()])


@pytest.mark.parametrize("models", [1, 3, 9])
def test_the_bars_of_all_class_sets_are_there_and_their_numbers_can_be_read(own, models):
    scores = pd.DataFrame(50.0, [f"model {k}" for k in range(models)], own.tasks)
    figure = plots.score_bars(scores)
    names = [label.get_text() for ax in figure.axes for label in ax.get_xticklabels()]
    assert names == [task_title(task) for task in own.tasks]
    for ax in figure.axes:
        assert not overlaps(figure, [*ax.get_xticklabels(), *ax.texts])


def test_a_training_of_many_class_sets_has_a_legend_beside_its_curves(own):
    history = pd.DataFrame({"epoch": [1, 2], "learning_rate": 0.1, "ce": [1.0, 0.5]})
    history = history.assign(**dict.fromkeys(own.tasks, [10.0, 20.0]), seconds=1.0)
    figure = plots.training("CIL", history)
    legend = figure.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(map(task_title, own.tasks))
    assert not overlaps(figure, [*legend.get_texts(), figure.axes[1].title])
    assert len({line.get_color() for line in figure.axes[1].lines}) == len(own.tasks)


def test_a_method_keeps_its_colour_with_the_name_of_any_stage(own):
    def colour(model: str) -> tuple:
        bars = plots.score_bars(pd.DataFrame({"task1": 1.0}, [model]))
        return bars.axes[0].containers[0].patches[0].get_facecolor()

    last = own.stages[-1].name
    for method in ("FT", "CIL (w/o weights)"):
        assert colour(f"{method} {last}") == colour(method)
    mine = plots.score_bars(pd.DataFrame({"task1": 1.0}, ["CIL", "CIL (mine)"]))
    assert len({bars.patches[0].get_facecolor() for bars in mine.axes[0].containers}) == 2


def test_every_set_of_cities_has_a_marker_of_its_own(own):
    home = {f"of {stage.name}": stage.name for stage in own.stages} | {"ulm": "test"}
    generator = torch.Generator().manual_seed(0)
    grey = {city: torch.rand(2, 3, generator=generator) for city in home}
    figure = plots.city_colours(grey, home)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == list(home.values())
