"""Bounds of similarities, which say what pairs must be compared exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray, l2_normalize
from clusterer.neighbours.found import Best
from clusterer.neighbours.similarity import similarities
from clusterer.neighbours.table import Table

Places = NDArray[np.int32]
COMPARED_VALUES: Final = 2**22
"""Values of each side that are compared exactly at once."""


class Bounds(Protocol):
    """Bounds of the similarities of the rows of two tables, or of one with itself."""

    def floors(self, part: slice, k: int) -> Float32Array:
        """What at least ``k`` other rows of a block reach, for each of its rows: ``(b,) float32``, or -inf."""
        ...

    def reaching(
        self, left: slice, right: slice, left_floors: Float32Array, right_floors: Float32Array
    ) -> Iterator[tuple[Places, Places]]:
        """Places ``(m,)`` in two blocks of all pairs that may reach the lesser of the floors of both rows, in parts.

        Of a block of one table with itself each pair once, without those of a row with itself.
        """
        ...

    def similarities(self, left: slice, right: slice, i: Places, j: Places) -> Float32Array:
        """Exact similarities ``(m,)`` of rows at some places of two blocks."""
        ...

    def add(self, best: Best, places: IntArray, rows: IntArray, similarity: Float32Array) -> None:
        """As `Best.add`."""
        ...


class PlainBounds:
    """From float32 products of the rows, scaled to length 1.

    Parameters
    ----------
    left, right
        The tables; the same object for one with itself.
    """

    BLOCK: Final = 2048

    def __init__(self, left: Table, right: Table) -> None:
        self._left, self._right = left, right
        # Of a sum of d products of values that are rounded, of two vectors of length 1.
        self._error = np.float32(1.25 * (left.rows.dim + 16) * 2.0**-24)
        self._units: tuple[slice, Float32Array] | None = None

    def floors(self, part: slice, k: int) -> Float32Array:
        product = self._product(part, part)
        if len(product) <= k:
            return np.full(len(product), -np.inf, np.float32)
        np.fill_diagonal(product, -np.inf)
        return np.asarray(np.partition(product, len(product) - k, axis=1)[:, -k] - self._error, np.float32)

    def reaching(
        self, left: slice, right: slice, left_floors: Float32Array, right_floors: Float32Array
    ) -> Iterator[tuple[Places, Places]]:
        enough = self._product(left, right) + self._error >= np.minimum(left_floors[:, None], right_floors)
        if self._left is self._right and left == right:
            enough = np.triu(enough, 1)
        i, j = (each.astype(np.int32) for each in np.nonzero(enough))
        yield i, j

    def similarities(self, left: slice, right: slice, i: Places, j: Places) -> Float32Array:
        found = np.empty(len(i), np.float32)
        mine, theirs = self._left.lengths[left], self._right.lengths[right]
        step = max(1, COMPARED_VALUES // self._left.rows.dim)
        for first in range(0, len(i), step):
            a, b = i[first : first + step], j[first : first + step]
            x, y = self._left.some(left, a), self._right.some(right, b)
            found[first : first + step] = similarities(x, y, mine[a], theirs[b])
        return found

    def add(self, best: Best, places: IntArray, rows: IntArray, similarity: Float32Array) -> None:
        best.add(places, rows, similarity)

    def _product(self, left: slice, right: slice) -> Float32Array:
        if self._units is None or self._units[0] != left:
            self._units = (left, l2_normalize(self._left.block(left)))
        mine = self._units[1]
        same = self._left is self._right and left == right
        return np.asarray(mine @ (mine if same else l2_normalize(self._right.block(right))).T, np.float32)
