"""Evaluation at native size, against a pass over the data for each class set."""

from dataclasses import replace

from benchmarks import textbook
from benchmarks.scenes import SPLIT, as_if_large, make_network, write_samples
from benchmarks.timing import Row, device, interleaved, peak_memory
from cilkit.data.images import LabelledImages
from cilkit.networks.erfnet import ERFNet
from cilkit.training.config import PRESETS, TrainConfig
from cilkit.training.evaluation import evaluate

STAGE = SPLIT.stage("T3")
SETS = SPLIT.class_sets(STAGE)  # five


def evaluation(count: int = 8, size: tuple[int, int] = (1024, 2048), repeats: int = 5) -> list[Row]:
    """All five scores of T3: time, counts, and memory, for the preset `paper`.

    Images come from the kit's cache on disk, as those of Cityscapes do from the second time on;
    labels at native size are decoded each time.
    """
    config = PRESETS["paper"]
    at = "{} x {}".format(*size)
    network, plain = (make_network(STAGE.seen.stop).to(device()) for _ in range(2))
    with as_if_large() as folder:
        samples = write_samples(folder, count, size)
        images = LabelledImages(samples, SPLIT, STAGE.seen, config.height, native_labels=True)
        few = images.subset(range(min(4, count)))
        memory = peak_memory(lambda: evaluate(network, images, SETS, config))
        one, ten = some_sets(1), some_sets(10)
        works = {
            "one": lambda: evaluate(network, few, one, config),
            "five": lambda: evaluate(network, few, SETS, config),
            "ten": lambda: evaluate(network, few, ten, config),
            "textbook": lambda: textbook.evaluate(plain, few, SETS),
        }
        time = interleaved(works, repeats)
        wrong = miscounted(plain, few, config)
    return [
        Row(f"evaluation at {at}, 5 class sets", 1000 * time["five"] / len(few), "ms an image"),
        Row(
            "textbook evaluation / evaluation", time["textbook"] / time["five"], "x", 20, "at least"
        ),
        Row("pixels counted otherwise than by the textbook, float32", wrong, "", 0),
        Row("10 class sets / 1 class set", time["ten"] / time["one"], "x", 1.1),
        Row(f"peak memory of tensors, {count} images", memory / 1e9, "GB", 1),
    ]


def some_sets(number: int) -> dict[str, slice]:
    """As many class sets, of all the classes, of all but the last, and so on."""
    return {f"to {k}": slice(0, STAGE.seen.stop - k) for k in range(number)}


def miscounted(network: ERFNet, images: LabelledImages, config: TrainConfig) -> int:
    """Pixels that the kit and the textbook count in different cells, both in float32."""
    scores = evaluate(network, images, SETS, replace(config, precision="32-true"))
    counts = textbook.evaluate(network, images, SETS)
    return sum((scores.counts[name] - counts[name]).abs().sum().item() // 2 for name in SETS)
