"""What the server of `forked` finds out once for all its processes: the versions of the code."""

from functools import cache

from cilkit.methods import METHODS
from cilkit.study.definitions import Definitions
from cilkit.study.provenance import code_version

Definitions.version = cache(Definitions.version)
for method in METHODS.values():
    code_version(method)
