"""Rows in partitions: contiguous ranges, each held by one process, that the steps of a job work on where they lie.

A step is written once, for one partition. On one machine the rows are a single partition of this process; on a
cluster each worker holds some (`clusterer.ray.partitions`). Sums that float64 would round are taken over *chunks*,
whose borders depend on the number of all rows alone, and added without rounding error: so a result has the same bits
whatever the partitions are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from clusterer.data.rows import Array, Float32Array, Float64Array, IntArray, MappedRows, Rows, block_rows, ranges

T = TypeVar("T")
OnRows = Callable[[int], None]

CHUNK_ROWS, MOST_CHUNKS = 16_384, 256
"""Fewest rows of a chunk, and the most chunks: each costs one addition of all sums."""


def chunk_rows(n: int) -> int:
    """Rows of each chunk but the last, of ``n`` rows."""
    least = -(-n // MOST_CHUNKS)
    return max(CHUNK_ROWS, -(-least // 1024) * 1024)


@dataclass
class Partition:
    """A range of the rows, in the process that holds it.

    Attributes
    ----------
    rows
        Its ``(m, d)`` rows.
    first
        The number of the first of them among all rows.
    total
        How many rows all partitions have. Chunks start at multiples of `chunk_rows` of it, and partitions do too.
    state
        What steps keep here from one pass to the next. It is empty in a process that has taken the partition over.
    """

    rows: Rows
    first: int
    total: int
    state: dict[str, object] = field(default_factory=dict)

    def chunks(self) -> Iterator[slice]:
        """The chunks, as ranges of this partition's rows."""
        return ranges(self.rows.n, chunk_rows(self.total))

    def batches(
        self, part: slice, on_rows: OnRows | None = None, *, batch_rows: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        """The blocks of one chunk; the same ones whatever the partitions are. A product may round rows by their block.

        Parameters
        ----------
        on_rows
            Called after each block with the number of this partition's rows read so far.
        """
        for first, batch in self.rows.batches(batch_rows, start=part.start, stop=part.stop):
            yield first, batch
            if on_rows is not None:
                on_rows(first + len(batch))


Step = Callable[..., T]
"""The work of one pass on one partition: an object that can be sent to the process that holds it.

It is called with the `Partition`, with an `OnRows` to call between blocks, which raises where a job ends early, and
with the partition's part of each array of `Partitions.run`.
"""


class Partitions(ABC):
    """All partitions of a set of rows."""

    @abstractmethod
    def run(self, step: Step[T], *arrays: Array, on_rows: OnRows | None = None) -> list[T]:
        """The results of a step on each partition, in the order of the rows.

        Parameters
        ----------
        arrays
            Each with one entry for every row; a partition gets its own.
        on_rows
            Gets the number of rows done, now and then.
        """

    @abstractmethod
    def take(self, rows: IntArray) -> Float32Array:
        """Some rows, ``(m,) int64``, as an ``(m, d)`` copy."""


class OnePartition(Partitions):
    """All rows as one partition of this process."""

    def __init__(self, rows: Rows) -> None:
        self._partition = Partition(rows, 0, rows.n)

    def run(self, step: Step[T], *arrays: Array, on_rows: OnRows | None = None) -> list[T]:
        return [step(self._partition, on_rows or unheard, *arrays)]

    def take(self, rows: IntArray) -> Float32Array:
        return self._partition.rows.take(rows)


@dataclass(frozen=True)
class PartitionedRows:
    """Rows that other processes hold. Steps reach them in place; reading them here fetches them.

    Attributes
    ----------
    partitions
        Where they are.
    """

    n: int
    dim: int
    partitions: Partitions

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        for part in ranges(self.n, batch_rows or block_rows(self.dim), start, stop):
            yield part.start, self.take(np.arange(part.start, part.stop, dtype=np.int64))

    def take(self, rows: IntArray) -> Float32Array:
        return self.partitions.take(rows)


def partitions_of(rows: Rows) -> Partitions:
    """The partitions of some rows: those that other processes hold, or all rows as one of this process."""
    if isinstance(rows, PartitionedRows):
        return rows.partitions
    if isinstance(rows, MappedRows):
        source = partitions_of(rows.source)
        if not isinstance(source, OnePartition):
            return _MappedPartitions(source, rows.apply, rows.width)
    return OnePartition(rows)


@dataclass(frozen=True)
class _MappedPartitions(Partitions):
    """Partitions under a function, which is applied where they are."""

    source: Partitions
    apply: Callable[[Float32Array], Float32Array]
    width: int

    def run(self, step: Step[T], *arrays: Array, on_rows: OnRows | None = None) -> list[T]:
        return self.source.run(_Mapped(step, self.apply, self.width), *arrays, on_rows=on_rows)

    def take(self, rows: IntArray) -> Float32Array:
        return self.apply(self.source.take(rows))


@dataclass(frozen=True)
class _Mapped(Generic[T]):
    """A step on partitions under a function."""

    step: Step[T]
    apply: Callable[[Float32Array], Float32Array]
    width: int

    def __call__(self, partition: Partition, on_rows: OnRows, *slices: Array) -> T:
        rows = MappedRows(partition.rows, self.apply, self.width)
        return self.step(Partition(rows, partition.first, partition.total, partition.state), on_rows, *slices)


def joined(parts: list[Array], axis: int = 0) -> Array:
    """Arrays of all partitions as one, which the caller may write to; without a copy where there is one."""
    return writable(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=axis)


def added(parts: list[Array]) -> Array:
    """The sum of arrays of all partitions, in their order; the caller may write to it, and to no other one."""
    total = writable(parts[0])
    for each in parts[1:]:
        total += each
    return total


def writable(array: Array) -> Array:
    """The array, or a copy of one that lies in memory shared with other processes."""
    return array if array.flags.writeable else array.copy()


class ExactSum:
    """A sum of float64 arrays that does not depend on their order: twice the precision of float64 [1]_.

    References
    ----------
    .. [1] Dekker: A floating-point technique for extending the available precision. Numerische Mathematik 18 (1971).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._high, self._low = np.zeros(shape), np.zeros(shape)

    def add(self, values: Float64Array) -> None:
        """Add an array of the sum's shape."""
        for part in _blocks(values):
            _two_sum(self._high[part], self._low[part], values[part])

    @classmethod
    def of(cls, parts: list[ExactSum]) -> ExactSum:
        """The sum of several, which are no longer to be used."""
        first = parts[0]
        first._high, first._low = writable(first._high), writable(first._low)
        for each in parts[1:]:
            first.add(each._high)
            first._low += each._low
        return first

    def value(self) -> Float64Array:
        """The sum, rounded once."""
        return self._high + self._low


def _blocks(values: Float64Array) -> Iterator[slice]:
    """Few values at once: temporary arrays stay in the cache."""
    step = max(1, 2**16 * len(values) // max(values.size, 1))
    for first in range(0, len(values), step):
        yield slice(first, first + step)


def _two_sum(high: Float64Array, low: Float64Array, values: Float64Array) -> None:
    """Add values to a sum in two parts, in place; what rounding loses goes to ``low``."""
    total = high + values
    shadow = total - high
    low += (high - (total - shadow)) + (values - shadow)
    high[...] = total


def unheard(_: int) -> None:
    """An `OnRows` for where nobody asks."""
