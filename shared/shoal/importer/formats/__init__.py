"""The formats of files of embeddings, one module each: the arrays of a file by name, read in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shoal.importer.formats.base import Array, Content, Values
from shoal.importer.formats.hdf5 import read_hdf5
from shoal.importer.formats.npy import read_npy
from shoal.importer.formats.npz import read_npz
from shoal.importer.formats.parquet import read_parquet
from shoal.importer.formats.safetensors import read_safetensors
from shoal.importer.formats.torch import read_torch
from shoal.userfiles import UserFile

_READERS: Mapping[str, Callable[[UserFile], Content]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".pt": read_torch,
    ".pth": read_torch,
    ".safetensors": read_safetensors,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".parquet": read_parquet,
    ".pq": read_parquet,
}
SUPPORTED = ".npy, .npz, .pt, .safetensors, .h5 or .parquet"
"""The formats, for messages."""


def is_supported(suffix: str) -> bool:
    """Whether files of this suffix are read."""
    return suffix.lower() in _READERS


def reader_name(suffix: str) -> str:
    """The format of a suffix: equal for ``.h5`` and ``.hdf5``."""
    return _READERS[suffix.lower()].__name__


def read(file: UserFile) -> Content:
    """The arrays of a file whose suffix is supported."""
    return _READERS[file.path.suffix.lower()](file)


__all__ = ["SUPPORTED", "Array", "Content", "Values", "is_supported", "read", "reader_name"]
