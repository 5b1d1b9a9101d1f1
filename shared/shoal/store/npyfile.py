"""Writing ``.npy`` files row by row, and opening them without trusting them."""

from __future__ import annotations

import mmap
import tokenize
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shoal.errors import StoreCorrupt
from shoal.store.npyheader import NpyInvalid, map_npy

HEADER_BYTES = 128
"""Length of every header that is written here: constant, so that the row count can be filled in at the end."""

NPY_ERRORS = (ValueError, OSError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)
"""What an archive of arrays raises whose headers are missing, cut off, or name a shape or dtype that cannot be."""


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


def let_go(array: NDArray[Any]) -> None:
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
