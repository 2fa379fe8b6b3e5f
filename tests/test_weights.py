"""Weight files from elsewhere: each loads, or the error says what is in it and what to do."""

import argparse
import gzip
import os
import pickle
import tarfile
import traceback
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors
from torch import nn

from cilkit.networks.erfnet import Encoder, ERFNet
from cilkit.networks.weights import load_weights


def state_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


@pytest.fixture(scope="module")
def network(make_network):
    """A network whose weights are saved; not to be changed."""
    return make_network(5)


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{key}": value for key, value in state.items()}


FORMS = {  # the forms in which weight files of ERFNet circulate
    "plain": lambda s: s,
    "module.": lambda s: prefixed(s, "module."),
    "state_dict": lambda s: {"epoch": 3, "state_dict": prefixed(s, "module.")},
    "model.": lambda s: prefixed(s, "model."),
    "net.": lambda s: prefixed(s, "net."),
    "compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "model": lambda s: {"model": s},
    "net": lambda s: {"net": prefixed(s, "module.")},
    "model_state": lambda s: {"model_state": s, "cur_itrs": 9, "best_score": 0.7},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": torch.tensor(0.1)},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": prefixed(s, "network.")}}},
    "by part": lambda s: {
        part: {k.removeprefix(f"{part}."): v for k, v in s.items() if k.startswith(part)}
        for part in ("encoder", "decoder")
    },
    "parts in parallel": lambda s: {k.replace("coder.", "coder.module."): v for k, v in s.items()},
    "with its optimizer": lambda s: {
        "state_dict": s,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "with parameters": lambda s: {
        k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()
    },
}


def published(state, form):
    return FORMS[form](state)


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_load_into_a_network(network, tmp_path, form):
    torch.save(published(network.state_dict(), form), tmp_path / "erfnet.pth")
    fresh = ERFNet(5)
    assert not state_equal(fresh, network)
    load_weights(fresh, tmp_path / "erfnet.pth")
    assert state_equal(fresh, network)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_file_gives_its_encoder(network, tmp_path, form):
    torch.save(published(network.state_dict(), form), tmp_path / "erfnet.pth")
    encoder = Encoder()
    load_weights(encoder, str(tmp_path / "erfnet.pth"))
    assert state_equal(encoder, network.encoder)


def test_the_imagenet_encoder_loads_without_its_classifier(network, tmp_path):
    state = {
        f"module.features.encoder.{key}": value
        for key, value in network.encoder.state_dict().items()
    }
    state["module.features.encoder.output_conv.weight"] = torch.zeros(1000, 128, 1, 1)
    state["module.features.encoder.output_conv.bias"] = torch.zeros(1000)
    state["module.classifier.weight"] = torch.zeros(1000, 128)
    state["module.classifier.bias"] = torch.zeros(1000)
    torch.save({"epoch": 9, "arch": "erfnet", "state_dict": state}, tmp_path / "encoder.pth.tar")
    encoder = Encoder()
    load_weights(encoder, tmp_path / "encoder.pth.tar")
    assert state_equal(encoder, network.encoder)


def test_files_older_than_the_batch_counter_of_batch_norm_load(network, tmp_path):
    # torch < 0.4.1 did not save num_batches_tracked; ERFNet was published before
    state = {k: v for k, v in network.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(published(state, "module."), tmp_path / "erfnet.pth")
    fresh = ERFNet(5)
    load_weights(fresh, tmp_path / "erfnet.pth")
    assert all(fresh.state_dict()[key].equal(value) for key, value in state.items())


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(network, tmp_path):
    state = dict(network.state_dict())
    del state["encoder.initial_block.conv.bias"]
    state["decoder.head.weight"] = torch.zeros(3)
    state["decoder.output_conv.bias"] = torch.zeros(20)
    torch.save(state, tmp_path / "odd.pth")
    fresh = ERFNet(5)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit the ERFNet") as error:
        load_weights(fresh, tmp_path / "odd.pth")
    for part in (
        str(tmp_path / "odd.pth"),
        "encoder.initial_block.conv.bias is missing",
        "decoder.head.weight has no place in the network",
        "decoder.output_conv.bias has shape (20,), wanted (5,)",
        "load only the encoder",
    ):
        assert part in str(error.value)
    assert all(fresh.state_dict()[key].equal(before[key]) for key in before)


def test_many_misfits_are_counted_and_not_all_listed(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"and \d+ more\. Check") as error:
        load_weights(Encoder(), tmp_path / "other.pth")
    assert str(error.value).count("is missing") == 6


def test_a_network_of_other_classes_does_not_fit(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "five.pth")
    with pytest.raises(ValueError, match=r"output_conv.weight has shape \(16, 5, 2, 2\), wanted"):
        load_weights(ERFNet(6), tmp_path / "five.pth")


def test_a_missing_weight_file_is_named_with_two_ways_on(network, tmp_path):
    with pytest.raises(FileNotFoundError, match="download it there, or start from random") as error:
        load_weights(network, tmp_path / "erfnet.pth")
    assert f"no weight file {tmp_path / 'erfnet.pth'}" in str(error.value)


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_file_that_would_run_code_is_refused(network, tmp_path):
    torch.save({"state_dict": Intruder(tmp_path / "intruded")}, tmp_path / "evil.pth")
    with pytest.raises((ValueError, pickle.UnpicklingError), match="(?i)weights.only"):
        load_weights(network, tmp_path / "evil.pth")
    assert not (tmp_path / "intruded").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "intruded").exists()  # the file did mean it


@pytest.mark.parametrize("content", ["text", "list"])
def test_a_file_without_weights_is_named(network, tmp_path, content):
    file = tmp_path / "odd.pth"
    if content == "text":
        file.write_text("<html>404: not found</html>")
    else:
        torch.save([torch.zeros(3)], file)
    with pytest.raises(ValueError, match="odd.pth"):
        load_weights(network, file)


# how it was saved


@pytest.mark.parametrize("form", ["plain", "module.", "net."])
def test_a_file_of_safetensors_loads(network, tmp_path, form):
    safetensors.save_file(published(network.state_dict(), form), tmp_path / "erfnet.safetensors")
    fresh, encoder = ERFNet(5), Encoder()
    load_weights(fresh, tmp_path / "erfnet.safetensors")
    load_weights(encoder, tmp_path / "erfnet.safetensors")
    assert state_equal(fresh, network) and state_equal(encoder, network.encoder)


def test_a_file_older_than_torch_1_6_loads(network, tmp_path):
    file = tmp_path / "erfnet.pth"
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    fresh = ERFNet(5)
    load_weights(fresh, file)
    assert state_equal(fresh, network)


def test_a_file_without_checksums_loads(network, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network.state_dict(), tmp_path / "erfnet.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    fresh = ERFNet(5)
    load_weights(fresh, tmp_path / "erfnet.pth")
    assert state_equal(fresh, network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_read_as_float32(network, tmp_path, dtype):
    saved = {key: value.to(dtype) for key, value in network.state_dict().items()}
    torch.save(saved, tmp_path / "erfnet.pth")
    fresh = ERFNet(5)
    load_weights(fresh, tmp_path / "erfnet.pth")
    for key, value in fresh.state_dict().items():
        assert value.dtype == network.state_dict()[key].dtype
        assert value.equal(saved[key].to(value.dtype))


def with_pickle(file: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a file of torch.save in which the pickle is another."""
    copy = file.with_name("copy.pth")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return copy


def test_a_file_saved_on_a_gpu_loads_without_one(network, tmp_path):
    torch.save(deepcopy(network).half().state_dict(), tmp_path / "erfnet.pth")
    here, there = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"  # texts with their lengths
    fresh = ERFNet(5)
    load_weights(
        fresh, with_pickle(tmp_path / "erfnet.pth", lambda content: content.replace(here, there))
    )
    assert b"cuda:0" in (tmp_path / "copy.pth").read_bytes()
    assert state_equal(fresh, deepcopy(network).half().float())
    assert {value.device.type for value in fresh.state_dict().values()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_weights_saved_on_this_gpu_load_on_both_sides(network, tmp_path):
    torch.save(deepcopy(network).half().cuda().state_dict(), tmp_path / "erfnet.pth")
    for device in ("cpu", "cuda"):
        fresh = ERFNet(5).to(device)
        load_weights(fresh, tmp_path / "erfnet.pth")
        assert fresh.decoder.output_conv.weight.device.type == device
        assert state_equal(fresh.cpu(), deepcopy(network).half().float())


# what is no file of weights


class Stub(nn.Module):
    """A model of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)


def save(content: object, **settings) -> Callable[[Path, ERFNet], None]:
    return lambda file, network: torch.save(content, file, **settings)


def text(content: str, encoding: str = "utf-8") -> Callable[[Path, ERFNet], None]:
    return lambda file, network: file.write_bytes(content.encode(encoding))


def cut(part: float, **settings) -> Callable[[Path, ERFNet], None]:
    """A file of torch.save without its end."""

    def make(file: Path, network: ERFNet) -> None:
        torch.save(network.state_dict(), file, **settings)
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])

    return make


def zipped(**files: bytes) -> Callable[[Path, ERFNet], None]:
    def make(file: Path, network: ERFNet) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return make


def flipped(file: Path, network: ERFNet) -> None:
    """One bit of a weight is another; torch.load takes no notice."""
    torch.save(network.state_dict(), file)
    content, weight = file.read_bytes(), network.decoder.output_conv.weight.detach()
    at = content.index(weight.numpy().tobytes())
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    loaded = torch.load(file, weights_only=True)["decoder.output_conv.weight"]
    assert (loaded != weight).sum() == 1


def safetensors_cut(file: Path, network: ERFNet) -> None:
    content = safetensors.save(network.state_dict())
    file.write_bytes(content[: len(content) // 2])


def tarred(file: Path, network: ERFNet) -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(__file__, "weights.pth")


def script(file: Path, network: ERFNet) -> None:
    """What torch.jit.save writes, as far as its names tell."""
    zipped(**{"m/data.pkl": b"", "m/constants.pkl": b"", "m/code/model.py": b""})(file, network)


def pickled(file: Path, network: ERFNet) -> None:
    file.write_bytes(pickle.dumps({"encoder": [1.0, 2.0]}))


def folder(file: Path, network: ERFNet) -> None:
    file.mkdir()
    (file / "config.json").touch()


OLD = {"_use_new_zipfile_serialization": False}
SAVE = r"save the weights only, torch.save\(model.state_dict\(\), 'weights.pth'\), and load that"
REFUSED = {
    "empty": (text(""), "it is empty; download it again"),
    "web page": (
        text("\n<!DOCTYPE html><html><title>404 Not Found</title></html>"),
        "it is a web page that begins with '<!DOCTYPE html>.*; save the file that the page offers",
    ),
    "web page of Windows": (
        text("\ufeff<html>Sign in</html>"),
        "it is a web page that begins with",
    ),
    "refusal as text": (
        text('{"error": "rate limit exceeded"}'),
        r"""it is a text that begins with '{"error": "rate limit.*; download it again""",
    ),
    "Git LFS pointer": (
        text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 8312345\n"),
        "it is a Git LFS pointer, not the file .*git lfs pull",
    ),
    "unknown bytes": (
        lambda file, network: file.write_bytes(b"\x00\x01\x02\x03" * 99),
        r"it begins with b'\\x00\\x01.*as no file of torch.save or safetensors does; download",
    ),
    "HDF5": (
        lambda file, network: file.write_bytes(b"\x89HDF\r\n\x1a\n" * 9),
        "it is an HDF5 file, as Keras saves weights; look for the weights in PyTorch's form",
    ),
    "zip of weights": (
        zipped(**{"README.md": b"", "erfnet.pth": b""}),
        "it is a zip archive of README.md, erfnet.pth; unpack it, and name the weight file in it",
    ),
    "gzip": (
        lambda file, network: file.write_bytes(gzip.compress(b"weights")),
        "it is a file packed by gzip; unpack it",
    ),
    "tar": (tarred, "it is a tar archive; unpack it"),
    "folder": (folder, "it is a folder of config.json; name a file"),
    "zip without its end": (
        cut(0.7),
        r"like a zip archive, but is damaged or cut off \(\d+ bytes\); download it again",
    ),
    "zip of the header alone": (
        cut(0.0001),
        r"like a zip archive, but is damaged or cut off \(\d+ bytes\); download it again",
    ),
    "old file without its end": (
        cut(0.7, **OLD),
        r"like a file of torch.save, but is damaged or cut off \(\d{7} bytes\); download",
    ),
    "old file without its start of keys": (
        cut(0.000005, **OLD),
        r"is a pickle that torch.save did not write, or damaged; download",
    ),
    "safetensors without its end": (
        safetensors_cut,
        r"like a file of safetensors, but is damaged or cut off \(\d+ bytes\); down",
    ),
    "one bit": (flipped, r"it is damaged, as the checksum of .*data/\d+ does not fit; download it"),
    "whole model": (save(Stub()), rf"a whole model of class .*\.Stub, .*{SAVE}"),
    "whole model of old": (save(Stub(), **OLD), rf"a whole model of class .*\.Stub, .*{SAVE}"),
    "whole model in a dict": (
        save({"epoch": 3, "model": nn.DataParallel(Stub())}),
        rf"a whole model of class torch\.nn\..*DataParallel, .*{SAVE}",
    ),
    "TorchScript": (script, f"it is a TorchScript program, not weights alone; .*{SAVE}"),
    "options beside weights": (
        save({"epoch": 3, "args": argparse.Namespace(lr=0.1), "model": {"w": torch.ones(1)}}),
        rf"it holds epoch, args, .* needs the code of argparse\.Namespace; .*{SAVE}",
    ),
    "options beside weights of old": (
        save({"epoch": 3, "args": argparse.Namespace(lr=0.1)}, **OLD),
        r"it holds epoch, args.* needs the code of argparse\.Namespace; ",
    ),
    "number of NumPy": (
        save({"best": np.float64(0.7), "model": {"w": torch.ones(1)}}),
        r"it holds best.* needs the code of numpy.*\.scalar, numpy\.dtype",
    ),
    "plain pickle": (pickled, "it is a pickle that torch.save did not write"),
    "list": (save([torch.ones(3)]), f"it holds a list, wanted a dict of tensors; .*{SAVE}"),
    "tensor": (save(torch.ones(3)), "it holds a Tensor, wanted a dict of tensors"),
    "numbers": (
        save({"epoch": 3, "loss": 0.1}),
        "it holds no tensor, but epoch, loss; download it again",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_file_of_weights_is_described_and_nothing_is_loaded(
    network, tmp_path, kind, recwarn
):
    make, message = REFUSED[kind]
    file = tmp_path / "erfnet.pth"
    make(file, network)
    recwarn.clear()
    fresh = ERFNet(5)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(
        ValueError, match=f"(?s)erfnet.pth is not a file of weights: .*{message}"
    ) as e:
        load_weights(fresh, file)
    assert all(fresh.state_dict()[key].equal(before[key]) for key in before)
    shown = "".join(traceback.format_exception(e.value))  # all that a notebook shows
    assert "weights_only=False" not in shown and "UnpicklingError" not in shown
    assert not recwarn.list


def test_a_file_that_may_not_be_read_is_named(network, tmp_path, monkeypatch):
    torch.save(network.state_dict(), tmp_path / "erfnet.pth")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match="erfnet.pth cannot be read .*denied.*check its permissi"):
        load_weights(network, tmp_path / "erfnet.pth")


# tensors that are no weights of this network


def test_two_networks_in_a_file_are_named(network, tmp_path):
    state = network.state_dict()
    torch.save({"student": state, "teacher": prefixed(state, "module.")}, tmp_path / "both.pth")
    for fresh, names in ((ERFNet(5), "student.', 'teacher."), (Encoder(), "student.encoder.', '")):
        with pytest.raises(ValueError, match=f"both.pth are of 2 networks that fit: '{names}.*own"):
            load_weights(fresh, tmp_path / "both.pth")


def test_an_encoder_alone_fits_an_encoder_alone(network, tmp_path):
    for state in ({"encoder": network.encoder.state_dict()}, network.encoder.state_dict()):
        torch.save(state, tmp_path / "encoder.pth")
        encoder = Encoder()
        load_weights(encoder, tmp_path / "encoder.pth")
        assert state_equal(encoder, network.encoder)
        with pytest.raises(ValueError, match="is missing.*or load only the encoder"):
            load_weights(ERFNet(5), tmp_path / "encoder.pth")


def test_weights_of_another_architecture_are_shown(tmp_path):
    state = {f"layer{k}.conv.weight": torch.ones(2, 2) for k in range(9)}
    torch.save({"state_dict": prefixed(state, "module.")}, tmp_path / "resnet.pth")
    shown = r"holds 9 tensors: state_dict\.layer0\.conv\.weight, .* and 5 more"
    for network in (ERFNet(5), Encoder()):
        with pytest.raises(ValueError, match=f"do not fit the {type(network).__name__}.*{shown}"):
            load_weights(network, tmp_path / "resnet.pth")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("encoder.layers.0.conv.weight", lambda v: v * float("nan"), "weight has nan or inf"),
        ("decoder.output_conv.bias", lambda v: v - float("inf"), "bias has nan or inf"),
        ("decoder.output_conv.bias", lambda v: (v + 1e5).half(), "bias has nan or inf"),
        ("decoder.output_conv.bias", lambda v: v.double() + 1e300, "bias has nan or inf"),
        ("encoder.layers.0.bn.running_var", lambda v: -v, "running_var has negative variances"),
    ],
)
def test_damaged_numbers_are_refused(network, tmp_path, key, change, message):
    state = network.state_dict()
    torch.save(state | {key: change(state[key])}, tmp_path / "odd.pth")
    fresh = ERFNet(5)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=f"odd.pth are damaged, or .*{message}; download it again"):
        load_weights(fresh, tmp_path / "odd.pth")
    assert all(fresh.state_dict()[key].equal(before[key]) for key in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.char(), "torch.int8, torch.strided, cpu"),
        (lambda v: v.to("meta"), "torch.float32, torch.strided, meta"),
        (lambda v: v.to_sparse(), "torch.float32, torch.sparse_coo, cpu"),
        (lambda v: v.to(torch.complex64), "torch.complex64, torch.strided, cpu"),
    ],
)
def test_what_is_no_plain_number_is_refused(network, tmp_path, change, message):
    state = network.state_dict()
    key = "decoder.output_conv.bias"
    torch.save(state | {key: change(state[key])}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=f"{key} is {message}, wanted plain floating-point number"):
        load_weights(ERFNet(5), tmp_path / "odd.pth")
