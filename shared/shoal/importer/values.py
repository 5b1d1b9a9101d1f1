"""The vectors of the files: read in chunks, and every value checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from shoal.errors import ImportInvalid
from shoal.importer.parts import Part
from shoal.store.npy import release_pages

_CHUNK_BYTES = 32 << 20


def chunks(parts: Sequence[Part], start: int, stop: int) -> Iterator[tuple[Part, int, int, int]]:
    """The rows ``[start, stop)`` of all parts in chunks: part, first and last local row, first global row."""
    offset = 0
    for part in parts:
        lo, hi = max(start - offset, 0), min(stop - offset, part.rows)
        step = max(1, _CHUNK_BYTES // (part.dim * part.vectors.dtype.itemsize))
        for first in range(lo, hi, step):
            yield part, first, min(first + step, hi), offset + first
        offset += part.rows


def check_values(
    parts: Sequence[Part], dtype: np.dtype[np.generic], on_rows: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """SHA-256 over the values of all parts.

    Parameters
    ----------
    on_rows
        Called after every block with the rows that are checked, and all rows.

    Raises
    ------
    ImportInvalid
        A value is NaN or infinite, or overflows ``dtype``; the message names file and row.
    """
    digest = hashlib.sha256()
    total = sum(part.rows for part in parts)
    for part, lo, hi, first in chunks(parts, 0, total):
        block = part.vectors.read(lo, hi)
        values = np.ascontiguousarray(block).astype(block.dtype.newbyteorder("<"), copy=False)
        digest.update(values.dtype.str.encode())
        digest.update(values.data.cast("B"))
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(dtype, copy=False)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            why = f"a value too large for {dtype}" if np.isfinite(values[row]).all() else "NaN or infinity"
            raise ImportInvalid(
                f"{part}, row {lo + row}: holds {why}. Remove such rows before importing.",
                file=str(part.file),
                row=lo + row,
            )
        release_pages(block)
        on_rows(first + hi - lo, total)
    return digest.hexdigest()
