"""Files that should hold weights: read where they do, described where they do not.

No code in a file is run: a pickle that asks for it is described, and refused.
"""

import pickletools
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = {"module", "_orig_mod"}  # parts of a name that DataParallel and torch.compile add
PLAIN = {"collections", "torch", "torch._utils", "torch._tensor", "torch.storage"}  # a state dict's
AGAIN = "download it again"
UNPACK = "unpack it, and name the weight file in it"
OTHER = "look for the weights in PyTorch's form"
SAVE = (
    "where it was made, save the weights only, torch.save(model.state_dict(), 'weights.pth'), "
    "and load that file"
)
KINDS = {  # how a file begins: what it is, and what to do
    b"version https://git-lfs": (
        "a Git LFS pointer, not the file it stands for",
        f"fetch that by `git lfs pull`, or {AGAIN}",
    ),
    b"\x1f\x8b": ("a file packed by gzip", UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x89HDF": ("an HDF5 file, as Keras saves weights", OTHER),
    b"\x93NUMPY": ("a NumPy array", OTHER),
    b"\x89PNG": ("a PNG image", AGAIN),
    b"\xff\xd8\xff": ("a JPEG image", AGAIN),
    b"%PDF": ("a PDF document", AGAIN),
}
ARCHIVE = b"PK\x03\x04"  # the start of a zip archive, the form of torch.save since version 1.6
START = 256  # bytes of a file that tell what it is
LARGEST_HEADER = 2**27  # bytes; safetensors allows 10**8


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file of torch.save or safetensors, each by the way to it in nested dicts.

    A name is such as "state_dict.encoder.initial_block.conv.weight". A ValueError says what else
    the file is, and what to do.
    """
    try:
        content = _content(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error}); check its permissions") from error
    if not isinstance(content, Mapping):
        raise _refused(file, f"it holds a {type(content).__name__}, wanted a dict of tensors", SAVE)
    found = dict(_tensors(content))
    if not found:
        raise _refused(file, f"it holds no tensor, but {listed(map(str, content))}", AGAIN)
    return found


def listed(names: Iterable[str]) -> str:
    """The first four names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _tensors(content: object, above: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield ".".join(part for part in above.split(".") if part not in WRAPPERS), content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{above}.{key}" if above else str(key))


def _content(file: Path) -> object:
    if file.is_dir():
        inside = listed(sorted(path.name for path in file.iterdir()))
        raise _refused(file, f"it is a folder of {inside or 'nothing'}", "name a file")
    with file.open("rb") as opened:
        start = opened.read(START)
    if start.startswith(ARCHIVE):
        _check_archive(file)
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LARGEST_HEADER:
        try:
            return load_file(file)
        except SafetensorError:
            raise _refused(file, _broken(file, "a file of safetensors"), AGAIN) from None
    elif start[:1] != b"\x80":  # so begins a pickle: a file of torch.save before version 1.6
        raise _refused(file, *_kind(file, start))
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # foreign bytes fail in many ways, and torch's advice is to run their code
        raise _refused(file, *_pickled(file)) from None


def _check_archive(file: Path) -> None:
    """Refuse a zip archive that is not of torch.save, or is damaged: torch ignores checksums."""
    damaged = None
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            ours = any(name.endswith("/data.pkl") for name in names)
            has_checksums = any(info.CRC for info in archive.infolist())  # torch.save may omit them
            if ours and has_checksums:
                damaged = archive.testzip()
    except Exception:  # foreign bytes may fail in any way
        raise _refused(file, _broken(file, "a zip archive"), AGAIN) from None
    if not ours:
        raise _refused(file, f"it is a zip archive of {listed(names)}", UNPACK)
    if any(name.endswith("/constants.pkl") for name in names):
        raise _refused(file, "it is a TorchScript program, not weights alone", SAVE)
    if damaged is not None:
        raise _refused(file, f"it is damaged, as the checksum of {damaged} does not fit", AGAIN)


def _kind(file: Path, start: bytes) -> tuple[str, str]:
    """What a file is that begins like this and is neither a pickle nor an archive of torch.save."""
    text = start[:80].decode("utf-8-sig", errors="replace").strip()
    if not start:
        return "it is empty", AGAIN
    for beginning, (what, way_out) in KINDS.items():
        if start.startswith(beginning):
            return f"it is {what}", way_out
    if tarfile.is_tarfile(file):
        return "it is a tar archive", UNPACK
    if text.startswith("<"):
        what = f"it is a web page that begins with {text[:40]!r}"
        return what, f"save the file that the page offers, or {AGAIN}"
    if "\ufffd" not in text and "".join(text.split()).isprintable():
        return f"it is a text that begins with {text[:40]!r}", AGAIN
    return f"it begins with {start[:8]!r}, as no file of torch.save or safetensors does", AGAIN


def _pickled(file: Path) -> tuple[str, str]:
    """What a pickle is that does not load, and what to do."""
    classes, words = _named(file)
    code = [name for name in classes if name.rpartition(".")[0] not in PLAIN]
    if any(name.startswith("torch.nn.") for name in code):
        return f"it holds a whole model of class {code[0]}, which only its code can open", SAVE
    if code:
        return f"it holds {listed(words)}, and needs the code of {listed(code)}", SAVE
    if classes:
        return _broken(file, "a file of torch.save"), AGAIN
    return "it is a pickle that torch.save did not write, or damaged", AGAIN


def _named(file: Path) -> tuple[list[str], list[str]]:
    """The classes that a pickle names, and its short texts, such as keys; nothing of it is run."""
    classes: list[str] = []
    words: list[str] = []
    content = file.read_bytes()
    if content.startswith(ARCHIVE):
        with zipfile.ZipFile(file) as archive:
            content = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    stream = BytesIO(content)
    try:
        while not classes:  # before the content, an old file has three pickles without any
            words.clear()
            for code, argument, _ in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    classes.append(argument.replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    classes.append(".".join(words[-2:]))
                elif isinstance(argument, str) and len(argument) < 80:
                    words.append(argument)
    except Exception:  # foreign bytes may fail in any way; what was read until then counts
        pass
    return list(dict.fromkeys(classes)), list(dict.fromkeys(words))


def _broken(file: Path, kind: str) -> str:
    size = file.stat().st_size
    return f"it begins like {kind}, but is damaged or cut off ({size} bytes)"


def _refused(file: Path, what: str, way_out: str) -> ValueError:
    return ValueError(f"{file} is not a file of weights: {what}; {way_out}")
