"""What the server of `forked` finds out once for all its processes: the versions of the code."""

from cilkit.methods import METHODS
from cilkit.study.provenance import code_version

for method in METHODS.values():
    code_version(method)
