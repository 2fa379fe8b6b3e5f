"""The methods of Tables II and III, by the name they have there; and the trainings beside them.

LATER_METHODS are not the paper's: its reference [15] in full, and two that came after it.
"""

from cilkit.checks import unknown
from cilkit.methods.base import Context, Memory, Method, Step
from cilkit.methods.cil import CIL, CIL_UNWEIGHTED
from cilkit.methods.finetune import FE, FT
from cilkit.methods.ilt import ILT
from cilkit.methods.lwm import LWM
from cilkit.methods.lwof import LWOF
from cilkit.methods.mib import MIB
from cilkit.methods.michieli import MICHIELI
from cilkit.methods.plop import PLOP
from cilkit.methods.single_stage import FIRST_STAGE, NEW_TEACHER, SS

METHODS = {m.name: m for m in (FT, FE, LWOF, LWM, MICHIELI, CIL_UNWEIGHTED, CIL)}
LATER_METHODS = {m.name: m for m in (ILT, MIB, PLOP)}

__all__ = ["FIRST_STAGE", "LATER_METHODS", "METHODS", "NEW_TEACHER", "SS"]
__all__ += ["Context", "Memory", "Method", "Step", "get_method", "trainable"]


def get_method(name: str) -> Method:
    """The method of that name, the paper's or a later one; a ValueError lists the names."""
    known = METHODS | LATER_METHODS
    if not isinstance(name, str) or name not in known:
        raise ValueError(unknown("method", name, list(known)))
    return known[name]


def trainable() -> dict[str, Method]:
    """All that a study trains by name: SS, the second teachers of LWM, and the methods."""
    return {method.name: method for method in (SS, NEW_TEACHER)} | METHODS | LATER_METHODS
