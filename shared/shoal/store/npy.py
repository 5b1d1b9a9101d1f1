"""``.npy`` files: written row by row, and mapped into memory once their header agrees with their size."""

from __future__ import annotations

import ast
import math
import mmap
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from shoal.errors import StoreCorrupt

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_MOST_HEADER = 1 << 16
_MOST_DIMENSIONS = 64
_MOST_ROWS = (1 << 63) - 1

HEADER_BYTES = 128
"""Length of every header that is written here: constant, so that the row count can be filled in at the end."""

NPY_ERRORS = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)
"""What an archive of arrays raises whose headers are missing, cut off, or name a shape or dtype that cannot be."""


class NpyInvalid(ValueError):
    """Why a file is no ``.npy``, as the end of a sentence that starts with the file."""


@dataclass(frozen=True)
class NpyHeader:
    """The header of an ``.npy`` file, and where the values start, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def bytes(self) -> int:
        """Bytes that the values take."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


def map_npy(file: BinaryIO) -> NDArray[Any]:
    """Map the array of an open ``.npy`` file into memory, read only.

    Raises
    ------
    NpyInvalid
        It is none, holds Python objects, or not exactly as many bytes as its header says.
    """
    header = read_header(file)
    require_size(header, file.seek(0, 2) - header.offset)
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    try:
        if not header.bytes:  # An empty file cannot be mapped.
            return np.empty(header.shape, header.dtype, order=order)
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)
    except (ValueError, OverflowError) as error:
        raise NpyInvalid(f"its header says {header}, which is no array: {error}") from error


def read_header(file: BinaryIO) -> NpyHeader:
    """The header of an open ``.npy`` file.

    Raises
    ------
    NpyInvalid
        It is none of version 1 to 3, or says what no array can be.

    References
    ----------
    NEP 1, "A simple file format for NumPy arrays".
    """
    start = file.read(len(MAGIC) + 2)
    if not start.startswith(MAGIC):
        raise NpyInvalid("it is empty" if not start else "it does not start as one")
    width = _LENGTH_BYTES.get((start[-2], start[-1])) if len(start) == len(MAGIC) + 2 else 2
    if width is None:
        raise NpyInvalid(f"it is of version {start[-2]}.{start[-1]}, and 1.0 to 3.0 are known")
    length = int.from_bytes(file.read(width), "little")
    if length > _MOST_HEADER:
        raise NpyInvalid(f"its header says that it has {length:,} bytes, and no array needs more than {_MOST_HEADER:,}")
    content = file.read(length)
    if len(content) < length or not length:
        raise NpyInvalid("it ends within its header")
    offset = len(MAGIC) + 2 + width + length
    shape, dtype, fortran_order = _fields(content.decode("utf-8" if start[-2] == 3 else "latin-1", "replace"))
    return NpyHeader(shape, dtype, fortran_order, offset)


def require_size(header: NpyHeader, found: int) -> None:
    """Refuse a file with ``found`` bytes after a header that says otherwise.

    Raises
    ------
    NpyInvalid
        It is cut off, or goes on behind the values.
    """
    if found == header.bytes:
        return
    row = math.prod(header.shape[1:]) * header.dtype.itemsize
    rows = f": {found / row:,.6g} rows instead of {header.shape[0]:,}" if header.shape and row else ""
    raise NpyInvalid(
        f"its header says {header}, which takes {header.bytes:,} bytes, but {found:,} bytes follow it{rows}"
    )


def _fields(text: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    try:
        # Python 2 wrote long integers with an L.
        fields = ast.literal_eval(re.sub(r"\b([0-9]+)L\b", r"\1", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise NpyInvalid(f"its header cannot be read: {text.strip()[:80]!r}") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise NpyInvalid(f"its header is not one of an array: {text.strip()[:80]!r}")
    shape, order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise NpyInvalid(f"its header says the shape {shape!r}, and a shape is whole numbers from 0 on")
    if len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > _MOST_ROWS:
        raise NpyInvalid(f"its header says a shape of {len(shape)} dimensions that no array has: {text.strip()[:80]!r}")
    if not isinstance(order, bool):
        raise NpyInvalid(f"its header says the Fortran order {order!r}, and it is True or False")
    try:
        dtype = npy_format.descr_to_dtype(fields["descr"])
    except Exception as error:  # Given nonsense, NumPy raises whatever it stumbles over.
        raise NpyInvalid(f"its header says the type {fields['descr']!r}, which NumPy does not know") from error
    if dtype.hasobject:
        raise NpyInvalid("it holds Python objects, which are never loaded")
    if not dtype.itemsize:
        raise NpyInvalid(f"its header says the type {dtype}, which has no size")
    return shape, dtype, order


def npy_header(rows: int, dim: int, dtype: np.dtype[Any]) -> bytes:
    """Header of version 1.0 for a C-ordered ``(rows, dim)`` array.

    References
    ----------
    NEP 1, "A simple file format for NumPy arrays".
    """
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    prefix = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return prefix + text.ljust(HEADER_BYTES - 11).encode("ascii") + b"\n"


class NpyWriter:
    """An ``.npy`` file of ``(rows, dim)`` that grows at its end; the header gets its row count from `finish`.

    Header and buffers are written as plain bytes: ``ndarray.tofile``, which ``np.save`` calls, raises an ``OSError``
    without an errno on a full disk.

    Parameters
    ----------
    file
        An empty binary file, open for writing and seekable. It is not closed here.
    dim
        Length of a row.
    dtype
        float16 or float32.
    """

    def __init__(self, file: BinaryIO, dim: int, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._dim = dim
        self._dtype = dtype.newbyteorder("<")
        self.rows = 0
        file.write(npy_header(0, dim, self._dtype))

    def append(self, values: NDArray[Any]) -> None:
        """Write the rows of ``values``, ``(m, dim)``."""
        block = np.ascontiguousarray(values, dtype=self._dtype)
        self._file.write(block.data.cast("B") if block.size else b"")
        self.rows += len(block)

    def finish(self) -> None:
        """Fill in the row count."""
        self._file.seek(0)
        self._file.write(npy_header(self.rows, self._dim, self._dtype))
        self._file.seek(0, 2)


def release_pages(array: NDArray[Any]) -> None:
    """Drop the pages of what `open_npy` returned from this process's memory; they stay in the system's page cache.

    Nothing is lost: whoever looks at the array again maps them again.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_npy(path: Path) -> NDArray[Any]:
    """The array in ``path``, in memory; raises one of `NPY_ERRORS` for what is none."""
    with path.open("rb") as file:
        return np.array(map_npy(file))


def open_npy(path: Path, rows: int, dim: int, dtype: str) -> NDArray[Any]:
    """Map ``path`` into memory, read only, without copying.

    Returns
    -------
    ndarray
        ``(rows, dim)`` memmap of ``dtype``.

    Raises
    ------
    StoreCorrupt
        The file is no ``.npy``, is cut off or goes on behind its values, or has another shape or dtype.
    FileNotFoundError
        There is no such file.
    """
    try:
        with path.open("rb") as file:
            array = map_npy(file)
    except FileNotFoundError:
        raise
    except (NpyInvalid, OSError) as error:
        raise StoreCorrupt(f"{path} is no complete .npy file: {error}.", file=str(path)) from error
    if array.shape != (rows, dim) or array.dtype != np.dtype(dtype).newbyteorder("<") or not array.flags.c_contiguous:
        raise StoreCorrupt(
            f"{path} holds {array.shape} {array.dtype}, its commit says {(rows, dim)} {dtype}.", file=str(path)
        )
    return array
