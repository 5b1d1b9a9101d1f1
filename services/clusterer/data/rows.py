"""Access to a matrix of embeddings, row block by row block: all that PCA, k-means and the assignment need of it.

The classes here read rows from memory, a memory map or the shards of an embeddings folder, and normalise or project
them on the way. The numerical modules use the protocol `Rows` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from shoal.errors import NotFinite

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
LabelArray = NDArray[np.int32]

BATCH_ROWS, BATCH_VALUES = 8192, 2**22
"""Largest block, in rows and in values: callers may hold several copies of one, also in float64."""
WINDOW_ROWS, WINDOW_VALUES = 65_536, 2**24
"""Largest window that an engine reads at once, in rows and in values: enough for all threads, few enough to notice a
cancelled job soon and to keep the resident part of a mapped file small."""
FEWEST_ROWS = 256
"""Smallest block, in rows, for any number of columns: products with fewer are slow."""
NORMALIZED_AT_ONCE = 2**18
"""Values that are normalised at once, so that temporary copies stay in the cache."""


class Rows(Protocol):
    """An ``(n, dim)`` matrix that is read as float32, in blocks of rows in their order."""

    @property
    def n(self) -> int:
        """Number of rows."""
        ...

    @property
    def dim(self) -> int:
        """Number of columns."""
        ...

    def batches(self, batch_rows: int | None = None) -> Iterator[tuple[int, Float32Array]]:
        """All rows in order, as ``(first row, (b, dim) float32)``; blocks are read only.

        Parameters
        ----------
        batch_rows
            Rows of each block but the last; `block_rows` of the matrix that is read by default.
        """
        ...

    def take(self, rows: IntArray) -> Float32Array:
        """The rows ``(m,) int64`` as an ``(m, dim) float32`` copy."""
        ...


class Shards(Protocol):
    """The part of a stored embedding set that `StoredRows` uses."""

    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def iter_batches(self, batch_rows: int = ..., /) -> Iterator[tuple[int, Any]]: ...
    def take(self, rows: IntArray, /) -> Any: ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory."""

    array: NDArray[Any]

    @property
    def n(self) -> int:
        return int(self.array.shape[0])

    @property
    def dim(self) -> int:
        return int(self.array.shape[1])

    def batches(self, batch_rows: int | None = None) -> Iterator[tuple[int, Float32Array]]:
        for first, window in self.windows(batch_rows or block_rows(self.dim)):
            yield first, np.ascontiguousarray(window, dtype=np.float32)

    def windows(self, rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """All rows in order, unconverted, in blocks that are views and stay valid until the next one is read."""
        for first in range(0, self.n, rows):
            yield first, self.array[first : first + rows]

    def take(self, rows: IntArray) -> Float32Array:
        return np.ascontiguousarray(self.array[rows], dtype=np.float32)


@dataclass
class StoredRows:
    """The rows of an embedding set of the store, checked for NaN and infinity as they are read.

    Parameters
    ----------
    shards
        The embedding set.
    name
        Its id, for error messages.

    Attributes
    ----------
    read_s
        Seconds spent reading so far.
    zero_rows
        Rows of zeros in the last complete pass.
    """

    shards: Shards
    name: str
    read_s: float = field(default=0.0, init=False)
    zero_rows: int = field(default=0, init=False)

    @property
    def n(self) -> int:
        return self.shards.rows

    @property
    def dim(self) -> int:
        return self.shards.dim

    def batches(self, batch_rows: int | None = None) -> Iterator[tuple[int, Float32Array]]:
        source = iter(self.shards.iter_batches(batch_rows or block_rows(self.dim)))
        zeros = 0
        while True:
            started = time.perf_counter()
            item = next(source, None)
            if item is not None:
                first, batch = item[0], np.ascontiguousarray(item[1], dtype=np.float32)
                _require_finite(batch, first, self.name)
                zeros += len(batch) - int(np.count_nonzero(batch.any(axis=1)))
            self.read_s += time.perf_counter() - started
            if item is None:
                self.zero_rows = zeros
                return
            yield first, batch

    def take(self, rows: IntArray) -> Float32Array:
        return np.ascontiguousarray(self.shards.take(rows), dtype=np.float32)


@dataclass(frozen=True)
class MappedRows:
    """A view that applies a function to every block when it is read, such as a normalisation or a projection."""

    source: Rows
    apply: Callable[[Float32Array], Float32Array]
    width: int

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def dim(self) -> int:
        return self.width

    def batches(self, batch_rows: int | None = None) -> Iterator[tuple[int, Float32Array]]:
        for first, batch in self.source.batches(batch_rows):
            yield first, self.apply(batch)

    def take(self, rows: IntArray) -> Float32Array:
        return self.apply(self.source.take(rows))


@dataclass(frozen=True)
class ChosenRows:
    """A selection of the rows of another set, read block by block.

    Attributes
    ----------
    chosen
        ``(n,) int64``: their numbers.
    """

    source: Rows
    chosen: IntArray

    @property
    def n(self) -> int:
        return len(self.chosen)

    @property
    def dim(self) -> int:
        return self.source.dim

    def batches(self, batch_rows: int | None = None) -> Iterator[tuple[int, Float32Array]]:
        step = batch_rows or block_rows(self.dim)
        for first in range(0, self.n, step):
            yield first, self.source.take(self.chosen[first : first + step])

    def take(self, rows: IntArray) -> Float32Array:
        return self.source.take(self.chosen[rows])


def block_rows(dim: int) -> int:
    """Rows of a block of a matrix of ``dim`` columns."""
    return min(BATCH_ROWS, max(FEWEST_ROWS, BATCH_VALUES // dim // FEWEST_ROWS * FEWEST_ROWS))


def window_rows(dim: int) -> int:
    """Rows of a matrix of ``dim`` columns that an engine reads at once."""
    return min(WINDOW_ROWS, max(FEWEST_ROWS, WINDOW_VALUES // dim))


def in_memory(rows: Rows, *, batch_rows: int | None = None, on_rows: Callable[[int], None] | None = None) -> ArrayRows:
    """Read all rows once into one ``(n, dim) float32`` array; ``on_rows`` gets the number read so far."""
    matrix = np.empty((rows.n, rows.dim), dtype=np.float32)
    for first, batch in rows.batches(batch_rows):
        matrix[first : first + len(batch)] = batch
        if on_rows is not None:
            on_rows(first + len(batch))
    return ArrayRows(matrix)


def l2_normalize(batch: Float32Array) -> Float32Array:
    """Scale each row of ``(b, dim) float32`` to unit L2 norm; rows of zeros stay zero.

    Rows are scaled by their largest magnitude first, so that no finite row overflows or underflows.
    """
    unit = np.empty(batch.shape, dtype=np.float32)
    step = max(1, NORMALIZED_AT_ONCE // max(batch.shape[1], 1))
    for first in range(0, len(batch), step):
        part = slice(first, first + step)
        peak = np.abs(batch[part]).max(axis=1, keepdims=True, initial=0.0)
        peak[peak == 0.0] = 1.0
        scaled = batch[part] / peak
        norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled, dtype=np.float64))
        norms[norms == 0.0] = 1.0
        unit[part] = scaled / norms[:, None]
    return unit


def _require_finite(batch: Float32Array, first: int, name: str) -> None:
    # A float64 sum of finite float32 values is finite, so one pass over the block without a copy of it is enough.
    if np.isfinite(batch.sum(dtype=np.float64)):
        return
    row = first + int(np.flatnonzero(~np.isfinite(batch).all(axis=1))[0])
    raise NotFinite(
        f"Row {row} of embeddings {name!r} contains NaN or infinity. Embed its image again, or exclude it.",
        embeddings=name,
        row=row,
    )
