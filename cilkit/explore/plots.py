"""Figures, returned and never shown: the last line of a cell shows what it gets, once.

Colours of classes are those of the split file, VOID is black; those of methods and stages are in
`colours`. Panels always come in the order image, labels, then models from old to new.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy.ndimage import uniform_filter
from torch import Tensor

from cilkit.classes import Split, Stage, task_title
from cilkit.explore.colours import LINES, colours, hatches
from cilkit.study.runs import score_columns

WIDTH = 10  # inches, of a figure that fills a notebook's page
TEXT = 10  # points, of the smallest text: 8 where a page shows the figure at four fifths
LINE, GAP = 0.2, 0.08  # inches: a line of text, and between two pictures
MOST_BARS, MOST_PANELS = 30, 4  # side by side, so that numbers can be read
MASK = ("#f5b82e", "#27346b")  # inside and outside of a mask
ALIKE = 90  # two classes whose colours are less than this apart (RGB, 0-255) are named in pictures
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}  # a legend
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "frameon": False}
TINY = 32  # pixels of a picture's width up to which each is drawn as a box
ALPHAS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)  # ticks of a scale of weights
# left, bottom, width and height of pictures, in parts of the figure: four, or two
_CORNERS = [(x, y, 0.33, 0.41) for y in (0.53, 0.07) for x in (0.01, 0.35)]
_STACKED = [(0.01, y, 0.67, 0.39) for y in (0.55, 0.1)]


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
    titles = list(titles or [""] * len(images))
    rows = [titles[i : i + columns] for i in range(0, len(images), columns)]
    grid = [row for titled in rows for row in (titled, [""] * len(titled))]
    legend = _class_legend(_seen(labels), split)
    fig, axes = _panels(grid, columns, images[0].shape[-2:], legend)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        _show(axes[2 * row][column], _picture(image))
        _show_labels(axes[2 * row + 1][column], label, split)
    return fig


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
    titles = [image_title, *views]
    grid = [titles[i : i + columns] for i in range(0, len(titles), columns)]
    legend = _class_legend(_seen(list(views.values())), split)
    fig, axes = _panels(grid, columns, image.shape[-2:], legend)
    first, *others = [ax for row in axes for ax in row]
    _show(first, _picture(image))
    for ax, view in zip(others, views.values(), strict=True):
        _show_labels(ax, view, split)
    return fig


def prediction_grid(
    images: Sequence[Tensor], rows: Mapping[str, Sequence[Tensor]], split: Split
) -> Figure:
    """Fig. 4: a column an image; below it the ground truth and each method's prediction.

    images (3, H, W) in [0, 1]; rows: name -> one (H, W) of channels for each image
    """
    seen = _seen([view for row in rows.values() for view in row])
    grid = [[""] * len(images)] * (1 + len(rows))
    legend = _class_legend(seen, split)
    fig, axes = _panels(grid, len(images), images[0].shape[-2:], legend, ["image", *rows])
    for ax, image in zip(axes[0], images, strict=True):
        _show(ax, _picture(image))
    for row, pictures in zip(axes[1:], rows.values(), strict=True):
        for ax, labels in zip(row, pictures, strict=True):
            _show_labels(ax, labels, split)
    return fig


def maps(
    image: Tensor,
    maps: Mapping[str, Tensor],
    limits: tuple[float, float] | None = None,
    words: tuple[str, str] = ("in the mask", "not in the mask"),
    unit: str = "",
) -> Figure:
    """An image beside masks or maps of one value a pixel, such as the weights of eq. (10).

    image (3, H, W) in [0, 1]; maps: title -> (h, w), drawn in the size of the image. A map of bool
    is a mask of two colours, and `words` say in a legend what is True and what is False there. All
    other maps have one scale, of `unit`: `limits`, or from the least to the largest value shown.
    """
    columns = dict(enumerate(maps.values(), 1))
    values = {k: shown.float() for k, shown in columns.items() if shown.dtype != torch.bool}
    masks = {k: shown for k, shown in columns.items() if k not in values}
    legend = [_patch(*entry) for entry in zip(MASK, words, strict=True)] if masks else []
    size = image.shape[-2:]
    fig, [axes] = _panels([["image", *maps]], 1 + len(columns), size, legend, bar=list(values))
    _show(axes[0], _picture(image))
    inside, outside = np.array([to_rgb(colour) for colour in MASK])
    for k, mask in masks.items():
        _show(axes[k], np.where(mask[..., None], inside, outside), size=size)
    if values:
        low = min(shown.min().item() for shown in values.values())
        high = max(shown.max().item() for shown in values.values())
        for k, shown in values.items():
            _show(axes[k], shown.numpy(), size=size)
            axes[k].images[0].set(cmap="viridis", clim=limits or (low, high))
        fig.colorbar(axes[k].images[0], cax=fig.axes[-1], orientation="horizontal")
        fig.axes[-1].set_ylabel(unit, fontsize=TEXT, rotation=0, ha="right", va="center")
    return fig


def segmentation(
    image: Tensor,
    labels: Tensor,
    entropy: Tensor,
    shares: pd.Series,
    split: Split,
    titles: Sequence[str],
) -> Figure:
    """A picture, what a network predicts over it, and where it is uncertain, in bits.

    image (3, H, W) in [0, 1]; labels (h, w) channels and entropy (h, w), stretched over the image;
    shares: class -> % of the picture, largest first, in the legend; `titles` of the three panels.
    """
    size = image.shape[-2:]
    columns = 1 if size[1] > 4 * size[0] else 3  # of a panorama, one below the other
    grid = [list(titles)] if columns == 3 else [[title] for title in titles]
    palette = split.palette() / 255
    legend = [
        _patch(
            palette[split.channel(name)],
            f"{name} {share:.1f} %" if share >= 0.05 else f"{name} < 0.1 %",
        )
        for name, share in shares[shares > 0].items()
    ]
    fig, axes = _panels(grid, columns, size, legend, bar=[columns - 1])
    photograph, overlay, uncertain = [ax for row in axes for ax in row]
    _show(photograph, _picture(image))
    _show(overlay, np.repeat(_picture(image).mean(axis=2, keepdims=True), 3, axis=2))
    _show(overlay, label_picture(labels, split), size)
    overlay.images[-1].set_alpha(0.6)
    _name_regions(overlay, labels, split, size)
    _show(uncertain, entropy.numpy(), size)
    uncertain.images[0].set(cmap="viridis", clim=(0, max(0.1, entropy.max().item())))
    fig.colorbar(uncertain.images[0], cax=fig.axes[-1], orientation="horizontal")
    return fig


def class_shares(shares: pd.DataFrame, split: Split) -> Figure:
    """Share of labelled pixels by class, a bar for each column of `shares`, on a log scale.

    shares: rows are class names, columns are sets of images, values in %
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    _bars(ax, shares)
    ax.set(yscale="log", ylabel="share of labelled pixels [%]", xlabel="")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # 5, not 5 x 10^0
    ax.yaxis.set_minor_formatter(NullFormatter())
    for stage in split.stages:
        if stage.number > 1:
            ax.axvline(stage.new.start - 0.5, color="0.6", linewidth=0.8)
        middle = (stage.new.start + stage.new.stop - 1) / 2
        ax.text(middle, 1.02, _set_name(stage), ha="center", transform=ax.get_xaxis_transform())
    ax.set_xlim(-0.6, len(shares) - 0.4)
    _slant_names(ax)
    ax.legend(title=shares.columns.name, **BESIDE)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def loss_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """The loss terms of each training by epoch, a panel a training, lines named as in the equation.

    histories: title -> history of a run. A term has one colour in all panels.
    """
    width = min(WIDTH, 3.8 * len(histories) + 1.6)
    fig, axes = plt.subplots(
        1, len(histories), figsize=(width, 3.2), layout="constrained", squeeze=False, sharey=True
    )
    terms = list(dict.fromkeys(term for history in histories.values() for term in _terms(history)))
    for ax, (title, history) in zip(axes.flat, histories.items(), strict=True):
        _draw_terms(ax, history, terms)
        ax.set_title(title)
    axes[0, 0].set_ylim(0, 1.05 * axes[0, 0].get_ylim()[1])  # room for a dot at the top
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    lines = {line.get_label(): line for ax in axes.flat for line in ax.lines}
    fig.legend(handles=list(lines.values()), loc="outside right upper", fontsize=12, frameon=False)
    sns.despine(fig)
    plt.close(fig)
    return fig


def training(name: str, history: pd.DataFrame) -> Figure:
    """A training as far as it is: its loss terms, and the scores of its monitor images."""
    tasks = score_columns(history)
    columns = -(-len(tasks) // 11)  # of the legend; more do not fit below each other
    size = (WIDTH + 1.2 * max(0, columns - 1), 3)
    fig, (terms, scores) = plt.subplots(1, 2, figsize=size, layout="constrained")
    _draw_terms(terms, history, _terms(history))
    terms.set(title=f"{name}: loss", ylim=(0, 1.05 * terms.get_ylim()[1]))
    terms.legend(fontsize=12, **BESIDE)
    scored = history.set_index("epoch")[tasks].dropna().rename(columns=task_title)
    for (task, values), colour in zip(scored.items(), colours(scored.columns), strict=True):
        scores.plot(values.index, values, "o-", label=task, color=colour)
    scores.set(title=f"{name}: a few test images", xlabel="epoch", ylim=(0, 100))
    scores.set_ylabel("mIoU [%]")
    for ax in (terms, scores):
        ax.set_xlim(0.5, len(history) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    scores.grid(alpha=0.3)
    if not scored.empty:
        small = {"fontsize": 8, "ncols": columns} if columns > 1 else {}
        scores.legend(**BESIDE | {"bbox_to_anchor": (1, 1.1)}, **small)
    sns.despine(fig)
    plt.close(fig)
    return fig


def _terms(history: pd.DataFrame) -> list[str]:
    """The names of the loss terms of a training."""
    return list(
        history.columns.drop(["epoch", "learning_rate", "seconds", *score_columns(history)])
    )


def _draw_terms(ax: Axes, history: pd.DataFrame, terms: Sequence[str]) -> None:
    """Those of `terms` that a training has, each in the colour of its place in the list."""
    shades = dict(zip(terms, cycle(LINES), strict=False))
    for term in _terms(history):
        line = "o" if len(history) == 1 else "-"
        name = term.replace("_", r"\_")
        label = f"$J^{{\\mathrm{{{name}}}}}$"
        ax.plot(history["epoch"], history[term], line, color=shades[term], label=label)
    ax.set(xlabel="epoch", ylabel="loss, mean of an epoch")
    ax.grid(alpha=0.3)


def iou_bars(ious: Mapping[str, pd.Series], split: Split) -> Figure:
    """IoU of each class, a group a class and a bar a model; a gap where a model has no such class.

    A bar too low to be seen has its number.

    ious: model -> IoU in % by class name
    """
    table = pd.DataFrame(ious)
    table = table.loc[[name for name in split.names() if name in table.index]]
    fig, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    _bars(ax, table)
    _number_bars(ax, table, below=1)
    ax.set(ylabel="IoU [%]", ylim=(0, 100), xlabel="")
    _slant_names(ax)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    across = _legend_columns(table.columns)
    ax.legend(handles=_in_rows(ax.containers, across), ncols=across, **ABOVE)
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
        annot_kws={"size": TEXT}, cbar_kws={"label": "IoU [%]"},
    )  # fmt: skip
    _mark_sets(ax, split, columns=table.columns)
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
    width = max(3 + 1.6 * groups, 0.9 + 0.3 * groups * len(scores))
    size = (min(WIDTH, width), 0.6 + 2.8 * rows)
    fig, axes = plt.subplots(rows, figsize=size, layout="constrained", squeeze=False)
    for row, ax in enumerate(axes.flat):
        part = table.iloc[groups * row : groups * (row + 1)]
        _bars(ax, part, rot=0)
        _number_bars(ax, part)
        ax.set(ylabel="mIoU [%]", ylim=(0, 105), xlabel="", xlim=(-0.5, groups - 0.5))
    lines = -(-len(scores) // 5)  # of the legend, all equally full
    across = min(-(-len(scores) // lines), _legend_columns(table.columns))
    axes[0, 0].legend(handles=_in_rows(axes[0, 0].containers, across), ncols=across, **ABOVE)
    sns.despine(fig)
    plt.close(fig)
    return fig


def confusion(counts: pd.DataFrame, title: str = "", split: Split | None = None) -> Figure:
    """A confusion matrix by rows: of the pixels labelled so, the share predicted so, in %.

    counts: rows are labels, columns are predictions, in pixels. With `split`, these are names of
    its classes, and lines separate the class sets S1, S2, ...
    """
    shares = 100 * counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    high, wide = (2.4 + 0.36 * names for names in counts.shape)
    fig, ax = plt.subplots(figsize=(min(WIDTH, wide + 1.4), high), layout="constrained")
    sns.heatmap(
        shares, ax=ax, vmin=0, vmax=100, cmap="viridis", square=True, annot=True, fmt=".0f",
        annot_kws={"size": TEXT}, cbar_kws={"label": "share of the row [%]", "shrink": 0.8},
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="labelled")
    ax.set_title(title, pad=6 if split is None else 22)
    if split is not None:
        _mark_sets(ax, split, counts.columns, counts.index)
    _slant_names(ax)
    ax.tick_params(axis="y", rotation=0)
    plt.close(fig)
    return fig


def _mark_sets(
    ax: Axes, split: Split, columns: Sequence[str], rows: Sequence[str] | None = None
) -> None:
    """Lines between the class sets of a heat map, and their names above it and to its right."""
    for names, across in ((columns, True), (rows, False)):
        start = 0
        for stage in split.stages if names is not None else ():
            here = sum(name in split.names(stage.new) for name in names)
            if here:
                (ax.axvline if across else ax.axhline)(start, color="white", linewidth=3)
                middle = start + here / 2
                at, along = ((middle, 1.01), "x") if across else ((1.01, middle), "y")
                transform = getattr(ax, f"get_{along}axis_transform")()
                side = {"ha": "center", "va": "bottom"} if across else {"va": "center"}
                ax.text(*at, _set_name(stage), transform=transform, **side)
            start += here


def _set_name(stage: Stage) -> str:
    return rf"$\mathcal{{S}}_{{{stage.number}}}$"


def claim_margins(ledger: pd.DataFrame) -> Figure:
    """How far each claim of the paper holds (right of the line) or does not, there and here.

    ledger: as from `claims.check`; lines are 95 % intervals where there are two seeds or more
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 1 + 0.44 * len(ledger)), layout="constrained")
    rows = range(len(ledger))
    blue, orange = LINES[:2]
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.scatter(ledger["paper"], rows, marker="D", facecolor="none", edgecolor=blue, label="paper")
    ax.scatter(ledger["margin"], rows, color=orange, label="here")
    ax.hlines(rows, ledger["low"], ledger["high"], color=orange)
    ax.set_yticks(rows, [fill(claim, 56) for claim in ledger["claim"]], fontsize=TEXT)
    ax.set(xlabel="margin [points of mIoU]: does not hold < 0 < holds")
    ax.set_ylim(len(ledger) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(ncols=2, **ABOVE)
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
        for row, (method, colour) in enumerate(zip(methods, colours(methods), strict=True)):
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
    *,
    teacher: str = "teacher",
    limits: tuple[float, float] | None = None,
    all_pictures: bool = True,
) -> Figure:
    """Image, labels, the teacher's prediction and its weights alpha, eq. (10), in all and by class.

    image (3, H, W) in [0, 1]; labels, prediction (H, W) channels; alpha (H, W); over_set: class ->
    mean alpha over a set of images, the bars; a dot is the mean over this image. `opacity` is that
    of labels, prediction and weights over the grey image; pixels not labelled as `focus` are
    dimmed. Bars carry the colours of the classes. `teacher` is its name in the titles. Without
    `all_pictures`, prediction and weights alone are drawn, for an image that stands above.

    Colours and bars have one scale of alpha, equal steps for equal factors: from 1 to the largest
    value shown, or `limits`, so that figures can be compared; what is beyond is shown as the limit.

    `figure` is one that this function returned before; it is drawn on again, which is faster.
    """
    places = _CORNERS if all_pictures else _STACKED
    scale_place = (0.37 if all_pictures else 0.2, 0.055, 0.29, 0.025)
    fig = _sheet(figure, 4.6, [*places, scale_place, (0.8, 0.12, 0.18, 0.78)])
    *panels, scale, bars = fig.axes
    known = over_set.dropna()
    low, high = limits or (1, max(2, alpha.max().item(), known.max()))
    span = np.log2([low, high])
    size, here = labels.shape, _means(alpha, labels)
    image, labels, prediction, alpha = map(_thinned, (image, labels, prediction, alpha))
    grey = image.mean(dim=0).clamp(0, 1).numpy()[..., None]  # (h, w, 1)
    dim = np.float32(1)
    if focus is not None:
        dim = np.where(_labelled(labels, focus, split), 1, np.float32(0.25))[..., None]
    pictures = {
        "image": _picture(image),
        "labels": _over(grey, _rgb(label_picture(labels, split)), opacity),
        teacher: _over(grey, _rgb(label_picture(prediction, split)), opacity),
        f"weight alpha of {teacher}": _over(
            grey, _weight_colours(alpha.log2().numpy(), span), opacity
        ),
    }
    shown = list(pictures.items())[-len(panels) :]
    for ax, (title, picture) in zip(panels, shown, strict=True):
        _show(ax, picture * dim, size)
        ax.set_title(title, fontsize=TEXT)
        ax.axis("off")
    for ax, channels in zip(
        panels[-3:-1], (labels, prediction)[-len(panels[-3:-1]) :], strict=True
    ):
        _name_regions(ax, channels, split, size)
    scale.imshow(
        _weight_colours(np.linspace(*span, 256), span)[None], aspect="auto", extent=(*span, 0, 1)
    )
    scale.set(yticks=[])
    _bars_by_class(bars, known, here, split, span)
    ticks = [alpha for alpha in ALPHAS if low <= alpha <= high]
    names = [f"{tick:g}" for tick in ticks]
    if limits is not None and ticks[-1] == high:
        names[-1] += "+"
    for ax in (scale, bars):
        ax.set_xticks(np.log2(ticks), names)
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
    places = [(0.01 + 0.2475 * i, 0.69, 0.2375, 0.26) for i in range(4)]
    places += [(0.09, 0.41, 0.68, 0.21), (0.09, 0.16, 0.68, 0.21), (0.87, 0.16, 0.12, 0.46)]
    fig = _sheet(figure, 5.2, places)
    *panels, says, pushed, values = fig.axes
    pictures = {
        "image": _picture(_thinned(image)),
        "labels it may see": label_picture(_thinned(labels), split),
        "teacher": label_picture(_thinned(teacher_y).argmax(dim=0), split),
        "student": label_picture(_thinned(logits).argmax(dim=0), split),
    }
    for ax, (title, picture) in zip(panels, pictures.items(), strict=True):
        _show(ax, picture, labels.shape)
        ax.set_title(title, fontsize=TEXT)
        ax.axis("off")
        for colour, size in (("black", 13), ("white", 10)):
            ax.plot(column, row, "+", color=colour, markersize=size, markeredgewidth=size / 5)
    count = len(negative_gradient)  # of logits
    teacher_here = torch.zeros(count)
    teacher_here[: len(teacher_y)] = teacher_y[:, row, column]
    student_here = logits[:, row, column].softmax(dim=0)  # (S,)
    blue, orange, green = LINES[:3]
    where = np.arange(count)
    says.bar(where - 0.2, teacher_here.tolist(), 0.4, color=blue, label="teacher")
    says.bar(where + 0.2, student_here.tolist(), 0.4, color=orange, label="student")
    says.set(ylim=(0, 1.05), ylabel="probability")
    says.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, frameon=False, ncols=2)
    shades = [green if value > 0 else "0.5" for value in negative_gradient.tolist()]
    pushed.bar(where, negative_gradient.tolist(), color=shades)
    pushed.axhline(0, color="0.4", linewidth=0.8)
    most = 1.05 * max(1, negative_gradient.abs().max().item())
    pushed.set(ylim=(-most, most), ylabel="push on the logit")
    shades = split.palette()[:count] / 255  # below the axis, as a legend of the pictures
    pushed.scatter(where, np.full(count, -most), 60, shades, marker="s", clip_on=False, zorder=3)
    says.set_xticks([])
    names = split.names()[:count]
    pushed.set_xticks(where, names, rotation=30, ha="right", rotation_mode="anchor")
    for ax in (says, pushed):
        ax.yaxis.set_label_coords(-0.07, 0.5)
        ax.axvline(len(teacher_y) - 0.5, color="0.6", linestyle=":", linewidth=1)  # old | new
        ax.set_xlim(-0.8, count - 0.2)
    values.bar(range(len(terms)), terms.values(), color="0.4")
    values.set_xticks(range(len(terms)), terms, rotation=30, ha="right")
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
        bars = ax.bar(range(len(values)), values.tolist(), color=LINES[0])
        ax.bar_label(bars, [f"{value:.2f}" for value in values.tolist()], fontsize=TEXT)
        ax.set_xticks(range(len(values)), names[: len(values)], rotation=45, ha="right")
        ax.set_title(title)
    axes[0, 0].set(ylabel="probability", ylim=(0, 1.1))
    sns.despine(fig)
    plt.close(fig)
    return fig


def curves(
    x: Tensor, lines: Mapping[str, Tensor], xlabel: str, ylabel: str, title: str = ""
) -> Figure:
    """Plain curves over a common axis. x (n,), lines: label -> (n,)"""
    fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    styles = cycle(["-", "--", "-.", ":"])  # so that equal curves do not hide each other
    for (label, y), colour, style in zip(lines.items(), colours(list(lines)), styles, strict=False):
        ax.plot(x, y, style, color=colour, label=label, linewidth=2)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(alpha=0.3)
    ax.legend(**BESIDE)
    sns.despine(ax=ax)
    plt.close(fig)
    return fig


def feature_maps(features: Mapping[str, Tensor], most: int = 6) -> Figure:
    """The first few channels of several layers, a row a layer, each on its own grey scale.

    features: layer -> (C, h, w)
    """
    first = next(iter(features.values()))
    grid = [[""] * min(most, len(layer)) for layer in features.values()]
    fig, axes = _panels(grid, most, first.shape[-2:], rows=list(features))
    for row, layer in zip(axes, features.values(), strict=True):
        for ax, channel in zip(row, layer, strict=False):
            _show(ax, channel.float().numpy(), first.shape[-2:])
    return fig


def _panels(
    titles: Sequence[Sequence[str]],
    columns: int,
    size: Sequence[int],
    legend: Sequence[Patch] = (),
    rows: Sequence[str] = (),
    bar: Sequence[int] = (),
) -> tuple[Figure, list[list[Axes]]]:
    """Empty panels of pictures of one `size` (H, W), each below its title, on one grid.

    `rows` name the rows, at their left. Below are the last axes, for a scale of the colours in the
    columns `bar`, and a `legend`. All is placed in inches: no title moves a picture out of its row.
    """
    left = 2 * LINE if rows else 0
    wide = (WIDTH - left - (columns - 1) * GAP) / columns
    high = wide * size[0] / size[1]
    titles = [[_wrapped(title, wide) for title in row] for row in titles]
    heads = [LINE * max(title.count("\n") + bool(title) for title in row) for row in titles]
    names = [patch.get_label() for patch in legend]
    across = _legend_columns(names)
    key = LINE * (-(-len(legend) // across) + 0.5) if legend else 0
    below = key + (2.4 * LINE if bar else 0)
    tall = sum(heads) + len(titles) * (high + GAP) + below
    fig, axes, top = _figure(tall), [], tall
    for row, head in zip(titles, heads, strict=True):
        top -= head + high
        axes.append([])
        for column, title in enumerate(row):
            x = left + column * (wide + GAP)
            ax = fig.add_axes((x / WIDTH, top / tall, wide / WIDTH, high / tall), anchor="N")
            ax.set(xticks=[], yticks=[])
            ax.set_title(title, fontsize=TEXT, pad=3)
            ax.spines[:].set(color="0.6", linewidth=0.6)
            axes[-1].append(ax)
        top -= GAP
    for row, name in zip(axes, rows, strict=bool(rows)):
        row[0].set_ylabel(_wrapped(name, high), fontsize=TEXT)
    if legend:
        fig.legend(
            handles=_in_rows(legend, across), loc="lower center", ncols=across, fontsize=TEXT,
            frameon=False, borderaxespad=0, handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip
    if bar:
        start, end = (left + column * (wide + GAP) for column in (min(bar), max(bar) + 1))
        middle = (start + end - GAP) / 2
        width = min(5, 0.8 * (end - GAP - start))
        place = (middle - width / 2, below - LINE, width, 0.12)
        fig.add_axes((place[0] / WIDTH, place[1] / tall, place[2] / WIDTH, place[3] / tall))
    return fig, axes


def _figure(height: float) -> Figure:
    """An empty figure; one that pyplot did not make would be no picture as a notebook's first."""
    fig = plt.figure(figsize=(WIDTH, height))
    plt.close(fig)
    return fig


def _wrapped(text: str, inches: float) -> str:
    """A text in lines of some inches; one with an equation stays as it is."""
    return text if "$" in text else fill(text, max(8, int(inches / 0.09)), break_long_words=False)


def _legend_columns(names: Sequence[str]) -> int:
    """How many names stand side by side in the legend of a figure."""
    longest = max(map(len, names), default=1)
    return max(1, min(len(names), int(WIDTH / (0.45 + 0.07 * longest))))


def _in_rows(handles: Sequence, across: int) -> list:
    """The entries of a legend in the order in which they fill it row by row, not by column."""
    return [handle for column in range(across) for handle in handles[column::across]]


def _sheet(
    figure: Figure | None, height: float, places: Sequence[tuple[float, float, float, float]]
) -> Figure:
    """A figure of empty axes at `places`: a new one, or an old one rid of what was drawn on it.

    To make axes with their ticks takes as long as to draw on them.
    """
    if figure is None:
        figure = _figure(height)
        for place in places:
            ax = figure.add_axes(place)
            ax.set_title("", y=1)  # it stays there, and so do labels: no text is measured for them
            ax.xaxis.set_label_coords(0.5, 0)
            ax.yaxis.set_label_coords(0, 0.5)
            sns.despine(ax=ax)
    for ax in figure.axes:
        for artist in [*ax.containers, *ax.collections, *ax.images, *ax.lines, *ax.texts]:
            artist.remove()
        ax.relim()
    return figure


def _thinned(x: Tensor) -> Tensor:
    """A map (..., H, W) with about as many pixels as a panel of a figure can show."""
    step = max(1, x.shape[-1] // 512)
    return x[..., ::step, ::step]


def _show(ax: Axes, picture: np.ndarray, size: Sequence[int] | None = None) -> None:
    """Show a picture in an axes that counts pixels, those of `size` if the picture has others."""
    height, width = size or picture.shape[:2]
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(picture, cmap="gray", interpolation="nearest", extent=place)
    if width <= TINY:
        ax.vlines(np.arange(width - 1) + 0.5, -0.5, height - 0.5, color="0.6", linewidth=0.6)
        ax.hlines(np.arange(height - 1) + 0.5, -0.5, width - 0.5, color="0.6", linewidth=0.6)


def _show_labels(ax: Axes, labels: Tensor, split: Split) -> None:
    _show(ax, label_picture(labels, split))
    if labels.shape[1] > TINY:
        _name_regions(ax, labels, split)


def _name_regions(
    ax: Axes, labels: Tensor, split: Split, size: Sequence[int] | None = None
) -> None:
    """Write the names of classes whose colours are alike into their largest regions.

    labels (h, w); `size` as in `_show`. A name stands where it covers nearly nothing else, once a
    class; a region that is too small for it gets none. A small picture has fewer names, those of
    the later classes, which are the smaller things.
    """
    size, (h, w) = size or labels.shape, labels.shape
    box = ax.get_position()
    inches = min(
        box.width * ax.figure.get_figwidth(), box.height * ax.figure.get_figheight() * w / h
    )
    taken = []
    for channel in sorted(set(_seen([labels])) & _alike(split), reverse=True):
        name = split.label_name(channel)
        high, wide = (int(w * part / inches) for part in (1.3 * TEXT / 72, 0.085 * len(name)))
        here = (labels == channel).numpy().astype(np.float32)
        covered = uniform_filter(here, (max(1, high), max(1, wide)), mode="constant")
        covered[: high // 2], covered[h - high // 2 :] = 0, 0
        covered[:, : wide // 2], covered[:, w - wide // 2 :] = 0, 0
        around = uniform_filter(here, (3 * high + 1, 2 * wide + 1), mode="constant")
        row, column = np.unravel_index((covered + 0.3 * around).argmax(), here.shape)
        clear = all(
            abs(row - r) > (high + a) / 2 or abs(column - c) > (wide + b) / 2
            for r, c, a, b in taken
        )
        if covered[row, column] >= 0.7 and clear and len(taken) < inches:
            taken.append((row, column, high, wide))
            scale = size[1] / w
            ax.text(
                column * scale, row * scale, name, fontsize=TEXT, color="white", ha="center",
                va="center", path_effects=[withStroke(linewidth=2, foreground="black")],
            )  # fmt: skip


def _alike(split: Split) -> set[int]:
    """The classes whose colour is nearly that of another class."""
    shades = split.palette()[: len(split.classes)].astype(int)
    apart = np.linalg.norm(shades[:, None] - shades[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return set(np.flatnonzero(apart.min(axis=1) < ALIKE).tolist())


def _bars(ax: Axes, table: pd.DataFrame, **settings: object) -> None:
    """A group of bars a row and a bar a column, models and stages in their colours."""
    shades = colours(table.columns)
    table.plot.bar(ax=ax, width=0.8, color=shades, legend=False, **settings)
    for bars, hatch in zip(ax.containers, hatches(table.columns), strict=True):
        for bar in bars:
            bar.set(hatch=hatch, edgecolor="white", linewidth=0.5)


def _number_bars(ax: Axes, table: pd.DataFrame, below: float = np.inf) -> None:
    """Write the value above each bar of `_bars` that is lower than `below`; none has a NaN's."""
    for bars, model in zip(ax.containers, table.columns, strict=True):
        numbers = [f"{value:.0f}" if value < below else "" for value in table[model]]
        ax.bar_label(bars, numbers, fontsize=TEXT)


def _slant_names(ax: Axes) -> None:
    """Turn the names below an axis, if they are long, so that none covers its neighbour."""
    names = [label.get_text() for label in ax.get_xticklabels()]
    if max(map(len, names), default=0) > 4:
        ax.tick_params(axis="x", rotation=45)
        plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")


def _picture(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).clamp(0, 1).numpy()  # (H, W, 3)


def _seen(labels: Sequence[Tensor]) -> list[int]:
    """The channels that occur in some label pictures, VOID last."""
    return sorted({int(value) for label in labels for value in label.unique()})


def _class_legend(classes: Sequence[int], split: Split) -> list[Patch]:
    """The entries of the legend of the classes in sight."""
    palette = split.palette() / 255
    return [_patch(palette[channel], split.label_name(channel)) for channel in classes]


def _patch(colour: object, name: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="0.5", label=name)


def _bars_by_class(
    ax: Axes, over_set: pd.Series, here: Tensor, split: Split, span: np.ndarray
) -> None:
    """Mean alpha by class: bars over a set, sorted, and dots `here` (256,), in powers of 2."""
    shown = over_set.sort_values()
    channels = [split.channel(name) for name in shown.index]
    rows, shades = range(len(shown)), split.palette()[channels] / 255
    ax.barh(rows, np.log2(shown), color=shades, edgecolor="0.5", linewidth=0.5)
    ax.scatter(
        here[channels].log2().clamp(max=span[1]),
        rows,
        color="black",
        edgecolor="white",
        s=20,
        zorder=3,
        clip_on=False,
    )
    ax.set_yticks(rows, shown.index, fontsize=TEXT)
    ax.set(xlim=span, ylim=(-0.6, len(shown) - 0.4))
    ax.set_title("mean alpha by class\nbar: the set, dot: this image", fontsize=TEXT)


def _means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of a map (H, W) by label, (256,); NaN for a label that does not occur."""
    sums = torch.bincount(labels.flatten(), values.flatten().double(), 256)
    return sums / torch.bincount(labels.flatten(), minlength=256)


def _weight_colours(powers: np.ndarray, span: np.ndarray) -> np.ndarray:
    """The colour of weights 2**powers (...), on a scale of such powers, (..., 3)."""
    return plt.get_cmap("viridis")((powers - span[0]) / np.ptp(span))[..., :3].astype(np.float32)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return picture / np.float32(255)


def _labelled(labels: Tensor, name: str, split: Split) -> Tensor:
    return labels == split.channel(name)  # (H, W)


def _over(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    return (1 - opacity) * below + opacity * above
