"""Rows in a memory-mapped file, read with the memory of one block."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from shoal.store.files import replace_file

from clusterer.data.rows import ArrayRows, Float32Array, IntArray, Rows

_ADVICE = hasattr(mmap, "MADV_DONTNEED")


@dataclass(frozen=True)
class FileRows(ArrayRows):
    """Rows in a memory-mapped file of plain float32.

    Blocks are views of the map. The next block is prefetched while one is in use, and each is released afterwards: its
    pages stay in the system's page cache, but do not count as memory of this process, and the system may drop them.
    """

    mapped: mmap.mmap
    file: Path

    @classmethod
    def open(cls, file: Path, n: int, dim: int) -> FileRows:
        """Map a file of ``n * dim`` float32 values.

        Raises
        ------
        OSError
            The file does not exist, or has another size.
        """
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != 4 * n * dim:
            raise OSError(f"{file} has {len(mapped)} bytes, but {n} rows of {dim} values take {4 * n * dim}")
        return cls(np.frombuffer(mapped, dtype=np.float32).reshape(n, dim), mapped, file)

    def windows(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        for first, window in super().windows(rows, start=start, stop=stop):
            self._advise("MADV_WILLNEED", first + rows, rows)
            yield first, window
            self._advise("MADV_DONTNEED", first, rows)

    def take(self, rows: IntArray) -> Float32Array:
        # Read instead of mapped: Linux maps up to two megabytes of cached file around each row that is accessed.
        taken = np.empty((len(rows), self.dim), dtype=np.float32)
        with self.file.open("rb", buffering=0) as opened:
            for row, into in zip(rows.tolist(), taken, strict=True):
                if os.preadv(opened.fileno(), [into.data], 4 * self.dim * row) != into.nbytes:
                    raise IndexError(f"row {row} of {self.n}")
        return taken

    def _advise(self, advice: str, first: int, rows: int) -> None:
        """Advise the system about some rows, including pages shared with other rows: reading those again is cheap."""
        width = 4 * self.dim
        start = min(first * width, len(self.mapped)) // mmap.PAGESIZE * mmap.PAGESIZE
        length = min((first + rows) * width, len(self.mapped)) - start
        if _ADVICE and length > 0:
            self.mapped.madvise(getattr(mmap, advice), start, length)


def write_rows(
    file: Path, rows: Rows, *, batch_rows: int | None = None, on_rows: Callable[[int], None] | None = None
) -> None:
    """Read all rows once into ``file``, which appears when it is complete; ``on_rows`` gets the number of rows so far.

    Raises
    ------
    StoreFull, StoreError
        The file could not be written.
    """

    def write(opened: BinaryIO) -> None:
        for first, batch in rows.batches(batch_rows):
            opened.write(np.ascontiguousarray(batch).data)
            if on_rows is not None:
                on_rows(first + len(batch))

    replace_file(file, write)
