"""The rows whose cosine to a vector is greatest, exactly, from bounds of all cosines.

A row is read only if its upper bound reaches what enough other rows are known to reach. So the answer does not depend
on how the bounds are found, only its time does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from clusterer.data.rows import Float32Array, Float64Array, IntArray

MOST_PENDING: Final = 2**16
"""Rows that wait to be read: as many as a set of equal rows may have would not fit in memory."""
READ_VALUES: Final = 2**18
"""Values that are read at once."""
WIDTH: Final = 64
TIE: Final = 1e-6
"""More than the rounding of a cosine to float32."""


@dataclass(frozen=True)
class Found:
    """Rows by descending cosine, equal ones by ascending number.

    Attributes
    ----------
    rows
        ``(k,)`` global rows.
    similarity
        ``(k,) float32``: their cosines.
    """

    rows: IntArray
    similarity: Float32Array


def unit(vector: Float64Array) -> Float64Array | None:
    """A finite vector ``(d,)`` scaled to length 1; None if it is all zeros."""
    # Scaled first: the squares of large or small values leave the range of float64.
    peak = float(np.abs(vector).max(initial=0.0))
    if not peak:
        return None
    scaled = vector / peak
    return np.asarray(scaled / np.linalg.norm(scaled), np.float64)


def cosines(rows: Float32Array, vector: Float64Array) -> Float32Array:
    """``(n,)`` cosines of ``(n, d)`` rows to a vector of length 1, in float64; 0 for a row of zeros.

    A row's cosine does not depend on the rows beside it.
    """
    wide = rows.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    products = np.einsum("ij,j->i", wide, vector)
    found = np.divide(products, norms, out=np.zeros(len(rows)), where=norms > 0)
    return np.asarray(np.clip(found, -1.0, 1.0), np.float32)


class Nearest:
    """Collects the ``k`` rows with the greatest cosine to a vector.

    Parameters
    ----------
    vector
        ``(d,) float64`` of length 1.
    k
        How many rows; fewer if there are fewer.
    take
        Reads ``(n, d) float32`` rows, given their ascending numbers.
    leave_out
        A row that is not collected.
    """

    def __init__(
        self, vector: Float64Array, k: int, take: Callable[[IntArray], Float32Array], leave_out: int | None = None
    ) -> None:
        self.vector = vector
        self._k = k
        self._take = take
        self._leave_out = -1 if leave_out is None else leave_out
        self._floor = -np.inf  # at least k rows reach it
        self._lows = np.empty(0, np.float32)
        self._pending: list[tuple[IntArray, Float32Array]] = []
        self._best = Found(np.empty(0, np.int64), np.empty(0, np.float32))

    def add(self, first: int, low: Float32Array, high: Float32Array) -> None:
        """Take note of the bounds ``(n,)`` of the rows from ``first``, which follow those of the last call.

        A bound has a margin of at least `TIE` to the cosine, or is -1 or 1.
        """
        if 0 <= self._leave_out - first < len(low):
            low[self._leave_out - first] = -np.inf
        self._lows = _largest(np.concatenate([self._lows, _spread(low, self._k)]), self._k)
        if len(self._lows) == self._k:
            self._floor = max(self._floor, float(self._lows.min()))
        chosen = np.flatnonzero(high >= self._floor)
        chosen = chosen[chosen + first != self._leave_out]
        self._pending.append((chosen + first, high[chosen]))
        if sum(len(rows) for rows, _ in self._pending) > MOST_PENDING:
            self._settle()

    def found(self) -> Found:
        """The nearest of all rows that were added."""
        self._settle()
        return self._best

    def _settle(self) -> None:
        """Read the rows that may be among the best, the most promising ones first."""
        if not self._pending:
            return
        rows, high = (np.concatenate(each) for each in zip(*self._pending, strict=True))
        self._pending.clear()
        order = np.argsort(-high, kind="stable")
        order = order[high[order] >= self._floor]
        step = max(self._k, READ_VALUES // len(self.vector))
        for start in range(0, len(order), step):
            part = order[start : start + step]
            part = part[high[part] >= self._floor]
            if not len(part):
                break
            self._merge(np.sort(rows[part]))

    def _merge(self, rows: IntArray) -> None:
        similarity = np.concatenate([self._best.similarity, cosines(self._take(rows), self.vector)])
        rows = np.concatenate([self._best.rows, rows])
        best = np.lexsort((rows, -similarity))[: self._k]
        self._best = Found(rows[best], similarity[best])
        if len(best) == self._k:
            self._floor = max(self._floor, float(similarity[best[-1]]) - TIE)


def _spread(low: Float32Array, k: int) -> Float32Array:
    """Some of the bounds, each of another row, the greatest among them: few, if there are many."""
    width = min(WIDTH, len(low) // (2 * k))
    if width < 2:
        return low
    whole = len(low) // width * width
    return np.concatenate([low[:whole].reshape(-1, width).max(axis=1), low[whole:]])


def _largest(values: Float32Array, k: int) -> Float32Array:
    return values if len(values) <= k else np.partition(values, len(values) - k)[len(values) - k :]
