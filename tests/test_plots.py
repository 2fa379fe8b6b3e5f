from io import BytesIO
from itertools import pairwise

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from nbclient import NotebookClient

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


def rows_of(figure: Figure, legend: Legend) -> list[list[str]]:
    """The names in a legend as they are read: by row, from the left."""
    figure.draw_without_rendering()
    rows = {}
    for text in legend.get_texts():
        at = text.get_window_extent()
        rows.setdefault(round(at.y0), []).append((at.x0, text.get_text()))
    return [[name for _, name in sorted(rows[y])] for y in sorted(rows, reverse=True)]


def test_the_legend_of_bars_is_read_in_the_order_of_the_bars():
    models = ["T1", "FT", "FE", "LWOF", "SS"]
    figure = plots.score_bars(pd.DataFrame({"task1": 1.0}, models))
    assert sum(rows_of(figure, figure.axes[0].get_legend()), []) == models


# all figures

PAPER = load_split()
CHANNEL = {name: PAPER.channel(name) for name in PAPER.names()}
SIZE = (64, 128)


def picture() -> torch.Tensor:
    return torch.full((3, *SIZE), 0.5)


def street() -> torch.Tensor:
    """Labels (H, W): road, a large car left of a large truck, and a bus too small for its name."""
    labels = torch.full(SIZE, CHANNEL["road"])
    labels[8:40, 8:56], labels[8:40, 64:120] = CHANNEL["car"], CHANNEL["truck"]
    labels[48:52, 60:64] = CHANNEL["bus"]
    return labels


def weight_figure(**settings) -> Figure:
    alpha = torch.linspace(1, 3.5, 64 * 128).view(SIZE)
    over_set = pd.Series(1.5, PAPER.names())
    return plots.entropy_weights(picture(), street(), street(), alpha, PAPER, over_set, **settings)


def history(*terms: str) -> pd.DataFrame:
    values = {term: [k + 2.0, k + 1.0] for k, term in enumerate(terms)}
    return pd.DataFrame({"epoch": [1, 2], "learning_rate": 0.1, **values, "seconds": 1.0})


def counts(split: Split) -> pd.DataFrame:
    return pd.DataFrame(np.eye(len(split.classes)) + 1, split.names(), split.names())


GRADIENT = torch.linspace(-1, 1, 11)
IOUS = {name: pd.Series(50.0, PAPER.names()) for name in ("FT", "CIL (w/o weights)", "CIL")}
LOGITS = torch.randn(11, *SIZE, generator=torch.Generator().manual_seed(0))
FIGURES = {
    "scenes": lambda: plots.scenes(
        [picture()] * 4, [street()] * 4, PAPER, ["a long title " * 5] * 4
    ),
    "views": lambda: plots.views(picture(), {"labels": street(), "FT": street()}, PAPER),
    "grid": lambda: plots.prediction_grid(
        [picture()] * 4, {"CIL (w/o weights)": [street()] * 4}, PAPER
    ),
    "maps": lambda: plots.maps(picture(), {"mask": street() > 9, "alpha": torch.rand(8, 16)}),
    "shares": lambda: plots.class_shares(
        pd.DataFrame({"D1": np.geomspace(3, 9, 19), "D2": 4.0}, PAPER.names()), PAPER
    ),
    "losses": lambda: plots.loss_curves({"FT, T2": history("ce"), "LWOF, T2": history("ce", "kd")}),
    "training": lambda: plots.training(
        "CIL", history("ce", "mkd").assign(task1=50.0, task2=9.0, task12=7.0)
    ),
    "iou": lambda: plots.iou_bars(IOUS, PAPER),
    "heatmap": lambda: plots.iou_heatmap(IOUS, PAPER),
    "scores": lambda: plots.score_bars(pd.DataFrame(50.0, ["SS", *METHODS], PAPER.tasks)),
    "confusion": lambda: plots.confusion(counts(PAPER), "CIL", PAPER),
    "weights": weight_figure,
    "later weights": lambda: weight_figure(all_pictures=False, teacher="T2"),
    "pixel": lambda: plots.pixel(
        picture(),
        street(),
        LOGITS[:5].softmax(0),
        LOGITS,
        PAPER,
        9,
        9,
        {"ce": 1.0, "mkd": 2.0},
        GRADIENT,
    ),
    "distributions": lambda: plots.distributions(
        {"one": torch.ones(5) / 5, "two": torch.eye(5)[0]}, PAPER.names()
    ),
    "curves": lambda: plots.curves(
        torch.arange(3), {"Task 1": torch.arange(3), "other": torch.ones(3)}, "x", "y"
    ),
    "features": lambda: plots.feature_maps(
        {"enc": torch.rand(8, 16, 32), "dec": torch.rand(8, 4, 8)}
    ),
}


@pytest.fixture(params=FIGURES)
def figure(request) -> Figure:
    made = FIGURES[request.param]()
    made.savefig(BytesIO(), dpi=100)
    return made


def written(figure: Figure) -> list:
    """The texts that can be seen; the ticks of axes that are switched off are not."""
    found = figure.findobj(Text)
    hidden = [text for ax in figure.axes if not ax.axison for text in ax.xaxis.findobj(Text)]
    hidden += [text for ax in figure.axes if not ax.axison for text in ax.yaxis.findobj(Text)]
    return [text for text in found if text.get_text().strip() and text not in hidden]


def test_no_text_is_smaller_than_ten_points_in_a_figure_of_ten_inches(figure):
    assert figure.get_figwidth() <= plots.WIDTH == 10
    assert min(text.get_fontsize() for text in written(figure)) >= plots.TEXT == 10


def test_pictures_of_a_row_have_one_height_and_one_upper_edge(figure):
    shown = [ax for ax in figure.axes if ax.images and ax.images[0].get_array().shape[0] > 1]
    edges = [ax.get_window_extent() for ax in shown]
    rows = {}
    for box in edges:
        rows.setdefault(round(box.y1), []).append(box.height)
    for one, other in pairwise(sorted(rows)):
        assert other - one > min(rows[one]) / 2, "a picture stands a little lower than its row"
    for heights in rows.values():
        assert max(heights) - min(heights) < 0.5


def test_no_legend_covers_an_axes(figure):
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    for legend in legends:
        box = legend.get_window_extent().padded(-1)
        for ax in figure.axes:
            bars = [patch.get_window_extent() for patch in ax.patches]
            lines = [line.get_window_extent() for line in ax.lines]
            pictures = [image.get_window_extent() for image in ax.images]
            assert not any(box.overlaps(other) for other in [*bars, *lines, *pictures])


def test_pictures_have_a_frame_and_tiny_ones_a_box_for_each_pixel():
    white = torch.ones(3, 2, 4)
    figure = plots.views(white, {"labels": torch.zeros(2, 4, dtype=torch.long)}, PAPER)
    for ax in figure.axes:
        for spine in ax.spines.values():
            assert spine.get_visible() and max(to_rgb(spine.get_edgecolor())) < 0.7
        lines = [len(c.get_segments()) for c in ax.collections]
        assert lines == [3, 1]  # between four columns and between two rows


def test_a_mask_has_two_colours_and_a_legend_in_words():
    mask = street() == CHANNEL["car"]
    figure = plots.maps(picture(), {"mask": mask}, words=("teacher speaks", "label speaks"))
    shown, (inside, outside) = figure.axes[1].images[0].get_array(), map(to_rgb, plots.MASK)
    assert np.array_equal(shown, np.where(mask[..., None], inside, outside))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["teacher speaks", "label speaks"]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    assert colours == [to_rgb(colour) for colour in plots.MASK]
    assert len(figure.axes) == 2  # no bar of colours


def test_the_scale_of_maps_spans_what_they_show_or_the_given_limits():
    values = {"one": torch.tensor([[1.0, 2.0]]), "two": torch.tensor([[1.5, 3.5]])}
    for limits, wanted in ((None, (1, 3.5)), ((0, 8), (0, 8))):
        *_, one, two, bar = plots.maps(picture(), values, limits).axes
        assert one.images[0].get_clim() == two.images[0].get_clim() == bar.get_xlim() == wanted


def test_the_scale_of_maps_stands_below_them_with_its_unit():
    maps = {"a mask": torch.ones(1, 2, dtype=torch.bool), "a map": torch.tensor([[1.0, 2.0]])}
    figure = plots.maps(picture(), maps, unit="bits")
    _, mask, shown, bar = figure.axes
    assert bar.get_ylabel() == "bits"
    assert mask.get_position().x1 < bar.get_position().x0
    assert shown.get_position().x0 < bar.get_position().x0 < bar.get_position().x1
    assert bar.get_position().x1 < shown.get_position().x1


@pytest.mark.parametrize("of", ["classes", "methods"])
def test_a_legend_is_read_row_by_row(of):
    if of == "classes":
        every = PAPER.names()
        figure = plots.views(picture(), {"all": torch.arange(19)[:, None].expand(19, 2)}, PAPER)
    else:
        every = ["SS", *METHODS]
        figure = FIGURES["scores"]()
    rows = rows_of(figure, (figure.legends or [figure.axes[0].get_legend()])[0])
    assert len(rows) > 1 and sum(rows, []) == every


def test_an_iou_of_zero_is_seen_as_a_number():
    low = {"FT": pd.Series(0.3, PAPER.names()), "CIL": pd.Series(1.0, PAPER.names())}
    low["CIL"]["road"] = np.nan
    assert [text.get_text() for text in plots.iou_bars(low, PAPER).axes[0].texts] == [
        *["0"] * len(PAPER.classes), *[""] * len(PAPER.classes)
    ]  # fmt: skip


def test_the_scale_of_weights_ends_where_they_end_or_at_the_limit():
    *_, scale, bars = weight_figure().axes
    assert scale.get_xlim() == bars.get_xlim() == pytest.approx((0, np.log2(3.5)))
    *_, scale, _ = weight_figure(limits=(1, 2)).axes
    assert [tick.get_text() for tick in scale.get_xticklabels()] == ["1", "1.5", "2+"]


def test_the_panels_of_a_teacher_carry_its_name_and_can_be_had_alone():
    def titles(figure: Figure) -> list[str]:
        return [ax.get_title() for ax in figure.axes[:-2]]

    both = ["teacher T1", "weight alpha of teacher T1"]
    assert titles(weight_figure(teacher="teacher T1")) == ["image", "labels", *both]
    assert titles(weight_figure(teacher="teacher T1", all_pictures=False)) == both


def test_classes_of_like_colours_are_named_in_the_picture_where_there_is_room():
    labels = street()
    figure = plots.views(picture(), {"labels": labels}, PAPER, columns=2)
    places = {text.get_text(): text.get_position() for text in figure.axes[1].texts}
    assert {"car", "truck"} <= places.keys() and "bus" not in places
    for name, (column, row) in places.items():
        assert labels[round(row), round(column)] == CHANNEL[name]
    assert not overlaps(figure, figure.axes[1].texts)


def test_the_class_sets_of_a_confusion_matrix_are_separated_and_named():
    (ax, _) = plots.confusion(counts(PAPER), "CIL", PAPER).axes
    ends = [stage.new.stop for stage in PAPER.stages[:-1]]
    across = [
        line.get_xdata()[0] for line in ax.lines if line.get_xdata()[0] == line.get_xdata()[1]
    ]
    down = [line.get_ydata()[0] for line in ax.lines if line.get_ydata()[0] == line.get_ydata()[1]]
    assert set(ends) <= set(across) and set(ends) <= set(down)
    names = [text.get_text() for text in ax.texts if "mathcal" in text.get_text()]
    assert names == [rf"$\mathcal{{S}}_{{{k}}}$" for k in (1, 2, 3)] * 2
    (plain, _) = plots.confusion(counts(PAPER)).axes
    assert not plain.lines


def test_a_log_scale_has_plain_numbers():
    figure = FIGURES["shares"]()
    figure.savefig(BytesIO())
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels(which="both")]
    assert "5" in ticks and not any("10^" in tick for tick in ticks)


def test_the_axes_of_losses_say_what_they_show():
    for name in ("losses", "training"):
        ax = FIGURES[name]().axes[0]
        assert ax.get_xlabel() == "epoch" and "loss" in ax.get_ylabel()


def test_a_loss_term_has_one_colour_in_all_panels():
    one, two = FIGURES["losses"]().axes
    (ce,) = one.lines
    same, other = two.lines
    assert ce.get_color() == same.get_color() != other.get_color()


def test_the_first_figure_of_a_notebook_is_shown():
    source = (
        "import torch\nfrom cilkit import plots\nfrom cilkit.splits import load_split\n"
        "plots.views(torch.rand(3, 8, 16), {'a': torch.zeros(8, 16).long()}, load_split())"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert "image/png" in notebook.cells[0].outputs[-1]["data"]
