"""Tiny data sets in the layouts of the kit, and a configuration that trains in half a second.

No test writes into this project: a run of tests that finds a file changed there ends in an error.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from hypothesis import HealthCheck, settings
from matplotlib.colors import hsv_to_rgb
from PIL import Image

from benchmarks.scenes import make_network as _make_network
from cilkit.classes import Split
from cilkit.data.augmentation import Augmentation
from cilkit.data.scenes import StreetScenes, open_data
from cilkit.files import ROOT
from cilkit.methods import Memory, Method, get_method
from cilkit.methods.lwm import balanced
from cilkit.splits import SPLITS, load_split
from cilkit.study.provenance import plain
from cilkit.study.runs import Run
from cilkit.toyscapes.write import write_toyscapes
from cilkit.training.config import PRESETS, TrainConfig

# tiny tensors: a second thread gains nothing, and beside another busy program it costs 50x
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the kernels of notebooks and other processes

# the same examples every time, or many new ones: pytest --hypothesis-profile=search
ALL_TESTS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("same", max_examples=150, derandomize=True, **ALL_TESTS)
settings.register_profile("search", max_examples=3000, **ALL_TESTS)
settings.load_profile("same")

CITYSCAPES = os.environ.get("CITYSCAPES")
CAMVID = ROOT.parent / "shared" / "camvid"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
SIZE = (32, 64)  # height and width of the tiny images
PAPER = load_split("cityscapes")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: many tests wait for a kernel, a browser or a job."""
    return (psutil.cpu_count(logical=False) or 1) + 1


@pytest.fixture(scope="session", autouse=True)
def nothing_is_written_into_the_project() -> Iterator[None]:
    """What is in data/ and notebooks/ stays as it is, and no file comes or goes elsewhere."""
    before = _files_of_the_project()
    yield
    after = _files_of_the_project()
    changed = sorted({str(file) for file, _ in before ^ after})
    assert not changed, (
        f"these files came, went or changed while the tests ran: {', '.join(changed)}. Tests may "
        "write to tmp_path alone; if it was not a test, run them again"
    )


@pytest.fixture
def tiny() -> TrainConfig:
    """One step on four tiny images; float32, so that it computes the same on every machine."""
    return replace(
        PRESETS["smoke"],
        batch=4,
        height=32,
        augmentation=Augmentation(crop=(16, 32)),
        precision="32-true",
    )


@pytest.fixture(scope="session")
def make_network():
    """make_network(5, 6) is a network of 5 and 6 classes that reacts to its input as if trained."""
    return partial(_make_network, size=SIZE)


@pytest.fixture(scope="session")
def small():
    """small("LWM") is the method of that name, with a memory that tiny scenes can fill."""
    return _small


@pytest.fixture(scope="session")
def make_run():
    """make_run("CIL", "T2", 0, {"task1": 80.0}) is a finished run; more replaces its config.

    Its split is the paper's, or a `Split`, or what is recorded as one.
    """
    return _make_run


@pytest.fixture(scope="session")
def write_split():
    """write_split(folder, "A", "B") is a split of stages so called, in a split.toml of a folder.

    Each stage has two classes and a city of its own.
    """
    return _write_split


@pytest.fixture(scope="session")
def write_cityscapes():
    """write_cityscapes(root, images=1, split=...) writes a tree with all cities of a split."""
    return _write_cityscapes


@pytest.fixture(scope="session")
def write_camvid():
    """write_camvid(root, images=6) writes a tree with that many training frames a sequence."""
    return _write_camvid


@pytest.fixture(scope="session")
def write_voc():
    """write_voc(root, {"train": {"a": [1, 15]}}) writes lists of images that show these ids.

    Without lists, every class is in two images of train and in one of val.
    """
    return _write_voc


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """A tiny VOC with the split voc_15-5 that a test may damage."""
    return _write_voc(tmp_path / "VOC2012")


@pytest.fixture(scope="session")
def write_png():
    """write_png(file, pixels) writes one picture, and the folders above it."""
    return _write_png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Cityscapes of one image a city that a test may damage."""
    return _write_cityscapes(tmp_path / "Tinyscapes")


@pytest.fixture
def camvid_folder(tmp_path: Path) -> Path:
    """A tiny CamVid that a test may damage."""
    return _write_camvid(tmp_path / "camvid")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> StreetScenes:
    """A tiny Cityscapes of one image a city; not to be changed."""
    return open_data(_write_cityscapes(tmp_path_factory.mktemp("scenes") / "tinyscapes"))


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Toyscapes of a few small scenes; not to be changed."""
    return write_toyscapes(tmp_path_factory.mktemp("data") / "toys", fraction=32, size=(64, 128))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """The system's Chromium, or the program that the environment variable CHROMIUM names."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} found, and CHROMIUM is unset")
    home = {"HOME": str(tmp_path_factory.mktemp("home"))}
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, env=os.environ | home)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cityscapes() -> Path:
    """The real data set."""
    if not CITYSCAPES:
        pytest.skip("the environment variable CITYSCAPES names no folder with the real data set")
    return Path(CITYSCAPES)


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The real data set."""
    if not CAMVID.is_dir():
        pytest.skip(f"the real CamVid is not in {CAMVID}")
    return CAMVID


def first_label(folder: Path, city: str = "aachen") -> Path:
    """The first label file of a city in a tiny Cityscapes."""
    return next((folder / "gtFine" / "train" / city).iterdir())


def first_image(folder: Path, city: str = "aachen") -> Path:
    """The first image file of a city in a tiny Cityscapes."""
    return next((folder / "leftImg8bit" / "train" / city).iterdir())


def _files_of_the_project() -> set[tuple[Path, int]]:
    """All files but those of tools, with the time of the last change where a user's work lies."""
    found = set()
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        watched = bool({"data", "notebooks"} & set(here.relative_to(ROOT).parts))
        for file in files:
            changed = (here / file).lstat().st_mtime_ns if watched else 0
            found.add((here.relative_to(ROOT) / file, changed))
    return found


def _small(name: str) -> Method:
    method = get_method(name)
    return method if method.memory is None else replace(method, memory=Memory(balanced, 2))


def _make_run(
    method: str,
    stage: str,
    seed: int = 0,
    miou: dict | None = None,
    split: Split | dict = PAPER,
    **changes,
) -> Run:
    config = {
        "data": "toyscapes",
        "preset": "quick",
        "seed": seed,
        "method": method,
        "stage": stage,
        "train": {"epochs": 8, "batch": 2},
        "split": plain(asdict(split)) if isinstance(split, Split) else split,
        "files": "0123",
        "code": {"shared": "4567", "method": None if method in ("T1", "SS") else method},
    }
    folder = Path("runs") / f"seed{seed}" / f"{method}_{stage}"
    return Run(folder, config | changes, pd.DataFrame(), {"miou": miou or {}})


def _write_png(file: Path, pixels: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def _scene(
    split: Split, rng: np.random.Generator, each_class: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of random ids, void among them, and an image in the colours of their classes."""
    ids = np.array([label_class.label_id for label_class in split.classes] + list(split.void[:3]))
    blocks = rng.choice(ids, (SIZE[0] // 8, SIZE[1] // 8))
    if each_class:
        blocks.flat[: len(split.classes)] = ids[: len(split.classes)]
    labels = blocks.repeat(8, 0).repeat(8, 1)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for label_class in split.classes:
        colours[label_class.label_id] = label_class.colour
    return colours[labels], labels.astype(np.uint8)


def _write_split(folder: Path, *stages: str) -> Split:
    lines, count = ['name = "own"\nlayout = "cityscapes"\nvoid = [0]\n[classes]'], len(stages)
    for k in range(2 * count):
        colour = [int(255 * part) for part in hsv_to_rgb((k / (2 * count), 0.8, 0.9))]
        lines.append(f"{stages[k // 2]}_{k % 2} = {{ id = {k + 1}, colour = {colour} }}")
    for name in stages:
        classes = [f"{name}_0", f"{name}_1"]
        lines.append(f'[[stages]]\nname = "{name}"\nclasses = {classes}\ncities = ["of_{name}"]')
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "split.toml"
    file.write_text("\n".join([*lines, '[test]\ncities = ["test"]\n']))
    return load_split(file)


def _write_cityscapes(root: Path, images: int = 1, split: Split | None = None) -> Path:
    each_class = split is not None  # a stage of one's own may have a single image
    split = split or load_split("cityscapes")
    rng = np.random.default_rng(0)
    train = [city for stage in split.stages for city in stage.cities] + list(split.held_back)
    for part, cities in (("train", train), ("val", split.test_cities)):
        for city in cities:
            for k in range(images):
                name = f"{city}_{k:06d}_000019"
                image, labels = _scene(split, rng, each_class)
                _write_png(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", image)
                _write_png(root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png", labels)
    return root


def _write_camvid(root: Path, images: int = 6) -> Path:
    split = load_split("camvid")
    rng = np.random.default_rng(0)
    sequences = sorted({city.split("/")[0] for stage in split.stages for city in stage.cities})
    frames = [(sequence, k) for sequence in sequences for k in range(images)]
    # every third frame is in val, as frames of both folders alternate in time
    files = [("val" if k % 3 == 1 else "train", f"{s}_{30 * k:05d}.png") for s, k in frames]
    files += [("test", f"{s}_{30 * k:05d}.png") for s in split.test_cities for k in range(10, 12)]
    for part, name in files:
        image, labels = _scene(split, rng)
        _write_png(root / part / name, image)
        _write_png(root / f"{part}annot" / name, labels)
    return root


def _write_voc(
    root: Path, lists: dict[str, dict[str, list[int]]] | None = None, split: str = "voc_15-5"
) -> Path:
    """VOC as it is unpacked: JPEG images, palette labels, a void border around each object."""
    lists = lists or {
        "train": {f"2007_{k:06d}": [k, k % 20 + 1] for k in range(1, 21)},
        "val": {f"2008_{k:06d}": list(range(k, min(k + 3, 21))) for k in range(1, 21, 3)},
    }
    palette = np.zeros((256, 3), dtype=np.uint8)
    for label_class in load_split(split).classes:
        palette[label_class.label_id] = label_class.colour
    palette[255] = 224, 224, 192
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("".join(f"{i}\n" for i in images))
        for image, ids in images.items():
            labels = np.zeros(SIZE, dtype=np.uint8)
            for place, label_id in enumerate(ids):
                object_ = labels[4:28, 20 * place + 1 : 20 * place + 19]
                object_[:] = 255
                object_[2:-2, 2:-2] = label_id
            Image.fromarray(palette[labels]).save(root / f"JPEGImages/{image}.jpg", quality=95)
            picture = Image.fromarray(labels)
            picture.putpalette(palette.tobytes())
            picture.save(root / f"SegmentationClass/{image}.png")
    (root / "split.toml").write_bytes((SPLITS / f"{split}.toml").read_bytes())
    return root
