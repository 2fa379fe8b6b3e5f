import math

import pytest
import torch

from cilkit.classes import VOID
from cilkit.losses import cross_entropy, entropy, entropy_weight, local_pod, masked_distillation

SHAPE = (2, 4, 3, 5)  # B, S, H, W


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *size: torch.randn(*size, generator=generator)


@pytest.fixture
def log_y(draw):
    return (3 * draw(*SHAPE)).log_softmax(dim=1)


@pytest.fixture
def teacher_y(draw):
    return (2 * draw(*SHAPE)).softmax(dim=1)


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (2, 3, 5), generator=generator)
    return labels.where(labels < 4, VOID)


@pytest.fixture
def mask():
    return torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(2)) < 0.6


def pixels(*values: list[float]) -> torch.Tensor:
    """One image, one row: a pixel for each list of probabilities. (1, S, 1, W)"""
    return torch.tensor(values).T[None, :, None]


# the equations again, with loops and one-hot labels, in Python's float64


def equation_1(log_y, labels):
    images, classes, height, width = log_y.shape
    total, labelled = 0.0, 0
    for b in range(images):
        for h in range(height):
            for w in range(width):
                if labels[b, h, w] == VOID:
                    continue
                labelled += 1
                for s in range(classes):
                    one_hot = 1.0 if labels[b, h, w] == s else 0.0
                    total -= one_hot * log_y[b, s, h, w].item()
    return total / labelled


def equation_7(log_y, teacher_y, mask=None, weight=None):
    images, classes, height, width = log_y.shape
    total, masked = 0.0, 0
    for b in range(images):
        for h in range(height):
            for w in range(width):
                if mask is not None and not mask[b, h, w]:
                    continue
                masked += 1
                alpha = 1.0 if weight is None else weight[b, h, w].item()
                for s in range(classes):
                    total -= alpha * teacher_y[b, s, h, w].item() * log_y[b, s, h, w].item()
    return total / masked


def equation_10(teacher_y, b, h, w):
    column = [teacher_y[b, s, h, w].item() for s in range(teacher_y.shape[1])]
    return 1 + -sum(y * math.log2(y) for y in column)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_equation_1(log_y, labels, dtype):
    log_y = log_y.to(dtype)
    assert VOID in labels
    loss = cross_entropy(log_y, labels)
    assert loss.shape == () and loss.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert loss.item() == pytest.approx(equation_1(log_y, labels), rel=tolerance)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_distillation_is_equation_7(log_y, teacher_y, mask, masked, weighted, dtype):
    log_y, teacher_y = log_y.to(dtype), teacher_y.to(dtype)
    weight = 1 + torch.arange(30, dtype=dtype).view(2, 3, 5) / 10 if weighted else None
    mask = mask if masked else None
    loss = masked_distillation(log_y, teacher_y, mask, weight)
    assert loss.shape == () and loss.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    wanted = equation_7(log_y, teacher_y, mask, weight)
    assert loss.item() == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_weight_is_equation_10(teacher_y, dtype):
    teacher_y = teacher_y.to(dtype)
    alpha = entropy_weight(teacher_y)
    assert alpha.shape == (2, 3, 5) and alpha.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for b, h, w in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        wanted = equation_10(teacher_y, b, h, w)
        assert alpha[b, h, w].item() == pytest.approx(wanted, rel=tolerance)


# pixels worked out by hand


def test_cross_entropy_of_three_pixels_by_hand():
    log_y = pixels([0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]).log()
    labels = torch.tensor([[[1, VOID, 2]]])
    # -(ln 0.25 + ln 0.5) / 2 = (2 ln 2 + ln 2) / 2
    assert cross_entropy(log_y, labels).item() == pytest.approx(1.5 * math.log(2), rel=1e-6)


def test_cross_entropy_divides_by_the_labelled_pixels_of_the_whole_batch():
    log_y = pixels([0.5, 0.5], [0.25, 0.75]).log().expand(2, 2, 1, 2)
    labels = torch.tensor([[[0, 0]], [[0, VOID]]])
    # ln 2 + 2 ln 2 + ln 2 over 3 pixels; the mean of the two images' means would be 1.25 ln 2
    assert cross_entropy(log_y, labels).item() == pytest.approx(4 / 3 * math.log(2), rel=1e-6)


def test_distillation_of_two_pixels_by_hand():
    log_y = pixels([0.5, 0.5], [0.25, 0.75]).log()
    teacher_y = pixels([0.5, 0.5], [1.0, 0.0])
    # first: 0.5 ln 2 + 0.5 ln 2 = ln 2; second: ln 4 = 2 ln 2
    assert masked_distillation(log_y, teacher_y).item() == pytest.approx(1.5 * math.log(2))
    only = torch.tensor([[[False, True]]])
    assert masked_distillation(log_y, teacher_y, only).item() == pytest.approx(2 * math.log(2))


def test_the_weighted_sum_is_divided_by_the_pixels_and_not_by_the_weights():
    log_y = pixels([0.5, 0.5], [0.25, 0.75]).log()
    teacher_y = pixels([0.5, 0.5], [1.0, 0.0])
    weight = entropy_weight(teacher_y)  # 1 + 1 bit, and 1
    assert weight.flatten().tolist() == pytest.approx([2, 1])
    both = torch.tensor([[[True, True]]])
    # (2 ln 2 + 1 * 2 ln 2) / 2 pixels, not / 3
    wanted = pytest.approx(2 * math.log(2))
    assert masked_distillation(log_y, teacher_y, both, weight).item() == wanted
    assert masked_distillation(log_y, teacher_y, None, weight).item() == wanted


@pytest.mark.parametrize("classes", [2, 4, 5, 11])
def test_entropy_weight_runs_from_one_to_one_plus_log2_of_the_classes(classes):
    sure = torch.zeros(1, classes, 1, 1)
    sure[:, 1] = 1
    clueless = torch.full((1, classes, 1, 1), 1 / classes)
    assert entropy_weight(sure).item() == 1
    assert entropy_weight(clueless).item() == pytest.approx(1 + math.log2(classes))


def test_entropy_weight_of_a_half_a_quarter_a_quarter_is_2_and_a_half():
    assert entropy_weight(pixels([0.5, 0.25, 0.25])).item() == pytest.approx(2.5)


# identities


def test_a_full_mask_without_weight_is_plain_distillation(log_y, teacher_y):
    full = torch.ones(2, 3, 5, dtype=torch.bool)
    ones = torch.ones(2, 3, 5)
    plain = masked_distillation(log_y, teacher_y).item()
    assert masked_distillation(log_y, teacher_y, full).item() == pytest.approx(plain, rel=1e-6)
    assert masked_distillation(log_y, teacher_y, full, ones).item() == pytest.approx(
        plain, rel=1e-6
    )


def test_distilling_a_one_hot_teacher_is_cross_entropy(log_y, labels):
    labels = labels.where(labels != VOID, 0)
    one_hot = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    distilled = masked_distillation(log_y, one_hot).item()
    assert distilled == pytest.approx(cross_entropy(log_y, labels).item(), rel=1e-6)


def test_a_student_like_its_teacher_reaches_the_teachers_entropy(teacher_y):
    bits = (entropy_weight(teacher_y) - 1).mean().item()
    reached = masked_distillation(teacher_y.log(), teacher_y).item()
    assert reached == pytest.approx(bits * math.log(2), rel=1e-6)


# nothing to learn from, and the limits of floating point


def test_without_a_labelled_pixel_the_cross_entropy_is_zero_and_so_is_its_gradient(draw):
    logits = draw(*SHAPE).requires_grad_()
    loss = cross_entropy(logits.log_softmax(dim=1), torch.full((2, 3, 5), VOID))
    loss.backward()
    assert loss.item() == 0 and logits.grad.eq(0).all()


def test_with_an_empty_mask_distillation_is_zero_and_so_is_its_gradient(draw, teacher_y):
    logits = draw(*SHAPE).requires_grad_()
    empty = torch.zeros(2, 3, 5, dtype=torch.bool)
    loss = masked_distillation(
        logits.log_softmax(dim=1), teacher_y, empty, entropy_weight(teacher_y)
    )
    loss.backward()
    assert loss.item() == 0 and logits.grad.eq(0).all()


def test_a_student_with_probability_zero_where_the_teacher_has_none_is_finite():
    logits = torch.tensor([0.0, 0.0, -math.inf]).view(1, 3, 1, 1).requires_grad_()
    log_y = logits.log_softmax(dim=1)
    teacher_y = pixels([1.0, 0.0, 0.0])
    assert log_y[0, 2].item() == -math.inf
    for mask in (None, torch.ones(1, 1, 1, dtype=torch.bool)):
        loss = masked_distillation(log_y, teacher_y, mask, entropy_weight(teacher_y))
        assert loss.item() == pytest.approx(math.log(2))


def test_an_infinite_logarithm_at_one_pixel_leaves_the_gradients_of_the_others(draw, teacher_y):
    teacher_y = teacher_y.clone()
    teacher_y[0, :, 0, 0] = torch.tensor([1.0, 0, 0, 0])
    scores, gradients = draw(*SHAPE), []
    for lowest in (-50.0, -math.inf):
        logits = scores.clone()
        logits[0, 1, 0, 0] = lowest  # where the teacher is sure of another class
        logits.requires_grad_()
        masked_distillation(logits.log_softmax(dim=1), teacher_y).backward()
        gradients.append(logits.grad)
    finite, infinite = gradients
    elsewhere = torch.ones(SHAPE, dtype=torch.bool)
    elsewhere[0, :, 0, 0] = False
    assert finite[elsewhere].equal(infinite[elsewhere]) and finite[elsewhere].all()


def test_a_teacher_that_underflows_to_zero_gives_finite_gradients():
    logits = torch.tensor([0.0, 200.0, -200.0]).view(1, 3, 1, 1).requires_grad_()
    teacher_y = torch.tensor([0.0, -300.0, 300.0]).view(1, 3, 1, 1).softmax(dim=1)
    assert teacher_y.flatten().tolist() == [0, 0, 1]
    loss = masked_distillation(
        logits.log_softmax(dim=1), teacher_y, None, entropy_weight(teacher_y)
    )
    loss.backward()
    assert loss.item() == pytest.approx(400)
    assert logits.grad.flatten().tolist() == pytest.approx([0, 1, -1])  # y - y-tilde


def test_what_is_masked_out_may_be_infinite(teacher_y, log_y):
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, 0, 0] = False
    wanted = equation_7(log_y, teacher_y, mask)
    log_y[0, :, 0, 0] = -math.inf
    assert masked_distillation(log_y, teacher_y, mask).item() == pytest.approx(wanted, rel=1e-6)


def test_a_void_pixel_may_be_infinite(log_y, labels):
    labels[0, 0, 0] = VOID
    wanted = equation_1(log_y, labels)
    log_y[0, :, 0, 0] = -math.inf
    assert cross_entropy(log_y, labels).item() == pytest.approx(wanted, rel=1e-6)


def test_the_weight_is_1_plus_the_entropy(teacher_y):
    assert entropy_weight(teacher_y).equal(1 + entropy(teacher_y))
    assert entropy(torch.full((1, 4, 1, 1), 0.25)).item() == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_summed_in_float32(log_y, teacher_y, labels, mask, dtype):
    log_y, teacher_y = log_y.to(dtype), teacher_y.to(dtype)
    ce, alpha = cross_entropy(log_y, labels), entropy_weight(teacher_y)
    mkd = masked_distillation(log_y, teacher_y, mask)
    assert ce.dtype == alpha.dtype == mkd.dtype == torch.float32
    assert ce.item() == pytest.approx(equation_1(log_y, labels), rel=1e-6)
    assert mkd.item() == pytest.approx(equation_7(log_y, teacher_y, mask), rel=1e-6)
    assert alpha[1, 2, 3].item() == pytest.approx(equation_10(teacher_y, 1, 2, 3), rel=1e-6)


def test_a_million_half_precision_pixels_do_not_saturate_the_sum():
    log_y = torch.full((1, 2, 1000, 1000), math.log(0.5), dtype=torch.bfloat16)
    labels = torch.zeros(1, 1000, 1000, dtype=torch.long)
    wanted = -log_y[0, 0, 0, 0].item()
    assert cross_entropy(log_y, labels).item() == pytest.approx(wanted, rel=1e-5)
    assert masked_distillation(log_y, torch.full_like(log_y, 0.5)).item() == pytest.approx(
        wanted, rel=1e-5
    )


# features


def test_local_pod_is_the_distance_of_the_means_of_squares():
    ours, theirs = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    ours[0, 0, 0, 0], theirs[1, 0, 0, 1] = 2, -4
    # image 0: one row, mean 2, and two columns, 4 and 0; image 1: 8, 0 and 16
    wanted = (math.sqrt(2**2 + 4**2) + math.sqrt(8**2 + 16**2)) / 2
    assert local_pod(ours, theirs).item() == pytest.approx(wanted)
    assert local_pod(ours, -ours).item() == 0  # the sign is lost


def test_local_pod_sees_where_a_change_is_only_as_finely_as_its_regions():
    maps = torch.zeros(1, 1, 4, 4)
    moved = maps.clone()
    maps[0, 0, 0, 0] = moved[0, 0, 1, 1] = 1
    # two rows and two columns differ in each, by the mean of so many pixels
    parts = (1 / 4, 1 / 2, 1)
    wanted = math.sqrt(sum(4 * mean**2 for mean in parts))
    assert local_pod(maps, moved).item() == pytest.approx(wanted)


def test_layers_of_other_shapes_are_no_pair_for_local_pod():
    with pytest.raises(
        ValueError, match=r"\(1, 2, 4, 4\) and the teacher's \(1, 3, 4, 4\); wanted"
    ):
        local_pod(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))


# gradients


def test_the_gradient_of_the_cross_entropy_is_right(log_y, labels):
    x = log_y.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels), x)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_distillation_is_right(log_y, teacher_y, mask, masked, weighted):
    x, y = log_y.double().requires_grad_(), teacher_y.double()
    weight = entropy_weight(y) if weighted else None
    mask = mask if masked else None
    assert torch.autograd.gradcheck(lambda x: masked_distillation(x, y, mask, weight), x)


def test_the_gradient_of_the_entropy_weight_is_right(teacher_y):
    y = teacher_y.double().clamp(min=0.01).requires_grad_()
    assert torch.autograd.gradcheck(entropy_weight, y)


# what cannot be


@pytest.mark.parametrize(
    ("log_shape", "label_shape"),
    [((2, 4, 3, 5), (2, 3, 4)), ((2, 4, 3, 5), (3, 5)), ((4, 3, 5), (3, 5)), ((2, 4), (2,))],
)
def test_cross_entropy_refuses_shapes_that_do_not_match(log_shape, label_shape):
    with pytest.raises(ValueError, match=r"wanted \(B, S, H, W\) and \(B, H, W\)") as error:
        cross_entropy(torch.zeros(log_shape), torch.zeros(label_shape, dtype=torch.long))
    assert str(log_shape) in str(error.value) and str(label_shape) in str(error.value)


@pytest.mark.parametrize("label", [4, 18, -1, 254])
def test_cross_entropy_refuses_a_label_without_channel(log_y, labels, label):
    labels[1, 2, 3] = label
    with pytest.raises(ValueError, match=f"label {label} for 4 channels.*restrict"):
        cross_entropy(log_y, labels)


def test_distillation_refuses_a_student_of_other_classes(log_y, teacher_y):
    with pytest.raises(ValueError, match=r"\(2, 4, 3, 5\) but teacher has \(2, 3, 3, 5\); slice"):
        masked_distillation(log_y, teacher_y[:, :3])


@pytest.mark.parametrize("name", ["mask", "weight"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (3, 5), (2, 1, 3, 5)])
def test_distillation_refuses_a_mask_or_weight_that_is_not_one_value_a_pixel(
    log_y, teacher_y, name, shape
):
    given = torch.ones(shape, dtype=torch.bool if name == "mask" else torch.float32)
    with pytest.raises(ValueError, match=f"{name} has shape .*wanted one value a pixel"):
        masked_distillation(log_y, teacher_y, **{name: given})
