"""Figures, returned and never shown: the last line of a cell shows what it gets, once.

Colours of classes are those of the split file, VOID is black. Panels always come in the order
image, labels, then models from old to new.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy import ndimage
from torch import Tensor

from cilkit.classes import Split, task_title
from cilkit.methods import FIRST_STAGE, METHODS, SS
from cilkit.study.runs import score_columns

WIDTH = 11  # inches, of a figure that fills a notebook's page
MOST_BARS, MOST_PANELS = 60, 4  # side by side, so that numbers can be read
TEXT = 7  # points, of the names on a picture
WEIGHTS = ("1", "2", "4", "8+")  # ticks of the one scale of alpha, in powers of 2
# left, bottom, width and height of four pictures, in parts of the figure
_CORNERS = [(x, y, 0.33, 0.41) for y in (0.53, 0.07) for x in (0.01, 0.35)]


def label_picture(labels: Tensor, split: Split) -> np.ndarray:
    """Labels or predicted channels (H, W) in the colours of the split, (H, W, 3) uint8."""
    return split.palette()[labels.cpu().numpy().astype(np.uint8)]


def scenes(
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    split: Split,
    titles: Sequence[str] | None = None,
    columns: int = 3,
) -> Figure:
    """Images with their labels below, `columns` in a row, and a legend of the classes in sight.

    images (3, H, W) in [0, 1], labels (H, W) in channels
    """
    rows = -(-len(images) // columns)
    fig, axes = _panels(2 * rows, columns, images[0], legend=_seen(labels))
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        _show(axes[2 * row, column], _picture(image), titles[i] if titles else "")
        _show(axes[2 * row + 1, column], label_picture(label, split))
    return _finish(fig, _seen(labels), split)


def views(
    image: Tensor,
    views: Mapping[str, Tensor],
    split: Split,
    columns: int = 3,
    image_title: str = "image",
) -> Figure:
    """One image beside several label pictures of it: what stages see, or what models predict.

    image (3, H, W) in [0, 1]; views: title -> (H, W) channels
    """
    panels = [(image_title, _picture(image))]
    panels += [(title, label_picture(view, split)) for title, view in views.items()]
    classes = _seen(list(views.values()))
    fig, axes = _panels(-(-len(panels) // columns), columns, image, legend=classes)
    for ax, (title, picture) in zip(axes.flat, panels, strict=False):
        _show(ax, picture, title)
    return _finish(fig, classes, split)


def prediction_grid(
    images: Sequence[Tensor], rows: Mapping[str, Sequence[Tensor]], split: Split
) -> Figure:
    """Fig. 4: a column an image; below it the ground truth and each method's prediction.

    images (3, H, W) in [0, 1]; rows: name -> one (H, W) of channels for each image
    """
    classes = _seen([view for row in rows.values() for view in row])
    fig, axes = _panels(1 + len(rows), len(images), images[0], legend=classes)
    for column, image in enumerate(images):
        _show(axes[0, column], _picture(image))
        for row, pictures in enumerate(rows.values(), start=1):
            _show(axes[row, column], label_picture(pictures[column], split))
    for ax, name in zip(axes[:, 0], ["image", *rows], strict=True):
        ax.set_ylabel(name, fontsize=10)
    return _finish(fig, classes, split)


def maps(
    image: Tensor, maps: Mapping[str, Tensor], limits: tuple[float, float] | None = None
) -> Figure:
    """An image beside maps of one value a pixel, such as a mask or the weights of eq. (10).

    image (3, H, W) in [0, 1]; maps: title -> (H, W); `limits` fix the colour scale for all
    """
    fig, axes = _panels(1, 1 + len(maps), image, extra=0.3)
    _show(axes[0, 0], _picture(image), "image")
    for ax, (title, values) in zip(axes[0, 1:], maps.items(), strict=True):
        low, high = limits or (values.min().item(), values.max().item())
        drawn = ax.imshow(values.float().numpy(), cmap="viridis", vmin=low, vmax=high)
        ax.set_title(title, fontsize=10)
        ax.set(xticks=[], yticks=[])
        fig.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.8, pad=0.03)
    plt.close(fig)
    return fig


def class_shares(shares: pd.DataFrame, split: Split) -> Figure:
    """Share of labelled pixels by class, a bar for each column of `shares`, on a log scale.

    shares: rows are class names, columns are sets of images, values in %
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    sets = shares.shape[1]
    palette = sns.color_palette("colorblind" if sets <= 10 else "husl", sets)
    shares.plot.bar(ax=ax, width=0.8, color=palette)
    ax.set(yscale="log", ylabel="share of labelled pixels [%]", xlabel="")
    for stage in split.stages:
        if stage.number > 1:
            ax.axvline(stage.new.start - 0.5, color="0.6", linewidth=0.8)
        middle = (stage.new.start + stage.new.stop - 1) / 2
        ax.text(
            middle, 1.02, f"$S_{stage.number}$", ha="center", transform=ax.get_xaxis_transform()
        )
    ax.set_xlim(-0.6, len(shares) - 0.4)
    _slant_names(ax)
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False} if sets > 4 else {}
    ax.legend(title=shares.columns.name, **beside)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def loss_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """The loss terms of each training by epoch, a panel a training, lines named as in the equation.

    histories: title -> history of a run
    """
    width = min(WIDTH, 4 * len(histories) + 1)
    fig, axes = plt.subplots(
        1, len(histories), figsize=(width, 3.2), layout="constrained", squeeze=False, sharey=True
    )
    for ax, (title, history) in zip(axes.flat, histories.items(), strict=True):
        _draw_terms(ax, history)
        ax.set_title(title)
    axes[0, 0].set_ylabel("loss")
    axes[0, 0].set_ylim(0, 1.05 * axes[0, 0].get_ylim()[1])  # room for a dot at the top
    sns.despine(fig)
    plt.close(fig)
    return fig


def training(name: str, history: pd.DataFrame) -> Figure:
    """A training as far as it is: its loss terms, and the scores of its monitor images."""
    tasks = score_columns(history)
    columns = -(-len(tasks) // 11)  # of the legend; more do not fit below each other
    size = (9 + 1.2 * max(0, columns - 1), 3)
    fig, (terms, scores) = plt.subplots(1, 2, figsize=size, layout="constrained")
    _draw_terms(terms, history)
    terms.set(title=f"{name}: loss", ylim=(0, 1.05 * terms.get_ylim()[1]))
    scored = history.set_index("epoch")[tasks].dropna()
    if columns > 1:
        scores.set_prop_cycle(color=sns.color_palette("husl", len(tasks)))
    for task, values in scored.items():
        scores.plot(values.index, values, "o-", label=task_title(task))
    scores.set(title=f"{name}: mIoU of a few images [%]", xlabel="epoch", ylim=(0, 100))
    for ax in (terms, scores):
        ax.set_xlim(0.5, len(history) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    scores.grid(alpha=0.3)
    if not scored.empty:
        small = {"fontsize": 8, "ncols": columns} if columns > 1 else {}
        scores.legend(loc="upper left", bbox_to_anchor=(1, 1.1), frameon=False, **small)
    sns.despine(fig)
    plt.close(fig)
    return fig


def _draw_terms(ax: Axes, history: pd.DataFrame) -> None:
    other = ["epoch", "learning_rate", "seconds", *score_columns(history)]
    for term in history.columns.drop(other):
        line = "o" if len(history) == 1 else "-"
        name = term.replace("_", r"\_")
        ax.plot(history["epoch"], history[term], line, label=f"$J^{{\\mathrm{{{name}}}}}$")
    ax.set_xlabel("epoch")
    ax.grid(alpha=0.3)
    ax.legend()


def iou_bars(ious: Mapping[str, pd.Series], split: Split) -> Figure:
    """IoU of each class, a group a class and a bar a model; a gap where a model has no such class.

    ious: model -> IoU in % by class name
    """
    table = pd.DataFrame(ious)
    table = table.loc[[name for name in split.names() if name in table.index]]
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    table.plot.bar(ax=ax, width=0.8, color=_colours(table.columns))
    ax.set(ylabel="IoU [%]", ylim=(0, 100), xlabel="")
    _slant_names(ax)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(ncols=table.shape[1], loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def iou_heatmap(ious: Mapping[str, pd.Series], split: Split) -> Figure:
    """IoU of each class (columns) and model (rows) in %, the stages separated by lines."""
    table = pd.DataFrame(ious).T
    table = table[[name for name in split.names() if name in table.columns]]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.6 + 0.36 * len(table)), layout="constrained")
    sns.heatmap(
        table, ax=ax, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f",
        annot_kws={"size": 8}, cbar_kws={"label": "IoU [%]"},
    )  # fmt: skip
    for stage in split.stages[:-1]:
        ax.axvline(stage.new.stop, color="white", linewidth=3)
    _slant_names(ax)
    ax.tick_params(axis="y", rotation=0)
    plt.close(fig)
    return fig


def score_bars(scores: pd.DataFrame) -> Figure:
    """mIoU by class set, a group a class set and a bar a model.

    scores: rows are models, columns are class sets (task1, task2, ...), values in %. What is too
    much for one axes goes on in the next one below.
    """
    table = scores.rename(columns=task_title).T
    groups = max(1, min(8, MOST_BARS // len(scores)))  # of one axes
    rows = -(-len(table) // groups)
    groups = -(-len(table) // rows)  # so that all are equally full
    size = (min(WIDTH, 3 + 1.6 * groups), 0.6 + 2.8 * rows)
    fig, axes = plt.subplots(rows, figsize=size, layout="constrained", squeeze=False)
    for row, ax in enumerate(axes.flat):
        part = table.iloc[groups * row : groups * (row + 1)]
        part.plot.bar(ax=ax, width=0.8, color=_colours(table.columns), rot=0, legend=False)
        for bars, model in zip(ax.containers, table.columns, strict=True):
            numbers = ["" if np.isnan(value) else f"{value:.0f}" for value in part[model]]
            ax.bar_label(bars, numbers, fontsize=8)
        ax.set(ylabel="mIoU [%]", ylim=(0, 100), xlabel="", xlim=(-0.5, groups - 0.5))
    axes[0, 0].legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    sns.despine(fig)
    plt.close(fig)
    return fig


def confusion(counts: pd.DataFrame, title: str = "") -> Figure:
    """A confusion matrix by rows: of the pixels labelled so, the share predicted so, in %.

    counts: rows are labels, columns are predictions, in pixels
    """
    shares = 100 * counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    side = 2.4 + 0.36 * len(counts)
    fig, ax = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
    sns.heatmap(
        shares, ax=ax, vmin=0, vmax=100, cmap="viridis", square=True, annot=True, fmt=".0f",
        annot_kws={"size": 8}, cbar_kws={"label": "share of the row [%]", "shrink": 0.8},
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="labelled", title=title)
    _slant_names(ax)
    ax.tick_params(axis="y", rotation=0)
    plt.close(fig)
    return fig


def claim_margins(ledger: pd.DataFrame) -> Figure:
    """How far each claim of the paper holds (right of the line) or does not, there and here.

    ledger: as from `claims.check`; lines are 95 % intervals where there are two seeds or more
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 1 + 0.36 * len(ledger)), layout="constrained")
    rows = range(len(ledger))
    blue, orange = sns.color_palette("colorblind", 2)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.scatter(ledger["paper"], rows, marker="D", facecolor="none", edgecolor=blue, label="paper")
    ax.scatter(ledger["margin"], rows, color=orange, label="here")
    ax.hlines(rows, ledger["low"], ledger["high"], color=orange)
    ax.set_yticks(rows, ledger["claim"], fontsize=9)
    ax.set(xlabel="margin [points of mIoU]: does not hold < 0 < holds", ylim=(len(ledger), -1))
    ax.grid(axis="x", alpha=0.3)
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def seed_dots(
    scores: pd.DataFrame, paper: pd.DataFrame, methods: Sequence[str], split: Split
) -> Figure:
    """The cross-task score after each extension, a row a method: a seed a dot, their mean a line.

    scores: as from `runs.scores`; paper: as from `paper_scores`, hollow diamonds; methods: the
    rows from top to bottom. A seed has the same height in every row, the first one on top.
    """
    later = split.stages[1:]
    rows = -(-len(later) // MOST_PANELS)
    columns = -(-len(later) // rows)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, rows * (1.2 + 0.42 * len(methods))),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax in axes.flat[len(later) :]:
        ax.remove()
    axes = axes.flat[: len(later)]
    seeds = sorted(scores["seed"].unique())
    heights = dict(zip(seeds, _spread_out(len(seeds)), strict=True))
    for ax, at in zip(axes, later, strict=True):
        stage, task = at.name, at.joint_task
        shown = scores[(scores["stage"] == stage) & (scores["task"] == task)]
        for row, (method, colour) in enumerate(zip(methods, _colours(methods), strict=True)):
            of_one = shown[shown["method"] == method]
            dots = row + of_one["seed"].map(heights)
            ax.scatter(of_one["miou"], dots, s=34, color=colour, zorder=3)
            ax.vlines(of_one["miou"].mean(), row - 0.4, row + 0.4, color=colour, linewidth=2)
            published = paper[task].get((stage, method), np.nan)
            ax.scatter(published, row, s=60, marker="D", facecolor="none", edgecolor="0.35")
            ax.axhline(row + 0.5, color="0.9", linewidth=0.8, zorder=0)
        ax.set(title=f"after {stage}", xlabel=f"mIoU of {task_title(task)} [%]")
        ax.tick_params(labelbottom=True)  # also above another panel, or none
        ax.grid(axis="x", alpha=0.3)
        ax.tick_params(axis="y", length=0)
    axes[0].set_xlim(left=0)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    legend = _dot_legend(seeds, bool(paper.notna().any(axis=None)))
    fig.legend(handles=legend, loc="outside upper center", ncols=3, frameon=False)
    sns.despine(fig, left=True)
    plt.close(fig)
    return fig


def _spread_out(count: int) -> np.ndarray:
    """Heights in a row, from top to bottom and around its middle, so that no dot hides another."""
    return np.linspace(-0.28, 0.28, count) if count > 1 else np.zeros(count)


def _dot_legend(seeds: Sequence[int], paper: bool) -> list[Line2D]:
    grey = {"color": "0.35", "linestyle": ""}
    order = ", from top to bottom" if len(seeds) > 1 else ""
    dots = f"seed {', '.join(map(str, seeds))}{order}" if len(seeds) else "no run yet"
    entries = [
        Line2D([], [], marker="o", label=dots, **grey),
        Line2D([], [], marker="|", markersize=14, markeredgewidth=2, label="mean", **grey),
        Line2D([], [], marker="D", fillstyle="none", label="paper", **grey),
    ]
    return entries if paper else entries[:-1]


def entropy_weights(
    image: Tensor,
    labels: Tensor,
    prediction: Tensor,
    alpha: Tensor,
    split: Split,
    over_set: pd.Series,
    focus: str | None = None,
    opacity: float = 0.7,
    figure: Figure | None = None,
) -> Figure:
    """Image, labels, the teacher's prediction and its weights alpha, eq. (10), in all and by class.

    image (3, H, W) in [0, 1]; labels, prediction (H, W) channels; alpha (H, W); over_set: class ->
    mean alpha over a set of images, the bars; a dot is the mean over this image. `opacity` is that
    of labels, prediction and weights over the grey image; pixels not labelled as `focus` are
    dimmed. Bars carry the colours of the classes. Colours and bars have one scale of alpha, the
    same in every figure: 1 to 8, equal steps for equal factors; what is more is shown as 8.

    `figure` is one that this function returned before; it is drawn on again, which is faster.
    """
    scale_place, bars_place = (0.37, 0.05, 0.29, 0.025), (0.8, 0.12, 0.18, 0.8)
    fig = _sheet(figure, 4.6, [*_CORNERS, scale_place, bars_place])
    *panels, scale, bars = fig.axes
    size, here = labels.shape, _means(alpha, labels)
    image, labels, prediction, alpha = map(_thinned, (image, labels, prediction, alpha))
    grey = image.mean(dim=0).clamp(0, 1).numpy()[..., None]  # (h, w, 1)
    dim = np.float32(1)
    if focus is not None:
        dim = np.where(_labelled(labels, focus, split), 1, np.float32(0.25))[..., None]
    pictures = {
        "image": _picture(image),
        "labels": _over(grey, _rgb(label_picture(labels, split)), opacity),
        "teacher": _over(grey, _rgb(label_picture(prediction, split)), opacity),
        "weight alpha": _over(grey, _weight_colours(alpha.log2().numpy()), opacity),
    }
    for ax, (title, picture) in zip(panels, pictures.items(), strict=True):
        _show(ax, picture * dim, title, size)
        ax.axis("off")
    ramp = _weight_colours(np.linspace(0, len(WEIGHTS) - 1, 256))[None]  # (1, 256, 3)
    scale.imshow(ramp, aspect="auto", extent=(0, len(WEIGHTS) - 1, 0, 1))
    scale.set(yticks=[])
    _bars_by_class(bars, over_set, here, split)
    for ax in (scale, bars):
        ax.set_xticks(range(len(WEIGHTS)), WEIGHTS)
    return fig


def pixel(
    image: Tensor,
    labels: Tensor,
    teacher_y: Tensor,
    logits: Tensor,
    split: Split,
    row: int,
    column: int,
    terms: Mapping[str, float],
    negative_gradient: Tensor,
    figure: Figure | None = None,
) -> Figure:
    """One pixel: what teacher and student predict, and the negative gradient for each channel.

    image (3, H, W) in [0, 1]; labels (H, W) as the method may see them; teacher_y (O, H, W)
    probabilities; logits (S, H, W) of the student; terms: name -> value at the pixel in nats;
    negative_gradient (S,) of their sum by logit, which notebooks call the push. A cross marks the
    pixel in every picture. The scales of push and terms reach at least 1 and 4, and further only
    for what is larger.

    `figure` is one that this function returned before; it is drawn on again, which is faster.
    """
    places = [(0.01 + 0.2475 * i, 0.655, 0.2375, 0.29) for i in range(4)]
    places += [(0.09, 0.38, 0.68, 0.22), (0.09, 0.13, 0.68, 0.22), (0.87, 0.13, 0.12, 0.47)]
    fig = _sheet(figure, 5, places)
    *panels, says, pushed, values = fig.axes
    pictures = {
        "image": _picture(_thinned(image)),
        "labels it may see": label_picture(_thinned(labels), split),
        "teacher": label_picture(_thinned(teacher_y).argmax(dim=0), split),
        "student": label_picture(_thinned(logits).argmax(dim=0), split),
    }
    for ax, (title, picture) in zip(panels, pictures.items(), strict=True):
        _show(ax, picture, title, labels.shape)
        ax.axis("off")
        for colour, size in (("black", 13), ("white", 10)):
            ax.plot(column, row, "+", color=colour, markersize=size, markeredgewidth=size / 5)
    count = len(negative_gradient)  # of logits
    teacher_here = torch.zeros(count)
    teacher_here[: len(teacher_y)] = teacher_y[:, row, column]
    student_here = logits[:, row, column].softmax(dim=0)  # (S,)
    blue, orange, green = sns.color_palette("colorblind", 3)
    where = np.arange(count)
    says.bar(where - 0.2, teacher_here.tolist(), 0.4, color=blue, label="teacher")
    says.bar(where + 0.2, student_here.tolist(), 0.4, color=orange, label="student")
    says.set(ylim=(0, 1.05), ylabel="probability")
    says.legend(fontsize=8, frameon=False, ncols=2)
    colours = [green if value > 0 else "0.5" for value in negative_gradient.tolist()]
    pushed.bar(where, negative_gradient.tolist(), color=colours)
    pushed.axhline(0, color="0.4", linewidth=0.8)
    most = 1.05 * max(1, negative_gradient.abs().max().item())
    pushed.set(ylim=(-most, most), ylabel="push on the logit")
    colours = split.palette()[:count] / 255  # below the axis, as a legend of the pictures
    pushed.scatter(where, np.full(count, -most), 60, colours, marker="s", clip_on=False, zorder=3)
    says.set_xticks([])
    names = split.names()[:count]
    pushed.set_xticks(where, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    for ax in (says, pushed):
        ax.yaxis.set_label_coords(-0.07, 0.5)
        ax.axvline(len(teacher_y) - 0.5, color="0.6", linestyle=":", linewidth=1)  # old | new
        ax.set_xlim(-0.8, count - 0.2)
    values.bar(range(len(terms)), terms.values(), color="0.4")
    values.set_xticks(range(len(terms)), terms, rotation=30, ha="right", fontsize=8)
    values.set_ylim(0, 1.05 * max(4, *terms.values()))
    values.set_xlim(-0.6, len(terms) - 0.4)
    values.set_title("terms [nats]", fontsize=10)
    return fig


def distributions(rows: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Probability distributions over classes as bars, a panel each, on one scale.

    rows: title -> (S,) probabilities
    """
    fig, axes = plt.subplots(
        1, len(rows), figsize=(min(WIDTH, len(rows) * max(3.2, 0.5 * len(names))), 2.8),
        layout="constrained", squeeze=False, sharey=True,
    )  # fmt: skip
    for ax, (title, values) in zip(axes.flat, rows.items(), strict=True):
        bars = ax.bar(range(len(values)), values.tolist(), color="#4477aa")
        ax.bar_label(bars, [f"{value:.2f}" for value in values.tolist()], fontsize=8)
        ax.set_xticks(range(len(values)), names[: len(values)], rotation=45, ha="right")
        ax.set_title(title, fontsize=10)
    axes[0, 0].set(ylabel="probability", ylim=(0, 1.1))
    sns.despine(fig)
    plt.close(fig)
    return fig


def curves(
    x: Tensor, lines: Mapping[str, Tensor], xlabel: str, ylabel: str, title: str = ""
) -> Figure:
    """Plain curves over a common axis. x (n,), lines: label -> (n,)"""
    fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    styles = ["-", "--", "-.", ":"]  # so that equal curves do not hide each other
    for label, y in lines.items():
        ax.plot(x, y, styles[len(ax.lines) % len(styles)], label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(alpha=0.3)
    ax.legend(
        loc="upper left", bbox_to_anchor=(1, 1), frameon=False
    )  # beside, not over, the curves
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def feature_maps(features: Mapping[str, Tensor], most: int = 6) -> Figure:
    """The first few channels of several layers, a row a layer, each on its own grey scale.

    features: layer -> (C, h, w)
    """
    first = next(iter(features.values()))
    fig, axes = _panels(len(features), most, first)
    for row, (name, layer) in zip(axes, features.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for ax, channel in zip(row, layer[:most], strict=False):
            _show(ax, channel.float().numpy())
    plt.close(fig)
    return fig


def _panels(
    rows: int, columns: int, image: Tensor, legend: Sequence[int] = (), extra: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """A grid of empty panels in the shape of `image`, with room for a legend below."""
    panel = WIDTH / columns
    height = rows * (panel * image.shape[-2] / image.shape[-1] + 0.12 + extra)
    legend_rows = -(-len(legend) // 7)
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height + 0.22 * legend_rows + 0.3), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return fig, axes


def _sheet(
    figure: Figure | None, height: float, places: Sequence[tuple[float, float, float, float]]
) -> Figure:
    """A figure of empty axes at `places`: a new one, or an old one rid of what was drawn on it.

    To make axes with their ticks takes as long as to draw on them.
    """
    if figure is None:
        figure = Figure(figsize=(WIDTH, height))
        for place in places:
            ax = figure.add_axes(place)
            ax.set_title("", y=1)  # it stays there, and so do labels: no text is measured for them
            ax.xaxis.set_label_coords(0.5, 0)
            ax.yaxis.set_label_coords(0, 0.5)
            sns.despine(ax=ax)
    for ax in figure.axes:
        for artist in [*ax.containers, *ax.collections, *ax.images, *ax.lines]:
            artist.remove()
        ax.relim()
    return figure


def _thinned(x: Tensor) -> Tensor:
    """A map (..., H, W) with about as many pixels as a panel of a figure can show."""
    step = max(1, x.shape[-1] // 512)
    return x[..., ::step, ::step]


def _show(
    ax: Axes, picture: np.ndarray, title: str = "", size: tuple[int, int] | None = None
) -> None:
    """Show a picture in an axes that counts pixels, those of `size` if it was thinned out."""
    height, width = size or picture.shape[:2]
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(picture, cmap="gray", interpolation="nearest", extent=place)
    if title:
        ax.set_title(title, fontsize=10)


def _colours(models: Sequence[str]) -> list[tuple[float, float, float]]:
    """A colour for each model: a method keeps its own in all figures, with or without a stage."""
    palette = sns.color_palette("colorblind", 10)
    own = dict(zip((FIRST_STAGE.name, *METHODS, SS.name), palette, strict=False))
    names = [model if model in own else re.sub(r" \w+$", "", model) for model in models]
    names = [name if name in own else model for name, model in zip(names, models, strict=True)]
    taken = [own.get(name) for name in names]
    free = [colour for colour in palette if colour not in taken]
    others = iter([*free, *sns.color_palette("husl", len(names))])
    return [own[name] if name in own else next(others) for name in names]


def _slant_names(ax: Axes) -> None:
    """Turn the class names below an axis so that none covers its neighbour."""
    ax.tick_params(axis="x", rotation=45)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")


def _picture(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).clamp(0, 1).numpy()  # (H, W, 3)


def _seen(labels: Sequence[Tensor]) -> list[int]:
    """The channels that occur in some label pictures, VOID last."""
    return sorted({int(value) for label in labels for value in label.unique()})


def _finish(fig: Figure, classes: Sequence[int], split: Split) -> Figure:
    """Add the legend of the classes in sight, and close."""
    colours = split.palette() / 255
    patches = [
        Patch(
            facecolor=colours[channel],
            edgecolor="0.5",
            label=split.label_name(channel),
        )
        for channel in classes
    ]
    fig.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    plt.close(fig)
    return fig


def city_colours(colours: Mapping[str, Tensor], groups: Mapping[str, str]) -> Figure:
    """Cities by brightness and warmth (red minus blue) of their images, a marker for each group.

    colours: city -> (n, 3) mean colours of n images, in [0, 1]; groups: city -> its set of images.
    Dots have the mean colour of their city, lines reach one standard deviation to either side.
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    markers = dict(zip(dict.fromkeys(groups.values()), cycle("osD^vP*X<>phd8"), strict=False))
    looks = {
        city: np.stack([colour.mean(dim=1), colour[:, 0] - colour[:, 2]])  # (2, n)
        for city, colour in colours.items()
    }
    dots = np.array([look.mean(axis=1) for look in looks.values()])  # (cities, 2)
    for (city, look), dot in zip(looks.items(), dots, strict=True):
        (x, y), (dx, dy) = dot, look.std(axis=1)
        ax.errorbar(x, y, dy, dx, color="0.85", zorder=1)
        ax.scatter(
            x, y, s=110, color=colours[city].mean(dim=0).tolist(), marker=markers[groups[city]],
            edgecolor="black", zorder=2,
        )  # fmt: skip
        right, up = ((dots - dot) / np.ptp(dots, axis=0)).T  # to the other dots
        crowded = np.any((right > 0) & (right < 0.1) & (abs(up) < 0.08))
        ax.annotate(
            city, (x, y), (-8 if crowded else 8, 3), textcoords="offset points", fontsize=8,
            ha="right" if crowded else "left", zorder=3,
        )  # fmt: skip
    for group, marker in markers.items():
        ax.scatter([], [], s=60, color="white", marker=marker, edgecolor="black", label=group)
    ax.set(xlabel="brightness", ylabel="warmth (red minus blue)")
    columns = min(7, len(markers))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def _bars_by_class(ax: Axes, over_set: pd.Series, here: Tensor, split: Split) -> None:
    """Mean alpha by class: bars over a set, sorted, and dots `here` (256,), in powers of 2."""
    shown = over_set.dropna().sort_values()
    channels = [split.channel(name) for name in shown.index]
    rows, colours = range(len(shown)), split.palette()[channels] / 255
    ax.barh(rows, np.log2(shown), color=colours, edgecolor="0.5", linewidth=0.5)
    ax.scatter(
        here[channels].log2().clamp(max=len(WEIGHTS) - 1), rows, color="black", s=14, zorder=3
    )
    ax.set_yticks(rows, shown.index, fontsize=8)
    ax.set(xlim=(0, len(WEIGHTS) - 1), ylim=(-0.6, len(shown) - 0.4))
    ax.set_title("mean alpha by class\nbar: the set, dot: this image", fontsize=9)


def _means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of a map (H, W) by label, (256,); NaN for a label that does not occur."""
    sums = torch.bincount(labels.flatten(), values.flatten().double(), 256)
    return sums / torch.bincount(labels.flatten(), minlength=256)


def _weight_colours(powers: np.ndarray) -> np.ndarray:
    """The colour of weights 2**powers (...), on the one scale for them, (..., 3)."""
    return plt.get_cmap("viridis")(powers / (len(WEIGHTS) - 1))[..., :3].astype(np.float32)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return picture / np.float32(255)


def _labelled(labels: Tensor, name: str, split: Split) -> Tensor:
    return labels == split.channel(name)  # (H, W)


def _over(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    return (1 - opacity) * below + opacity * above


def segmentation(
    image: Tensor,
    labels: Tensor,
    entropy: Tensor,
    shares: pd.Series,
    split: Split,
    title: str,
) -> Figure:
    """A picture, what a network predicts over it, how uncertain it is, and the share of each class.

    image (3, H, W) in [0, 1]; labels (h, w) channels and entropy (h, w) in bits, stretched over the
    image; shares: class -> % of the picture, largest first. The bars are the legend as well: they
    carry the colours of the classes, and the largest region of a class has its name on it.
    """
    size = height, width = image.shape[-2:]
    columns = 4 if height > 1.2 * width else 1 if width > 4 * height else 2
    fig, axes = _panels(4 // columns, columns, image, extra=0.35)
    if columns == 1:  # of a panorama, and more room for the bars
        strip = WIDTH * height / width + 0.4
        axes[0, 0].get_gridspec().set_height_ratios([strip, strip, strip, 3])
        fig.set_figheight(3 * strip + 4)
    else:
        least = 4.5 if columns == 4 else 6.5
        fig.set_figheight(min(9, max(least, fig.get_figheight())))
    photograph, overlay, uncertainty, bars = axes.flat
    _show(photograph, _picture(image), "picture")
    _show(overlay, _picture(image).mean(axis=2), "prediction over the picture")
    _show(overlay, label_picture(labels, split), size=size)
    overlay.images[-1].set_alpha(0.6)
    _name_regions(overlay, labels, split, 0.9 * WIDTH / columns)
    drawn = uncertainty.imshow(
        entropy.numpy(), cmap="viridis", vmin=0, extent=overlay.images[-1].get_extent()
    )
    uncertainty.set_title("entropy of the prediction [bits]", fontsize=10)
    bar = fig.colorbar(drawn, ax=uncertainty, orientation="horizontal", shrink=0.8, pad=0.03)
    bar.set_label(f"0: certain; {np.log2(len(shares)):.1f}: all classes alike", fontsize=8)
    for ax in axes.flat[:3]:
        ax.set_anchor("N")  # in line, though one has a scale below
    _bars_of_shares(bars, shares, split)
    fig.suptitle(title, fontsize=10, parse_math=False)  # a file name may hold $
    plt.close(fig)
    return fig


def _bars_of_shares(ax: Axes, shares: pd.Series, split: Split) -> None:
    """The shares of the classes that occur, the largest on top; of more than 20 these."""
    occurring = shares[shares > 0]
    shown = occurring.head(20)[::-1]
    colours = split.palette()[[split.channel(name) for name in shown.index]] / 255
    drawn = ax.barh(range(len(shown)), shown, color=colours, edgecolor="0.5", linewidth=0.5)
    texts = [f"{share:.1f}" if share >= 0.05 else "< 0.1" for share in shown]
    ax.bar_label(drawn, texts, fontsize=8, padding=3)
    ax.set_yticks(range(len(shown)), shown.index, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set(xlim=(0, 1.2 * shown.max()), ylim=(min(0, len(shown) - 12) - 0.6, len(shown) - 0.4))
    largest = ", the 20 largest" if len(occurring) > 20 else ""
    ax.set_title(f"share of the picture [%]{largest}", fontsize=10)


def _name_regions(ax: Axes, labels: Tensor, split: Split, width: float) -> None:
    """Write the name of each class into its largest region, where that is thickest.

    labels (h, w) channels; `width` of the panel in inches. A region is left out that is thinner
    than a line of text, or where a larger one has its name already.
    """
    left, right, bottom, top = ax.images[-1].get_extent()
    labels = _thinned(labels)
    scale = width * 72 / labels.shape[1]  # points for each pixel of the labels
    places = []
    for channel in _seen([labels]):
        regions, _ = ndimage.label((labels == channel).numpy())
        largest = regions == np.bincount(regions.flat)[1:].argmax() + 1
        depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]  # to the border
        places.append((depth.max(), *np.unravel_index(depth.argmax(), depth.shape), channel))
    taken = []
    for radius, row, column, channel in sorted(places, reverse=True):
        name = split.label_name(channel)
        wide, high = 0.7 * TEXT * len(name) / scale, 1.3 * TEXT / scale
        column = np.clip(column, wide / 2, max(wide / 2, labels.shape[1] - wide / 2))
        covered = any(abs(row - r) < high and abs(column - c) < (wide + w) / 2 for r, c, w in taken)
        if covered or 2 * radius < high:
            continue
        taken.append((row, column, wide))
        x = left + (column + 0.5) * (right - left) / labels.shape[1]
        y = top + (row + 0.5) * (bottom - top) / labels.shape[0]
        text = ax.text(x, y, name, color="white", fontsize=TEXT, ha="center", va="center")
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])
