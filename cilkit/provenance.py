"""Where a run comes from: the code that decides its outcome, and the machine it ran on."""

import ast
import hashlib
import inspect
import platform
import textwrap
from contextlib import suppress
from dataclasses import fields
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from types import FunctionType

import torch

from cilkit import ranks
from cilkit.config import TrainConfig
from cilkit.evaluation import make_fabric, used_precision
from cilkit.methods import Memory, Method

# what a training computes depends on these modules, besides the file of its method; the values of
# config.py are recorded with each run
SHARED_CODE = (
    "ranks",
    "classes",
    "datasets",
    "transforms",
    "erfnet",
    "losses",
    "metrics",
    "evaluation",
    "loop",
    "train",
)
PARSING = Lock()  # two threads that parse at once break ast.parse of Python 3.11


def code_version(method: Method | None) -> dict[str, str | None]:
    """Hashes of the code that decides what a training computes; comments and docstrings are free.

    "shared" is that of all trainings, "method" that of the method and its fields (None without).
    """
    digest = hashlib.sha256()
    for name in SHARED_CODE:
        source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        digest.update(_without_prose(source).encode())
    return {
        "shared": digest.hexdigest()[:16],
        "method": None if method is None else _method_version(method),
    }


def _method_version(method: Method) -> str:
    digest = hashlib.sha256(_code_of(method, set()).encode())
    digest.update(repr(_content(_chosen(method), set())).encode())
    if method.memory is not None:
        for name in ("memory.py", "methods/lwm.py"):  # what chooses, and the rules of the kit
            source = (Path(__file__).parent / name).read_text(encoding="utf-8")
            digest.update(_without_prose(source).encode())
    return digest.hexdigest()[:16]


def _chosen(method: Method) -> dict[str, object]:
    return {
        field.name: getattr(method, field.name)
        for field in fields(method)
        if field.name not in ("loss", "equation")
    }


def environment(config: TrainConfig) -> dict[str, str | int]:
    """What a run records for its reader; it does not decide whether a run matches."""
    return {
        "cilkit": version("cilkit"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": make_fabric(config).device.type,
        "precision": used_precision(config),
        "threads": torch.get_num_threads(),
        "processes": ranks.count(),
    }


def _code_of(method: Method, seen: set) -> str:
    """The file of a shipped method; of one written in a notebook its functions and their values."""
    loss = method.loss
    function = loss.func if isinstance(loss, partial) else loss
    module = inspect.getmodule(function)
    if module is not None and module.__name__.startswith("cilkit."):
        fixed = (loss.args, sorted(loss.keywords.items())) if isinstance(loss, partial) else None
        return _without_prose(inspect.getsource(module)) + repr(fixed)
    return repr(_content(loss, seen))


def _content(value: object, seen: set) -> object:
    """What decides what `value` does: of a function its code, and the values that it refers to."""
    if isinstance(value, partial):
        parts = (value.func, *value.args, *sorted(value.keywords.items()))
        return [_content(part, seen) for part in parts]
    if isinstance(value, tuple):
        return [_content(part, seen) for part in value]
    if isinstance(value, dict):
        return [(name, _content(part, seen)) for name, part in value.items()]
    if isinstance(value, Method):  # such as METHODS["CIL"], whose loss another one may call
        return [_code_of(value, seen), _content(_chosen(value), seen)]
    if isinstance(value, Memory):
        return _content((value.rule, value.size), seen)
    if not inspect.isfunction(value):
        return repr(value)
    if value in seen or value.__module__.partition(".")[0] in ("cilkit", "torch"):
        return value.__qualname__
    seen.add(value)
    source = textwrap.dedent(_source(value))
    with suppress(SyntaxError):  # a lambda in the middle of a call stays as it is written
        source = _without_prose(source)
    outer = inspect.getclosurevars(value)
    named = outer.globals | outer.nonlocals
    named = {name: item for name, item in named.items() if not inspect.ismodule(item)}
    return [source, [(name, _content(named[name], seen)) for name in sorted(named)]]


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except OSError as error:
        raise ValueError(
            f"the source of {function.__qualname__} cannot be read, and a run must remember it; "
            "write it in a notebook cell or in a file"
        ) from error


@cache
def _without_prose(source: str) -> str:
    with PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
