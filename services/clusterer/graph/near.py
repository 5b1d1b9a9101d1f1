"""The nearest rows of rows, and how far they are: by direction, or by place where rows were laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from clusterer.data.rows import Float32Array, IntArray, Rows
from clusterer.neighbours import Among as AmongDirections
from clusterer.neighbours import Nearest, Options

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

RESOLVED: Final = 2.0**-11.5
"""A distance of directions below this one is rounding: similarities are float32."""


@dataclass(frozen=True)
class Near:
    """The nearest other rows of rows, the nearest first.

    Attributes
    ----------
    rows
        ``(m, k) int64``: their numbers.
    distance
        ``(m, k) float32``: Euclidean; of directions, that of the rows scaled to length 1.
    """

    rows: IntArray
    distance: Float32Array

    @classmethod
    def of(cls, found: Nearest) -> Near:
        """From cosines."""
        return cls(found.rows, distances(found.similarity))


class Among(Protocol):
    """A set whose rows nearest to other rows are found; immutable, so that many threads may use one."""

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        ...

    def nearest(self, rows: Float32Array) -> Near:
        """The nearest rows of the set for each of ``(m, d)`` rows, the same whatever rows are beside it."""
        ...


def distances(similarity: Float32Array) -> Float32Array:
    """Euclidean distances of directions, given their cosines; 0 where rounding is all that differs."""
    squared = 2.0 - 2.0 * similarity.astype(np.float64)
    found: Float32Array = np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
    return found


def near_places(places: Rows, k: int) -> Near:
    """The ``k`` nearest other rows of every row, of which no two are equal, by Euclidean distance in few dimensions."""
    tree = _tree(places)
    k = min(k, places.n - 1)
    found = Near(np.empty((places.n, k), np.int64), np.empty((places.n, k), np.float32))
    for first, batch in places.batches():
        part = slice(first, first + len(batch))
        away, rows = _query(tree, batch, k + 1)
        # The row itself is the nearest one, or one of those that are as near after rounding.
        other = rows != np.arange(first, first + len(batch))[:, None]
        other[other.all(axis=1), -1] = False
        found.rows[part], found.distance[part] = (each[other].reshape(-1, k) for each in (rows, away))
    return found


def among(rows: Rows, k: int, options: Options, *, places: bool) -> Among:
    """The rows ``(n, d)``, ready to be searched for the ``k`` nearest ones of other rows."""
    return _Places(rows, k) if places else _Directions(rows, k, options)


class _Directions:
    def __init__(self, rows: Rows, k: int, options: Options) -> None:
        self._found = AmongDirections(rows, k, options)
        self.bytes = self._found.bytes

    def nearest(self, rows: Float32Array) -> Near:
        return Near.of(self._found.nearest(rows))


class _Places:
    def __init__(self, rows: Rows, k: int) -> None:
        self._tree, self._k = _tree(rows), min(k, rows.n)
        self.bytes = 24 * rows.n * rows.dim

    def nearest(self, rows: Float32Array) -> Near:
        away, found = _query(self._tree, rows, self._k)
        return Near(found, away)


def _tree(rows: Rows) -> cKDTree:
    from scipy.spatial import cKDTree

    return cKDTree(rows.take(np.arange(rows.n, dtype=np.int64)))


def _query(tree: cKDTree, rows: Float32Array, k: int) -> tuple[Float32Array, IntArray]:
    away, found = tree.query(rows, k=np.arange(1, k + 1))
    return np.asarray(away, np.float32), np.asarray(found, np.int64)
