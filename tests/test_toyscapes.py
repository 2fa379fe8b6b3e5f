import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cilkit.classes import UNLISTED_ID, VOID
from cilkit.splits import load_split
from cilkit.toyscapes import write as toyscapes
from cilkit.toyscapes.canvas import ID
from cilkit.toyscapes.scene import GRADING, TYPICAL, draw_scene, grade
from cilkit.toyscapes.street import city_style, weather_air
from cilkit.toyscapes.write import MARK, finished, write_toyscapes

pytestmark = pytest.mark.xdist_group("toyscapes")  # they share their scenes

SPLIT = load_split("cityscapes")
IMAGES = dict(SPLIT.images)
SETS = {stage.name: stage.cities for stage in SPLIT.stages} | {"test": SPLIT.test_cities}
COMMON_FIRST = (
    "road", "building", "vegetation", "car", "sidewalk", "sky", "pole", "person", "terrain",
    "fence", "wall", "traffic sign", "bicycle", "truck", "bus", "train", "traffic light", "rider",
    "motorcycle",
)  # fmt: skip
TINY = 1000  # a fraction that leaves one scene for each city
SMALL = (64, 128)


def count(scene: tuple[str, int]) -> np.ndarray:
    """Pixels of each id in a scene at the default settings, (256,)."""
    return np.bincount(draw_scene(*scene)[1].ravel(), minlength=256)


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    """Pixels by id of all scenes of each city set, (scenes, 256), default settings (1:8)."""
    scenes = {
        name: [(city, k) for city in cities for k in range(max(1, round(IMAGES[city] / 8)))]
        for name, cities in SETS.items()
    }
    with ProcessPoolExecutor() as pool:
        return {
            name: np.array(list(pool.map(count, wanted, chunksize=8)))
            for name, wanted in scenes.items()
        }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tree of one small scene for each city."""
    return write_toyscapes(tmp_path_factory.mktemp("toys") / "toyscapes", 3, TINY, SMALL)


def by_channel(counts: np.ndarray) -> np.ndarray:
    """Counts of ids (..., 256) to counts of channels (..., 19); void is left out."""
    lookup = SPLIT.lookup()
    ids = [lookup == channel for channel in range(len(SPLIT.classes))]
    return np.stack([counts[..., here].sum(-1) for here in ids], axis=-1)


def same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_scene_depends_on_its_seed_city_and_index_and_on_nothing_else():
    first = draw_scene("aachen", 4, seed=1)
    draw_scene("ulm", 0)
    assert same(first, draw_scene("aachen", 4, seed=1))
    for other in (("aachen", 4, 2), ("aachen", 5, 1), ("bochum", 4, 1)):
        assert not same(first, draw_scene(*other))


def test_another_process_draws_the_same_scene():
    with ProcessPoolExecutor(max_workers=1) as pool:
        assert same(pool.submit(draw_scene, "zurich", 2).result(), draw_scene("zurich", 2))


@pytest.mark.parametrize("size", [(64, 128), (128, 256), (256, 512)])
def test_a_scene_has_the_size_asked_for(size):
    image, labels = draw_scene("jena", 1, size=size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert labels.shape == size and labels.dtype == np.uint8


@pytest.mark.parametrize("city", ["hanover", "weimar", "lindau"])
def test_a_scene_is_the_same_street_at_every_size(city):
    _, small = draw_scene(city, 3, size=(128, 256))
    _, large = draw_scene(city, 3, size=(256, 512))
    assert (small == large[1::2, 1::2]).mean() > 0.9


def test_every_label_id_is_known(pixels):
    used = np.flatnonzero(sum(counts.sum(0) for counts in pixels.values()))
    assert (SPLIT.lookup()[used] != UNLISTED_ID).all()
    assert {1, 2, 3, 4} <= set(used.tolist())  # bonnet, borders, benches: void is there too


def test_void_takes_about_a_tenth(pixels):
    counts = sum(counts.sum(0) for counts in pixels.values())
    void = counts[SPLIT.lookup() == VOID].sum() / counts.sum()
    assert 0.08 < void < 0.13


def test_class_shares_are_in_the_order_of_cityscapes(pixels):
    totals = by_channel(sum(counts.sum(0) for counts in pixels.values()))
    order = [SPLIT.names()[channel] for channel in np.argsort(-totals)]
    assert order == list(COMMON_FIRST)


@pytest.mark.parametrize("name", SETS)
def test_every_city_set_shows_every_class_often(pixels, name):
    often = (by_channel(pixels[name]) > 8).mean(0)
    for channel, label_class in enumerate(SPLIT.classes):
        rare = label_class.name in ("train", "bus", "truck", "motorcycle")
        assert often[channel] >= (0.15 if rare else 0.3), f"{label_class.name} in {name}"


def test_things_and_background_differ_in_colour_where_their_labels_do():
    edge, inside = [], []
    for index in range(4):
        image, labels = draw_scene("darmstadt", index)
        step = np.abs(np.diff(image.astype(float), axis=1)).sum(-1)  # (H, W-1)
        border = labels[:, 1:] != labels[:, :-1]
        edge.append(step[border].mean())
        inside.append(step[~border].mean())
    assert np.mean(edge) > 2.5 * np.mean(inside)


def test_cities_differ_more_than_scenes_of_one_city():
    def look(city: str) -> np.ndarray:
        return np.array([draw_scene(city, k, size=SMALL)[0].mean((0, 1)) for k in range(6)])

    looks = np.array([look(city) for city in ("aachen", "cologne", "hamburg", "zurich", "lindau")])
    assert looks.mean(1).std(0).mean() > 0.4 * looks.std(1).mean()
    assert len({city_style(city) for city in IMAGES}) == len(IMAGES)


def test_the_tree_has_the_layout_of_cityscapes(tree):
    for city in IMAGES:
        part = "val" if city in SPLIT.test_cities else "train"
        name = f"{city}_000000_000000"
        with Image.open(tree / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png") as image:
            assert (image.mode, image.size) == ("RGB", SMALL[::-1])
        with Image.open(tree / "gtFine" / part / city / f"{name}_gtFine_labelIds.png") as labels:
            assert (labels.mode, labels.size) == ("L", SMALL[::-1])
            assert np.array_equal(np.asarray(labels), draw_scene(city, 0, 3, SMALL)[1])
    assert len(list(tree.rglob("*.png"))) == 2 * len(IMAGES)
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]  # nothing left behind


def test_each_city_gets_its_share_of_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(toyscapes, "SPLIT", SPLIT.__class__(**{
        **vars(SPLIT), "images": (("lindau", 59), ("ulm", 3)),
    }))  # fmt: skip
    tree = write_toyscapes(tmp_path / "toys", fraction=8, size=SMALL)
    assert len(list(tree.glob("leftImg8bit/val/lindau/*.png"))) == 7
    assert len(list(tree.glob("gtFine/train/ulm/*.png"))) == 1


def test_a_finished_tree_is_returned_untouched(tree):
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert write_toyscapes(tree, 3, TINY, SMALL) == tree
    assert before == {path: path.stat().st_mtime_ns for path in tree.rglob("*")}


def test_a_tree_with_other_settings_is_refused_and_kept(tree):
    before = sorted(tree.rglob("*"))
    with pytest.raises(ValueError, match=r"holds Toyscapes with .*'seed': 3.*wanted .*'seed': 4"):
        write_toyscapes(tree, 4, TINY, SMALL)
    assert sorted(tree.rglob("*")) == before


def test_a_half_written_tree_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toyscapes, "draw_all", stop)
    with pytest.raises(KeyboardInterrupt):
        write_toyscapes(tmp_path / "toys", 0, TINY, SMALL)
    assert not (tmp_path / "toys").exists()
    (tmp_path / "toys" / "leftImg8bit").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"not a finished Toyscapes tree .no {MARK}.*move it away"):
        write_toyscapes(tmp_path / "toys", 0, TINY, SMALL)


def test_a_folder_of_other_data_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a finished Toyscapes tree"):
        write_toyscapes(tmp_path, 0, TINY, SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_a_free_place(tmp_path):
    assert not finished(tmp_path, {})


def test_the_mark_of_a_finished_tree_holds_its_settings(tree):
    mark = json.loads((tree / MARK).read_text())
    assert mark == {"version": toyscapes.VERSION, "seed": 3, "fraction": TINY, "size": [64, 128]}


@pytest.mark.parametrize("size", [(32, 64), (128, 128), (60, 120)])
def test_a_wrong_size_is_refused_with_one_that_fits(size):
    with pytest.raises(ValueError, match=rf"size is {size[0]} x {size[1]} .*at least 64 x 128"):
        draw_scene("aachen", 0, size=size)


def test_an_unknown_city_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown city 'achen' .did you mean 'aachen'"):
        draw_scene("achen", 0)


def test_a_fraction_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fraction is 0; wanted 1 .* or more"):
        write_toyscapes(tmp_path / "toys", fraction=0)


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed is -1; wanted 0 or more"):
        write_toyscapes(tmp_path / "toys", seed=-1)
    with pytest.raises(ValueError, match="seed is -1 and index 0; wanted 0 or more"):
        draw_scene("aachen", 0, seed=-1)


def test_a_tree_whose_mark_is_broken_is_refused(tmp_path):
    (tmp_path / MARK).write_text("{")
    with pytest.raises(ValueError, match=f"an unreadable {MARK}, wanted"):
        write_toyscapes(tmp_path, 0, TINY, SMALL)


def test_grading_pulls_each_class_towards_its_colour_and_leaves_void_alone():
    typical = city_style("ulm").typical
    names = list(TYPICAL)
    labels = np.array([[ID[name] for name in names] + [ID["static"]]], dtype=np.uint8)
    image = np.full((1, len(names) + 1, 3), 100, dtype=np.float32)
    air = weather_air(np.random.default_rng(0), city_style("ulm"))
    grade(image, labels, air, typical)
    for k, name in enumerate(names):
        share = GRADING / 3 if name in ("traffic sign", "traffic light") else GRADING
        wanted = 100 + share * (np.array(typical[k]) * air.light - 100)
        assert image[0, k] == pytest.approx(wanted, rel=1e-5)
    assert (image[0, -1] == 100).all()


def test_cities_see_the_typical_colours_each_in_their_own_way():
    ulm, jena = city_style("ulm").typical, city_style("jena").typical
    assert not np.allclose(ulm, jena)
    assert np.array(ulm) == pytest.approx(np.array(list(TYPICAL.values())), rel=0.2)
