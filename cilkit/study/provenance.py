"""Where a run comes from: the code that decides its outcome, and the machine it ran on."""

import hashlib
import inspect
import platform
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from enum import Enum
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch
from torch import nn

from cilkit.methods import Memory, Method
from cilkit.networks import get_network
from cilkit.study.definitions import Definitions, parse, without_prose
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import make_fabric, used_memory_format, used_precision

# a training and its scores begin with these functions: what they refer to decides the outcome
TRAINING = ("fit", "fit_stage", "evaluate")
MEMORY = ("rate", "choose")  # of a method with a memory
# not these: the fields of a TrainConfig are saved with each run, and the others refuse or store
LEFT_OUT = ("TrainConfig", "check", "check_path", "resolve", "cache_folder", "fill", "usable_cores")
PLAIN = (type(None), bool, int, float, complex, str, bytes, slice, range, type(...), Path, Enum)
PLAIN += (torch.dtype, torch.device, np.generic)


def code_version(method: Method | None, network: str = "ERFNet") -> dict[str, str | None]:
    """Hashes of the code that decides what a training computes, see `cilkit.study.definitions`.

    "shared" is that of all trainings, with the networks of the kit; "method" that of the method and
    its fields (None without), "network" that of a network of your own. Raises ValueError for a loss
    or a network that holds something that cannot be recorded.
    """
    kind = get_network(network)
    own = kind.__module__.partition(".")[0] != "cilkit"
    return {
        "shared": package_code().version(*TRAINING),
        "method": None if method is None else _method_version(method),
        "network": _hash(_content(kind, [])) if own else None,
    }


@cache
def package_code() -> Definitions:
    """The definitions of this package, as they were when a run first asked for them."""
    return Definitions(Path(__file__).parent.parent, LEFT_OUT)


def _method_version(method: Method) -> str:
    parts = [_content(method, [])]
    if method.memory is not None:
        parts.append(package_code().version(*MEMORY))
    return _hash(parts)


def _hash(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def environment(config: TrainConfig) -> dict[str, str | int]:
    """What a run records for its reader; it does not decide whether a run matches."""
    device = make_fabric(config).device
    return {
        "cilkit": version("cilkit"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.type,
        "processor": _processor(device),
        "precision": used_precision(config),
        "memory_format": used_memory_format(config),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
    }


def _processor(device: torch.device) -> str:
    """The name of a GPU; of a CPU the instructions that torch uses, such as AVX512."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def settings(config: TrainConfig) -> dict:
    """The choices of a training that change its weights, in the form in which a run keeps them."""
    kept = asdict(replace(config, workers=0))
    del kept["memory_format"]  # like the number of threads, it changes last digits only
    return plain(kept)


def plain(value: object) -> object:
    """Dataclass content as JSON would give it back, so that both compare equal."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, slice):
        return [value.start, value.stop]
    return value


def _content(value: object, above: list) -> object:
    """A description of what `value` computes, equal in every process.

    Of a function its code and the values that it refers to, of an object its class and its state,
    of a tensor its numbers. `above` are the values that hold this one. Raises ValueError for what
    cannot be described.
    """
    if any(value is other for other in above):
        return f"the {type(value).__name__} {above.index(value)} above"
    above = [*above, value]
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(numbers).hexdigest()]
    if isinstance(value, np.ndarray) and value.dtype != object:
        numbers = np.ascontiguousarray(value)
        return [str(value.dtype), list(value.shape), hashlib.sha256(numbers).hexdigest()]
    if isinstance(value, tuple | list):
        return [_content(part, above) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_content(part, above)) for part in value)
    if isinstance(value, Mapping):
        return [[_content(key, above), _content(part, above)] for key, part in value.items()]
    if isinstance(value, partial):
        return [_content(part, above) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [_content(part, above) for part in (value.__func__, value.__self__)]
    if isinstance(value, ModuleType):
        return _module_content(value)
    if isinstance(value, type | FunctionType):
        return _definition(value, above)
    if callable(value) and type(value).__module__ in ("builtins", "numpy", "torch._ops"):
        return f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', repr(value))}"
    return [_content(type(value), above), _content(_state(value), above)]


def _definition(value: type | FunctionType, above: list) -> object:
    """A function or class: by its version (the kit), its name (a library) or its source (yours)."""
    name = f"{value.__module__} {value.__qualname__}"
    if value.__module__.partition(".")[0] == "cilkit":
        return [name.split()[1], package_code().version(value.__qualname__.partition(".")[0])]
    if _is_library(inspect.getmodule(value)):
        return name
    if isinstance(value, type):
        own = {key: _unwrapped(part) for key, part in vars(value).items() if _decides(key, part)}
        return [value.__qualname__, _content(value.__bases__, above), _content(own, above)]
    defaults = [_content(part, above) for part in (value.__defaults__, value.__kwdefaults__)]
    return [_source(value), defaults, _content(_named(value), above)]


def _decides(name: str, part: object) -> bool:
    """Whether an entry of a class can change a result; Python adds others, such as __doc__."""
    if isinstance(part, property | classmethod | staticmethod | FunctionType):
        return True
    return not (name.startswith("__") and name.endswith("__"))


def _unwrapped(part: object) -> object:
    if isinstance(part, property):
        return part.fget, part.fset
    return part.__func__ if isinstance(part, classmethod | staticmethod) else part


def _state(value: object) -> object:
    """What an object holds."""
    if isinstance(value, nn.Module):
        held = {key: part for key, part in vars(value).items() if key[0] != "_"}
        weights = dict(value.named_parameters(recurse=False)) | dict(
            value.named_buffers(recurse=False)
        )
        return held, weights, dict(value.named_children())
    if isinstance(value, Method):
        return {
            field.name: getattr(value, field.name)
            for field in fields(value)
            if field.name != "equation"
        }
    if isinstance(value, Memory) or hasattr(value, "__dict__"):
        return vars(value)
    raise ValueError(
        f"a loss refers to {value!r}, a {type(value).__name__}, and a run must remember what it "
        "holds. Give the loss numbers, texts, tensors, functions or objects of a class of your "
        "own, and make anything else inside it"
    )


def _named(function: FunctionType) -> dict[str, object]:
    """The values of the names that a function uses and does not make itself, sorted by name."""
    outer = dict(inspect.getclosurevars(function).nonlocals)
    for name in _used(function.__code__):
        if name in function.__globals__:
            outer.setdefault(name, function.__globals__[name])
    return {name: outer[name] for name in sorted(outer)}


def _used(code: CodeType) -> Iterator[str]:
    """The names in a piece of code, and in the functions that are written inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


@cache
def _library_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")]


def _is_library(module: ModuleType | None) -> bool:
    """Whether a module comes with Python or is installed; its version is recorded elsewhere."""
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__ != "__main__"
    return any(folder in Path(file).resolve().parents for folder in _library_folders())


def _module_content(module: ModuleType) -> object:
    """A module: by its name (the kit, a library) or its code (yours)."""
    if module.__name__.partition(".")[0] == "cilkit" or _is_library(module):
        return module.__name__
    return [module.__name__, without_prose(parse(_source(module)))]


def _source(value: FunctionType | ModuleType) -> str:
    """The source of a function without its prose, of a module as it is."""
    try:
        source = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError) as error:
        name = getattr(value, "__qualname__", value.__name__)
        raise ValueError(
            f"the source of {name} cannot be read, and a run must remember it; "
            "write it in a notebook cell or in a file"
        ) from error
    if isinstance(value, ModuleType):
        return source
    with suppress(SyntaxError):  # a lambda in the middle of a call stays as it is written
        return without_prose(parse(source))
    return source
