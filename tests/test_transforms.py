import colorsys
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from cilkit.classes import VOID
from cilkit.config import PRESETS
from cilkit.transforms import Augmentation, Augmented, RandomRescale, derive_seed

STILL = Augmentation(
    rotation=0, rescale=(1, 1), crop=(64, 128), brightness=0, contrast=0, saturation=0, hue=0
)


class Scenes:
    """What Augmented needs of a data set: the same scene, as often as asked for."""

    def __init__(self, image: torch.Tensor, labels: torch.Tensor, length: int = 20):
        self.image, self.labels, self.length = image, labels, length

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        if index >= self.length:
            raise IndexError(index)  # where a for loop stops
        return tv_tensors.Image(self.image), tv_tensors.Mask(self.labels)


@pytest.fixture
def blocks():
    """Blocks of 16 x 16 pixels of labels 0 to 4; the red of the image is 50 (label + 1)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (4, 8), generator=generator, dtype=torch.uint8)
    labels = labels.repeat_interleave(16, 0).repeat_interleave(16, 1)  # (64, 128)
    image = torch.stack([50 * (labels + 1), torch.zeros_like(labels), torch.zeros_like(labels)])
    return Scenes(image, labels)


def plain(colour: tuple[int, int, int], length: int = 60) -> Scenes:
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 64, 128).contiguous()
    return Scenes(image, torch.zeros(64, 128, dtype=torch.uint8), length)


def inside(labels: torch.Tensor) -> torch.Tensor:
    """Where all labels of the 7 x 7 neighbourhood are equal and none is VOID."""
    patches = labels.unfold(0, 7, 1).unfold(1, 7, 1)  # (H-6, W-6, 7, 7)
    same = (patches == patches[..., :1, :1]).all(-1).all(-1)
    alone = torch.nn.functional.pad(same, (3, 3, 3, 3))
    return alone & (labels != VOID)


def same(one, other) -> bool:
    return one[0].equal(other[0]) and one[1].equal(other[1])


# image and label


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("divides", [False, True])
def test_image_and_label_move_together(blocks, flip, divides):
    augmentation = replace(
        STILL, rotation=10, flip=flip, rescale=(1, 1.5), rescale_divides=divides, crop=(40, 80)
    )
    changed = 0
    for image, labels in Augmented(blocks, augmentation, seed=0):
        from_image = (image[0] * 255 / 50).round() - 1  # the label that the colour stands for
        where = inside(labels)
        assert where.float().mean() > 0.1
        assert from_image[where].equal(labels[where].float())
        changed += not labels.equal(blocks.labels[12:52, 24:104].long())
    assert changed == len(blocks)  # the scene did move


def test_without_any_change_the_item_is_the_image(blocks):
    image, labels = Augmented(blocks, STILL, seed=0)[3]
    assert image.mul(255).round().equal(blocks.image.float())
    assert labels.equal(blocks.labels.long())


def test_a_flip_mirrors_left_and_right(blocks):
    image, labels = Augmented(blocks, replace(STILL, flip=1.0), seed=0)[3]
    assert image.mul(255).round().equal(blocks.image.flip(2).float())
    assert labels.equal(blocks.labels.flip(1).long())


def test_flips_come_with_their_probability(blocks):
    blocks.length = 400
    items = Augmented(blocks, replace(STILL, flip=0.5), seed=0)
    flipped = sum(not labels.equal(blocks.labels.long()) for _, labels in items)
    assert 150 < flipped < 250  # 5 standard deviations of 10


def test_an_item_is_a_float_image_from_0_to_1_and_long_labels(blocks):
    image, labels = Augmented(blocks, Augmentation(crop=(32, 64)), seed=0)[0]
    assert image.shape == (3, 32, 64) and labels.shape == (32, 64)
    assert image.dtype == torch.float32 and labels.dtype == torch.long
    assert image.min() >= 0 and image.max() <= 1
    assert type(image) is type(labels) is torch.Tensor


# seeds


def test_the_same_seed_epoch_and_index_give_the_same_item_in_any_order(blocks):
    forwards, backwards = (Augmented(blocks, Augmentation(crop=(32, 64)), 7) for _ in range(2))
    forwards.epoch = backwards.epoch = 3
    items = [forwards[i] for i in range(6)]
    torch.manual_seed(99)  # what else was drawn does not matter
    reverse = [backwards[i] for i in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(items, reverse, strict=True))


def test_another_seed_epoch_index_or_data_set_gives_another_item(blocks):
    def item(seed, epoch, index, name="new"):
        augmented = Augmented(blocks, Augmentation(crop=(32, 64)), seed, name)
        augmented.epoch = epoch
        return augmented[index]

    others = [item(1, 0, 0), item(0, 1, 0), item(0, 0, 1), item(0, 0, 0, "memory 0")]
    images = [item(0, 0, 0), *others, item(0, 0, 0, "memory 1")]
    assert not any(same(images[i], images[j]) for i in range(6) for j in range(i))


def test_workers_give_the_items_of_the_main_process(scenes):
    augmented = Augmented(scenes.stage("T1"), Augmentation(crop=(16, 32)), seed=0)
    augmented.epoch = 2
    alone = list(DataLoader(augmented, batch_size=1))
    helped = list(DataLoader(augmented, batch_size=1, num_workers=2))
    assert len(alone) == len(helped) == 4
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_the_global_generator_is_left_as_it_was(blocks):
    augmented = Augmented(blocks, Augmentation(crop=(32, 64)), seed=0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = augmented[0]
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    assert same(augmented[0], first)  # and it does not matter


def test_derived_seeds_differ_by_seed_and_purpose_and_fit_a_generator():
    seeds = [
        derive_seed(0, "order", 1),
        derive_seed(0, "order", 2),
        derive_seed(1, "order", 1),
        derive_seed(0, "network"),
        derive_seed(0, "augmentation", 1, 2),
        derive_seed(0, "augmentation", 12),
    ]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "order", 1) == seeds[0]


# rescaling, crop, rotation


@pytest.mark.parametrize(
    ("divides", "low", "high"),
    [(False, (64, 128), (96, 192)), (True, (43, 85), (64, 128))],  # 64 / 1.5 = 42.7, 128 / 1.5
)
def test_rescaling_draws_from_its_whole_range(blocks, divides, low, high):
    rescale = RandomRescale((1.0, 1.5), divides)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [tuple(rescale(blocks.load(0)[1]).shape) for _ in range(200)]
    assert min(sizes) >= low and max(sizes) <= high
    assert min(sizes)[0] <= low[0] + 1 and max(sizes)[0] >= high[0] - 1
    assert all(abs(2 * h - w) <= 1 for h, w in sizes)  # the shape stays, but for the rounding


def test_the_paper_enlarges_where_the_released_code_shrinks():
    assert PRESETS["paper"].augmentation == Augmentation()
    assert not PRESETS["paper"].augmentation.rescale_divides
    assert PRESETS["released"].augmentation == Augmentation(
        rotation=0.0, flip=0.5, rescale_divides=True
    )


def test_the_defaults_are_those_of_the_paper():
    a = Augmentation()
    assert (a.rotation, a.rescale, a.crop, a.flip) == (2.0, (1.0, 1.5), (192, 640), 0.0)
    assert (a.brightness, a.contrast, a.saturation, a.hue) == (0.2, 0.2, 0.2, 0.1)


@pytest.mark.parametrize(
    ("augmentation", "size", "crop"),
    [
        (Augmentation(), (512, 1024), (192, 640)),
        (Augmentation(), (128, 256), (128, 256)),
        (Augmentation(), (100, 2000), (96, 640)),
        (Augmentation(rescale_divides=True), (512, 1024), (192, 640)),
        (Augmentation(rescale_divides=True), (128, 256), (80, 168)),  # 85.3 and 170.7
        (Augmentation(rescale=(0.5, 2.0)), (256, 512), (128, 256)),
        (Augmentation(), (4, 4), (8, 8)),
    ],
)
def test_the_crop_is_never_larger_than_the_smallest_rescaled_image(augmentation, size, crop):
    assert augmentation.crop_within(size) == crop


@pytest.mark.parametrize("divides", [False, True])
def test_images_smaller_than_the_crop_give_items_of_one_size(blocks, divides):
    augmentation = Augmentation(rescale_divides=divides)
    height, width = (40, 80) if divides else (64, 128)
    for image, labels in Augmented(blocks, augmentation, seed=0):
        assert image.shape == (3, height, width) and labels.shape == (height, width)


def test_crops_come_from_all_over_the_image():
    columns = torch.arange(128, dtype=torch.uint8).expand(64, 128).contiguous()
    items = Augmented(
        Scenes(columns.expand(3, 64, 128), columns, 300), replace(STILL, crop=(8, 8)), 0
    )
    left = [labels[0, 0].item() for _, labels in items]
    assert min(left) < 10 and max(left) > 110  # of 0 to 120


def test_rotation_leaves_void_in_the_corners_and_nowhere_else():
    white = plain((255, 255, 255), length=30)
    turned = black = 0
    for image, labels in Augmented(white, replace(STILL, rotation=30), seed=0):
        assert set(labels.unique().tolist()) <= {0, VOID}
        assert labels[16:48, 32:96].eq(0).all()  # the middle stays
        nothing = labels == VOID
        corners = nothing[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.all() or not corners.any()
        turned += corners.all().item()
        assert image[:, inside(labels)].eq(1).all()  # where a label is, there is the image
        black += (deep := nothing & inside(nothing.long())).sum().item()
        assert image[:, deep].eq(0).all()  # and where nothing is, it is black
    assert turned > 20 and black > 1000


def test_rotation_goes_both_ways_up_to_its_angle():
    rows = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 128).contiguous()
    items = Augmented(Scenes(rows.expand(3, 64, 128), rows, 200), replace(STILL, rotation=2), 0)
    # across 100 columns a line rises by 100 tan(2 deg) = 3.5 rows at most
    rise = [(labels[32, 114] - labels[32, 14]).item() for _, labels in items]
    assert {min(rise), max(rise)} <= {-4, -3, 3, 4}


# jitter


def factors(scenes: Scenes, augmentation: Augmentation, measure) -> list[float]:
    return [
        measure(image[:, 0, 0], image[:, 0, -1]) for image, _ in Augmented(scenes, augmentation, 0)
    ]


def test_brightness_scales_by_0_8_to_1_2():
    grey = plain((100, 100, 100))
    got = factors(grey, replace(STILL, brightness=0.2), lambda a, _: a[0].item() * 255 / 100)
    assert 0.79 <= min(got) < 0.85 and 1.15 < max(got) <= 1.21  # steps of 1 in 100


def test_contrast_scales_the_distance_to_the_mean_by_0_8_to_1_2():
    two = plain((50, 50, 50))
    two.image[:, :, 64:] = 150
    got = factors(two, replace(STILL, contrast=0.2), lambda a, b: (b - a)[0].item() * 255 / 100)
    assert 0.78 <= min(got) < 0.85 and 1.15 < max(got) <= 1.22


def test_saturation_scales_the_distance_to_grey_by_0_8_to_1_2():
    reddish = plain((200, 100, 100))
    got = factors(
        reddish, replace(STILL, saturation=0.2), lambda a, _: (a[0] - a[1]).item() * 255 / 100
    )
    assert 0.78 <= min(got) < 0.85 and 1.15 < max(got) <= 1.22


def test_hue_turns_by_a_tenth_of_the_circle_at_most():
    cyan = plain((50, 200, 200))  # hue 0.5: far from where the circle closes
    got = factors(
        cyan, replace(STILL, hue=0.1), lambda a, _: colorsys.rgb_to_hsv(*a.tolist())[0] - 0.5
    )
    assert -0.102 <= min(got) < -0.07 and 0.07 < max(got) <= 0.102


def test_jitter_changes_no_label_and_no_place(blocks):
    jitter = replace(STILL, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
    for image, labels in Augmented(blocks, jitter, seed=0):
        assert labels.equal(blocks.labels.long())
        assert not image.mul(255).round().equal(blocks.image.float())


# what cannot be


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rescale": (1.5, 1.0)}, r"rescale is \(1.5, 1.0\); wanted \(low, high\) with 0 < low"),
        ({"rescale": (0.0, 1.0)}, "rescale is"),
        ({"crop": (190, 640)}, r"crop is \(190, 640\); wanted height and width in multiples of 8"),
        ({"crop": (192, 641)}, "crop is"),
        ({"crop": (0, 640)}, "crop is"),
        ({"crop": (-8, 640)}, "crop is"),
    ],
)
def test_impossible_settings_are_refused_with_what_was_wanted(wrong, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**wrong)


@pytest.mark.parametrize("wrong", [{"rotation": -2}, {"flip": 1.5}, {"hue": 0.7}])
def test_settings_torchvision_cannot_do_are_refused_before_training(blocks, wrong):
    with pytest.raises(ValueError):
        Augmented(blocks, Augmentation(**wrong), seed=0)
