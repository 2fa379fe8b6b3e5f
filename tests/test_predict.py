"""A picture of one's own through the network of a run. All pictures are drawn here."""

import subprocess
import sys
from dataclasses import asdict
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import same_color
from PIL import ExifTags, Image
from torch import nn

from cilkit import predict as command
from cilkit.data import photograph
from cilkit.data.photograph import read_photograph
from cilkit.metrics import MeanIoU
from cilkit.networks import NETWORKS, Segmenter
from cilkit.predict import segment
from cilkit.splits import load_split
from cilkit.study import runs
from cilkit.study.provenance import plain, settings
from cilkit.toyscapes.write import write_toyscapes
from cilkit.training import evaluation
from cilkit.training.config import TrainConfig

SPLIT = load_split()
COLOURS = SPLIT.palette()
ROAD, SKY, CAR, BUS = map(SPLIT.channel, ("road", "sky", "car", "bus"))
# Pillow's way to store an upright picture for each orientation of EXIF, so that it is turned back
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class NearestColour(Segmenter):
    """Scores that are highest for the class whose colour is nearest to that of the pixel."""

    def new_encoder(self) -> nn.Module:
        return nn.Identity()

    def new_decoder(self, classes: int) -> nn.Module:
        return nn.Conv2d(3, classes, 1)


def nearest_colour(first: int, stop: int) -> NearestColour:
    network = NearestColour(stop - first)
    colours = torch.from_numpy(COLOURS[first:stop]) / 255  # (S, 3)
    network.decoder.weight.data = 200 * colours[..., None, None]
    network.decoder.bias.data = -100 * colours.square().sum(dim=1)
    return network


@pytest.fixture
def save(tmp_path, monkeypatch):
    """save("CIL", "T3", 0, 19) writes a run whose network knows these channels by their colours."""
    monkeypatch.setitem(NETWORKS, "NearestColour", NearestColour)

    def save(method="CIL", stage="T3", first=0, stop=19, data="tinyscapes", height=64) -> runs.Run:
        train = TrainConfig(height=height, network="NearestColour", precision="32-true")
        config = {
            "data": data,
            "preset": "smoke",
            "seed": 0,
            "method": method,
            "stage": stage,
            "train": settings(train),
            "split": plain(asdict(SPLIT)),
        }
        folder = tmp_path / "runs" / data / f"{method}_{stage}"
        history = pd.DataFrame({"epoch": [1]})
        return runs.save(folder, nearest_colour(first, stop), config, history, MeanIoU({}), SPLIT)

    return save


@pytest.fixture
def run(save) -> runs.Run:
    return save()


def street(height: int, width: int) -> np.ndarray:
    """Labels (height, width): sky above, road below, a car on the left, half of the picture high.

    No turn and no mirror leaves it as it is.
    """
    labels = np.full((height, width), SKY)
    labels[height // 2 :] = ROAD
    labels[height // 4 : 3 * height // 4, : width // 4] = CAR
    return labels


def painted(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(COLOURS[labels])


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def agreement(found: torch.Tensor, labels: np.ndarray) -> float:
    """Share of the pixels that are as in `labels`, which may have another size."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(found.shape, labels.shape, strict=True))
    return (found.numpy() == labels[rows[:, None], columns]).mean()


# what the network sees


def test_a_picture_in_the_colours_of_the_classes_is_segmented_into_them(run, tmp_path):
    labels = street(64, 128)
    painted(labels).save(tmp_path / "street.png")
    found = segment(run, tmp_path / "street.png")
    assert np.array_equal(found.labels, labels)
    assert found.image.shape == (3, 64, 128) and 0 <= found.image.min() <= found.image.max() <= 1
    wanted = {"road": 43.75, "sky": 43.75, "car": 12.5}
    assert found.shares[found.shares > 0].to_dict() == wanted
    assert list(found.shares.index[:3]) == list(wanted) and len(found.shares) == 19


def test_entropy_is_that_of_all_classes_in_bits(run, tmp_path):
    colours = np.array([COLOURS[SKY], (COLOURS[ROAD].astype(int) + COLOURS[SKY]) // 2])
    pixels = colours.astype(np.uint8).repeat(32, 0)[None].repeat(64, 0)  # (64, 64, 3)
    Image.fromarray(pixels).save(tmp_path / "two.png")
    found = segment(run, tmp_path / "two.png").entropy
    distances = (np.square(colours[:, None] / 255 - COLOURS[:19] / 255)).sum(axis=2)  # (2, S)
    y = np.exp(-100 * distances)
    y /= y.sum(axis=1, keepdims=True)
    wanted = -(y * np.log2(y)).sum(axis=1)  # (2,)
    assert found.shape == (64, 64) and wanted[1] > wanted[0] + 0.05
    for half, value in zip(found.split(32, dim=1), wanted, strict=True):
        assert half.numpy() == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_turned_as_its_exif_data_say(run, tmp_path, orientation, kind):
    labels = street(64, 128)
    stored = painted(labels).transpose(STORED[orientation])
    file = tmp_path / f"turned.{kind}"
    stored.save(file, exif=turned(orientation), **{"quality": 100} if kind == "jpg" else {})
    found = segment(run, file)
    assert found.image.shape == (3, 64, 128)
    assert agreement(found.labels, labels) > 0.98
    stored.save(tmp_path / "as_it_lies.png")
    assert agreement(segment(run, tmp_path / "as_it_lies.png").labels, labels) < 0.9


@pytest.mark.parametrize("size", [(33, 47), (131, 203), (203, 131), (71, 1001), (1200, 191)])
def test_a_picture_of_any_size_is_seen_whole_and_keeps_its_shape(save, tmp_path, size):
    labels = street(*size)
    painted(labels).save(tmp_path / "odd.png")
    found = segment(save(height=128), tmp_path / "odd.png")
    height, width = found.labels.shape
    assert height % 8 == width % 8 == 0
    scale = min(1, 128 / size[0])
    assert 0 <= scale * size[0] - height < 8 and 0 <= scale * size[1] - width < 8
    assert agreement(found.labels, labels) > 0.9
    assert found.entropy.shape == found.labels.shape


def test_a_picture_is_scaled_as_the_images_of_the_training_were(save, scenes, monkeypatch):
    run, seen = save(height=16), []
    predict = evaluation.predict
    monkeypatch.setattr(command, "predict", lambda *a: seen.append(a[1]) or predict(*a))
    data = scenes.test_set("T3", height=16)
    for index, sample in enumerate(data.samples):
        found = segment(run, sample.image)
        assert seen[index][0].equal(data[index][0])
        logits = predict(run.network(), data[index][0][None], TrainConfig(precision="32-true"))
        assert found.labels.equal(logits[0].argmax(dim=0))


def test_a_picture_is_never_enlarged(save, tmp_path):
    painted(street(40, 80)).save(tmp_path / "small.png")
    assert segment(save(height=512), tmp_path / "small.png").labels.shape == (40, 80)


def test_for_a_run_of_toyscapes_it_is_as_high_as_the_scenes_that_the_kit_draws(save, tmp_path):
    (drawn, _) = write_toyscapes.__defaults__[-1]  # size=(height, width)
    assert drawn == command.TOYSCAPES_HEIGHT
    painted(street(300, 600)).save(tmp_path / "large.png")
    for data, height, wanted in (("toyscapes", 512, drawn), ("toyscapes", 64, 64), ("x", 256, 256)):
        found = segment(save(data=data, height=height), tmp_path / "large.png")
        assert found.labels.shape[0] == wanted
        runs.set_aside(found.run.folder)


def test_the_second_teacher_of_lwm_knows_the_new_classes_alone(save, tmp_path):
    stage = SPLIT.stage("T3")
    teacher = save("LWM_teacher", "T3", stage.new.start, stage.new.stop)
    labels = np.full((64, 64), CAR)
    labels[:, 32:] = BUS
    painted(labels).save(tmp_path / "cars.png")
    found = segment(teacher, tmp_path / "cars.png")
    assert np.array_equal(found.labels, labels)
    assert sorted(found.shares.index) == sorted(SPLIT.names(stage.new))
    assert found.shares["car"] == found.shares["bus"] == 50


# what is decoded


def test_every_mode_of_a_photograph_becomes_rgb(tmp_path):
    grey = np.full((20, 24), 128, dtype=np.uint8)
    colour = Image.fromarray(np.full((20, 24, 3), (200, 100, 50), dtype=np.uint8))
    half = colour.convert("RGBA")
    half.putalpha(Image.fromarray(np.where(np.arange(24) < 12, 0, 255).astype(np.uint8)[None]
                                  .repeat(20, 0)))  # fmt: skip
    marked = Image.fromarray(grey)
    cases = {
        "grey.png": (Image.fromarray(grey), (128, 128, 128)),
        "sixteen_bits.png": (Image.fromarray(grey.astype(np.uint16) * 256 + 7), (128, 128, 128)),
        "black_and_white.png": (Image.fromarray(grey > 0), (255, 255, 255)),
        "palette.png": (colour.quantize(4), (200, 100, 50)),
        "grey_alpha.png": (Image.merge("LA", [Image.fromarray(grey)] * 2), None),
        "alpha.png": (half, (200, 100, 50)),
        "grey.jpg": (Image.fromarray(grey), (128, 128, 128)),
        "inks.jpg": (colour.convert("CMYK"), (200, 100, 50)),
        "jpeg_called.png": (colour, (200, 100, 50)),
        "named.jpeg.of.no.known.kind": (colour, (200, 100, 50)),
    }
    for name, (picture, wanted) in cases.items():
        kind = "PNG" if name.endswith(".png") and "called" not in name else "JPEG"
        picture.save(tmp_path / name, kind)
        pixels = read_photograph(tmp_path / name)
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 20, 24), name
        if wanted is not None:
            right = pixels[:, 10, 20].tolist()
            assert right == pytest.approx(wanted, abs=3), name
    assert read_photograph(tmp_path / "alpha.png")[:, 10, 3].tolist() == [255] * 3  # white below
    marked.save(tmp_path / "marked.png", transparency=128)
    assert read_photograph(tmp_path / "marked.png").min() == 255


def test_the_first_picture_of_a_camera_file_of_several_is_read(tmp_path):
    first, preview = painted(street(64, 128)), Image.new("RGB", (16, 8))
    first.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[preview])
    assert read_photograph(tmp_path / "two.jpg").shape == (3, 64, 128)


def test_a_jpeg_that_is_too_large_is_decoded_at_a_part_of_its_size(tmp_path, monkeypatch):
    painted(street(400, 640)).save(tmp_path / "large.jpg", exif=turned(6))
    whole = read_photograph(tmp_path / "large.jpg")
    assert whole.shape == (3, 640, 400)  # on its side
    for most, side in ((400 * 640 - 1, 2), (400 * 640 // 5, 4), (400 * 640 // 17, 8)):
        monkeypatch.setattr(photograph, "MOST_PIXELS", most)
        pixels = read_photograph(tmp_path / "large.jpg")
        assert pixels.shape == (3, 640 // side, 400 // side)
        assert pixels[0].numel() <= most
        difference = pixels.float() - whole[:, side // 2 :: side, side // 2 :: side].float()
        assert difference.abs().mean() < 5


# figure


SIZES = [(64, 128), (128, 64), (96, 96), (32, 512), (180, 100)]


@pytest.fixture(params=["toyscapes", "photographs"])
def data(request) -> str:
    """Of a network of Toyscapes the title has a second line."""
    return request.param


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def found(request, data, save, tmp_path) -> command.Segmentation:
    labels = street(*request.param)
    labels[labels == CAR] = SPLIT.channel("traffic light")  # a long name leaves panels less room
    painted(labels).save(tmp_path / "street $a$.png")
    return segment(save(data=data), tmp_path / "street $a$.png")


def entries(figure) -> dict[str, tuple[float, ...]]:
    """The legend: its texts, each with its colour."""
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, [patch.get_facecolor() for patch in legend.get_patches()], strict=True))


def test_maps_lie_over_the_picture_and_nothing_is_cut_off(found):
    figure = found.figure()
    figure.savefig(BytesIO(), format="png")
    maps = picture, overlay, uncertain = figure.axes[:3]
    extents = [drawn.get_extent() for ax in maps for drawn in ax.images]
    assert len(extents) == 4 and all(extent == extents[0] for extent in extents)
    sizes = [ax.get_window_extent().size for ax in maps]
    assert all(size == pytest.approx(sizes[0], rel=0.01) for size in sizes)
    inside = figure.bbox.padded(1)
    texts = [ax.title for ax in maps] + [*overlay.texts, *figure.legends[0].get_texts()]
    for text in (text for text in texts if text.get_text()):
        box = text.get_window_extent()
        assert inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1), text
    boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[k + 1 :])
    assert "street" in picture.get_title() and "CIL after T3" in overlay.get_title()
    assert "bit" in uncertain.get_title()


def test_the_legend_has_the_share_and_the_colour_of_each_class_that_occurs(found):
    shown = entries(found.figure())
    shares = found.shares[found.shares > 0]
    named = [
        f"{name} {share:.1f} %" if share >= 0.05 else f"{name} < 0.1 %"
        for name, share in shares.items()
    ]
    assert list(shown) == named
    for colour, name in zip(shown.values(), shares.index, strict=True):
        assert same_color(colour, COLOURS[SPLIT.channel(name)] / 255)


def test_a_speck_stands_in_the_legend_without_a_share(run, tmp_path):
    labels = np.full((64, 128), SKY)
    labels[10, 20] = BUS
    painted(labels).save(tmp_path / "speck.png")
    shown = entries(segment(run, tmp_path / "speck.png").figure())
    assert list(shown) == ["sky 100.0 %", "bus < 0.1 %"]


# the command


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which somebody is, with a picture in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    painted(street(64, 128)).save("my street.png")
    return folder


def test_the_command_writes_one_figure_where_one_is_and_prints_the_shares(save, here, capsys):
    run = save(data="toyscapes")
    command.main(str(run.folder), "my street.png")
    file = here / "my street_CIL_T3.png"
    assert sorted(here.iterdir()) == [here / "my street.png", file]
    with Image.open(file) as figure:
        assert figure.format == "PNG" and figure.width == 2000
    said = capsys.readouterr().out
    assert said.splitlines()[0] == (
        "my street.png, segmented by CIL after T3 (toyscapes, smoke, seed 0)"
    )
    assert [line.split() for line in said.splitlines()[3:6]] == [
        ["road", "43.8"],
        ["sky", "43.8"],
        ["car", "12.5"],
    ]
    assert "Not predicted: sidewalk, vegetation, terrain, building, " in said
    assert said.splitlines()[-2] == command.DRAWN_ONLY
    assert said.splitlines()[-1] == f"Figure: {file}"


def test_for_a_network_of_photographs_no_warning_is_printed(run, here, capsys):
    command.main(str(run.folder), "my street.png")
    assert "drawn streets" not in capsys.readouterr().out
    assert segment(run, "my street.png").expectation == ""


def test_a_figure_that_is_there_already_stays(run, here, capsys):
    taken = here / "my street_CIL_T3.png"
    taken.write_bytes(b"mine")
    for number in (2, 3):
        command.main(str(run.folder), "my street.png")
        assert capsys.readouterr().out.endswith(f"my street_CIL_T3-{number}.png\n")
    assert taken.read_bytes() == b"mine" and len(list(here.iterdir())) == 4


def test_where_no_figure_can_be_written_none_is_left(run, here, monkeypatch):
    def full(file, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_atomic", full)
    with pytest.raises(OSError, match=r"my street_CIL_T3.png cannot be written \(.*No space.*; go"):
        command.main(str(run.folder), "my street.png")
    assert [file.name for file in here.iterdir()] == ["my street.png"]


def test_a_relative_path_starts_where_one_is_or_at_the_project_folder(
    save, here, tmp_path, monkeypatch
):
    run = save()
    monkeypatch.setattr("cilkit.files.ROOT", tmp_path)
    command.main("../runs/tinyscapes/CIL_T3", "my street.png")  # from here
    command.main("runs/tinyscapes/CIL_T3", "here/my street.png")  # from the project folder
    assert len(list(here.glob("*_CIL_T3*.png"))) == 2 and not list(tmp_path.glob("*.png"))
    painted(np.full((64, 64), BUS)).save(tmp_path / "my street.png")
    assert segment(run, "my street.png").shares["bus"] == 0  # the one that is here goes first


def test_an_error_is_one_line_in_the_terminal():
    asked = [sys.executable, "-m", "cilkit.predict", "nowhere"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("given nowhere; wanted the folder of a run and an image: python")
    assert len(done.stderr.splitlines()) == 1


def test_many_runs_are_named_in_part(save, here):
    runs_folder = save().folder.parent
    for k in range(15):
        save(method=f"M{k:02}")
    with pytest.raises(FileNotFoundError, match=r"\(found: CIL_T3, M00_T3, .*M10_T3, and 4 more\)"):
        command.main(str(runs_folder / "MIB_T3"), "my street.png")
