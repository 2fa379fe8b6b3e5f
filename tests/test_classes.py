from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

from cilkit.classes import (
    HIDDEN,
    UNLISTED_ID,
    VOID,
    Stage,
    belongs,
    joined,
    restrict,
    task_title,
)
from cilkit.data.scenes import open_data
from cilkit.splits import SPLITS, load_split

TABLE_I = {
    "T1": ["road", "sidewalk", "vegetation", "terrain", "sky"],
    "T2": ["building", "wall", "fence", "pole", "traffic light", "traffic sign"],
    "T3": ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"],
}

MINE = """
name = "mine"
layout = "cityscapes"
void = [0, 9]

[classes]
grass = { id = 1, colour = [1, 2, 3] }
path  = { id = 2, colour = [4, 5, 6] }
sheep = { id = 3, colour = [7, 8, 9] }

[[stages]]
name = "T1"
classes = ["path", "grass"]
cities = ["hill"]

[[stages]]
name = "T2"
classes = ["sheep"]
cities = ["dale"]

[test]
cities = ["moor"]

[held_back]
cities = ["fen"]
"""


@pytest.fixture
def split():
    return load_split()


@pytest.fixture
def write_mine(tmp_path):
    def write(old: str = "", new: str = ""):
        assert old in MINE
        file = tmp_path / "mine.toml"
        file.write_text(MINE.replace(old, new) if old else MINE)
        return file

    return write


# Table I


def test_the_default_split_has_the_classes_of_table_i_in_the_order_s1_s2_s3(split):
    assert split.names() == TABLE_I["T1"] + TABLE_I["T2"] + TABLE_I["T3"]
    assert len(split.classes) == 19
    for stage in split.stages:
        assert split.names(stage.new) == TABLE_I[stage.name]


def test_ids_and_colours_are_those_of_torchvision(split):
    official = {c.name: c for c in torchvision.datasets.Cityscapes.classes}
    assert len({label_class.name for label_class in split.classes}) == 19
    for label_class in split.classes:
        assert label_class.label_id == official[label_class.name].id
        assert label_class.colour == official[label_class.name].color


def test_void_is_every_id_of_torchvision_that_is_not_evaluated(split):
    ignored = {c.id for c in torchvision.datasets.Cityscapes.classes if c.ignore_in_eval}
    assert set(split.void) == {255 if i == -1 else i for i in ignored}  # -1, 8 bits: 255


def test_the_images_by_city_add_up_to_table_i(split):
    images = dict(split.images)
    counts = [sum(images[city] for city in stage.cities) for stage in split.stages]
    assert counts == [956, 938, 972]
    assert sum(images[city] for city in split.test_cities) == 500
    assert {city: images[city] for city in split.held_back} == {"erfurt": 109}
    assert sum(images.values()) == 2975 + 500  # nothing counted twice, no city forgotten


def test_cities_of_each_stage_are_those_of_table_i(split):
    assert split.stage("T1").cities == ("aachen", "dusseldorf", "hanover", "strasbourg")
    assert set(split.stage("T2").cities) == {
        *("bochum", "hamburg", "jena", "monchengladbach", "ulm", "weimar", "tubingen")
    }
    assert set(split.stage("T3").cities) == {
        *("bremen", "cologne", "stuttgart", "darmstadt", "krefeld", "zurich")
    }
    assert split.test_cities == ("frankfurt", "lindau", "munster")


# stages and slices


def test_old_new_and_seen_classes_are_slices(split):
    slices = [(stage.old, stage.new, stage.seen) for stage in split.stages]
    assert slices == [
        (slice(0, 0), slice(0, 5), slice(0, 5)),
        (slice(0, 5), slice(5, 11), slice(0, 11)),
        (slice(0, 11), slice(11, 19), slice(0, 19)),
    ]


def test_class_sets_are_the_columns_of_the_papers_tables(split):
    sets = {stage.name: split.class_sets(stage) for stage in split.stages}
    assert sets["T1"] == {"task1": slice(0, 5)}
    assert list(sets["T2"].items()) == [
        ("task1", slice(0, 5)),
        ("task2", slice(5, 11)),
        ("task12", slice(0, 11)),
    ]
    assert list(sets["T3"].items()) == [
        *sets["T2"].items(),
        ("task3", slice(11, 19)),
        ("task123", slice(0, 19)),
    ]


def numbered(count: int) -> list[Stage]:
    """Stages of one class each."""
    return [Stage(f"S{k}", k, slice(0, k - 1), slice(k - 1, k), ()) for k in range(1, count + 1)]


def test_each_class_set_has_a_name_and_a_title_of_its_own_with_any_number_of_stages(split):
    many = replace(split, stages=tuple(numbered(254)))  # more do not fit an 8-bit image
    sets = many.class_sets(many.stages[-1])
    assert list(sets) == many.tasks and len(sets) == 2 * 254 - 1
    assert len({(classes.start, classes.stop) for classes in sets.values()}) == len(sets)
    assert len({task_title(name) for name in sets}) == len(sets)
    for stage in many.stages:
        assert sets[stage.task] == stage.new and sets[stage.joint_task] == stage.seen


def test_up_to_nine_stages_a_joint_class_set_names_each_and_from_ten_on_the_ends(split):
    stages = numbered(12)
    names = [(stage.task, stage.joint_task) for stage in stages]
    assert names[:3] == [("task1", "task1"), ("task2", "task12"), ("task3", "task123")]
    assert names[8] == ("task9", "task123456789")
    assert names[9:] == [(f"task_{k}", f"task1to{k}") for k in (10, 11, 12)]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("task1", "Task 1"),
        ("task12", "Task 1∪2"),
        ("task123", "Task 1∪2∪3"),
        ("task1234", "Task 1∪…∪4"),
        ("task_12", "Task 12"),
        ("task1to12", "Task 1∪…∪12"),
        ("rule", "rule"),
        ("task", "task"),
        ("tasks1", "tasks1"),
    ],
)
def test_a_class_set_in_words_and_any_other_text_as_it_is(name, title):
    assert task_title(name) == title


def test_more_than_three_names_are_joined_by_their_ends():
    assert [joined("ABCDE"[:k], ", ") for k in (1, 3, 4)] == ["A", "A, B, C", "A, …, D"]


def test_the_teacher_of_a_stage_is_the_stage_before(split):
    assert split.before(split.stage("T3")).name == "T2"
    assert split.before(split.stage("T2")).name == "T1"
    with pytest.raises(ValueError, match="T1 is the first stage"):
        split.before(split.stage("T1"))


def test_all_stages_before_one_come_oldest_first(split):
    found = {s.name: [earlier.name for earlier in split.earlier(s)] for s in split.stages}
    assert found == {"T1": [], "T2": ["T1"], "T3": ["T1", "T2"]}


def test_a_channel_is_found_by_the_name_of_its_class(split):
    assert split.channel("road") == 0
    assert split.channel("building") == 5
    assert split.channel("bicycle") == 18


def test_an_unknown_stage_or_class_is_answered_with_the_nearest_name(split):
    with pytest.raises(ValueError, match="unknown stage 'T4'; choose one of: T1, T2, T3"):
        split.stage("T4")
    with pytest.raises(ValueError, match=r"unknown stage 'T22' \(did you mean 'T2'\?\)"):
        split.stage("T22")
    with pytest.raises(ValueError, match=r"unknown class 'bycicle' \(did you mean 'bicycle'\?\)"):
        split.channel("bycicle")


def test_the_lookup_sends_classes_to_channels_and_void_ids_to_void(split):
    table = split.lookup()
    assert table.shape == (256,) and table.dtype == np.uint8
    assert table[[7, 8, 21, 22, 23]].tolist() == [0, 1, 2, 3, 4]
    assert table[[11, 20, 24, 33]].tolist() == [5, 10, 11, 18]
    assert table[[0, 9, 30, 255]].tolist() == [VOID] * 4
    assert sorted(table)[:19] == list(range(19))
    assert (table == VOID).sum() == len(split.void) == 16
    assert table[34] not in (VOID, *range(19))  # an id that Cityscapes does not have


def test_a_label_has_a_name(split):
    names = [split.label_name(label) for label in (0, 18, HIDDEN, VOID)]
    assert names == ["road", "bicycle", "hidden", "void"]


def test_the_palette_shows_each_channel_in_its_colour_hidden_white_and_void_black(split):
    palette = split.palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert palette[0].tolist() == [128, 64, 128]  # road
    assert palette[18].tolist() == [119, 11, 32]  # bicycle
    assert (palette[HIDDEN] == 255).all() and not palette[19:HIDDEN].any()
    assert not palette[VOID].any()


# rules for pixels


def test_belongs_is_true_inside_the_slice_only():
    labels = torch.tensor([0, 4, 5, 10, 11, VOID])
    assert belongs(labels, slice(5, 11)).tolist() == [False, False, True, True, False, False]
    assert belongs(labels, slice(0, 5)).tolist() == [True, True, False, False, False, False]
    assert not belongs(labels, slice(0, 0)).any()
    assert not belongs(torch.tensor([HIDDEN, VOID]), slice(0, UNLISTED_ID)).any()  # no channel


def test_restrict_counts_from_the_first_class_and_hides_the_rest():
    labels = torch.tensor([[0, 4, 5], [10, 11, VOID]])
    assert restrict(labels, slice(5, 11)).tolist() == [[VOID, VOID, 0], [5, VOID, VOID]]
    assert restrict(labels, slice(0, 11)).tolist() == [[0, 4, 5], [10, VOID, VOID]]
    assert restrict(labels, slice(5, 11)).dtype == torch.long
    hidden = labels.where(labels > 4, HIDDEN)
    assert restrict(hidden, slice(5, 11)).equal(restrict(labels, slice(5, 11)))
    assert labels.tolist() == [[0, 4, 5], [10, 11, VOID]]  # the argument stays as it was


# split files


def test_the_camvid_split_cuts_eleven_classes_into_three_stages():
    split = load_split("camvid")
    assert [len(split.names(stage.new)) for stage in split.stages] == [4, 4, 3]
    assert sorted(label_class.label_id for label_class in split.classes) == list(range(11))
    assert split.void == (11,) and split.parts == 3


def test_a_split_file_of_ones_own_is_read(write_mine):
    split = load_split(write_mine())
    assert split.name == "mine"
    assert split.names() == ["path", "grass", "sheep"]  # the order of the stages, not of the table
    assert split.lookup()[[0, 1, 2, 3, 9]].tolist() == [VOID, 1, 0, 2, VOID]
    assert split.stage("T2").old == slice(0, 2) and split.stage("T2").new == slice(2, 3)
    assert (split.test_cities, split.held_back) == (("moor",), ("fen",))
    assert split.images == () and split.parts == 1
    assert load_split(str(write_mine())) == split


def test_a_class_of_the_first_stage_may_be_the_background(write_mine):
    assert load_split(write_mine()).background is None
    split = load_split(write_mine("void = [0, 9]", 'void = [0, 9]\nbackground = "grass"'))
    assert split.background == "grass" and split.channel(split.background) == 1


def test_held_back_cities_may_be_left_out(write_mine):
    split = load_split(write_mine('\n[held_back]\ncities = ["fen"]\n', ""))
    assert split.held_back == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('classes = ["sheep"]', "classes = []", "stage 'T2' has no class; give it at least one"),
        ('classes = ["path", "grass"]', 'classes = ["path"]', "class 'grass' is in no stage; add"),
        ('classes = ["sheep"]', 'classes = ["sheep", "path"]', "class 'path' appears twice; give"),
        ('["path", "grass"]', '["path", "gras"]', r"class 'gras' \(did you mean 'grass'\?\)"),
        ('["path", "grass"]', '["path", "x"]', "class 'x'; choose one of: grass, path, sheep"),
        ('name = "T2"', 'name = "T1"', "stage 'T1' appears twice"),
        ('cities = ["dale"]', 'cities = ["dale", "hill"]', "city 'hill' appears twice; a city"),
        ('cities = ["moor"]', 'cities = ["dale"]', "city 'dale' appears twice"),
        ('cities = ["fen"]', 'cities = ["moor"]', "city 'moor' appears twice"),
        ("{ id = 2,", "{ id = 1,", "id 1 appears twice; an id is one class or void"),
        ("void = [0, 9]", "void = [0, 3]", "id 3 appears twice"),
        ("{ id = 2,", "{ id = 256,", "id 256 does not fit an 8-bit label image; use 0 to 255"),
        ("{ id = 2,", "{ id = -1,", "id -1 does not fit"),
        ("{ id = 2,", '{ id = "2",', "id '2' does not fit"),
        ("void = [0, 9]", "void = [0, 300]", "id 300 does not fit"),
        ("[4, 5, 6]", "[4, 5]", r"colour of 'path' is \[4, 5\]; wanted three numbers 0 to 255"),
        ("[4, 5, 6]", "[4, 5, 256]", r"colour of 'path' is \[4, 5, 256\]"),
        ("[4, 5, 6]", '["red", 5, 6]', "colour of 'path' is"),
        ('layout = "cityscapes"\n', "", "it lacks 'layout'"),
        ("void = [0, 9]\n", "", "it lacks 'void'"),
        ('name = "mine"\n', "", "it lacks 'name'"),
        ('[test]\ncities = ["moor"]\n', "", "it lacks 'test'"),
        ('cities = ["dale"]\n', "", "it lacks 'cities'"),
        ("{ id = 2, colour", "{ colour", "it lacks 'id'"),
        ("void = [0, 9]", "void = 0", "split file"),
        (
            "void = [0, 9]",
            'void = [0, 9]\nbackground = "sheep"',
            "unknown class of the first stage as background 'sheep'; choose one of: path, grass",
        ),
        ("void = [0, 9]", "void = [0, 9]\nbackground = 0", "background is 0; wanted a text"),
        ("void = [0, 9]", "void = [0, 9", "is not a TOML file"),
    ],
)
def test_a_bad_split_file_is_refused_with_its_name_and_what_is_wrong(write_mine, old, new, message):
    file = write_mine(old, new)
    with pytest.raises(ValueError, match=message) as error:
        load_split(file)
    assert str(file) in str(error.value)


def test_a_file_of_other_bytes_is_not_a_split(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00 no text")
    with pytest.raises(ValueError, match="is not a TOML file"):
        load_split(file)


def test_more_classes_than_an_8_bit_image_holds_are_refused(tmp_path):
    names = [f"c{i}" for i in range(255)]
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nlayout = "cityscapes"\nvoid = []\n[classes]\n'
        + "".join(f"{name} = {{ id = {i}, colour = [0, 0, 0] }}\n" for i, name in enumerate(names))
        + f'[[stages]]\nname = "T1"\nclasses = {names}\ncities = ["hill"]\n'
        + '[test]\ncities = ["moor"]\n'
    )
    with pytest.raises(ValueError, match="255 classes; at most 254 fit"):
        load_split(file)


def test_a_missing_split_file_is_answered_with_the_ones_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="use one of: camvid, cityscapes, .* or the path"):
        load_split("kitti")
    with pytest.raises(FileNotFoundError, match=r"no split file .*mine\.toml"):
        load_split(tmp_path / "mine.toml")


def ids_of(split, *names):
    return [split.classes[split.channel(name)].label_id for name in names]


@pytest.mark.parametrize(
    ("shown", "disjoint", "overlapped"),  # the stages that see an image of these classes
    [
        (["background", "cat"], ["T1"], ["T1"]),
        (["background", "cat", "train"], ["T2"], ["T1", "T2"]),
        (["background", "sheep", "tvmonitor"], ["T2"], ["T2"]),
        (["background"], [], []),
        (["cat"], ["T1"], ["T1"]),
        ([], [], []),
    ],
)
def test_a_rule_reads_from_the_classes_of_an_image_which_stages_see_it(shown, disjoint, overlapped):
    for rule, wanted in (
        ("disjoint", disjoint),
        ("overlapped", overlapped),
        ("partitioned", ["T1", "T2"]),
    ):
        split = replace(load_split("voc_15-5"), rule=rule)
        ids = [*ids_of(split, *shown), 255]
        assert [stage.name for stage in split.stages if split.sees(stage, ids)] == wanted, rule


def test_under_disjoint_an_image_with_an_object_is_in_exactly_one_stage():
    split = replace(load_split("voc_10-1"), rule="disjoint")
    rng = np.random.default_rng(0)
    for count in rng.integers(1, 6, 50):
        ids = [0, *rng.choice(np.arange(1, 21), count, replace=False).tolist()]
        assert sum(split.sees(stage, ids) for stage in split.stages) == 1


def test_a_class_counts_for_a_rule_unless_it_is_the_background():
    split = replace(load_split("voc_15-5"), background=None)
    assert split.sees(split.stage("T1"), [0, 20])
    split = replace(split, background="background")
    assert not split.sees(split.stage("T1"), [0, 20])


SHARED = MINE.replace(
    'layout = "cityscapes"', 'layout = "cityscapes"\nrule = "overlapped"'
).replace('cities = ["dale"]', 'cities = ["dale", "hill"]')


def test_stages_share_a_group_where_the_rule_reads_the_labels(tmp_path):
    file = tmp_path / "shared.toml"
    file.write_text(SHARED)
    split = load_split(file)
    assert [stage.cities for stage in split.stages] == [("hill",), ("dale", "hill")]
    assert split.train_cities == ("hill", "dale")
    assert split.cities == ("hill", "dale", "moor", "fen")
    file.write_text(SHARED.replace('rule = "overlapped"', 'rule = "partitioned"'))
    with pytest.raises(ValueError, match="city 'hill' appears twice; a city belongs to one stage"):
        load_split(file)
    file.write_text(SHARED.replace('cities = ["moor"]', 'cities = ["hill"]'))
    with pytest.raises(ValueError, match="city 'hill' appears twice"):
        load_split(file)


def test_groups_of_train_are_those_of_all_stages_that_name_none(tmp_path):
    file = tmp_path / "train.toml"
    text = SHARED.replace("cities", "groups").replace('groups = ["hill"]\n', "", 1)
    file.write_text(text + '[train]\ngroups = ["heath"]\n')
    assert [stage.cities for stage in load_split(file).stages] == [("heath",), ("dale", "hill")]
    file.write_text(text)
    with pytest.raises(ValueError, match="it lacks 'cities' of stage 'T1'"):
        load_split(file)


def ordered(tmp_path, lines, name="voc_10-1"):
    """A split of the kit with more lines at the top and at the end of its file."""
    file = tmp_path / "ordered.toml"
    file.write_text(f"{lines[0]}\n{(SPLITS / f'{name}.toml').read_text()}\n{lines[1]}")
    return load_split(file)


def test_an_order_deals_the_classes_out_again_and_the_stages_keep_their_sizes(tmp_path):
    plain = load_split("cityscapes")
    classes = plain.names()[::-1]
    text = f'[[orders]]\nname = "backwards"\nclasses = {classes}'
    split = ordered(tmp_path, ('order = "backwards"', text), "cityscapes")
    assert split.names() == classes and split.stages == plain.stages
    assert split.names(split.stage("T1").new) == classes[:5]
    assert set(split.classes) == set(plain.classes)  # ids and colours stay with their names
    assert ordered(tmp_path, ("", text), "cityscapes") == plain


def test_a_seed_shuffles_the_classes_over_the_stages_and_leaves_the_background(tmp_path):
    plain = load_split("voc_10-1")
    splits = [ordered(tmp_path, (f"order = {seed}", "")) for seed in (0, 1, 1)]
    assert splits[1] == splits[2]
    assert len({tuple(split.names()) for split in (plain, *splits)}) == 3
    for split in splits:
        assert split.names()[0] == "background" and set(split.classes) == set(plain.classes)
        assert split.stages == plain.stages
    firsts = {ordered(tmp_path, (f"order = {seed}", "")).names()[-1] for seed in range(40)}
    assert len(firsts) > 10  # any class may come last


def test_a_seed_gives_the_same_order_in_every_version_of_the_kit(tmp_path):
    split = ordered(tmp_path, ("order = 0", ""), "camvid")
    assert split.names() == [
        "sign",
        "bicyclist",
        "road",
        "building",
        "pole",
        "tree",
        "fence",
        "sky",
        "pavement",
        "pedestrian",
        "car",
    ]


def test_an_order_may_not_move_the_background_to_a_later_stage(tmp_path):
    classes = load_split("voc_10-1").names()
    for place, message in (
        (10, None),
        (11, "puts the background 'background' after the first stage"),
    ):
        moved = [*classes[1 : place + 1], "background", *classes[place + 1 :]]
        lines = 'order = "moved"', f'[[orders]]\nname = "moved"\nclasses = {moved}'
        if message is None:
            assert ordered(tmp_path, lines).names() == moved
        else:
            with pytest.raises(ValueError, match=f"order 'moved' {message}.*among the first 11"):
                ordered(tmp_path, lines)


def test_a_split_of_cities_partitions_them_unless_it_says_otherwise(split):
    assert split.rule == "partitioned" and split.background is None


def test_every_split_file_of_the_kit_can_be_read():
    files = sorted(SPLITS.glob("*.toml"))
    assert {file.stem for file in files} >= {"cityscapes", "camvid"}
    assert [load_split(file).name for file in files] == [file.stem for file in files]


def test_a_split_file_in_a_data_folder_replaces_the_papers(tmp_path, write_cityscapes, write_mine):
    split = load_split(write_mine())
    root = write_cityscapes(tmp_path / "Pasture", split=split)
    (root / "split.toml").write_text(MINE)
    data = open_data(root)
    assert data.split == split
    assert [sample.group for sample in data.train] == ["hill", "dale"]
    assert [sample.group for sample in data.test] == ["moor"]
    _, labels = data.stage("T2")[0]
    assert set(labels.unique().tolist()) == {2, VOID}


def test_a_split_of_ones_own_may_number_its_classes_from_zero(tmp_path, write_cityscapes):
    text = MINE.replace("id = 3", "id = 0").replace("void = [0, 9]", "void = [255]")
    (tmp_path / "zero.toml").write_text(text)
    root = write_cityscapes(tmp_path / "pasture", split=load_split(tmp_path / "zero.toml"))
    (root / "split.toml").write_text(text)
    _, labels = open_data(root).stage("T1")[0]
    assert set(labels.unique().tolist()) == {0, 1, VOID}
