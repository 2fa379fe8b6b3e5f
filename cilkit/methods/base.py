"""What a method sees (Step) and what it is (Method)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One batch of a stage, as a method sees it; O old and N new classes.

        logits   (B, O+N, H, W)  the student's scores, before any softmax
        labels   (B, H, W)       long; VOID where this method may not see a label
        teacher  (B, O, H, W)    probabilities of the model before this stage; None without one
        old      slice           the channels of the old classes
        new      slice           the channels of the new classes

    It can be built by hand: `Step(logits, labels, teacher, slice(0, 5), slice(5, 11))`.
    """

    logits: Tensor
    labels: Tensor
    teacher: Tensor | None
    old: slice
    new: slice

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
        if self.teacher is not None and self.teacher.shape != (images, self.old.stop, *pixels):
            raise ValueError(
                f"teacher has shape {tuple(self.teacher.shape)}; wanted the {self.old.stop} old "
                f"classes at every pixel, {(images, self.old.stop, *pixels)}"
            )


@dataclass(frozen=True)
class Method:
    """A row of Table II or III. `loss` returns its terms by name; the trainer adds them up."""

    name: str
    equation: int
    loss: Callable[[Step], dict[str, Tensor]]
    teacher: bool = True  # the loss reads step.teacher
    second_decoder: bool = False  # a decoder of its own (Fig. 2) instead of a wider last layer
