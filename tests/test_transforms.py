import colorsys
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as plainly

from cilkit.classes import HIDDEN, VOID
from cilkit.data.augmentation import Augmentation, Augmented, adjust_hue, derive_seed, warp
from cilkit.training.config import PRESETS

STILL = Augmentation(
    rotation=0, rescale=(1, 1), crop=(64, 128), brightness=0, contrast=0, saturation=0, hue=0
)


class Scenes:
    """What Augmented needs of a data set: the same scene, as often as asked for."""

    def __init__(self, image: torch.Tensor, labels: torch.Tensor, length: int = 20):
        self.image, self.labels, self.length = image, labels, length

    def __len__(self) -> int:
        return self.length

    def prepare(self, progress: bool = True) -> None:
        """There is nothing to decode."""

    def load(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index >= self.length:
            raise IndexError(index)  # where a for loop stops
        return self.image, self.labels


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


@pytest.mark.parametrize(("divides", "low", "high"), [(False, 1, 1.5), (True, 1 / 1.5, 1)])
def test_rescaling_draws_from_its_whole_range(divides, low, high):
    columns = torch.arange(128, dtype=torch.uint8).expand(64, 128).contiguous()
    rows = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 128).contiguous()
    rescale = replace(STILL, rescale=(1.0, 1.5), rescale_divides=divides, crop=(40, 80))
    for lines, axis in ((columns, 1), (rows, 0)):
        items = Augmented(Scenes(lines.expand(3, 64, 128), lines, 200), rescale, seed=0)
        steps = [labels.float().diff(dim=axis).mean().item() for _, labels in items]
        factors = [1 / step for step in steps]
        assert low - 0.06 < min(factors) < low + 0.06 and high - 0.06 < max(factors) < high + 0.06


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
        assert image[:, inside(labels)].gt(1 - 1e-6).all()  # where a label is, there is the image
        black += (deep := nothing & inside(nothing.long())).sum().item()
        assert image[:, deep].eq(0).all()  # and where nothing is, it is black
    assert turned > 20 and black > 1000


def test_an_augmentation_keeps_hidden_and_void_apart():
    halves = torch.full((64, 128), HIDDEN, dtype=torch.uint8)
    halves[:, 64:] = VOID
    strong = replace(STILL, rotation=30, flip=0.5, rescale=(0.7, 1.4), crop=(64, 128))
    found = torch.stack(
        [y for _, y in Augmented(Scenes(halves.expand(3, 64, 128), halves, 30), strong, 0)]
    )
    assert set(found.unique().tolist()) == {HIDDEN, VOID}
    assert 0.3 < (found == HIDDEN).float().mean() < 0.6  # a bit less than half: borders are void


def test_rotation_goes_both_ways_up_to_its_angle():
    rows = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 128).contiguous()
    items = Augmented(Scenes(rows.expand(3, 64, 128), rows, 200), replace(STILL, rotation=2), 0)
    # across 100 columns a line rises by 100 tan(2 deg) = 3.5 rows at most
    rise = [(labels[32, 114] - labels[32, 14]).item() for _, labels in items]
    assert {min(rise), max(rise)} <= {-4, -3, 3, 4}


# one interpolation, at the points of the crop


@pytest.mark.parametrize("divides", [False, True])
def test_a_crop_shows_the_place_that_its_map_says(divides):
    """In an image that holds its own coordinates, each pixel tells where it is from."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    coordinates = torch.stack([2 * x, 4 * y, 0 * x]).to(torch.uint8)
    augmentation = replace(STILL, rotation=20, flip=0.5, rescale=(1, 2), rescale_divides=divides)
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(20):
        draws = torch.rand(5, generator=generator).tolist()
        place = augmentation._affine((64, 128), (24, 48), *draws)
        image, labels = warp(coordinates, (2 * x).to(torch.uint8), (24, 48), place)
        down, right = torch.meshgrid(
            torch.arange(24) - 11.5, torch.arange(48) - 23.5, indexing="ij"
        )
        points = torch.stack([right, down, torch.ones_like(right)], dim=-1) @ place.T  # (24, 48, 2)
        points += torch.tensor([64.0, 32.0]) - 0.5  # now in indices of pixels
        whole = ((points > 2) & (points < torch.tensor([125.0, 61.0]))).all(dim=-1)
        seen += whole.sum().item()
        assert torch.allclose(image[0][whole] * 255 / 2, points[..., 0][whole], atol=1e-3)
        assert torch.allclose(image[1][whole] * 255 / 4, points[..., 1][whole], atol=1e-3)
        near = (labels / 2 - points[..., 0])[whole]
        assert near.abs().max() < 0.5 + 1e-3
        outside = ((points < -0.5) | (points > torch.tensor([127.5, 63.5]))).any(dim=-1)
        assert labels[outside].eq(VOID).all() and image[:, outside].eq(0).all()
        assert labels[~outside].ne(VOID).all()
    assert seen > 10000


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def test_enlarging_alone_is_torchvisions_bilinear_resize():
    image = noise(3, 16, 32)
    place = torch.tensor([[2 / 3, 0, 0], [0, 2 / 3, 0]])
    got, _ = warp(image, image[0], (24, 48), place)
    assert torch.allclose(got, plainly.resize(image.float() / 255, [24, 48]), atol=1e-5)


def test_turning_alone_is_torchvisions_rotation():
    image, still = noise(3, 32, 64), replace(STILL, rotation=10)
    place = still._affine((32, 64), (32, 64), 1.0, 1.0, 0.0, 0.0, 0.0)
    got, labels = warp(image, image[0], (32, 64), place)
    wanted = plainly.rotate(image.float() / 255, 10, InterpolationMode.BILINEAR)
    whole = plainly.rotate(torch.ones(1, 32, 64), 10, InterpolationMode.BILINEAR)[0] > 0.999
    assert whole.float().mean() > 0.7
    assert torch.allclose(got[:, whole], wanted[:, whole], atol=1e-4)
    nearest = plainly.rotate(image[:1], 10)[0].long()
    assert labels[whole].eq(nearest[whole]).float().mean() > 0.999  # but for halves of a pixel


def test_an_image_made_smaller_is_averaged_and_does_not_flicker():
    stripes = (torch.arange(120) % 2 * 255).to(torch.uint8).expand(3, 60, 120).contiguous()
    place = torch.tensor([[1.5, 0, 0], [0, 1.5, 0]])
    got, _ = warp(stripes, stripes[0], (40, 80), place)
    one_point_each = plainly.resize(stripes.float() / 255, [40, 80], antialias=False)
    assert one_point_each.std() > 0.24
    assert got[:, :, 1:-1].std() < 0.13  # nearer to grey


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


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_turning_hues_is_torchvisions_hue_adjustment(turn):
    levels = torch.linspace(0, 1, 9)
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 27, 27)  # greys and ties too
    got = adjust_hue(image, turn)
    assert torch.allclose(got, plainly.adjust_hue(image, turn), atol=2e-6)
    assert got.min() >= 0 and got.max() <= 1


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rotation": -2}, "rotation is -2; wanted a number from 0 to 180"),
        ({"flip": 1.5}, "flip is 1.5; wanted a number from 0 to 1"),
        ({"brightness": -0.1}, "brightness is -0.1; wanted a number from 0 to 1"),
        ({"contrast": 1.1}, "contrast is 1.1; wanted a number from 0 to 1"),
        ({"saturation": float("nan")}, "saturation is nan; wanted a number from 0 to 1"),
        ({"hue": 0.7}, "hue is 0.7; wanted a number from 0 to 0.5"),
    ],
)
def test_settings_beyond_their_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**wrong)
