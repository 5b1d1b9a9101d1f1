"""``.npy`` files: written row by row; mapped into memory after their header is compared with their size."""

from __future__ import annotations

import ast
import math
import mmap
import re
import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from shoal.errors import StoreCorrupt

MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_MAX_HEADER = 1 << 16
_MAX_DIMENSIONS = 64
_MAX_ROWS = (1 << 63) - 1
_PLAIN = re.compile(
    r"\{(?:\s*(?:'descr':\s*'(?P<descr>[^'\\]*)'|'fortran_order':\s*(?P<order>True|False)"
    r"|'shape':\s*\((?P<shape>[0-9L,\s]*)\))\s*,?){3}\s*\}"
)
"""The header of an array of plain values."""

HEADER_BYTES = 128
"""Length of every header written here: constant, so that the row count can be filled in at the end."""

NPY_ERRORS = (ValueError, OSError, EOFError, OverflowError, MemoryError)
"""The errors of reading an archive of arrays with a missing, truncated or invalid header."""


class NpyInvalid(ValueError):
    """Why a file is not a valid ``.npy`` file, as the end of a sentence."""


@dataclass(frozen=True)
class NpyHeader:
    """The header of an ``.npy`` file, and the offset of the values, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def bytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


def map_npy(file: BinaryIO) -> NDArray[Any]:
    """Map the array of an open ``.npy`` file into memory, read only.

    Raises
    ------
    NpyInvalid
        The file is not an ``.npy`` file, holds Python objects, or its size does not match its header.
    """
    header = read_header(file)
    require_size(header, file.seek(0, 2) - header.offset)
    order: Literal["C", "F"] = "F" if header.fortran_order else "C"
    try:
        if not header.bytes:  # An empty array cannot be mapped.
            return np.empty(header.shape, header.dtype, order=order)
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)
    except (ValueError, OverflowError) as error:
        raise NpyInvalid(f"its header says {header}, which is not a valid array: {error}") from error


def read_header(file: IO[bytes]) -> NpyHeader:
    """Read the header of an open ``.npy`` file.

    Raises
    ------
    NpyInvalid
        The header is not of version 1 to 3, or describes an impossible array.

    References
    ----------
    NEP 1, "A simple file format for NumPy arrays".
    """
    start = file.read(len(MAGIC) + 2)
    if not start.startswith(MAGIC):
        raise NpyInvalid("it is empty" if not start else "it does not start with the .npy magic bytes")
    width = _LENGTH_BYTES.get((start[-2], start[-1])) if len(start) == len(MAGIC) + 2 else 2
    if width is None:
        raise NpyInvalid(f"it has version {start[-2]}.{start[-1]}; supported are 1.0 to 3.0")
    length = int.from_bytes(file.read(width), "little")
    if length > _MAX_HEADER:
        raise NpyInvalid(f"its header claims {length:,} bytes, and the limit is {_MAX_HEADER:,}")
    content = file.read(length)
    if len(content) < length or not length:
        raise NpyInvalid("it ends within its header")
    offset = len(MAGIC) + 2 + width + length
    shape, dtype, fortran_order = _fields(content.decode("utf-8" if start[-2] == 3 else "latin-1", "replace"))
    return NpyHeader(shape, dtype, fortran_order, offset)


def require_size(header: NpyHeader, found: int) -> None:
    """Raise unless ``found``, the number of bytes after the header, is what the header says.

    Raises
    ------
    NpyInvalid
        The file is truncated, or has bytes after the values.
    """
    if found == header.bytes:
        return
    row = math.prod(header.shape[1:]) * header.dtype.itemsize
    rows = f": {found / row:,.6g} rows instead of {header.shape[0]:,}" if header.shape and row else ""
    raise NpyInvalid(
        f"its header says {header}, which takes {header.bytes:,} bytes, but {found:,} bytes follow it{rows}"
    )


def _fields(text: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    fields = _plain_fields(text) or _other_fields(text)
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise NpyInvalid(f"its header does not describe an array: {text.strip()[:80]!r}")
    shape, order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise NpyInvalid(f"its header says the shape {shape!r}; expected whole numbers from 0")
    if len(shape) > _MAX_DIMENSIONS or max(shape, default=0) > _MAX_ROWS:
        raise NpyInvalid(f"its header says an impossible shape of {len(shape)} dimensions: {text.strip()[:80]!r}")
    if not isinstance(order, bool):
        raise NpyInvalid(f"its header says fortran_order {order!r}; expected True or False")
    try:
        dtype = npy_format.descr_to_dtype(fields["descr"])
    except Exception as error:  # NumPy raises many types of errors here.
        raise NpyInvalid(f"its header says the dtype {fields['descr']!r}, which NumPy does not know") from error
    if dtype.hasobject:
        raise NpyInvalid("it holds Python objects, which are never loaded")
    if not dtype.itemsize:
        raise NpyInvalid(f"its header says the dtype {dtype}, which has no size")
    return shape, dtype, order


def _plain_fields(text: str) -> dict[str, object] | None:
    """What the header of an array of plain values says; None of another one.

    Threads must not call `ast.literal_eval`: in Python 3.11 and 3.12 they share its count of nested values, and one of
    them may get a ``SystemError`` (python/cpython#106905).
    """
    found = _PLAIN.fullmatch(text.strip())
    if found is None or None in found.groups():
        return None
    sizes = [each.strip().removesuffix("L") for each in found["shape"].split(",")]
    if not sizes[-1]:  # Behind the last comma, or of no dimension at all.
        sizes.pop()
    elif len(sizes) == 1:
        return None
    if not all(each.isdecimal() and len(each) < 20 for each in sizes):
        return None
    shape = tuple(int(each) for each in sizes)
    return {"descr": found["descr"], "fortran_order": found["order"] == "True", "shape": shape}


def _other_fields(text: str) -> object:
    """What the header of an array of records says, or of one that is damaged."""
    try:
        # Python 2 wrote long integers with an L.
        return ast.literal_eval(re.sub(r"\b([0-9]+)L\b", r"\1", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise NpyInvalid(f"its header cannot be read: {text.strip()[:80]!r}") from error


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive of ``.npy`` files by name.

    Safe in threads, which `numpy.load` is not: it reads headers by `ast.literal_eval`.

    Raises
    ------
    NpyInvalid
        A member is not an ``.npy`` file, or its size does not match its header.
    zipfile.BadZipFile, OSError
        The archive is damaged, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {each.filename.removesuffix(".npy"): _member(archive, each) for each in archive.infolist()}
    except (RuntimeError, zlib.error) as error:
        raise NpyInvalid(f"it is a damaged archive: {error}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(member) as file:
        header = read_header(file)
        require_size(header, member.file_size - header.offset)
        values = np.empty(math.prod(header.shape), header.dtype)
        _fill(values.view(np.uint8), cast("BufferedIOBase", file))
    return values.reshape(header.shape, order="F" if header.fortran_order else "C")


def _fill(buffer: NDArray[np.uint8], file: BufferedIOBase) -> None:
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:].data)
        if not count:
            raise NpyInvalid(f"it ends after {filled:,} of {len(buffer):,} bytes")
        filled += count


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
    """Writes an ``.npy`` file of ``(rows, dim)`` block by block; `finish` fills in the row count.

    Header and buffers are written as plain bytes: ``ndarray.tofile``, which ``np.save`` calls, raises an ``OSError``
    without an errno on a full disk.

    Parameters
    ----------
    file
        An empty, seekable binary file, open for writing. The caller closes it.
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
        """Append the rows of ``values``, ``(m, dim)``."""
        block = np.ascontiguousarray(values, dtype=self._dtype)
        self._file.write(block.data.cast("B") if block.size else b"")
        self.rows += len(block)

    def finish(self) -> None:
        """Write the row count into the header."""
        self._file.seek(0)
        self._file.write(npy_header(self.rows, self._dim, self._dtype))
        self._file.seek(0, 2)


def write_npy(file: BinaryIO, array: NDArray[np.generic]) -> None:
    """Write an array as ``np.save`` does, but with the errno of what fails; see `NpyWriter`."""
    values = np.ascontiguousarray(array)
    npy_format.write_array_header_1_0(file, npy_format.header_data_from_array_1_0(values))
    file.write(values.reshape(-1).view(np.uint8).data)


def release_pages(array: NDArray[np.generic]) -> None:
    """Release the pages of an array that is mapped from a file from this process's memory; they stay in the page cache.

    The array stays valid: reading it maps the pages again.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array in ``path`` into memory; raises one of `NPY_ERRORS` if the file is damaged."""
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
        The file is not an ``.npy`` file, its size does not match its header, or it has another shape or dtype.
    FileNotFoundError
        The file does not exist.
    """
    try:
        with path.open("rb") as file:
            array = map_npy(file)
    except FileNotFoundError:
        raise
    except (NpyInvalid, OSError) as error:
        raise StoreCorrupt(f"{path} is not a complete .npy file: {error}.", file=str(path)) from error
    if array.shape != (rows, dim) or array.dtype != np.dtype(dtype).newbyteorder("<") or not array.flags.c_contiguous:
        raise StoreCorrupt(
            f"{path} holds {array.shape} {array.dtype}, its commit says {(rows, dim)} {dtype}.", file=str(path)
        )
    return array
