"""The methods of Tables II and III, by the name they have there."""

from cilkit.classes import unknown
from cilkit.methods.base import Method, Step
from cilkit.methods.cil import CIL, CIL_UNWEIGHTED
from cilkit.methods.finetune import FT

METHODS = {method.name: method for method in (FT, CIL_UNWEIGHTED, CIL)}

__all__ = ["METHODS", "Method", "Step", "get_method"]


def get_method(name: str) -> Method:
    """The method of that name in the tables; a ValueError lists the names there are."""
    if name not in METHODS:
        raise ValueError(unknown("method", name, list(METHODS)))
    return METHODS[name]
