"""The methods of Tables II and III, by the name they have there; and the trainings beside them."""

from cilkit.checks import unknown
from cilkit.methods.base import Context, Memory, Method, Step
from cilkit.methods.cil import CIL, CIL_UNWEIGHTED
from cilkit.methods.finetune import FE, FT
from cilkit.methods.lwm import LWM
from cilkit.methods.lwof import LWOF
from cilkit.methods.michieli import MICHIELI
from cilkit.methods.single_stage import FIRST_STAGE, NEW_TEACHER, SS

METHODS = {m.name: m for m in (FT, FE, LWOF, LWM, MICHIELI, CIL_UNWEIGHTED, CIL)}

__all__ = ["FIRST_STAGE", "METHODS", "NEW_TEACHER", "SS"]
__all__ += ["Context", "Memory", "Method", "Step", "get_method", "trainable"]


def get_method(name: str) -> Method:
    """The method of that name in the tables; a ValueError lists the names there are."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(unknown("method", name, list(METHODS)))
    return METHODS[name]


def trainable() -> dict[str, Method]:
    """All that a study trains by name: SS, the second teachers of LWM, and the methods."""
    return {method.name: method for method in (SS, NEW_TEACHER)} | METHODS
