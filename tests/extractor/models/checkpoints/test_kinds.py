"""Files that are no checkpoint, or not one that is read: the error says what they are and what to do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from extractor.models.checkpoints.loading import load_into
from extractor.models.checkpoints.reading import read
from safetensors.torch import save_file
from shoal.errors import WeightsInvalid
from torch import nn


def torchscript(path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))


def whole_module(path: Path) -> None:
    torch.save(torchvision.models.resnet18(), path)


def whole_module_of_before_2020(path: Path) -> None:
    torch.save(torchvision.models.resnet18(), path, _use_new_zipfile_serialization=False)


def exported(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/models/model.json", "{}")


def cut_zip(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def cut_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def onnx(path: Path) -> None:
    # ir_version 8, producer "pytorch" 2.1: the first fields of a ModelProto.
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x032.1:\x80\x01" + bytes(200))


def tensorflow_index(path: Path) -> None:
    path.write_bytes(bytes(100) + (0xDB4775248B80FB57).to_bytes(8, "little"))


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("weights.pth")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pth", b"abc")


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty": (lambda path: path.touch(), "empty", "is empty"),
    "html": (text("\n<!DOCTYPE html><html><title>Sign in</title>"), "html", "is a web page"),
    "xhtml": (text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "html", "is a web page"),
    "lfs": (text(POINTER), "lfs_pointer", "git lfs pull"),
    "torchscript": (torchscript, "torchscript", "torch.jit.load('c.pth').state_dict()"),
    "torch.export": (exported, "torch_export", "torch.export"),
    "whole module": (whole_module, "whole_object", "torchvision.models.resnet.ResNet"),
    "old whole module": (whole_module_of_before_2020, "whole_object", "torchvision.models.resnet.ResNet"),
    "cut zip": (cut_zip, "cut_off", "cut off"),
    "cut safetensors": (cut_safetensors, "cut_off", "cut off"),
    "onnx": (onnx, "onnx", "is an ONNX model"),
    "tensorflow index": (tensorflow_index, "tensorflow", "shoal models import-tf"),
    "tensorflow state": (text('model_checkpoint_path: "model.ckpt-1"'), "tensorflow", "shoal models import-tf"),
    "keras": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "hdf5", "HDF5"),
    "npy": (lambda path: path.write_bytes(b"\x93NUMPY" + bytes(50)), "numpy", "NumPy"),
    "npz": (npz, "numpy", "NumPy"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"abc")), "compressed", "unpack it"),
    "tar": (tar, "archive", "unpack it"),
    "zip": (zipped, "archive", "unpack it"),
    "index": (text(json.dumps({"weight_map": {"a": "b"}})), "json", "JSON"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(50)), "gguf", "GGUF"),
}


@pytest.mark.parametrize("name", FILES)
def test_the_error_says_what_the_file_is_and_what_to_do(name: str, tmp_path: Path) -> None:
    write, kind, says = FILES[name]
    path = tmp_path / "c.pth"
    write(path)
    with pytest.raises(WeightsInvalid) as caught:
        load_into(nn.Linear(2, 2), path)
    assert caught.value.members["kind"] == kind
    assert caught.value.members["file"] == "c.pth"
    assert says in caught.value.detail
    assert kind == "cut_off" or "cut off" not in caught.value.detail


def test_a_saved_model_is_a_tensorflow_model(tmp_path: Path) -> None:
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"\x08\x01\x12\xff\x01\x0a\x10\x22\x05serve" + bytes(100))
    with pytest.raises(WeightsInvalid, match="import-tf"):
        read(path)


def test_safetensors_and_checkpoints_of_both_formats_are_none_of_these(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    save_file(state, tmp_path / "safe.pth")
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        network = nn.Linear(2, 2)
        load_into(network, path)
        assert torch.equal(network.weight, state["weight"])
