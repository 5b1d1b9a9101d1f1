"""Bounds from 8-bit sketches, and groups of rows that are skipped by the triangle inequality.

Three bounds follow one another, each proven: of two groups of rows, by their centres and radii; of two rows, by short
sketches; of two rows, by full ones. ``native/src/join.h`` states the last two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, Float64Array, IntArray
from clusterer.neighbours.found import Best
from clusterer.neighbours.kernel import GROUP_COLUMNS, GROUP_ROWS, JoinKernel, Sketches
from clusterer.neighbours.parts import ROUNDING, Groups, Part
from clusterer.neighbours.table import Table
from clusterer.neighbours.work import Room


class SketchedTable:
    """A table with the sketches and groups of its rows.

    Parameters
    ----------
    table
        The rows.
    parts
        Its ranges of rows, in order.
    rows
        Rows of each range but the last.
    room
        Where they lie.
    """

    def __init__(self, table: Table, parts: Sequence[Part], rows: int, room: Room) -> None:
        self.table, self.parts, self.room = table, parts, room
        self._rows = rows

    def part_of(self, block: slice) -> tuple[int, slice]:
        """The number of the range that has a block, and the block's place in it."""
        number = block.start // self._rows
        return number, slice(block.start - number * self._rows, block.stop - number * self._rows)

    def sketches(self, block: slice) -> tuple[Sketches, Sketches | None]:
        """The full and the short sketches of a block."""
        number, inside = self.part_of(block)
        part = self.parts[number]
        return part.full[inside], None if part.brief is None else part.brief[inside]

    def row_groups(self, block: slice) -> Groups:
        """Its groups of rows."""
        number, inside = self.part_of(block)
        return self.parts[number].row_groups(inside)


class SketchedBounds:
    """Bounds from the compiled kernel.

    Parameters
    ----------
    left, right
        The tables; the same object for one with itself.
    """

    BLOCK: Final = 4096

    def __init__(self, left: SketchedTable, right: SketchedTable, kernel: JoinKernel) -> None:
        self._left, self._right, self._kernel = left, right, kernel
        self._most: dict[int, Float32Array] = {}
        self._most_of: int | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the sketches are; otherwise they lie in files."""
        return self._right.room.in_memory

    def floors(self, part: slice, k: int) -> Float32Array:
        return self._kernel.floors(self._left.sketches(part)[0], k)

    def reaching(
        self, left: slice, right: slice, left_floors: Float32Array, right_floors: Float32Array
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        skip = self._skipped(left, right, left_floors, right_floors)
        if skip.all():
            return
        same = self._left is self._right and left == right
        mine, theirs = self._left.sketches(left), self._right.sketches(right)
        found = self._kernel.reaching(mine, theirs, (left_floors, right_floors), skip, same=same)
        self._right.room.release()
        if found is not None:
            yield found
            return
        # More than fit: a few rows at a time.
        for first in range(0, left.stop - left.start, GROUP_ROWS):
            part = slice(first, min(first + GROUP_ROWS, left.stop - left.start))
            few = self._left.sketches(slice(left.start + part.start, left.start + part.stop))
            one = np.ascontiguousarray(skip[first // GROUP_ROWS])[None]
            found = self._kernel.reaching(few, theirs, (left_floors[part], right_floors), one, same=False)
            if found is None:
                raise AssertionError("a group of rows has more pairs than it has")
            i, j = found[0] + np.int32(first), found[1]
            yield (i[i < j], j[i < j]) if same else (i, j)

    def _skipped(
        self, left: slice, right: slice, left_floors: Float32Array, right_floors: Float32Array
    ) -> NDArray[np.uint8]:
        """1 for each pair of groups none of whose pairs of rows reaches the lesser of its floors, ``(g, h)``."""
        number, inside = self._right.part_of(right)
        part = self._right.parts[number]
        if self._most_of != number:
            self._most, self._most_of = {}, number
        most = self._most.get(left.start)
        if most is None:
            most = self._most[left.start] = most_similar(self._left.row_groups(left), part.columns)
        most = most[:, part.columns_of(inside)]
        least = np.minimum(_least(left_floors, GROUP_ROWS)[:, None], _least(right_floors, GROUP_COLUMNS))
        return np.ascontiguousarray(most < least, np.uint8)

    def similarities(self, left: slice, right: slice, i: NDArray[np.int32], j: NDArray[np.int32]) -> Float32Array:
        x, i, x_lengths = _rows(self._left.table, left, i)
        y, j, y_lengths = _rows(self._right.table, right, j)
        return self._kernel.similarities(x, y, (x_lengths, y_lengths), i, j)

    def add(self, best: Best, places: IntArray, rows: IntArray, similarity: Float32Array) -> None:
        self._kernel.add((best.rows, best.similarity), places, rows, similarity)


def _least(floors: Float32Array, size: int) -> Float32Array:
    """The least floor of each group."""
    return np.minimum.reduceat(floors, np.arange(0, len(floors), size))


def most_similar(rows: Groups, columns: Groups) -> Float32Array:
    """What no similarity of two rows of two groups exceeds: ``(g, h) float32``.

    Rows ``u`` and ``v`` within the radii ``r`` and ``s`` of centres ``a`` and ``b`` are at least ``|a - b| - r - s``
    apart, and ``u.v <= 1 - |u - v|^2 / 2`` for rows of length 1 or 0.
    """
    a, b = rows.centres, columns.centres
    squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * (a @ b.T)
    apart = np.sqrt(np.maximum(squares - np.float32(ROUNDING), 0)) - rows.radii[:, None] - columns.radii
    return np.asarray(1 - np.square(np.maximum(apart, 0)) / 2 + np.float32(ROUNDING), np.float32)


def _rows(table: Table, part: slice, places: NDArray[np.int32]) -> tuple[Float32Array, NDArray[np.int32], Float64Array]:
    """Rows that hold those of a block at some places, the places in them, and their lengths."""
    if table.held is not None:
        return table.held[part], places, table.lengths[part]
    chosen, where = np.unique(places, return_inverse=True)
    return table.some(part, chosen), where.astype(np.int32), table.lengths[part][chosen]
