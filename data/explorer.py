"""Draw explorer.gif of the README from the runs of `make study`: python data/explorer.py"""

from io import BytesIO
from pathlib import Path

from PIL import Image

from cilkit import Study, plots
from cilkit.explore.pixels import Answers, class_entropy, weights
from cilkit.explore.widgets import LIMITS

SCENE = 15  # of the test images
TEMPERATURES = [0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0, 2.4, 2.8, 3.4, 4.0]
WIDTH = 700  # pixels
SHOWN_FOR = 700  # milliseconds


def frames(study: Study) -> list[Image.Image]:
    """The explorer of 11_entropy_weights while its slider `temperature` moves; RGB, WIDTH wide."""
    first, *_, last = study.split.stages
    images = study.data.test_set(last.name, study.config.height, native_labels=False)
    answers = Answers(study.run(first.name).network(), images, study.config)
    entropies = class_entropy(answers, study.split, TEMPERATURES)
    pixels, labels = images[SCENE]
    logits = answers[SCENE]  # (S, H, W)
    drawn, figure = [], None
    for temperature in TEMPERATURES:
        figure = plots.entropy_weights(
            pixels, labels, logits.argmax(dim=0), weights(logits, temperature), study.split,
            1 + entropies.loc[temperature], figure=figure,
            teacher=f"{first.name} at temperature {temperature}", limits=LIMITS,
        )  # fmt: skip
        png = BytesIO()
        figure.savefig(png, dpi=WIDTH / figure.get_figwidth())
        drawn.append(Image.open(png).convert("RGB"))
    return drawn


def with_one_palette(pictures: list[Image.Image]) -> list[Image.Image]:
    """RGB pictures of one size in 256 colours that all share, so that nothing flickers."""
    width, height = pictures[0].size
    column = Image.new("RGB", (width, height * len(pictures)))
    for k, picture in enumerate(pictures):
        column.paste(picture, (0, k * height))
    column = column.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    tops = range(0, column.height, height)
    return [column.crop((0, top, width, top + height)) for top in tops]


if __name__ == "__main__":
    file = Path(__file__).with_name("explorer.gif")
    first, *others = with_one_palette(frames(Study("toyscapes", "data/runs", "quick", seed=0)))
    first.save(file, save_all=True, append_images=others, duration=SHOWN_FOR, loop=0)
    print(file)
