"""Files that nobody would think of: split files, label images, run folders, checkpoints, weights.

Whatever is in a file, reading it gives what was written, or a ValueError or FileNotFoundError that
names it. By default the same examples come every time; to look for others:
`python -m pytest tests/test_fuzz.py --hypothesis-profile=search`.
"""

import copy
import io
import json
import tomllib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import torch as safetensors
from torch import nn

from cilkit.classes import RULES, UNLISTED_ID, Split
from cilkit.data.image_files import read_label_ids
from cilkit.data.scenes import open_folder
from cilkit.metrics import MeanIoU
from cilkit.networks.weights import load_weights
from cilkit.splits import SPLITS, load_split
from cilkit.study import runs
from cilkit.training.checkpoint import FileCheckpoint

SPLIT = load_split()
TEXTS = [file.read_text(encoding="utf-8") for file in sorted(SPLITS.glob("*.toml"))]
WORDS = ["true", "-1", "256", "3.5", "nan", '""', '"a/b"', '".."', '"T1"', '"ulm"', "[]", "{}", "="]

letters = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=6)
leaves = st.one_of(
    st.booleans(),
    st.integers(-2, 300),
    st.floats(allow_subnormal=False),  # the kit counts them as zero
    letters,
    st.sampled_from([*SPLIT.names(), *SPLIT.test_cities, "ulm", "T1", "../val/ulm", "x" * 300]),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
    max_leaves=6,
)


@contextmanager
def refused_by_name(path: Path):
    """Nothing else may be raised here than the kit's own errors, and they name the file."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError), repr(error)
        assert str(path) in str(error), str(error)


# bytes and texts


@st.composite
def edits(draw, most: int = 3) -> list[tuple[str, float, int, bytes]]:
    """Some edits: what to do, at which part of a file, over how many bytes, with which content."""
    kind = st.sampled_from(["flip", "cut", "delete", "insert", "repeat"])
    edit = st.tuples(
        kind,
        st.floats(0, 1, allow_subnormal=False),
        st.integers(1, 40),
        st.binary(min_size=1, max_size=8),
    )
    return draw(st.lists(edit, min_size=1, max_size=most))


def edited(content: bytes, todo: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, part, count, more in todo:
        at = int(part * len(content))
        before, those, after = content[:at], content[at : at + count], content[at + count :]
        content = {
            "flip": before + bytes(b ^ 1 << count % 8 for b in those[:1]) + those[1:] + after,
            "cut": before,
            "delete": before + after,
            "insert": before + more + those + after,
            "repeat": before + those + those + after,
        }[kind]
    return content


# split files


def sound(split: Split) -> None:
    """What every split that is accepted must be."""
    names, ids = split.names(), [c.label_id for c in split.classes] + list(split.void)
    assert names and len(set(names)) == len(names) and all(isinstance(n, str) for n in names)
    assert len(set(ids)) == len(ids) and all(type(i) is int and 0 <= i <= 255 for i in ids)
    colours = [value for c in split.classes for value in c.colour]
    assert len(colours) == 3 * len(names)
    assert all(type(value) is int and 0 <= value <= 255 for value in colours)
    assert isinstance(split.layout, str) and isinstance(split.name, str)
    assert type(split.parts) is int and split.parts >= 1
    stops = [stage.new.stop for stage in split.stages]
    assert stops == sorted(set(stops)) and stops[-1] == len(names)
    assert [s.old.stop for s in split.stages] == [0, *stops[:-1]]
    assert all(stage.cities for stage in split.stages) and split.test_cities
    cities = [city for stage in split.stages for city in stage.cities]
    assert split.rule in RULES
    assert split.background in {None, *split.names(split.stages[0].new)}
    if RULES[split.rule] is not None:  # stages may share their cities
        cities = list(split.train_cities)
    cities += [*split.test_cities, *split.held_back]
    assert len({city.lower() for city in cities}) == len(cities)
    table = split.lookup()
    assert (table < len(names)).sum() == len(names) and (table == UNLISTED_ID).sum() == 256 - len(
        ids
    )
    assert split.palette().shape == (256, 3)
    for stage in split.stages:
        assert split.stage(stage.name) == stage and split.class_sets(stage)


def read_split(file: Path) -> None:
    with refused_by_name(file):
        sound(load_split(file))


@given(st.data())
def test_a_split_file_with_words_exchanged_is_refused_or_sound(tmp_path_factory, data):
    text = data.draw(st.sampled_from(TEXTS))
    words = text.split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at] = data.draw(st.sampled_from(WORDS) | st.sampled_from(words) | letters)
    file = tmp_path_factory.getbasetemp() / "words.toml"
    file.write_text(" ".join(words), encoding="utf-8")
    read_split(file)


@given(st.sampled_from(TEXTS), edits())
def test_a_split_file_of_edited_bytes_is_refused_or_sound(tmp_path_factory, text, todo):
    file = tmp_path_factory.getbasetemp() / "bytes.toml"
    file.write_bytes(edited(text.encode(), todo))
    read_split(file)


def as_toml(value: object) -> str:
    """A value in the inline form of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return (
        json.dumps(value).replace("\x7f", "\\u007F")
        if isinstance(value, bool | str)
        else (repr(value))
    )


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths to all parts of a structure."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [path] * bool(path) + [p for k, v in inner for p in places(v, (*path, k))]


@st.composite
def damaged_tables(draw) -> dict:
    """A split file's content with parts of it replaced, removed or exchanged."""
    table = copy.deepcopy(tomllib.loads(draw(st.sampled_from(TEXTS))))
    for _ in range(draw(st.integers(1, 3))):
        if not (all_places := places(table)):
            break
        *path, key = draw(st.sampled_from(all_places))
        parent = table
        for step in path:
            parent = parent[step]
        other = parent[draw(st.sampled_from(list(parent)))] if isinstance(parent, dict) else 0
        kind = draw(st.sampled_from(["replace", "remove", "copy", "new"]))
        if kind == "remove":
            del parent[key]
        elif kind == "new" and isinstance(parent, dict):
            parent[draw(letters)] = draw(values)
        else:
            parent[key] = copy.deepcopy(other) if kind == "copy" else draw(values)
    return table


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_cityscapes) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp("fuzz") / "tinyscapes")


@given(damaged_tables())
def test_a_split_file_of_another_structure_is_refused_or_sound(root, table):
    file = root / "split.toml"
    file.write_text("\n".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in table.items()), "utf-8")
    read_split(file)
    with refused_by_name(root):
        open_folder(root)


# label images


@st.composite
def pictures(draw) -> tuple[str, np.ndarray, bytes]:
    """A mode, the pixels of a picture, and the file of it."""
    mode = draw(st.sampled_from(["L", "L", "L", "P", "RGB", "RGBA", "LA", "1", "I;16"]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    known = [c.label_id for c in SPLIT.classes] + list(SPLIT.void)
    ids = draw(st.lists(st.sampled_from(known) | st.integers(0, 255), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    depth = {"RGB": (3,), "RGBA": (4,), "LA": (2,)}.get(mode, ())
    pixels = rng.choice(ids, (height, width, *depth)).astype("uint16" if "16" in mode else "uint8")
    if mode == "P":
        picture = Image.fromarray(pixels)
        picture.putpalette([k // 3 for k in range(768)])
    else:
        picture = Image.fromarray(pixels > 99 if mode == "1" else pixels)
    assert picture.mode == mode
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=draw(st.sampled_from([0, 6])))
    return mode, pixels, file.getvalue()


@given(pictures(), st.just([]) | edits())
def test_a_label_image_gives_the_ids_that_were_written_or_is_refused(
    tmp_path_factory, picture, todo
):
    mode, pixels, content = picture
    file = tmp_path_factory.getbasetemp() / "fuzzed_labelIds.png"
    file.write_bytes(edited(content, todo))
    with refused_by_name(file):
        ids = read_label_ids(file, SPLIT)
        assert mode in ("L", "P") and ids.dtype == np.uint8 and np.array_equal(ids, pixels)
        assert (SPLIT.lookup()[ids] != UNLISTED_ID).all()


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_no_label_image(tmp_path_factory, content, signed):
    file = tmp_path_factory.getbasetemp() / "random_labelIds.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" * signed + content)
    with pytest.raises(ValueError, match="cannot be read as an image") as error:
        read_label_ids(file, SPLIT)
    assert str(file) in str(error.value)


@given(pictures())
def test_a_label_image_in_a_data_set_is_as_large_as_its_image_or_refused(root, picture):
    mode, pixels, content = picture
    (root / "split.toml").unlink(missing_ok=True)
    images = open_folder(root).stage("T1")
    label = images.samples[0].label
    label.write_bytes(content)
    with refused_by_name(label):
        image, labels = images[0]
        assert mode in ("L", "P") and pixels.shape == (32, 64) == labels.shape
        assert image.shape == (3, 32, 64)


# run folders


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_network) -> runs.Run:
    scores = MeanIoU({"task1": slice(0, 5)})
    scores.counts["task1"] += torch.arange(25).view(5, 5)
    config = {"data": "tinyscapes", "preset": "smoke", "seed": 0, "method": "T1", "stage": "T1"}
    config["train"] = {"normalise": False, "learning_rate": 5e-4}
    history = runs.pd.DataFrame({"epoch": [1, 2], "ce": [1.5, 0.1 + 0.2]})
    folder = tmp_path_factory.mktemp("fuzzed") / "T1"
    return runs.save(folder, make_network(5), config, history, scores, SPLIT)


@contextmanager
def instead(file: Path, content: bytes):
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def check_run(run: runs.Run, name: str, content: bytes) -> None:
    """With other content in one file, a run is what it was or refused.

    The one edit that does not matter is to the checksums, if each file's own is still there.
    """
    changed = content != (run.folder / name).read_bytes()
    with instead(run.folder / name, content), refused_by_name(run.folder):
        again = runs.load(run.folder)
        assert again.config == run.config and again.scores == run.scores
        assert again.history.equals(run.history)
        assert name in (runs.WEIGHTS, runs.SUMS) or not changed
        again.network()
        assert name == runs.SUMS or not changed


@given(st.sampled_from(runs.FILES), edits())
def test_a_run_with_edited_bytes_is_what_it_was_or_refused(run, name, todo):
    check_run(run, name, edited((run.folder / name).read_bytes(), todo))


@given(st.sampled_from(["config.json", "scores.json"]), st.data())
def test_a_run_with_another_entry_is_refused(run, name, data):
    content = json.loads((run.folder / name).read_bytes())
    *path, key = data.draw(st.sampled_from(places(content)))
    parent = content
    for step in path:
        parent = parent[step]
    parent[key] = data.draw(values | st.none())
    check_run(run, name, json.dumps(content, indent=1).encode())


@given(st.sampled_from(runs.FILES), st.sampled_from(runs.FILES))
def test_a_run_with_files_exchanged_is_refused(run, name, other):
    check_run(run, name, (run.folder / other).read_bytes())


# checkpoints


@given(edits())
def test_a_checkpoint_gives_the_state_that_was_kept_or_is_set_aside(tmp_path_factory, todo):
    file = tmp_path_factory.mktemp("kept") / ".T1.checkpoint"
    state = {"network.x": torch.arange(60.0).view(6, 10), "random.cpu": torch.arange(9).byte()}
    facts = {"history": [{"epoch": 1, "ce": 0.5}], "step": 3, "seconds": 1.0, "terms": []}
    FileCheckpoint(file, {"seed": 0}).save(state, facts)
    before = file.read_bytes()
    file.write_bytes(content := edited(before, todo))
    kept = FileCheckpoint(file, {"seed": 0}).load()
    if kept is None:
        assert content != before and not file.exists()
        assert (file.parent / "superseded" / f"{file.name}-1").read_bytes() == content
    else:
        assert kept[1] == facts and kept[0].keys() == state.keys()
        assert all(torch.equal(kept[0][name], state[name]) for name in state)


# weight files from elsewhere


def saved(state: dict, kind: str) -> bytes:
    if kind == "safetensors":
        return safetensors.save(state)
    file = io.BytesIO()
    content = {"epoch": 3, "state_dict": state}
    torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


@given(st.sampled_from(["zip", "zip", "old", "safetensors"]), edits())
def test_a_weight_file_gives_the_weights_that_were_saved_or_is_refused(
    tmp_path_factory, kind, todo
):
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    file = tmp_path_factory.getbasetemp() / "weights.pth"
    file.write_bytes(edited(saved(layers.state_dict(), kind), todo))
    fresh = copy.deepcopy(layers)
    nn.init.constant_(fresh[0].weight, 9)
    before = copy.deepcopy(fresh.state_dict())
    with refused_by_name(file):
        load_weights(fresh, file)
        before = layers.state_dict()
    if kind == "zip":  # the others have no checksums
        assert all(value.equal(before[name]) for name, value in fresh.state_dict().items())
    assert all(value.isfinite().all() for value in fresh.state_dict().values())


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04"]))
def test_random_bytes_are_no_weight_file(tmp_path_factory, content, start):
    file = tmp_path_factory.getbasetemp() / "random.pth"
    file.write_bytes(start + content)
    with pytest.raises(ValueError, match="is not a file of weights") as error:
        load_weights(nn.Linear(2, 2), file)
    assert str(file) in str(error.value) and "weights_only=False" not in str(error.value)
