"""A picture of your own through the network of a run: `python -m cilkit.predict RUN IMAGE`.

In a notebook, `segment(run, image)` returns the same: `.shares` and `.figure()`.
"""

import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2 import functional

from cilkit.checks import check_path
from cilkit.classes import channels_of
from cilkit.data.photograph import read_photograph
from cilkit.data.store import network_size
from cilkit.explore import plots
from cilkit.files import resolve, write_atomic
from cilkit.losses import entropy
from cilkit.study import runs
from cilkit.study.runs import Run
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import predict

USAGE = "python -m cilkit.predict data/runs/toyscapes/quick/seed0/CIL_T3 street.jpg"
TOYSCAPES_HEIGHT = 128  # of the scenes that the kit draws
LEAST_SIDE, MOST_PIXELS = 16, 2**22  # of what a network sees
SHOWN_SIDE = 1600  # pixels of the longer side of the picture in a figure
DRAWN_ONLY = (
    "This network has only seen drawn streets (Toyscapes): on a photograph of a real street, "
    "expect large errors."
)


@dataclass(frozen=True)
class Segmentation:
    """What the network of a run predicts for a picture.

    image    (3, H, W)  in [0, 1], for figures: at most `SHOWN_SIDE` pixels on its longer side
    labels   (h, w)     predicted channels of the run's split, at the size that the network sees
    entropy  (h, w)     of its softmax in bits, 0 (certain) to log2 S
    """

    run: Run
    name: str
    image: Tensor
    labels: Tensor
    entropy: Tensor
    classes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Which picture it is, and which run segmented it."""
        config = self.run.config
        made_by = f"{config['method']} after {config['stage']}"
        trained = f"{config['data']}, {config['preset']}, seed {config['seed']}"
        return f"{self.name}, segmented by {made_by} ({trained})"

    @property
    def expectation(self) -> str:
        """A sentence for a network that has never seen a photograph, else ""."""
        return DRAWN_ONLY if _is_toy(self.run) else ""

    @property
    def shares(self) -> pd.Series:
        """The share of each class that the network knows, in % of the picture, largest first."""
        counts = torch.bincount(self.labels.flatten(), minlength=256)
        channels = [self.run.split.channel(name) for name in self.classes]
        shares = 100 * counts[channels] / self.labels.numel()
        named = pd.Series(shares.tolist(), self.classes, name="share [%]")
        return named.sort_values(ascending=False, kind="stable")

    def figure(self) -> Figure:
        """The picture, the prediction over it with the share of each class, and its entropy."""
        config = self.run.config
        model = f"{config['method']} after {config['stage']}, {config['data']} {config['preset']}"
        titles = (self.name.replace("$", r"\$"), model, "entropy of the prediction [bit]")
        same = (self.image, self.labels, self.entropy, self.shares)
        return plots.segmentation(*same, self.run.split, titles)


def segment(run: Run, image: Path | str) -> Segmentation:
    """Segment a JPEG or PNG of any size with the network of a finished run.

    The picture is scaled as the images of the training were: to the height of the run's
    configuration, never enlarged, in multiples of 8. A network of Toyscapes has only seen drawn
    streets, 128 pixels high: on a photograph of a real street, expect large errors.

    A relative path starts where you are, or else at the project folder. Raises FileNotFoundError
    for an image that is not there, and ValueError for one that cannot be read, is too small, or
    too long.
    """
    check_path("IMAGE", image)
    file = _given(image)
    pixels = read_photograph(file)  # (3, H, W)
    train, native = run.config["train"], tuple(pixels.shape[1:])
    height = min(train["height"], TOYSCAPES_HEIGHT) if _is_toy(run) else train["height"]
    size = network_size(native, height)
    _check_size(file, native, size)
    seen = functional.resize(pixels, size, antialias=True)[None] / 255  # (1, 3, h, w)
    network = run.network()
    logits = predict(network, seen, TrainConfig(precision=train["precision"]))  # (1, S, h, w)
    stage = run.split.stage(run.config["stage"])
    # of the second teacher of LWM, the new classes alone
    known = stage.seen if network.num_classes == stage.seen.stop else stage.labelled
    channels = torch.tensor(channels_of(known))
    shown = min(1, SHOWN_SIDE / max(native))
    small = [max(1, round(side * shown)) for side in native]
    return Segmentation(
        run,
        file.name,
        functional.resize(pixels, small, antialias=True) / 255,
        channels[logits.argmax(dim=1)[0]],
        entropy(logits.softmax(dim=1))[0],
        tuple(run.split.names(known)),
    )


def main(*given: str) -> None:
    """Segment a picture, print the share of each class, and write the figure where you are.

        python -m cilkit.predict RUN IMAGE

    RUN is the folder of a finished run, of any data set; IMAGE is a JPEG or PNG. The figure is
    IMAGE_RUN.png in the current folder, with a number behind it if there is such a file already.
    Paths and errors are as in `segment`; an OSError says that the figure cannot be written.
    """
    if len(given) != 2:
        raise ValueError(
            f"given {' '.join(given) or 'nothing'}; wanted the folder of a run and an image: "
            f"{USAGE} (quote a name with spaces: 'my street.jpg')"
        )
    folder = _given(given[0])
    if folder.is_file():
        raise ValueError(f"{folder} is a file; wanted the folder of a run first: {USAGE}")
    found = segment(runs.load(folder), given[1])
    file = _write(found.figure(), f"{Path(found.name).stem}_{found.run.folder.name}")
    occurs = found.shares > 0
    print(found.title, "\n", sep="")
    print(found.shares[occurs].to_frame().to_string(float_format="{:.1f}".format))
    if not occurs.all():
        print(f"\nNot predicted: {', '.join(found.shares.index[~occurs])}.")
    print("", *filter(None, [found.expectation]), f"Figure: {file}", sep="\n")


def _is_toy(run: Run) -> bool:
    return run.config["data"] == "toyscapes"


def _given(path: Path | str) -> Path:
    """A path as it was typed: from where you are, or from the project folder."""
    here = Path(path).expanduser().absolute()
    return here if here.exists() or not resolve(path).exists() else resolve(path)


def _check_size(file: Path, native: tuple[int, int], size: list[int]) -> None:
    (height, width), (h, w) = native, size
    came = f"{file} is {height} pixels high and {width} wide, for the network {h} and {w}"
    if min(size) < LEAST_SIDE:
        raise ValueError(
            f"{came}; wanted {LEAST_SIDE} or more of both: take a larger picture, or a wider part"
        )
    if h * w > MOST_PIXELS:
        raise ValueError(
            f"{came}; wanted at most {MOST_PIXELS} pixels in all: cut it into several pictures"
        )


def _write(figure: Figure, name: str) -> Path:
    """Write a figure into the current folder, under a name that is still free."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=200)
    file, number = Path.cwd() / f"{name}.png", 1
    while file.exists():
        number += 1
        file = Path.cwd() / f"{name}-{number}.png"
    try:
        write_atomic(file, drawn.getvalue())
    except OSError as error:
        raise OSError(
            f"{file} cannot be written ({error}); go to a folder with room in which you may write"
        ) from error
    return file


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
