"""What a method sees (Step, Context), what it is (Method) and may keep of old data (Memory)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from torch import Generator, Tensor, nn

from cilkit.classes import Classes, Stage, channels_of, joined_classes, within

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One batch of a stage, as a method sees it; O old and N new classes.

        logits       (B, O+N, H, W)  the student's scores, before any softmax
        labels       (B, H, W)       long; VOID where this method may not see a label
        teacher      (B, O, H, W)    probabilities of the model before this stage; None without one
        old          slice           the channels of the old classes
        new          slice           the channels of the new classes
        again        tuple           old channels whose classes this stage labels again; ()
        new_teacher  (B, N, H, W)    probabilities of a model of this stage alone (LWM)
        background   int             the channel of the split's background; None without one

    It can be built by hand: `Step(logits, labels, teacher, slice(0, 5), slice(5, 11))`. With a
    memory, the batch holds new and remembered images, each with the labels of its own stage. For a
    method with `hidden`, a label that it may not see is HIDDEN instead of VOID. `features` and
    `teacher_features` hold what the layers named in `Method.features` gave, (B, C, h, w) float32;
    those of the teacher have no gradient.
    """

    logits: Tensor
    labels: Tensor
    teacher: Tensor | None
    old: slice
    new: slice
    new_teacher: Tensor | None = None
    background: int | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    again: tuple[int, ...] = ()

    @property
    def labelled(self) -> Classes:
        """The channels of the classes that this stage labels: `new`, and those labelled again."""
        return joined_classes(self.again, self.new)

    def __post_init__(self) -> None:
        images, channels, *pixels = self.logits.shape
        if self.old.start != 0 or self.old.stop != self.new.start or self.new.stop != channels:
            raise ValueError(
                f"old {self.old} and new {self.new} do not cover the {channels} channels of the "
                "logits; wanted old = slice(0, O) and new = slice(O, O + N)"
            )
        if self.labels.shape != (images, *pixels):
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)} for logits of "
                f"{tuple(self.logits.shape)}; wanted (B, H, W) = {(images, *pixels)}"
            )
        if self.background is not None and not 0 <= self.background < self.old.stop:
            raise ValueError(
                f"background is {self.background}; wanted one of the old channels, 0 to "
                f"{self.old.stop - 1}, or None"
            )
        for name, given, classes, kind in (
            ("teacher", self.teacher, self.old.stop, "old"),
            ("new_teacher", self.new_teacher, len(channels_of(self.labelled)), "new"),
        ):
            if given is not None and given.shape != (images, classes, *pixels):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}; wanted the {classes} {kind} "
                    f"classes at every pixel, {(images, classes, *pixels)}"
                )

    def by_task(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Channels (B, O+N, H, W) of old classes (B, O, H, W) and of this stage's (B, N, H, W).

        These are `channels[:, old]` and `channels[:, labelled]`. Where these are slices, their
        gradients are joined in one pass; each slice would fill a tensor of all channels with zeros
        first.
        """
        if self.again:
            return channels[:, self.old], channels[:, within(self.labelled)]
        return channels.split([self.old.stop, self.new.stop - self.new.start], dim=1)


StepLoss = Callable[[Step], dict[str, Tensor]]


@dataclass(frozen=True)
class Context:
    """What a method may look at once, before it is trained in a stage; see `Method.prepare`.

        stage       the classes that are old and new
        student     the network to be trained, on the CPU: its weights may be changed in place
        teacher     the model before this stage, in evaluation mode; its weights stay as they are
        background  the channel of the split's background; None without one

    over_images(measure) returns measure(answers). The answers are pairs, the teacher's
    probabilities (B, O, h, w) and the labels (B, h, w), long, of all images of the stage in order,
    at the height of the training and without augmentation. Under torchrun one process measures
    and all get the result.
    """

    stage: Stage
    student: nn.Module
    teacher: nn.Module
    background: int | None
    over_images: Callable[[Callable[[Iterator[tuple[Tensor, Tensor]]], T]], T]


@dataclass(frozen=True)
class Memory:
    """D_m of eq. (6): image-label pairs that are kept of each earlier stage.

    rule(counts, confidence, size, generator) returns the indices of `size` images, given

        counts      (M, S)  labelled pixels of each image by class of its stage
        confidence  (M,)    largest probability of the model of that stage, mean over pixels
        generator           seeded, for what is drawn at random

    The paper leaves rule and size open: `cilkit.methods.lwm` has two rules, and any function of
    this form is one.
    """

    rule: Callable[[Tensor, Tensor, int, Generator], list[int]]
    size: int = 20  # images of each earlier stage

    def __post_init__(self) -> None:
        if not callable(self.rule):
            raise ValueError(
                f"{self.rule!r} is no rule of a memory; wanted a function such as balanced: "
                "Memory(balanced, size=20)"
            )
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
            raise ValueError(
                f"a memory of {self.size!r} images; wanted a whole number from 1, or memory=None"
            )


@dataclass(frozen=True)
class Method:
    """A row of Table II or III. `loss` returns its terms by name; the trainer adds them up.

    A method declares here what it needs beyond new images with labels of the new classes. The
    trainer gives it exactly that and refuses anything else. Instead of a `loss` it may `prepare`
    one: from what it finds before the training, which must be the same whenever a training goes on.
    """

    name: str
    equation: int  # of a later method: the one of the paper that it changes
    loss: StepLoss | None = None
    labels: Literal["new", "all"] = "new"  # "all": labels of old classes, too, in the new images
    images: Literal["stage", "all"] = "stage"  # "all": the images of earlier stages, too
    extends: bool = True  # the model of the stage before; else it is trained on its labels alone
    memory: Memory | None = None  # old images with the labels of their stage, and a new_teacher
    teacher: bool = True  # the loss reads step.teacher
    second_decoder: bool = False  # a decoder of its own (Fig. 2) instead of a wider last layer
    freeze_encoder: bool = False  # with its batch-norm statistics and dropout
    hidden: bool = False  # labels tell a class that may not be seen (HIDDEN) from no class (VOID)
    features: tuple[str, ...] = ()  # layers of the network, as in network.named_modules()
    prepare: Callable[[Context], StepLoss] | None = None

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.prepare is None):
            raise ValueError(
                f"{self.name} has {'no loss' if self.loss is None else 'a loss and a prepare'}; "
                "wanted loss=..., or prepare=..., a function that returns the loss"
            )
        if self.labels not in ("new", "all"):
            raise ValueError(f"labels={self.labels!r}; choose 'new' or 'all'")
        if self.images not in ("stage", "all"):
            raise ValueError(f"images={self.images!r}; choose 'stage' or 'all'")
        if not self.extends and (self.teacher or self.second_decoder or self.memory is not None):
            raise ValueError(
                f"{self.name} does not extend a model, so it has no teacher, second decoder or "
                "memory: set teacher=False, second_decoder=False and memory=None, or extends=True"
            )
        later = ("freeze_encoder", "hidden", "features", "prepare")
        if not self.extends and (given := [name for name in later if getattr(self, name)]):
            raise ValueError(
                f"{self.name} does not extend a model, so it has no {given[0]}: leave that out, or "
                "set extends=True"
            )
        if self.hidden and self.memory is not None:
            raise ValueError(
                f"{self.name} has a memory and hidden=True, but a remembered image shows labels of "
                "its own stage alone: set memory=None or hidden=False"
            )
        if self.prepare is not None and not self.teacher:
            raise ValueError(f"{self.name} prepares from its teacher: set teacher=True")
        if not isinstance(self.features, tuple) or not all(
            isinstance(name, str) and name for name in self.features
        ):
            raise ValueError(
                f"features is {self.features!r}; wanted a tuple of names of layers, such as "
                '("encoder",)'
            )

    def visible(self, stage: Stage) -> Classes:
        """The classes whose labels it may see in the new images of a stage."""
        return stage.visible(self.labels)
