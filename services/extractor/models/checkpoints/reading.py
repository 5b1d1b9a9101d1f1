"""Reading checkpoint files without running what is in them; recognising, by its bytes, what is not a checkpoint."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from shoal.errors import WeightsInvalid

PLAIN_CLASSES = (argparse.Namespace,)
"""Classes without behaviour that training scripts store beside the tensors (their command line)."""
START = 4096
"""Bytes by which most kinds are recognised."""
PICKLE_LIMIT = 64 * 2**20
"""Of a pickle that is looked through for the classes it names; tensors lie elsewhere."""
_CONTAINERS = {("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict"), ("builtins", "list")}
SAVE_STATE = "torch.save(model.state_dict(), 'weights.pth')"


@dataclass(frozen=True)
class Kind:
    """What a file is, and what to do with it.

    Attributes
    ----------
    name
        Stable name for programs.
    says
        Goes on from the file's name: what it is and what would be right.
    """

    name: str
    says: str


EMPTY = Kind("empty", "is empty: its download or copy did not start. Download or copy it again.")
LFS_POINTER = Kind(
    "lfs_pointer",
    "is a pointer of Git LFS, not the file that it stands for: run `git lfs pull` in the repository that it comes "
    "from, or download the file itself.",
)
HTML = Kind(
    "html",
    "is a web page, for example one that asks for a login: download the file itself, if necessary with a browser.",
)
TORCHSCRIPT = Kind(
    "torchscript",
    "is a TorchScript archive, which contains a program; Shoal does not run it. If you trust the file, extract its "
    "weights: `torch.save(torch.jit.load('FILE').state_dict(), 'weights.pth')`.",
)
EXPORTED = Kind(
    "torch_export",
    "is a program exported by torch.export; Shoal does not run it. If you trust the file, extract its weights: "
    "`torch.save(torch.export.load('FILE').state_dict, 'weights.pth')`.",
)
ONNX = Kind(
    "onnx",
    "is an ONNX model: its tensors have other names than the network's. Save the state dict of the network that "
    f"it was exported from: `{SAVE_STATE}`.",
)
TENSORFLOW = Kind(
    "tensorflow",
    "belongs to a TensorFlow model: give the folder with `saved_model.pb` to `shoal models import-tf NAME FOLDER`. A "
    "checkpoint without a graph (`.index` and `.data-…`) cannot be imported.",
)
KERAS = Kind(
    "hdf5",
    "is an HDF5 file, such as Keras writes: export the model in TensorFlow (`model.export('FOLDER')`) and give the "
    "folder to `shoal models import-tf NAME FOLDER`.",
)
NUMPY = Kind("numpy", "is a NumPy file: save the weights as a PyTorch state dict or as safetensors.")
COMPRESSED = Kind("compressed", "is compressed: unpack it, and name the checkpoint inside.")
ARCHIVE = Kind("archive", "is an archive of other files: unpack it, and name the checkpoint inside.")
GGUF = Kind("gguf", "is a GGUF file, quantised for another program: use the published PyTorch weights or safetensors.")
JSON = Kind(
    "json",
    "is text in JSON, such as a model's configuration or the index of a sharded checkpoint: name the file with the "
    "weights. Join a checkpoint in several files into one first.",
)
CUT_ZIP = Kind(
    "cut_off", "is cut off: its end is missing. Compare its size and sha256 with those that its publisher states."
)
CUT_SAFETENSORS = Kind(
    "cut_off",
    "is a safetensors file that is cut off or damaged: compare its size and sha256 with those that its publisher "
    "states.",
)


def read(path: Path) -> Mapping[str, Any]:
    """What the file holds: tensors by name, or parts by name.

    Only tensors and plain containers are read; an object that would need code to run is refused. safetensors files
    are recognised by their content, not by their name.

    Raises
    ------
    WeightsInvalid
        The file is empty, broken, no checkpoint, or holds objects that need code.
    """
    kind = kind_of(path)
    if kind is not None:
        says = kind.says.replace("FILE", path.name)
        raise WeightsInvalid(f"{path.name} {says}", file=path.name, kind=kind.name)
    try:
        content = load_file(path) if _is_safetensors(path) else _load_pickle(path)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        whole = whole_object(path)
        if whole is not None:
            raise WeightsInvalid(
                f"{path.name} holds a whole object, a {whole}. It is not read, because reading it could run any code. "
                f"Save its state dict, on a machine that has the code of that class: `model = "
                f"torch.load({path.name!r}, weights_only=False)`, then `{SAVE_STATE}`.",
                file=path.name,
                kind="whole_object",
            ) from error
        raise WeightsInvalid(
            f"{path.name} holds more than tensors and plain containers. It is not read, because reading it could run "
            f"any code: {_first_sentence(error)} Save only its state dict, preferably as safetensors.",
            file=path.name,
        ) from error
    except Exception as error:  # Given damaged bytes, an unpickler may raise any exception.
        raise WeightsInvalid(
            f"{path.name} cannot be read as a PyTorch checkpoint or as safetensors: {_first_sentence(error)} "
            "It may be cut off: compare its size and sha256 with those that its publisher states.",
            file=path.name,
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsInvalid(
            f"{path.name} holds a {type(content).__name__}, not a dict: save the network's state dict.", file=path.name
        )
    return content


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _load_pickle(path: Path) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with torch.serialization.safe_globals(list(PLAIN_CLASSES)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # On pickle protocols that PyTorch may not support: it then raises as well.
        if path.suffix == ".safetensors":
            # By a path torch.load would go by the name. Published files are renamed to what the catalogue looks for.
            with path.open("rb") as file:
                return torch.load(file, **options)
        # Only the zip format can be mapped into memory; then an optimizer's state is never read from disk.
        return torch.load(path, **options, mmap=zipfile.is_zipfile(path))


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for marker in ("WeightsUnpickler error: ", "Weights only load failed. "):
        text = text.rpartition(marker)[2]
    return text.split(". ")[0].rstrip(".")[:300] + "."


def kind_of(path: Path) -> Kind | None:
    """What the file is, if it is anything but a PyTorch checkpoint or safetensors."""
    with path.open("rb") as file:
        start = file.read(START)
        if not start:
            return EMPTY
        for sniff in (_by_start, _zip, _by_end, _safetensors):
            file.seek(0)
            if kind := sniff(start, file):
                return kind
    return None


def whole_object(path: Path) -> str | None:
    """The class of the object that a pickle holds in place of a dict, such as ``torchvision.models.resnet.ResNet``.

    Only the names in the pickle are read; nothing in it runs.
    """
    with suppress(Exception):  # A damaged pickle yields no names.
        return next(_outermost(_pickle_of(path)), None)
    return None


def _by_start(start: bytes, _file: BinaryIO) -> Kind | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return HTML
    if start.startswith(b"version https://git-lfs.github.com/"):
        return LFS_POINTER
    if start.startswith(b"model_checkpoint_path:"):
        return TENSORFLOW
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return KERAS
    if start.startswith(b"\x93NUMPY"):
        return NUMPY
    if start.startswith(b"GGUF"):
        return GGUF
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")):
        return COMPRESSED
    if start[257:262] == b"ustar" or start.startswith(b"Rar!"):
        return ARCHIVE
    if text.startswith((b"{", b"[")) and _is_text(start):
        return JSON
    return _protocol_buffer(start)


def _is_text(start: bytes) -> bool:
    return not any(byte < 32 and byte not in b"\t\n\r" for byte in start)


def _protocol_buffer(start: bytes) -> Kind | None:
    """ONNX's ModelProto begins with its version and then names its producer; a SavedModel with its schema's version."""
    if start[:1] != b"\x08" or len(start) < 8:
        return None
    if (start[:3] == b"\x08\x01\x12" and b"serve" in start) or b"tensorflow" in start[:64].lower():
        return TENSORFLOW
    return ONNX if start[1] < 32 and start[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42") else None


def _zip(start: bytes, file: BinaryIO) -> Kind | None:
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return CUT_ZIP
    with zipfile.ZipFile(file) as archive:
        names = [name.partition("/")[2] or name for name in archive.namelist()]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return TORCHSCRIPT
    if any(name in ("archive_format", "serialized_exported_program.json") for name in names):
        return EXPORTED
    if "data.pkl" in names:
        return None
    return NUMPY if names and all(name.endswith(".npy") for name in names) else ARCHIVE


def _by_end(_start: bytes, file: BinaryIO) -> Kind | None:
    """TensorFlow's index of a checkpoint is a table of LevelDB, known by its last eight bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    return TENSORFLOW if file.read() == struct.pack("<Q", 0xDB4775248B80FB57) else None


def _safetensors(start: bytes, file: BinaryIO) -> Kind | None:
    """A safetensors file whose tensors end beyond its own end."""
    if start[8:9] != b"{" or len(start) < 9:
        return None
    size, length = file.seek(0, io.SEEK_END), int.from_bytes(start[:8], "little")
    if length > 100 * 2**20:
        return None
    file.seek(8)
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return CUT_SAFETENSORS
    return CUT_SAFETENSORS if 8 + length + max(ends, default=0) > size else None


def _pickle_of(path: Path) -> bytes:
    """The pickle with the structure: ``data.pkl`` of the zip format, or the last of the four of the format before."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as member:
                return member.read(PICKLE_LIMIT)
    with path.open("rb") as file:
        content = file.read(PICKLE_LIMIT)
    stream = io.BytesIO(content)
    for _ in range(3):  # The magic number, the protocol's version and the machine's facts.
        for _opcode, _argument, _position in pickletools.genops(stream):
            pass
    return stream.read() or content


def _outermost(content: bytes) -> Iterator[str]:
    strings: list[str] = []
    skip = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "PUT", "LONG_BINPUT")
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in skip or (opcode.name == "MARK" and not strings):
            continue  # The format before 1.6 begins a network with a note, ("module", its class, its source).
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            module, name = strings[-2:]
        elif "UNICODE" in opcode.name:
            strings.append(str(argument))
            continue
        else:
            return
        if (module, name) not in _CONTAINERS:
            yield f"{module}.{name}"
        return
