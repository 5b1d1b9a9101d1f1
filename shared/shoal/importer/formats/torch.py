"""``.pt``, ``.pth``: tensors saved by ``torch.save``, read without PyTorch and without running anything in the file.

Such a file is a zip archive of a pickle, which describes the tensors, and of their bytes. The pickle may only name
what `_GLOBALS` lists, all of it data without behaviour; any other name is an error, before anything is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided

from shoal.importer.formats.base import (
    BFLOAT16,
    Array,
    Content,
    Values,
    as_objects,
    expected_bytes,
    mapped,
    unreadable,
    widened,
)
from shoal.importer.formats.zipped import offset_of, open_zip
from shoal.userfiles import UserFile

_KIND = "a file of torch.save"
_PICKLE = "data.pkl"
_MAX_PICKLE = 1 << 30
_MAX_DEPTH = 8
_ADVICE = "Save tensors and lists alone: `torch.save({'embeddings': x, 'labels': y}, path)`."
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True, slots=True)
class _StorageType:
    """Stands for a class such as ``torch.FloatStorage``."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes of one or more tensors: a member of the archive."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor: a view of a storage, in items of its type."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _RebuildTensor:
    """Stands for the function that makes a tensor of a storage."""

    def __call__(self, storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
        if not isinstance(storage, _Storage) or not _whole((offset,)) or not isinstance(offset, int):
            raise pickle.UnpicklingError("a tensor has no storage")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
            raise pickle.UnpicklingError("a tensor has no shape")
        if not _whole(shape) or not _whole(strides):
            raise pickle.UnpicklingError("a tensor has an impossible shape")
        return _Tensor(storage, offset, shape, strides)


@dataclass(frozen=True, slots=True)
class _RebuildParameter:
    """Stands for the function that makes a parameter of a tensor."""

    def __call__(self, tensor: object, *_: object) -> object:
        return tensor


_GLOBALS: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Makes what `_GLOBALS` lists and built-in containers, numbers and texts.

    References
    ----------
    Python's documentation of ``pickle``, "Restricting Globals".
    """

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """What a name of the pickle stands for."""
        found = _GLOBALS.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not read")
        return found

    def persistent_load(self, pid: object) -> _Storage:
        """A storage of the archive."""
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), int(size)) if size >= 0:
                return _Storage(dtype, key, size)
        raise pickle.UnpicklingError("it names a storage in an unknown way")


def read_torch(file: UserFile) -> Content:
    """The tensors and lists of a file of ``torch.save``, by key; nested keys are joined by ``.``.

    Raises
    ------
    ImportInvalid
        The file is damaged, holds other objects than tensors, lists, numbers and texts, or is of PyTorch before 1.6.
    """
    _refuse_other_formats(file)
    arrays: dict[str, Array] = {}
    with open_zip(file, _KIND) as (opened, archive):
        folder = _folder(file, archive)
        tree = _unpickled(file, archive, f"{folder}{_PICKLE}")
        for name, value in _leaves(file, tree, "", 0):
            array = _array(file, opened, archive, folder, name, value)
            if array is not None:
                arrays[name] = array
    return Content(file, "tensor", arrays)


def _refuse_other_formats(file: UserFile) -> None:
    head = file.head(2)
    if head == b"PK":
        return
    if head[:1] == b"\x80":
        raise file.invalid(
            "is a plain pickle, such as PyTorch wrote before version 1.6; it is not read, because reading it could run "
            "code. Load it where you trust it and save it again with `torch.save`."
        )
    raise file.invalid(f"is not {_KIND}: it does not start as a zip archive. Save it again.")


def _folder(file: UserFile, archive: zipfile.ZipFile) -> str:
    """The folder of the archive that holds everything, with its slash."""
    names = archive.namelist()
    found = [name for name in names if name == _PICKLE or name.endswith(f"/{_PICKLE}")]
    if len(found) != 1 or any(name.endswith("/constants.pkl") for name in names):
        raise file.invalid(f"is a zip archive, but not {_KIND}. {_ADVICE}")
    folder = found[0].removesuffix(_PICKLE)
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise file.invalid("was saved on a big-endian machine: save it again on a little-endian one.")
    return folder


def _unpickled(file: UserFile, archive: zipfile.ZipFile, name: str) -> object:
    size = archive.getinfo(name).file_size
    if size > _MAX_PICKLE:
        raise file.invalid(f"has {size:,} bytes beside its tensors, and the limit is {_MAX_PICKLE:,}. {_ADVICE}")
    with archive.open(name) as content:
        data = io.BytesIO(content.read(size + 1))
    try:
        return _Unpickler(data, encoding="utf-8").load()
    except Exception as error:  # A damaged pickle raises errors of any type.
        raise file.invalid(f"cannot be read: {str(error) or type(error).__name__}. {_ADVICE}") from error


def _leaves(file: UserFile, value: object, name: str, depth: int) -> Iterator[tuple[str, object]]:
    """Tensors and lists of plain values, with their names."""
    if depth > _MAX_DEPTH:
        raise file.invalid(f"has more than {_MAX_DEPTH} levels of keys. {_ADVICE}")
    if isinstance(value, dict):
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(each, _Tensor | dict) for each in value):
        children = [(str(at), child) for at, child in enumerate(value)]
    else:
        yield name or "tensor", value
        return
    for key, child in children:
        yield from _leaves(file, child, f"{name}.{key}" if name else key, depth + 1)


def _array(
    file: UserFile, opened: BinaryIO, archive: zipfile.ZipFile, folder: str, name: str, value: object
) -> Array | None:
    if isinstance(value, _Tensor):
        return _tensor(file, archive, f"{folder}data/{value.storage.key}", name, value)
    if isinstance(value, list | tuple) and value and all(isinstance(each, str | int | None) for each in value):
        values = as_objects(value)
        return Array(name, values.shape, values.dtype, mapped(values), stored="list")
    return None


def _tensor(file: UserFile, archive: zipfile.ZipFile, member: str, name: str, tensor: _Tensor) -> Array:
    wide = tensor.storage.dtype == BFLOAT16
    dtype = np.dtype("<u2" if wide else tensor.storage.dtype)
    shown = np.dtype(np.float32) if wide else dtype
    stored = BFLOAT16 if wide else ""
    problem = _problem(archive, member, tensor, dtype)
    if problem:
        return Array(name, tensor.shape, shown, unreadable, stored, problem)
    return Array(name, tensor.shape, shown, _Mapped(file, member, tensor, dtype, wide), stored)


def _problem(archive: zipfile.ZipFile, member: str, tensor: _Tensor, dtype: np.dtype[np.generic]) -> str:
    if member not in archive.NameToInfo:
        return f"is damaged: {member} is missing"
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        return "is compressed, which torch.save does not do"
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    needed = tensor.offset + last + 1 if all(tensor.shape) else 0
    if needed * dtype.itemsize > info.file_size or tensor.storage.size * dtype.itemsize > info.file_size:
        return f"is damaged: it takes {max(needed, tensor.storage.size) * dtype.itemsize:,} bytes of {info.file_size:,}"
    return ""


class _Mapped:
    """Maps a tensor when its first row is read."""

    def __init__(self, file: UserFile, member: str, tensor: _Tensor, dtype: np.dtype[np.generic], wide: bool) -> None:
        self._file, self._member, self._tensor = file, member, tensor
        self._dtype, self._wide = dtype, wide
        self._values: Values | None = None

    def __call__(self, start: int, stop: int) -> Values:
        if self._values is None:
            self._values = self._map()
        block = self._values[start:stop]
        return widened(block) if self._wide else block

    def _map(self) -> Values:
        tensor = self._tensor
        if not expected_bytes(tensor.shape, self._dtype):
            return np.empty(tensor.shape, self._dtype)
        with open_zip(self._file, _KIND) as (opened, archive):
            info = archive.getinfo(self._member)
            size = info.file_size // self._dtype.itemsize
            whole = np.memmap(opened, self._dtype, "r", offset_of(opened, archive, info), (size,))
        strides = tuple(stride * self._dtype.itemsize for stride in tensor.strides)
        return as_strided(whole[tensor.offset :], tensor.shape, strides, subok=True, writeable=False)


def _whole(values: tuple[object, ...]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)
