"""The rows of a set that are nearest to other rows, such as those of new images."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from clusterer.data.rows import ArrayRows, ChosenRows, Float32Array, IntArray, Rows, l2_normalize
from clusterer.neighbours.bounds import Bounds, PlainBounds
from clusterer.neighbours.copies import Copies
from clusterer.neighbours.found import Best, Nearest
from clusterer.neighbours.kernel import JoinKernel
from clusterer.neighbours.parts import Ranges
from clusterer.neighbours.prepare import begun, blocks_of, kernel_for, sketched_table
from clusterer.neighbours.sketched import SketchedBounds, SketchedTable
from clusterer.neighbours.table import Table
from clusterer.neighbours.work import Options, Room

FIRST: Final = 4096
"""Rows of the set, evenly spread, whose similarities to a new row say what its nearest ones reach at least."""
AT_ONCE: Final = 2048
"""New rows that are compared together."""
DEFAULT: Final = Options()


class Compared(Protocol):
    """A set that is ready to be compared with other rows."""

    blocks: list[slice]
    order: IntArray
    bytes: int

    def bounds(self, left: ArrayRows) -> Bounds:
        """The bounds of the similarities of some rows and those of the set."""
        ...


class Among:
    """A set whose rows nearest to other rows are found exactly, as `nearest_rows` finds those nearest to its own.

    The set is read and sketched once; then it may be searched from many threads. Its rows are read again where they
    are compared: rows in memory are not copied.

    Parameters
    ----------
    rows
        ``(n, d)``, at least one.
    k
        How many are sought; ``n`` if there are fewer.
    options
        Of the limits the sketches keep to that of memory; they lie in a file of ``folder`` otherwise, which exists, or
        of the system's temporary one. Nothing is kept for a next attempt.

    Raises
    ------
    NotFinite
        A row contains NaN or infinity.
    """

    def __init__(self, rows: Rows, k: int, options: Options = DEFAULT) -> None:
        self._copies = Copies.of(rows)
        self._k = min(k, rows.n)
        distinct = rows if self._copies is None else ChosenRows(rows, self._copies.firsts)
        self._sought = min(k, distinct.n)
        kernel = kernel_for(distinct, options)
        self._set: Compared = _Plain(distinct) if kernel is None else _Sketched(distinct, kernel, options)
        some = np.arange(0, distinct.n, -(-distinct.n // FIRST), dtype=np.int64)
        self._some = l2_normalize(distinct.take(some))
        # Of a sum of d products of values that are rounded, of two vectors of length 1.
        self._error = np.float32(1.25 * (rows.dim + 16) * 2.0**-24)

    @property
    def bytes(self) -> int:
        """Bytes of memory, about, beside the rows: sketches, also those in a file, order and lengths, equal rows."""
        copies = 0 if self._copies is None else self._copies.bytes
        return self._set.bytes + 16 * len(self._set.order) + self._some.nbytes + copies

    def nearest(self, rows: Float32Array) -> Nearest:
        """The ``k`` rows of the set nearest to each of ``(m, d)`` finite rows; equally near ones by ascending number.

        What is found for a row does not depend on the rows beside it. A row of zeros has similarity 0 to all.
        """
        found = Nearest(np.empty((len(rows), self._k), np.int64), np.empty((len(rows), self._k), np.float32))
        for first in range(0, len(rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            some = self._nearest(np.ascontiguousarray(rows[part], np.float32))
            some = some if self._copies is None else self._copies.among(some, self._k)
            found.rows[part], found.similarity[part] = some.rows, some.similarity
        return found

    def _nearest(self, rows: Float32Array) -> Nearest:
        best = Best(len(rows), self._sought)
        bounds, floors = self._set.bounds(ArrayRows(rows)), self._floors(rows)
        left = slice(0, len(rows))
        for right in self._set.blocks:
            mine = np.maximum(floors, best.floors(left))
            for i, j in bounds.reaching(left, right, mine, np.full(right.stop - right.start, np.inf, np.float32)):
                similarity = bounds.similarities(left, right, i, j)
                bounds.add(best, i.astype(np.int64), self._set.order[j + np.int64(right.start)], similarity)
        return Nearest(best.rows, best.similarity)

    def _floors(self, rows: Float32Array) -> Float32Array:
        """What at least ``k`` rows of the set reach, or -inf: ``(m,)``."""
        if len(self._some) < self._sought:
            return np.full(len(rows), -np.inf, np.float32)
        product = l2_normalize(rows) @ self._some.T
        kth = np.partition(product, len(self._some) - self._sought, axis=1)[:, -self._sought]
        return np.asarray(kth - 2 * self._error, np.float32)


class _Plain:
    """By float32 products."""

    def __init__(self, rows: Rows) -> None:
        self._table = Table.of(rows, hold=False)
        self.bytes = 0
        self.order = self._table.order
        self.blocks = blocks_of(rows.n, PlainBounds.BLOCK)

    def bounds(self, left: ArrayRows) -> Bounds:
        return PlainBounds(Table.of(left, hold=True), self._table)


class _Sketched:
    """By the compiled kernel."""

    def __init__(self, rows: Rows, kernel: JoinKernel, options: Options) -> None:
        self._kernel = kernel
        _, self._shared, orders = begun([rows], kernel, replace(options, folder=None), {"search": "among"})
        ranges, self.order = self._ranges(rows), orders[0]
        self._right = self._table(rows, self.order, ranges, Room(options, ranges.size))
        self.bytes = ranges.size
        self.blocks = blocks_of(rows.n, SketchedBounds.BLOCK)

    def bounds(self, left: ArrayRows) -> Bounds:
        ranges = self._ranges(left)
        room = Room(Options(memory_limit=ranges.size), ranges.size)
        table = self._table(left, np.arange(left.n, dtype=np.int64), ranges, room)
        return SketchedBounds(table, self._right, self._kernel)

    def _ranges(self, rows: Rows) -> Ranges:
        return Ranges(rows.n, rows.dim, self._shared.arrays(), SketchedBounds.BLOCK)

    def _table(self, rows: Rows, order: IntArray, ranges: Ranges, room: Room) -> SketchedTable:
        return sketched_table(rows, order, ranges, (self._kernel, self._shared), room, hold=False)
