"""Learning with memory (LWM), eq. (6), and the memory, picked by an importance score."""

import torch
from torch import Generator, Tensor

from cilkit.classes import belongs
from cilkit.losses import masked_distillation, mean_over, true_log_y
from cilkit.methods.base import Memory, Method, Step


def lwm_loss(step: Step) -> dict[str, Tensor]:
    """LWOF with a second teacher, and with labels of both tasks in one softmax, eq. (6).

    A new image carries labels of its stage only, a replayed one of earlier stages only. So the
    class of a label tells which of the two cross-entropies its pixel belongs to. A class that is
    labelled again counts as one of this stage.
    """
    logits = step.logits.contiguous()  # one copy serves three softmaxes
    joint = logits.log_softmax(dim=1)  # (B, O+N, H, W), old and new compete
    ce = -true_log_y(joint, step.labels)  # (B, H, W)
    old, new = step.by_task(logits)  # (B, O, H, W), (B, N, H, W)
    of_stage = belongs(step.labels, step.labelled)  # (B, H, W)
    return {
        "ce_new": mean_over(of_stage, ce),
        "ce_memory": mean_over(belongs(step.labels, step.old) & ~of_stage, ce),
        "kd_old": masked_distillation(old.log_softmax(dim=1), step.teacher),
        "kd_new": masked_distillation(new.log_softmax(dim=1), step.new_teacher),
    }


def balanced(counts: Tensor, confidence: Tensor, size: int, generator: Generator) -> list[int]:
    """Random images in which all classes occur about equally often.

    In each step, take the class that the fewest kept images show, and keep a random one of the
    other images that show it. Arguments and result are those of a rule of `Memory`; the
    confidence is not used. A class that no other image shows is skipped.
    """
    shows = counts > 0  # (M, S)
    left = torch.randperm(len(counts), generator=generator).tolist()
    kept: list[int] = []
    while len(kept) < size:
        rarest_first = shows[kept].sum(dim=0).argsort(stable=True).tolist()
        candidates = ([i for i in left if shows[i, c]] for c in rarest_first)
        chosen = next((images for images in candidates if images), left)[0]
        left.remove(chosen)
        kept.append(chosen)
    return kept


def confident(counts: Tensor, confidence: Tensor, size: int, generator: Generator) -> list[int]:
    """The images of which the model of their stage is surest, in this order.

    Arguments and result are those of a rule of `Memory`. Classes and random numbers are not used.
    """
    return confidence.argsort(descending=True, stable=True)[:size].tolist()


LWM = Method("LWM", equation=6, loss=lwm_loss, memory=Memory(balanced))
