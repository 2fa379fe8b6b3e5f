import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import default_collate

from cilkit.classes import HIDDEN, VOID, restrict
from cilkit.data.augmentation import Augmentation, Augmented, derive_seed
from cilkit.data.images import LabelledImages
from cilkit.data.scenes import open_data
from cilkit.losses import cross_entropy
from cilkit.methods import METHODS, Memory, Method
from cilkit.methods.lwm import balanced
from cilkit.metrics import MeanIoU
from cilkit.networks.erfnet import ERFNet
from cilkit.networks.lraspp import LRASPP
from cilkit.training.config import PRESETS, TrainConfig, get_config
from cilkit.training.evaluation import (
    evaluate,
    evaluation_batch_size,
    make_fabric,
    predict,
    used_precision,
)
from cilkit.training.loop import Monitor, learning_rate
from cilkit.training.stage import fit, fit_stage


@pytest.fixture
def teacher(make_network):
    """A model of stage T1."""
    return make_network(5)


@pytest.fixture
def fit_t2(scenes, teacher, tiny, small, make_network):
    """fit_t2(method, ...) trains in stage T2 after `teacher`; more replaces what it is given."""

    def train(method="CIL", config=tiny, seed=0, teacher=teacher, **changes):
        method = small(method) if isinstance(method, str) else method
        given = {"images": scenes.stage("T2", method.labels, hidden=method.hidden)}
        if method.memory is not None:
            remembered = scenes.stage("T1").subset(range(method.memory.size))
            given |= {"memory": [remembered], "new_teacher": make_network(6, seed=1)}
        given |= changes
        stage = scenes.split.stage("T2")
        return fit_stage(method, stage=stage, teacher=teacher, config=config, seed=seed, **given)

    return train


def state(network) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


class Recorder(LabelledImages):
    """A data set that notes in which order it is read."""

    def __init__(self, images: LabelledImages):
        super().__init__(images.samples, images.split, images.visible, images.height)
        self.order = []

    def load(self, index: int):
        self.order.append(index)
        return super().load(index)


SEEN = slice(0, 19)  # all labels but HIDDEN and VOID


def spy(seen: list, **settings) -> Method:
    """A method that notes its steps."""

    def loss(step):
        seen.append(step)
        return {"ce": cross_entropy(step.logits.log_softmax(1), restrict(step.labels, SEEN))}

    return Method("spy", equation=1, loss=loss, **settings)


# configuration


def test_the_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.epochs, config.batch, config.height) == (200, 6, 512)
    assert (config.learning_rate, config.weight_decay, config.power) == (5e-4, 3e-4, 0.9)
    assert config.augmentation == Augmentation() and config.augmentation.crop == (192, 640)
    assert (config.encoder_weights, config.normalise, config.start) == (None, False, "random")


def test_the_preset_paper_is_the_defaults_with_workers():
    assert replace(get_config("paper"), workers=0) == TrainConfig()


def test_the_preset_released_differs_where_the_released_code_does():
    paper, released = get_config("paper"), get_config("released")
    assert released.encoder_weights == "data/erfnet_encoder_pretrained.pth.tar"
    assert released.schedule == "epoch" and released.normalise
    same = {
        "schedule": paper.schedule,
        "normalise": False,
        "encoder_weights": None,
        "augmentation": paper.augmentation,
    }
    assert replace(released, **same) == paper


def test_short_presets_start_from_the_teacher_and_the_papers_from_random_weights():
    starts = {name: config.start for name, config in PRESETS.items()}
    assert starts["quick"] == starts["long"] == "teacher"
    assert starts["paper"] == starts["released"] == "random"  # footnote 2


def test_long_is_quick_with_more_epochs():
    quick, long = get_config("quick"), get_config("long")
    assert long.epochs > 4 * quick.epochs and replace(long, epochs=quick.epochs) == quick


def test_an_unknown_preset_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"preset 'papers' \(did you mean 'paper'\?\).*smoke"):
        get_config("papers")
    assert list(PRESETS) == ["smoke", "quick", "long", "paper", "released"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0; wanted a whole number from 1"),
        ({"epochs": 2.5}, "epochs is 2.5; wanted a whole number"),
        ({"epochs": "3"}, "epochs is '3'"),
        ({"batch": -1}, "batch is -1"),
        ({"batch": True}, "batch is True"),
        ({"height": 0}, "height is 0"),
        ({"learning_rate": 0}, "learning_rate is 0; wanted a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"power": -0.9}, "power is -0.9"),
        ({"warmup": 1.5}, "warmup is 1.5; wanted a number from 0 to 1"),
        ({"schedule": "steps"}, r"unknown schedule 'steps' \(did you mean 'step'\?\)"),
        ({"start": "techer"}, r"unknown start 'techer' \(did you mean 'teacher'\?\)"),
        ({"precision": "16"}, "unknown precision '16'; choose one of: auto, 32-true, bf16-mixed"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


# learning rate


def test_the_schedule_of_the_paper_falls_at_every_step_and_never_to_zero():
    config = TrainConfig()
    assert learning_rate(config, 0, 0.0) == 5e-4
    assert learning_rate(config, 100, 0.0) == pytest.approx(2.6794e-4, rel=1e-4)  # 5e-4 * 0.5^0.9
    rates = [learning_rate(config, epoch, k / 159) for epoch in range(200) for k in range(159)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 200 * 159
    assert rates[-1] == pytest.approx(5e-4 * (1 / (200 * 159)) ** 0.9) and rates[-1] > 0


def test_the_schedule_of_the_released_code_starts_above_and_moves_by_epoch():
    config = get_config("released")
    assert learning_rate(config, 0, 0.0) == pytest.approx(5.0225e-4, rel=1e-5)  # 5e-4 * 1.005^0.9
    assert learning_rate(config, 1, 0.0) == 5e-4
    assert learning_rate(config, 199, 0.0) == pytest.approx(7.92e-6, rel=1e-3)  # 5e-4 * 0.01^0.9
    assert learning_rate(config, 7, 0.9) == learning_rate(config, 7, 0.0)


def test_a_warmup_multiplies_the_schedule_by_a_rise_from_zero():
    plain = TrainConfig(epochs=8)
    warm = replace(plain, warmup=0.25)  # the first two epochs
    assert learning_rate(warm, 0, 0.0) == 0
    half = learning_rate(warm, 1, 0.0)
    assert half == pytest.approx(learning_rate(plain, 1, 0.0) / 2)
    for epoch, part in [(2, 0.0), (5, 0.5), (7, 0.9)]:
        assert learning_rate(warm, epoch, part) == learning_rate(plain, epoch, part)
    by_epoch = replace(warm, schedule="epoch")
    assert [learning_rate(by_epoch, k, 0.5) for k in range(2)] == [0, 0]
    assert learning_rate(by_epoch, 2, 0.5) == pytest.approx(learning_rate(warm, 1, 0.0))


@pytest.mark.parametrize(
    ("schedule", "last_of_each_epoch"),
    [("step", [0.75, 0.25]), ("epoch", [1.5, 1.0])],  # 2 epochs of 2 steps: 1 - t
)
def test_the_history_has_the_learning_rate_of_each_epochs_last_step(
    scenes, tiny, schedule, last_of_each_epoch
):
    config = replace(tiny, epochs=2, batch=2, schedule=schedule)
    _, history = fit(scenes.stage("T1"), config)
    wanted = [config.learning_rate * left**0.9 for left in last_of_each_epoch]
    assert history["learning_rate"].tolist() == pytest.approx(wanted, rel=1e-9)


# the loop


def test_fit_gives_a_network_for_the_visible_classes_and_a_history(scenes, tiny):
    network, history = fit(scenes.stage("T1"), replace(tiny, epochs=2))
    assert network.num_classes == 5 and len(network.decoders) == 1
    assert list(history) == ["epoch", "learning_rate", "ce", "seconds"]
    assert history["epoch"].tolist() == [1, 2]
    assert np.isfinite(history["ce"]).all() and (history["seconds"] > 0).all()
    assert fit(scenes.single_stage("T2"), tiny)[0].num_classes == 11
    assert fit(scenes.stage("T2"), tiny)[0].num_classes == 6  # the second teacher of LWM


def test_a_trained_network_is_handed_back_on_the_cpu_ready_to_use(scenes, tiny, fit_t2):
    for network, _ in (fit(scenes.stage("T1"), tiny), fit_t2("FT"), fit_t2("CIL")):
        assert not any(module.training for module in network.modules())
        for parameter in network.parameters():
            assert parameter.device.type == "cpu" and parameter.dtype == torch.float32
            assert parameter.requires_grad and parameter.is_contiguous()


def test_training_learns_that_white_is_sky_and_black_is_road(folder, write_png, tiny):
    white_above = np.zeros((32, 64, 3), dtype=np.uint8)
    white_above[:16] = 255
    ids = np.full((32, 64), 7, dtype=np.uint8)
    ids[:16] = 23
    for sample in open_data(folder).train:
        write_png(sample.image, white_above)
        write_png(sample.label, ids)
    config = replace(tiny, epochs=8, learning_rate=1e-2)
    _, history = fit(open_data(folder).stage("T1"), config)
    assert history["ce"].iloc[0] > 1.4  # a guess among five classes costs ln 5 = 1.6
    assert history["ce"].iloc[-1] < 0.75 * history["ce"].iloc[0]


def by_hand(images: LabelledImages, config: TrainConfig, seed: int) -> ERFNet:
    """Eq. (1) in the fewest lines: Adam on all weights, with a new rate at every step."""
    torch.manual_seed(derive_seed(seed, "network"))
    first, stop = images.visible.start, images.visible.stop
    network = ERFNet(stop - first)
    adam = torch.optim.Adam(network.parameters(), weight_decay=config.weight_decay, fused=True)
    augmented = Augmented(images, config.augmentation, seed)
    steps = len(images) // config.batch
    total = config.epochs * steps
    for step in range(total):
        augmented.epoch, part = divmod(step, steps)
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", augmented.epoch))
        order = torch.randperm(len(images), generator=generator).split(config.batch)[part]
        pixels, labels = default_collate([augmented[index] for index in order.tolist()])
        adam.param_groups[0]["lr"] = config.learning_rate * (1 - step / total) ** config.power
        network.train().zero_grad()
        labels = torch.where(labels == VOID, VOID, labels - first)
        cross_entropy(network(pixels).log_softmax(dim=1), labels).backward()
        adam.step()
    return network


@pytest.mark.parametrize("stage", ["T1", "T2"])
def test_training_is_adam_on_the_cross_entropy_with_a_falling_rate(scenes, tiny, stage):
    if Fabric(devices=1).device.type != "cpu":
        pytest.skip("this machine has an accelerator, which rounds differently")
    config = replace(tiny, epochs=2, batch=2, identity_start=False)
    network, _ = fit(scenes.stage(stage), config, seed=3)
    with torch.random.fork_rng():
        wanted = by_hand(scenes.stage(stage), config, seed=3)
    assert equal(state(network), state(wanted))


def test_the_weights_of_a_trained_network_have_memory_of_their_own(scenes, tiny, fit_t2):
    for network in (fit(scenes.stage("T1"), tiny)[0], fit_t2("FE")[0]):
        for weight in network.parameters():
            assert weight.untyped_storage().nbytes() == weight.nbytes and weight.grad is None


def test_every_epoch_shows_each_image_once_and_in_a_new_order(scenes, tiny):
    images = Recorder(scenes.single_stage("T3"))
    fit(images, replace(tiny, epochs=2, batch=17))
    first, second = images.order[1:18], images.order[18:]  # before them, one look at the size
    assert sorted(first) == sorted(second) == list(range(17))
    assert first != second and first != sorted(first)
    other = Recorder(scenes.single_stage("T3"))
    fit(other, replace(tiny, batch=17), seed=1)
    assert other.order[1:] != first


def test_the_last_smaller_batch_of_an_epoch_is_dropped(scenes, fit_t2, tiny):
    seen = []
    fit_t2(spy(seen), replace(tiny, epochs=2, batch=2))
    assert len(scenes.stage("T2")) == 7
    assert [len(step.logits) for step in seen] == [2, 2, 2] * 2


def test_the_history_holds_the_mean_of_each_term(fit_t2, tiny):
    seen = []

    def loss(step):
        seen.append(step)
        zero = 0 * step.logits.sum()
        return {"one": zero + len(seen), "ten": zero + 10 * len(seen)}

    _, history = fit_t2(Method("count", equation=1, loss=loss), replace(tiny, batch=2))
    assert history[["one", "ten"]].values.tolist() == [[2, 20]]  # of 1, 2, 3


def test_a_batch_larger_than_the_data_set_is_refused(scenes, tiny, fit_t2):
    with pytest.raises(
        ValueError, match="T1: a batch of 5 is larger than the data set of 4 images"
    ):
        fit(scenes.stage("T1"), replace(tiny, batch=5))
    with pytest.raises(ValueError, match="CIL T2: a batch of 8 .* of 7 images; use a smaller"):
        fit_t2("CIL", replace(tiny, batch=8))


def test_a_loss_that_is_not_a_number_stops_the_training(fit_t2, tiny):
    mine = Method("mine", equation=1, loss=lambda step: {"odd": step.logits.sum() * torch.nan})
    with pytest.raises(
        FloatingPointError, match=r"mine T2: .*'odd': nan.* in step 1 of epoch 1"
    ) as error:
        fit_t2(mine, replace(tiny, epochs=3))
    assert "nothing was saved from there on. Lower the learning rate (now 0.002)" in str(
        error.value
    )


# seeds


def test_the_same_seed_gives_the_same_network_and_another_seed_another(scenes, tiny):
    networks = [state(fit(scenes.stage("T1"), tiny, seed)[0]) for seed in (0, 0, 1)]
    assert equal(networks[0], networks[1])
    assert not equal(networks[0], networks[2])


@pytest.mark.parametrize("method", ["FT", "CIL", "LWM"])
def test_the_same_seed_gives_the_same_student(fit_t2, method):
    students = [state(fit_t2(method, seed=seed)[0]) for seed in (3, 3, 4)]
    assert equal(students[0], students[1])
    assert not equal(students[0], students[2])


def test_what_was_drawn_before_does_not_matter_and_what_comes_after_neither(scenes, tiny, fit_t2):
    def generators():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    torch.manual_seed(1)
    before = generators()
    first = state(fit(scenes.stage("T1"), tiny)[0])
    fit_t2("CIL")
    assert generators() == before
    torch.manual_seed(2)
    assert equal(state(fit(scenes.stage("T1"), tiny)[0]), first)


def test_workers_change_nothing(scenes, tiny):
    config = replace(tiny, epochs=2, batch=2)
    alone, _ = fit(scenes.stage("T1"), config)
    helped, _ = fit(scenes.stage("T1"), replace(config, workers=2))
    assert equal(state(alone), state(helped))


# methods in a stage


def test_a_method_sees_only_its_stages_labels_and_probabilities_of_its_teacher(fit_t2):
    seen = []
    fit_t2(spy(seen))
    for step in seen:
        assert step.logits.shape == (4, 11, 16, 32) and step.logits.requires_grad
        assert (step.old, step.new) == (slice(0, 5), slice(5, 11))
        assert set(step.labels.unique().tolist()) <= {*range(5, 11), VOID}
        assert step.teacher.shape == (4, 5, 16, 32) and not step.teacher.requires_grad
        assert step.teacher.dtype == torch.float32
        torch.testing.assert_close(step.teacher.sum(dim=1), torch.ones(4, 16, 32))
    assert any((step.labels != VOID).any() for step in seen)


def test_a_method_without_teacher_sees_none(fit_t2):
    seen = []
    fit_t2(spy(seen, teacher=False))
    assert [step.teacher for step in seen] == [None]
    assert [step.new_teacher for step in seen] == [None]


def test_a_method_with_all_labels_sees_old_and_new_ones_and_none_to_come(fit_t2):
    seen = []
    fit_t2(spy(seen, labels="all"))
    found = set(seen[0].labels.unique().tolist())
    assert found <= {*range(11), VOID}
    assert found & set(range(5)) and found & set(range(5, 11))


def test_the_teacher_answers_in_evaluation_mode(fit_t2, teacher):
    modes = []
    teacher.register_forward_hook(lambda module, *_: modes.append(module.training))
    teacher.train()
    fit_t2("CIL", teacher=teacher)
    assert modes == [False]
    assert teacher.training  # the copy was switched, not the teacher


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("start", ["random", "teacher"])
def test_a_student_knows_old_and_new_classes_and_leaves_its_teacher_alone(
    fit_t2, teacher, tiny, method, start
):
    before = state(teacher)
    student, history = fit_t2(method, replace(tiny, start=start))
    assert student.num_classes == 11
    assert len(student.decoders) == (2 if METHODS[method].second_decoder else 1)
    assert equal(state(teacher), before)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert np.isfinite(history.drop(columns="epoch")).all(axis=None)


def test_ft_trains_the_encoder_and_its_decoder_and_leaves_the_old_decoder_alone(fit_t2, teacher):
    student, _ = fit_t2("FT")
    assert equal(state(student.decoder), state(teacher.decoder))  # batch-norm statistics too
    before, after = state(teacher.encoder), state(student.encoder)
    assert all(not after[key].equal(before[key]) for key in before)


def test_fe_trains_its_decoder_and_leaves_all_else_alone_bit_by_bit(fit_t2, teacher, tiny):
    config = replace(tiny, epochs=3, learning_rate=1e-2)
    student, _ = fit_t2("FE", config)
    assert equal(state(student.encoder), state(teacher.encoder))  # batch-norm statistics too
    assert equal(state(student.decoder), state(teacher.decoder))
    untrained, _ = fit_t2("FE", replace(config, learning_rate=1e-12, weight_decay=0.0))
    before, after = (dict(one.decoders[1].named_parameters()) for one in (untrained, student))
    assert all(not after[key].equal(before[key]) for key in before)
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    logits = predict(student, images, tiny)[:, :5]
    assert logits.equal(predict(teacher, images, tiny)) and logits.std() > 0.01


@pytest.mark.parametrize(("method", "frozen"), [("FE", True), ("FT", False)])
def test_the_frozen_encoder_of_fe_has_neither_dropout_nor_batch_statistics(
    fit_t2, teacher, tiny, method, frozen
):
    seen, pixels = [], []
    hook = teacher.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0]))
    mine = replace(METHODS[method], loss=spy(seen).loss)
    fit_t2(mine, replace(tiny, epochs=2, batch=3))  # the student is a copy, with the hook
    hook.remove()
    assert len(seen) == len(pixels) == 4
    for step, images in zip(seen, pixels, strict=True):
        answers = predict(teacher, images, tiny)  # in evaluation mode
        assert step.logits[:, step.old].detach().equal(answers) == frozen


def test_a_frozen_encoder_is_the_teachers_and_needs_no_second_decoder(fit_t2, teacher, tiny):
    frozen, seen = replace(METHODS["CIL"], freeze_encoder=True), []
    config = replace(tiny, start="teacher", epochs=2, learning_rate=1e-2)
    student, _ = fit_t2(frozen, config)
    assert equal(state(student.encoder), state(teacher.encoder))  # batch-norm statistics too
    assert len(student.decoders) == 1
    before, after = state(teacher.decoder), state(student.decoder)
    moved = [not after[key].equal(before[key]) for key in before if "output" not in key]
    assert all(moved) and moved
    watched = replace(frozen, loss=spy(seen).loss, features=("encoder",))
    fit_t2(watched, config)
    for step in seen:  # nor has it dropout
        assert step.features["encoder"].equal(step.teacher_features["encoder"])


def test_a_frozen_encoder_that_would_be_random_is_refused(fit_t2, tiny):
    with pytest.raises(ValueError, match="CIL freezes its.*start='random'.*Set start='teacher'"):
        fit_t2(replace(METHODS["CIL"], freeze_encoder=True), replace(tiny, start="random"))


@pytest.mark.parametrize("method", ["FT", "FE"])
def test_both_old_decoders_are_left_alone_in_stage_t3(scenes, tiny, make_network, method):
    teacher = make_network(5, 6)
    stage = scenes.split.stage("T3")
    student, _ = fit_stage(METHODS[method], scenes.stage("T3"), stage, teacher, tiny)
    assert student.classes == (5, 6, 8)
    for old, kept in zip(teacher.decoders, student.decoders[:2], strict=True):
        assert equal(state(old), state(kept))
    new = make_network(8).decoder
    assert not equal(state(student.decoders[2]), state(new))
    assert equal(state(teacher.encoder), state(student.encoder)) == (method == "FE")


def test_a_student_may_be_of_another_network_than_its_teacher(scenes, fit_t2, tiny):
    """Footnote 2: "a completely different network structure"."""
    other = replace(tiny, network="LRASPP")
    second, _ = fit_t2("CIL", other)
    assert isinstance(second, LRASPP) and second.classes == (11,)
    stage, images = scenes.split.stage("T3"), scenes.stage("T3")
    third, _ = fit_stage(METHODS["CIL"], images, stage, second, tiny)
    assert isinstance(third, ERFNet) and third.classes == (19,)
    longer, _ = fit_t2("CIL", replace(other, epochs=4))
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert not predict(longer, images, other).equal(predict(second, images, other))


@pytest.mark.parametrize(
    ("method", "start", "way_out"),
    [
        ("FT", "random", "same network$"),
        ("FE", "teacher", "same network$"),
        ("CIL", "teacher", "or set start='random'"),
    ],
)
def test_layers_of_a_teacher_fit_no_student_of_another_network(
    fit_t2, tiny, method, start, way_out
):
    config = replace(tiny, network="LRASPP", start=start)
    match = f"{method} in T2 takes over layers of its teacher, .* ERFNet, .*'LRASPP'.*{way_out}"
    with pytest.raises(ValueError, match=match):
        fit_t2(method, config)


@pytest.mark.parametrize("method", ["FE", "LWM", "CIL"])
def test_another_network_can_start_from_its_teacher(fit_t2, tiny, method):
    config = replace(tiny, network="LRASPP", start="teacher", identity_start=True)
    teacher = LRASPP(5)
    student, history = fit_t2(method, config, teacher=teacher)
    assert isinstance(student, LRASPP) and student.num_classes == 11
    assert history.notna().all(axis=None)
    assert equal(state(teacher.encoder), state(student.encoder)) == (method == "FE")


def test_a_student_may_start_from_its_teacher_or_from_random_weights(fit_t2, teacher, tiny):
    still = replace(tiny, learning_rate=1e-12, weight_decay=0.0)
    like, _ = fit_t2("CIL", replace(still, start="teacher"))
    fresh, _ = fit_t2("CIL", replace(still, start="random"))
    wanted = dict(teacher.encoder.named_parameters())
    for name, parameter in like.encoder.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=0, atol=1e-9)
    last = like.decoder.output_conv.weight
    torch.testing.assert_close(last[:, :5], teacher.decoder.output_conv.weight, rtol=0, atol=1e-9)
    assert not torch.allclose(
        fresh.encoder.initial_block.conv.weight, wanted["initial_block.conv.weight"]
    )


def test_the_teacher_must_know_exactly_the_old_classes(scenes, tiny, make_network):
    stage = scenes.split.stage("T3")
    with pytest.raises(ValueError, match="knows 5 classes but stage T3 follows 11 old ones; take"):
        fit_stage(METHODS["CIL"], scenes.stage("T3"), stage, make_network(5), tiny)


def test_the_wider_layer_is_not_for_a_teacher_with_two_decoders(scenes, tiny, make_network):
    stage = scenes.split.stage("T3")
    config = replace(tiny, start="teacher")
    with pytest.raises(ValueError, match="the network has 2 decoders"):
        fit_stage(METHODS["CIL"], scenes.stage("T3"), stage, make_network(5, 6), config)


# hidden labels, features, and what is prepared


def test_a_method_that_says_so_is_told_where_labels_are_hidden_and_no_more(fit_t2):
    seen = {False: [], True: []}
    for hidden, steps in seen.items():
        fit_t2(spy(steps, hidden=hidden))
    (plain,), (told,) = seen.values()
    assert set(told.labels.unique().tolist()) == {*range(5, 11), HIDDEN, VOID}
    assert told.labels.where(told.labels != HIDDEN, VOID).equal(plain.labels)


def test_a_view_that_shows_more_or_less_of_what_is_hidden_is_refused(fit_t2, scenes):
    with pytest.raises(ValueError, match="spy in T2 may not see what is hidden.*hidden=False"):
        fit_t2(spy([]), images=scenes.stage("T2", hidden=True))
    with pytest.raises(ValueError, match=r"spy in T2 is to tell.*data.stage\('T2', hidden=True\)"):
        fit_t2(spy([], hidden=True), images=scenes.stage("T2"))


LAYERS = ("encoder", "encoder.layers.6", "decoder.layers.1", "decoder.output_conv")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_method_gets_the_features_of_student_and_teacher_that_it_names(fit_t2, tiny, precision):
    seen = []
    config = replace(tiny, precision=precision, epochs=2)
    student, _ = fit_t2(spy(seen, features=LAYERS), config)
    for step in seen:
        assert tuple(step.features) == tuple(step.teacher_features) == LAYERS
        shapes = [tuple(x.shape) for x in step.features.values()]
        assert shapes == [(4, 128, 2, 4), (4, 128, 2, 4), (4, 64, 4, 8), (4, 11, 16, 32)]
        given = [*step.features.values(), *step.teacher_features.values()]
        assert all(x.dtype == torch.float32 for x in given)
        assert [x.requires_grad for x in given] == [True] * 4 + [False] * 4
        assert step.features["decoder.output_conv"].equal(step.logits.float())
        scores = step.teacher_features["decoder.output_conv"]
        torch.testing.assert_close(scores.softmax(1), step.teacher, rtol=1e-6, atol=1e-6)
    assert not seen[0].features["encoder"].equal(seen[1].features["encoder"])
    assert not any(module._forward_hooks for module in student.modules())


def test_what_a_loss_asks_of_the_features_reaches_the_student(fit_t2, teacher, tiny):
    def close(step):
        (ours,), (theirs,) = step.features.values(), step.teacher_features.values()
        return {"feature": (ours - theirs).square().mean() + 0 * step.logits.sum()}

    method = Method("close", 9, close, features=("encoder.layers.0",))
    _, history = fit_t2(method, replace(tiny, epochs=30, learning_rate=1e-2))
    assert history["feature"].iloc[-1] < history["feature"].iloc[0] / 2


def test_nothing_is_watched_for_a_method_that_names_no_layer(fit_t2, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "register_forward_hook", lambda *_: pytest.fail("hooked"))
    fit_t2("CIL")


def test_the_scores_of_a_monitor_leave_no_features_behind(fit_t2, scenes, tiny):
    seen = []
    monitor = Monitor(scenes.monitor_set("T2", 32), {"task12": slice(0, 11)})
    fit_t2(spy(seen, features=("encoder",)), replace(tiny, epochs=3), monitor=monitor)
    assert [len(step.features["encoder"]) for step in seen] == [4, 4, 4]


def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(fit_t2):
    with pytest.raises(ValueError, match="unknown layer 'encodr'.*did you mean 'encoder'.*choose"):
        fit_t2(spy(seen := [], features=("encodr",)))
    with pytest.raises(ValueError, match="unknown layer 'more_decoders.0'"):  # not the teacher's
        fit_t2(spy(seen, features=("more_decoders.0",), second_decoder=True))
    assert seen == []


def test_a_loss_is_prepared_once_from_student_teacher_and_all_images(fit_t2, scenes, teacher, tiny):
    found, seen = [], []

    def prepare(context):
        found.append(context)
        answers = context.over_images(list)
        torch.nn.init.ones_(context.student.decoder.output_conv.bias)
        found.append(answers)
        return spy(seen).loss

    method = Method("prepared", 9, prepare=prepare, hidden=True)
    images = scenes.stage("T2", height=32, hidden=True)
    still = replace(tiny, epochs=2, batch=3, learning_rate=1e-12, weight_decay=0.0)
    student, _ = fit_t2(method, still, images=images)
    context, answers = found
    assert len(seen) == 4
    assert context.stage == scenes.split.stage("T2") and context.background is None
    assert equal(state(context.teacher), state(teacher)) and not context.teacher.training
    torch.testing.assert_close(student.decoder.output_conv.bias, torch.ones(11))
    assert sum(len(y) for y, _ in answers) == len(images) == 7
    first, labels = answers[0]
    pixels = torch.stack([images[k][0] for k in range(len(first))])
    torch.testing.assert_close(first, predict(teacher, pixels, tiny).softmax(1))
    assert labels.equal(torch.stack([images[k][1] for k in range(len(first))]))
    assert labels.dtype == torch.long and (labels == HIDDEN).any()


def test_the_background_of_a_split_is_a_channel_for_its_methods(fit_t2, scenes, monkeypatch):
    seen = []
    images = scenes.stage("T2")
    images.split = replace(images.split, background="terrain")
    fit_t2(spy(seen), images=images)
    assert [step.background for step in seen] == [3]


# a memory


def remember(seen: list, size: int = 2, **settings) -> Method:
    """A method with a memory that notes its steps."""
    return spy(seen, memory=Memory(balanced, size), **settings)


def test_half_of_a_batch_is_remembered_with_the_labels_of_its_stage(fit_t2, tiny):
    seen = []
    fit_t2(remember(seen), replace(tiny, batch=3))
    assert len(seen) == 2
    for step in seen:
        assert step.logits.shape == (6, 11, 16, 32)
        assert set(step.labels[:3].unique().tolist()) <= {*range(5, 11), VOID}
        assert set(step.labels[3:].unique().tolist()) <= {*range(5), VOID}
        assert (step.labels != VOID).flatten(1).any(dim=1).all()


def test_both_teachers_answer_for_the_pixels_that_the_student_sees(
    fit_t2, teacher, tiny, make_network
):
    seen, pixels = [], []
    new_teacher = make_network(6, seed=1)
    hook = teacher.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0]))
    new_teacher.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0]))
    new_teacher.train()
    before = state(new_teacher)
    fit_t2(remember(seen), replace(tiny, start="teacher"), new_teacher=new_teacher)
    hook.remove()
    (step,), (one, other) = seen, pixels
    assert one.equal(other) and one.shape == (8, 3, 16, 32)
    assert step.teacher.equal(predict(teacher, one, tiny).softmax(dim=1))
    assert new_teacher.training and equal(state(new_teacher), before)
    assert step.new_teacher.equal(predict(new_teacher, one, tiny).softmax(dim=1))
    assert step.new_teacher.shape == (8, 6, 16, 32) and not step.new_teacher.requires_grad


@pytest.mark.parametrize(
    ("precision", "dtype", "layout"),
    [
        ("32-true", torch.float32, torch.contiguous_format),
        ("bf16-mixed", torch.bfloat16, torch.channels_last),
    ],
)
def test_student_teacher_and_evaluation_get_images_of_one_type_and_layout(
    scenes, teacher, fit_t2, tiny, monkeypatch, precision, dtype, layout
):
    seen, forward = [], ERFNet.forward
    monkeypatch.setattr(ERFNet, "forward", lambda self, x: seen.append(x) or forward(self, x))
    config = replace(tiny, precision=precision)
    fit_t2("CIL", config)
    student, own_teacher = seen
    assert student.equal(own_teacher) and len(student) == tiny.batch
    evaluate(teacher, scenes.test_set("T1", 32), {"task1": slice(0, 5)}, config)
    assert {images.dtype for images in seen} == {dtype}
    assert all(images.is_contiguous(memory_format=layout) for images in seen)


def test_every_remembered_image_comes_once_before_any_comes_again(scenes, fit_t2, tiny):
    remembered = Recorder(scenes.stage("T1").subset([3, 1, 0]))
    config = replace(tiny, epochs=2, batch=2)
    fit_t2(remember([], size=3), config, memory=[remembered])
    _, *order = remembered.order  # before them, one look at the size
    first, second = order[:6], order[6:]
    assert len(second) == 6  # as many as new images that are used
    for epoch in (first, second):
        assert sorted(epoch[:3]) == sorted(epoch[3:]) == [0, 1, 2]
    assert first != second


def test_the_memory_changes_neither_the_order_nor_the_augmentation_of_new_images(
    scenes, fit_t2, tiny
):
    alone, beside = Recorder(scenes.stage("T2")), Recorder(scenes.stage("T2"))
    seen_alone, seen_beside = [], []
    config = replace(tiny, epochs=2, batch=3)
    fit_t2(spy(seen_alone), config, images=alone)
    fit_t2(remember(seen_beside), config, images=beside)
    assert alone.order == beside.order
    for one, other in zip(seen_alone, seen_beside, strict=True):
        assert one.labels.equal(other.labels[:3])


def test_no_two_images_of_a_batch_or_of_two_epochs_are_augmented_alike(
    folder, write_png, tiny, make_network
):
    picture = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    for sample in open_data(folder).train:
        write_png(sample.image, picture)
    alike, pixels = open_data(folder), []
    teacher = make_network(11)
    teacher.register_forward_pre_hook(lambda _, inputs: pixels.extend(inputs[0]))
    fit_stage(
        remember([], size=1),
        alike.stage("T3").subset([0, 1]),
        alike.split.stage("T3"),
        teacher,
        replace(tiny, epochs=2, batch=2),
        memory=[alike.stage(name).subset([0]) for name in ("T1", "T2")],
        new_teacher=make_network(8),
    )
    assert len(pixels) == 8  # two epochs of two new and two remembered images
    assert not any(pixels[i].equal(pixels[j]) for i in range(8) for j in range(i))


def test_in_stage_t3_images_of_both_earlier_stages_are_remembered(scenes, tiny, make_network):
    parts = [Recorder(scenes.stage(name).subset([2, 0])) for name in ("T1", "T2")]
    seen = []
    fit_stage(
        remember(seen),
        scenes.stage("T3"),
        scenes.split.stage("T3"),
        make_network(11),
        replace(tiny, batch=1),
        seed=1,  # with 0, both crops of T1 happen to show void alone
        memory=parts,
        new_teacher=make_network(8),
    )
    orders = [part.order[1:] for part in parts]
    assert sum(map(len, orders)) == 6 and all(set(order) == {0, 1} for order in orders)
    labels = [set(step.labels[1].unique().tolist()) - {VOID} for step in seen]
    assert all(found <= set(range(5)) or found <= set(range(5, 11)) for found in labels)
    assert any(found & set(range(5)) for found in labels)
    assert any(found & set(range(5, 11)) for found in labels)
    assert all(set(step.labels[0].unique().tolist()) <= {*range(11, 19), VOID} for step in seen)


def test_workers_change_nothing_for_a_memory(fit_t2, tiny):
    config = replace(tiny, batch=3)
    alone, _ = fit_t2("LWM", config)
    helped, _ = fit_t2("LWM", replace(config, workers=1))
    assert equal(state(alone), state(helped))


def test_the_history_of_lwm_has_its_four_terms(fit_t2):
    _, history = fit_t2("LWM")
    terms = ["ce_new", "ce_memory", "kd_old", "kd_new"]
    assert list(history) == ["epoch", "learning_rate", *terms, "seconds"]
    assert (history[terms] > 0).all(axis=None)


# what a method may see

S1 = "road, sidewalk, vegetation, terrain, sky"
S2 = "building, wall, fence, pole, traffic light, traffic sign"
D1 = "aachen, dusseldorf, hanover, strasbourg"
D2 = "bochum, hamburg, jena, monchengladbach, tubingen, ulm, weimar"


@pytest.mark.parametrize(
    ("method", "stage", "labels", "message"),
    [
        ("CIL", "T2", "all", f"CIL in T2 may see labels of {S2}; the data set shows {S1}, {S2}."),
        ("LWM", "T2", "all", f"LWM in T2 may see labels of {S2}; the data set shows {S1}, {S2}."),
        ("CIL", "T1", "new", f"may see labels of {S2}; the data set shows {S1}."),
        ("CIL", "T3", "new", f"may see labels of {S2}; the data set shows person, rider"),
        ("CIL", "T2", "new", None),
        ("Michieli", "T2", "new", f"may see labels of {S1}, {S2}; the data set shows {S2}."),
        ("Michieli", "T3", "all", f"may see labels of {S1}, {S2}; the data set shows {S1}, {S2}, "),
        ("Michieli", "T2", "all", None),
    ],
)
def test_a_method_is_refused_labels_that_it_does_not_declare(
    scenes, fit_t2, method, stage, labels, message
):
    images = scenes.stage(stage, labels)
    if message is None:
        fit_t2(method, images=images)
        return
    with pytest.raises(ValueError) as error:
        fit_t2(method, images=images)
    assert message in str(error.value)
    own = "all" if method == "Michieli" else "new"
    assert str(error.value).endswith(f". Open it with data.stage('T2', labels={own!r})")


@pytest.mark.parametrize("method", ["CIL", "LWM", "Michieli"])
def test_a_method_is_refused_images_of_other_stages(scenes, fit_t2, method):
    visible = METHODS[method].visible(scenes.split.stage("T2"))
    with pytest.raises(ValueError) as error:
        fit_t2(method, images=LabelledImages(scenes.train, scenes.split, visible))
    may, shown = str(error.value).split("; the data set shows ")
    assert may == f"{method} in T2 may see images of {D2}"
    assert shown.startswith("aachen, bremen, ") and "bochum" not in shown
    assert shown.endswith(". Open it with data.stage('T2')")
    with pytest.raises(ValueError, match="the data set shows frankfurt, lindau, munster. Open"):
        fit_t2(method, images=LabelledImages(scenes.test, scenes.split, visible))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "LWM"])
def test_a_method_without_memory_is_refused_one(scenes, fit_t2, make_network, method):
    memory = [scenes.stage("T1").subset([0, 1])]
    with pytest.raises(ValueError) as error:
        fit_t2(method, memory=memory)
    assert str(error.value).startswith(f"{method} in T2 may remember images of no stage; came: 1 ")
    assert "Its field `memory` says what it may keep" in str(error.value)
    with pytest.raises(ValueError, match="has no second teacher; leave new_teacher out"):
        fit_t2(method, new_teacher=make_network(6))


@pytest.mark.parametrize(
    ("remembered", "message"),
    [
        ([], "LWM in T2 may remember images of T1; came: 0 sets of images."),
        (["T1", "T1"], "may remember images of T1; came: 2 sets of images."),
        (["T2"], f"the memory of T1 of LWM in T2 may see labels of {S1}; the data set shows {S2}."),
        (["T3"], f"may see labels of {S1}; the data set shows person, rider"),
    ],
)
def test_a_memory_of_another_stage_is_refused(scenes, fit_t2, remembered, message):
    memory = [scenes.stage(name).subset([0, 1]) for name in remembered]
    with pytest.raises(ValueError) as error:
        fit_t2("LWM", memory=memory)
    assert message in str(error.value)
    wanted = "data.stage('T1', labels='new')" if remembered in (["T2"], ["T3"]) else "Study.memory"
    assert wanted in str(error.value)


def test_a_memory_of_later_images_with_old_labels_is_refused(scenes, fit_t2):
    smuggled = LabelledImages(scenes.stage("T2").samples[:2], scenes.split, slice(0, 5))
    with pytest.raises(ValueError) as error:
        fit_t2("LWM", memory=[smuggled])
    assert f"the memory of T1 of LWM in T2 may see images of {D1}; the data set" in str(error.value)
    assert "shows bochum, hamburg. Open it with data.stage('T1')" in str(error.value)


@pytest.mark.parametrize("size", [1, 3])
def test_a_memory_of_another_size_is_refused(scenes, fit_t2, size):
    memory = [scenes.stage("T1").subset(range(size))]
    with pytest.raises(
        ValueError, match=f"memory of T1 of LWM in T2 holds {size} images; its size is 2"
    ):
        fit_t2("LWM", memory=memory)


def test_in_stage_t3_a_memory_holds_t1_and_t2_in_this_order(scenes, tiny, small, make_network):
    def fit_t3(*stages):
        memory = [scenes.stage(name).subset([0, 1]) for name in stages]
        teachers = {"teacher": make_network(11), "new_teacher": make_network(8)}
        stage = scenes.split.stage("T3")
        images = scenes.stage("T3")
        fit_stage(small("LWM"), images, stage, config=tiny, memory=memory, **teachers)

    fit_t3("T1", "T2")
    with pytest.raises(ValueError, match="may remember images of T1, T2; came: 1 sets of images"):
        fit_t3("T1")
    with pytest.raises(ValueError, match=f"memory of T1 of LWM in T3 may see labels of {S1}; the"):
        fit_t3("T2", "T1")
    with pytest.raises(ValueError, match=f"memory of T2 of LWM in T3 may see labels of {S2}; the"):
        fit_t3("T1", "T3")


@pytest.mark.parametrize(
    ("classes", "came"),
    [(None, "none"), (5, "one of 5 classes"), (11, "one of 11 classes"), (8, "one of 8 classes")],
)
def test_lwm_needs_a_second_teacher_of_the_new_classes(fit_t2, make_network, classes, came):
    new_teacher = None if classes is None else make_network(classes)
    with pytest.raises(ValueError) as error:
        fit_t2("LWM", new_teacher=new_teacher)
    message = str(error.value)
    assert message.startswith("LWM needs a second teacher, trained on the 6 classes of T2 alone")
    assert message.endswith(f"came: {came}. Study.new_teacher('T2') makes it")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_the_model_of_the_stage_before(fit_t2, method):
    with pytest.raises(ValueError, match=f"{re.escape(method)} in T2 starts from the model of the"):
        fit_t2(method, teacher=None)


# pre-trained encoder, normalisation, precision


def test_a_missing_encoder_file_is_named_before_training(scenes, tmp_path):
    missing = tmp_path / "erfnet_encoder_pretrained.pth.tar"
    config = replace(get_config("released"), encoder_weights=str(missing), batch=4)
    with pytest.raises(FileNotFoundError, match="no weight file .*encoder_pretrained.pth.tar"):
        fit(scenes.stage("T1"), config)


def test_a_pretrained_encoder_is_where_training_starts(scenes, tiny, tmp_path, make_network):
    encoder = make_network(5).encoder
    named = {f"module.features.encoder.{k}": v for k, v in encoder.state_dict().items()}
    torch.save({"state_dict": named}, tmp_path / "encoder.pth")
    config = replace(tiny, encoder_weights=str(tmp_path / "encoder.pth"), learning_rate=1e-12)
    network, _ = fit(scenes.stage("T1"), config)
    for one, other in zip(network.encoder.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_normalise_is_handed_to_the_network(scenes, tiny):
    assert fit(scenes.stage("T1"), replace(tiny, normalise=True))[0].normalise
    assert not fit(scenes.stage("T1"), tiny)[0].normalise


@pytest.mark.parametrize("method", METHODS)
def test_bf16_training_keeps_float32_weights_and_finite_losses(fit_t2, tiny, method):
    student, history = fit_t2(method, replace(tiny, precision="bf16-mixed"))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert np.isfinite(history.drop(columns="epoch")).all(axis=None)


def test_the_precision_asked_for_is_used(tiny):
    for precision in ("32-true", "bf16-mixed"):
        config = replace(tiny, precision=precision)
        assert used_precision(config) == make_fabric(config)._precision.precision == precision


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({"neon": True}, "32-true"),
    ],
)
def test_auto_is_bf16_where_the_processor_multiplies_it(tiny, monkeypatch, capabilities, precision):
    if Fabric(devices=1).device.type != "cpu":
        pytest.skip("this machine has an accelerator, which decides instead of the processor")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert used_precision(replace(tiny, precision="auto")) == precision


# evaluation


def test_predictions_are_float32_logits_on_the_cpu_of_a_network_in_evaluation_mode(teacher, tiny):
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    for precision in ("32-true", "bf16-mixed"):
        config = replace(tiny, precision=precision)
        logits = predict(teacher.train(), images, config)
        assert logits.shape == (2, 5, 16, 24) and logits.dtype == torch.float32
        assert logits.device.type == "cpu" and not logits.requires_grad
        assert predict(teacher, images, config).equal(logits)
    assert logits.std() > 0.01


@pytest.fixture
def uneven(tmp_path, write_cityscapes, write_png):
    """Nine test images of two sizes; not all neighbours are of one size."""
    root = write_cityscapes(tmp_path / "uneven", images=3)
    for city, k in (("lindau", 1), ("munster", 2)):
        name = f"{city}_{k:06d}_000019"
        rng = np.random.default_rng(k)
        image = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        write_png(root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", image)
        ids = rng.choice([7, 8, 21, 0], (40, 56)).astype(np.uint8)
        write_png(root / "gtFine" / "val" / city / f"{name}_gtFine_labelIds.png", ids)
    return open_data(root)


def test_scores_do_not_depend_on_how_images_are_grouped(uneven, teacher, tiny):
    test = uneven.test_set("T1", height=24)
    sets = uneven.split.class_sets(uneven.split.stage("T1"))
    scores = evaluate(teacher, test, sets, tiny)
    one_by_one = MeanIoU(sets)
    for image, labels in (test[index] for index in range(len(test))):
        one_by_one.update(predict(teacher, image[None], tiny), labels[None])
    assert len(test) == 9
    assert scores.counts["task1"].equal(one_by_one.counts["task1"])
    labelled = sum((test[index][1] != VOID).sum() for index in range(len(test)))
    assert scores.counts["task1"].sum() == labelled  # every pixel once, at its native size


def test_logits_stay_where_they_are_until_they_are_counted(uneven, teacher, tiny, monkeypatch):
    """On CUDA they would cross the bus: 40 MB for an image of 512 x 1024 and 19 classes."""
    sets = uneven.split.class_sets(uneven.split.stage("T1"))
    test = uneven.test_set("T1", height=24)
    wanted, moved, cpu = evaluate(teacher, test, sets, tiny), [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self) or cpu(self))
    found = evaluate(teacher, test, sets, tiny)
    assert moved and not any(tensor.is_floating_point() for tensor in moved)
    assert all(found.counts[name].equal(wanted.counts[name]) for name in sets)


def test_evaluation_shows_each_image_once_in_batches_of_one_size(uneven, teacher, tiny):
    shapes = []
    teacher.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    sets = uneven.split.class_sets(uneven.split.stage("T1"))
    evaluate(teacher, uneven.test_set("T1", height=24), sets, tiny)
    other = (1, 3, 24, 32)  # 40 x 56 at 24 high: 33.6 wide, in multiples of 8
    assert shapes == [(4, 3, 24, 48), other, (3, 3, 24, 48), other]


@pytest.mark.parametrize(
    ("size", "images"),
    [((128, 256), 4), ((512, 512), 2), ((512, 1024), 1), ((1024, 2048), 1)],
)
def test_large_images_are_evaluated_in_smaller_batches(size, images):
    assert evaluation_batch_size(torch.empty(3, *size)) == images


def test_a_model_trained_in_t2_is_scored_on_all_class_sets_of_t2(scenes, fit_t2, tiny):
    student, _ = fit_t2("CIL")
    stage = scenes.split.stage("T2")
    sets = scenes.split.class_sets(stage)
    scores = evaluate(student, scenes.test_set("T2"), sets, tiny)
    assert list(scores.counts) == ["task1", "task2", "task12"]
    parts = scores.counts["task1"].sum() + scores.counts["task2"].sum()
    assert scores.counts["task12"].sum() == parts > 0


def test_a_model_of_later_classes_alone_is_scored_on_them(scenes, make_network, tiny):
    network = make_network(6)
    test = scenes.test_set("T2", labels="new")
    scores = evaluate(network, test, {"task2": slice(5, 11)}, tiny)
    wanted = MeanIoU({"task2": slice(0, 6)})
    for image, labels in (test[index] for index in range(len(test))):
        wanted.update(predict(network, image[None], tiny), restrict(labels, slice(5, 11))[None])
    assert scores.counts["task2"].equal(wanted.counts["task2"])
    assert (scores.counts["task2"].sum(dim=1) > 0).sum() > 2  # several labels


def scales(network: torch.nn.Module) -> torch.Tensor:
    """The last batch-norm scales of all residual blocks."""
    return torch.cat([p for name, p in network.named_parameters() if name.endswith("bn2.weight")])


@pytest.mark.parametrize("identity_start", [True, False])
def test_new_residual_blocks_may_start_as_the_identity(fit_t2, teacher, tiny, identity_start):
    still = replace(
        tiny, learning_rate=1e-12, weight_decay=0.0, identity_start=identity_start, start="random"
    )
    start = 0.0 if identity_start else 1.0
    student, _ = fit_t2("CIL", still)
    assert (scales(student) - start).abs().max() < 1e-9
    student, _ = fit_t2("FT", still)  # only its new decoder is new
    assert (scales(student.decoders[1]) - start).abs().max() < 1e-9
    torch.testing.assert_close(scales(student.encoder), scales(teacher.encoder), rtol=0, atol=1e-9)


def test_a_network_is_not_scored_on_data_that_show_other_classes(make_network, scenes, tiny):
    test = scenes.test_set("T2", labels="new")
    with pytest.raises(ValueError, match="network has 11 channels but .* building, wall"):
        evaluate(make_network(11), test, {"task2": slice(5, 11)}, tiny)
