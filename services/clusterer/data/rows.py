"""Access to a matrix of embeddings, row block by row block: all that PCA, k-means and the assignment need of it.

The classes here read rows from memory, a memory map or the shards of an embeddings folder, and normalise or project
them on the way. The numerical modules use the protocol `Rows` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from shoal.errors import NotFinite

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
LabelArray = NDArray[np.int32]
Array = NDArray[Any]

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

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        """The rows in order, as ``(first row, (b, dim) float32)``; blocks are read only.

        Parameters
        ----------
        batch_rows
            Rows of each block but the last; `block_rows` of the matrix that is read by default.
        start, stop
            Numbers of the first row and the one after the last; all rows by default.
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
    def iter_batches(
        self, batch_rows: int = ..., /, *, start: int = ..., stop: int | None = ...
    ) -> Iterator[tuple[int, Array]]: ...
    def take(self, rows: IntArray, /) -> Array: ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory."""

    array: Array

    @property
    def n(self) -> int:
        return int(self.array.shape[0])

    @property
    def dim(self) -> int:
        return int(self.array.shape[1])

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        for first, window in self.windows(batch_rows or block_rows(self.dim), start=start, stop=stop):
            yield first, np.ascontiguousarray(window, dtype=np.float32)

    def windows(self, rows: int, *, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Array]]:
        """The rows in order, unconverted, in blocks that are views and stay valid until the next one is read."""
        for part in ranges(self.n, rows, start, stop):
            yield part.start, self.array[part]

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
    """

    shards: Shards
    name: str
    read_s: float = field(default=0.0, init=False)
    _zeros: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[type[StoredRows], tuple[Shards, str]]:
        """Another process notes what it reads itself."""
        return type(self), (self.shards, self.name)

    @property
    def n(self) -> int:
        return self.shards.rows

    @property
    def dim(self) -> int:
        return self.shards.dim

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        stop = self.n if stop is None else min(stop, self.n)
        source = iter(self.shards.iter_batches(batch_rows or block_rows(self.dim), start=start, stop=stop))
        zeros = 0
        while True:
            started = time.perf_counter()
            item = next(source, None)
            if item is not None:
                first, batch = item[0], np.ascontiguousarray(item[1], dtype=np.float32)
                require_finite(batch, first, self.name)
                zeros += len(batch) - int(np.count_nonzero(batch.any(axis=1)))
            self.read_s += time.perf_counter() - started
            if item is None:
                self.note(start, stop, zeros)
                return
            yield first, batch

    @property
    def zero_rows(self) -> int:
        """Rows of zeros in what has been read."""
        return sum(self._zeros.values())

    def note(self, start: int, stop: int, zeros: int) -> None:
        """Note the rows of zeros of a range that has been read, in place of those of ranges within it."""
        for each in [each for each in self._zeros if start <= each < stop]:
            del self._zeros[each]
        self._zeros[start] = zeros

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

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        for first, batch in self.source.batches(batch_rows, start=start, stop=stop):
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

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        for part in ranges(self.n, batch_rows or block_rows(self.dim), start, stop):
            yield part.start, self.source.take(self.chosen[part])

    def take(self, rows: IntArray) -> Float32Array:
        return self.source.take(self.chosen[rows])


@dataclass(frozen=True)
class JoinedRows:
    """The rows of several sets of equal dimensions as one: those of the first come first."""

    sources: Sequence[Rows]

    @property
    def n(self) -> int:
        return sum(each.n for each in self.sources)

    @property
    def dim(self) -> int:
        return self.sources[0].dim

    @property
    def starts(self) -> IntArray:
        """``(s + 1,)``: the number of each source's first row, and of all rows."""
        return np.concatenate([[0], np.cumsum([each.n for each in self.sources])]).astype(np.int64)

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        stop = self.n if stop is None else min(stop, self.n)
        for offset, source in zip(self.starts.tolist(), self.sources, strict=False):
            low, high = max(start - offset, 0), min(stop - offset, source.n)
            if low < high:
                for first, batch in source.batches(batch_rows, start=low, stop=high):
                    yield offset + first, batch

    def take(self, rows: IntArray) -> Float32Array:
        found = np.empty((len(rows), self.dim), np.float32)
        of = np.searchsorted(self.starts, rows, "right") - 1
        for number, source in enumerate(self.sources):
            here = of == number
            found[here] = source.take(rows[here] - self.starts[number])
        return found


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of another set.

    Attributes
    ----------
    first, stop
        Numbers of the first row and the one after the last.
    """

    source: Rows
    first: int
    stop: int

    @property
    def n(self) -> int:
        return self.stop - self.first

    @property
    def dim(self) -> int:
        return self.source.dim

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        stop = self.n if stop is None else min(stop, self.n)
        for first, batch in self.source.batches(batch_rows, start=self.first + start, stop=self.first + stop):
            yield first - self.first, batch

    def take(self, rows: IntArray) -> Float32Array:
        return self.source.take(self.first + rows)


def ranges(n: int, rows: int, start: int = 0, stop: int | None = None) -> Iterator[slice]:
    """The rows from ``start`` to ``stop`` of ``n``, so many at a time."""
    stop = n if stop is None else min(stop, n)
    for first in range(start, stop, rows):
        yield slice(first, min(first + rows, stop))


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


def require_finite(batch: Float32Array, first: int, name: str, numbers: IntArray | None = None) -> None:
    """Raise `NotFinite` for a row of ``(b, d)`` rows of the embeddings ``name``.

    Parameters
    ----------
    first
        The number of the first row, where the others follow it.
    numbers
        ``(b,)``: their numbers, where they do not.
    """
    at = first_not_finite(batch)
    if at is None:
        return
    row = first + at if numbers is None else int(numbers[at])
    raise NotFinite(
        f"Row {row} of embeddings {name!r} contains NaN or infinity. Embed its image again, or exclude it.",
        embeddings=name,
        row=row,
    )


def first_not_finite(batch: Float32Array) -> int | None:
    """The place of the first of ``(b, d) float32`` rows that has NaN or infinity; None if there is none."""
    # A float64 sum of finite float32 values is finite, so one pass over the block without a copy of it is enough.
    if np.isfinite(batch.sum(dtype=np.float64)):
        return None
    return int(np.flatnonzero(~np.isfinite(batch).all(axis=1))[0])
