"""How the channels of new classes start where a split names a background."""

import math

from cilkit.methods.base import Context


def start_as_background(context: Context) -> None:
    """Let the background and the N new classes share what the background's probability was.

    Before the first step, so that the student starts with its teacher's answers: whatever was
    background may now be a new class. New channels get the weights of the background's, and all
    N + 1 its bias minus log(N + 1). Nothing happens without a background. (Cermelli et al., CVPR
    2020, "classifier initialisation"; the released code of PLOP does the same.)
    """
    if context.background is None:
        return
    old, new = dict(context.teacher.named_parameters()), context.stage.new
    sharing = [context.background, *range(new.start, new.stop)]
    last = {n: p for n, p in context.student.named_parameters() if p.shape != old[n].shape}
    biases = sum(parameter.dim() == 1 for parameter in last.values())  # their sum counts
    for name, parameter in last.items():
        (dim,) = [d for d, size in enumerate(old[name].shape) if parameter.shape[d] != size]
        channels = parameter.data.movedim(dim, 0)  # (O+N, ...), the same numbers
        channels[new] = channels[context.background].clone()
        if parameter.dim() == 1:
            channels[sharing] -= math.log(len(sharing)) / biases
