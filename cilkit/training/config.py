"""The choices of a training, and the presets from seconds to the paper's protocol."""

from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Literal

from cilkit.checks import check, check_path, is_number, is_switch, is_whole, unknown
from cilkit.data.augmentation import Augmentation
from cilkit.networks import get_network


@dataclass(frozen=True)
class TrainConfig:
    """The choices of Sec. IV-A, with the paper's as defaults; preset "released" has the code's."""

    epochs: int = 200
    batch: int = 6  # the last, smaller batch of an epoch is dropped
    learning_rate: float = 5e-4  # Adam's, at the start
    weight_decay: float = 3e-4
    power: float = 0.9  # of the polynomial schedule (1 - t)^power
    schedule: Literal["step", "epoch"] = "step"  # when the learning rate moves
    warmup: float = 0.0  # part of the training in which the learning rate rises from 0
    network: str = "ERFNet"  # a name in cilkit.networks.NETWORKS
    height: int = 512  # images are resized to this height first, never enlarged
    augmentation: Augmentation = field(default_factory=Augmentation)
    normalise: bool = False  # by the mean and deviation of ImageNet
    encoder_weights: str | None = None  # file with a pre-trained encoder; None: random
    identity_start: bool = False  # new residual blocks begin as the identity: for short trainings
    start: Literal["random", "teacher"] = "random"  # teacher-based students (footnote 2)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"  # of numbers in memory
    workers: int = 0  # processes that decode and augment; 0: this one, on a GPU four

    def __post_init__(self) -> None:
        positive = partial(is_whole, least=1)
        check(self, "a whole number from 1", positive, "epochs", "batch", "height")
        check(self, "a whole number from 0", is_whole, "workers")
        check(self, "a positive number", lambda v: is_number(v) and v > 0, "learning_rate", "power")
        check(self, "a number from 0", is_number, "weight_decay")
        check(self, "a number from 0 to 1", partial(is_number, most=1), "warmup")
        check(self, "True or False, without quotes", is_switch, "normalise", "identity_start")
        check(self, "an Augmentation(...)", lambda v: isinstance(v, Augmentation), "augmentation")
        get_network(self.network)  # a ValueError if there is none
        if self.encoder_weights is not None:
            check_path("encoder_weights", self.encoder_weights)
        for name, choices in (
            ("schedule", ["step", "epoch"]),
            ("start", ["random", "teacher"]),
            ("precision", ["auto", "32-true", "bf16-mixed"]),
            ("memory_format", ["auto", "contiguous", "channels_last"]),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(unknown(name, getattr(self, name), choices))


PAPER = TrainConfig(workers=4)
QUICK = TrainConfig(
    epochs=7,
    batch=2,  # many small steps teach more in the same time than few large ones
    learning_rate=1e-2,
    weight_decay=0.0,  # with 3e-4 and a high rate, most of the weights of SS end at zero
    warmup=0.15,  # Adam's first steps are as large as the rate: a student would lose its teacher
    height=180,
    augmentation=Augmentation(  # weak: each image is seen a few times only
        rotation=0.0,
        rescale=(1.0, 1.0),
        crop=(96, 192),
        brightness=0.1,
        contrast=0.1,
        saturation=0.1,
        hue=0.05,
    ),
    identity_start=True,
    start="teacher",  # from random weights a student cannot copy its teacher in so few steps
)
PRESETS = {
    # seconds: for tests, and to see that everything runs
    "smoke": TrainConfig(
        epochs=1,
        batch=4,
        learning_rate=2e-3,
        height=64,
        augmentation=Augmentation(crop=(32, 64)),
        identity_start=True,
    ),
    # minutes on a CPU: the default of the notebooks; RESULTS.md says how it was chosen
    "quick": QUICK,
    # between the two: a night on a CPU, minutes on a GPU
    "long": replace(QUICK, epochs=30),
    # the protocol of Sec. IV-A
    "paper": PAPER,
    # the same with the choices of the authors' released code
    "released": replace(
        PAPER,
        schedule="epoch",
        augmentation=Augmentation(rotation=0.0, flip=0.5, rescale_divides=True),
        normalise=True,
        encoder_weights="data/erfnet_encoder_pretrained.pth.tar",
    ),
}


def get_config(preset: str, **changes: object) -> TrainConfig:
    """The configuration of a preset with some fields replaced.

    A ValueError lists the names there are of presets or fields.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(unknown("preset", preset, list(PRESETS)))
    known = [field.name for field in fields(TrainConfig)]
    for name in changes:
        if name not in known:
            raise ValueError(unknown("setting", name, known))
    return replace(PRESETS[preset], **changes)


# what in a run's environment changes scores; the number of threads, for example, last digits only
DECISIVE = ("torch", "torchvision", "machine", "device", "precision", "teacher_weights")


def differences(found: dict, wanted: dict) -> list[str]:
    """Names of the fields of `wanted` that differ in another configuration.

    Those of `train` and the decisive ones of `environment` go by their own names.
    """
    was, now = found.get("train", {}), wanted.get("train", {})
    differ = [k for k in was | now if was.get(k, ...) != now.get(k, ...)]
    if "environment" in wanted:
        was, now = found.get("environment") or {}, wanted["environment"] or {}
        differ += [k for k in DECISIVE if _release(was.get(k)) != _release(now.get(k))]
    nested = ("train", "environment")
    return differ + [k for k in wanted if k not in nested and found.get(k, ...) != wanted[k]]


def _release(value: str | None) -> str | None:
    """A version without its build, such as the +cpu of "2.15.0+cpu": the device says what ran."""
    return value.partition("+")[0] if isinstance(value, str) else value
