"""What an epoch pays beside its steps, and what large images cost to read."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from benchmarks.scenes import SPLIT, STAGE, as_if_large, write_samples
from benchmarks.timing import Row, interleaved, now, seconds, threads
from cilkit.data.augmentation import Augmented
from cilkit.data.images import LabelledImages
from cilkit.data.scenes import StreetScenes, open_data
from cilkit.files import ROOT
from cilkit.methods import METHODS
from cilkit.networks.erfnet import ERFNet
from cilkit.training import loop
from cilkit.training.config import PRESETS, TrainConfig
from cilkit.training.stage import fit_stage

CAMVID = Path(os.environ.get("CAMVID", ROOT.parent / "shared" / "camvid"))


def epoch(epochs: int = 2, most: int = 60) -> list[Row]:
    """The share of an epoch that is not spent in steps, with the preset `quick`."""
    config = replace(PRESETS["quick"], epochs=epochs)
    rows = [idle_row("Toyscapes", open_data("toyscapes"), config, most)]
    if CAMVID.is_dir():
        return [*rows, idle_row("CamVid", open_data(CAMVID), config, most)]
    why = "no folder ../shared/camvid; the environment variable CAMVID names another"
    return [*rows, Row("share of an epoch not in steps, CamVid", 0, "%", 5, skipped=why)]


def idle_row(name: str, data: StreetScenes, config: TrainConfig, most: int) -> Row:
    """The last epoch of a CIL T2 training on at most `most` images: what its steps leave of it."""
    stage = data.split.stage("T2")
    images = data.stage("T2", height=config.height)
    images = images.subset(range(min(most, len(images))))
    batches, in_steps, whole = loop._batches, 0.0, 0.0

    def timed(*arguments: object) -> Iterator:
        nonlocal in_steps, whole
        began, in_steps = now(), 0.0  # a new epoch
        for batch in batches(*arguments):
            started = now()
            yield batch
            in_steps += now() - started
        whole = now() - began

    with patch("cilkit.training.loop._batches", timed):
        fit_stage(METHODS["CIL"], images, stage, ERFNet(stage.old.stop), config)
    share = 1 - in_steps / whole
    return Row(f"share of an epoch not in steps, {name}", 100 * share, "%", 5)


def reading(count: int = 12, size: tuple[int, int] = (1024, 2048), repeats: int = 9) -> list[Row]:
    """Samples of a data set too large to keep decoded, on one core, with the paper's choices."""
    config = PRESETS["paper"]

    def all_of(get: Callable[[int], object], cache: str) -> Callable[[], None]:
        def work() -> None:
            with patch.dict(os.environ, {"CILKIT_CACHE": cache}):
                for index in range(count):
                    get(index)

        return work

    with as_if_large() as folder, threads(1):
        samples = write_samples(folder, count, size)
        images = LabelledImages(samples, SPLIT, STAGE.new, config.height)
        making = seconds(images.prepare)
        augmented = Augmented(images, config.augmentation, seed=0)
        time = interleaved(
            {
                f"{what} {how}": all_of(get, cache)
                for what, get in (("image", images.load), ("sample", augmented.__getitem__))
                for how, cache in (("decoded", "off"), ("cached", str(folder / "cache")))
            },
            repeats,
        )
    at = "{} x {}".format(*size)
    return [
        Row(f"{at}: cache made", count / making, "images/s"),
        *(Row(f"{at}: {name}", 1000 * value / count, "ms") for name, value in time.items()),
        Row(
            f"{at}: sample decoded / sample cached",
            time["sample decoded"] / time["sample cached"], "x", 10, "at least",
        ),
    ]  # fmt: skip
