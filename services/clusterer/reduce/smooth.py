"""Rows averaged with their neighbours: what a row shares with those like it stays, what is its own fades.

Only mutual neighbours count: `i` and `j` where each is among the nearest rows of the other. A row that lies near many
others, but is near to few of them, would pull those together otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray, Rows, block_rows, l2_normalize, ranges
from clusterer.neighbours import Nearest

NOT_MUTUAL: Final = -1
Numbers = NDArray[np.int32]


def least_similarities(nearest: Nearest) -> Float32Array:
    """``(n,)``: the similarity of each row to the last of its nearest ones."""
    return np.ascontiguousarray(nearest.similarity[:, -1])


def mutual(nearest: Nearest, least: Float32Array) -> Numbers:
    """The nearest rows ``(m, k)`` of some rows that have these among their own nearest ones; -1 for the others.

    One with a similarity of 0 is none: all rows are as near to a row of zeros.

    Parameters
    ----------
    nearest
        Of rows of the set, or of new rows, which are taken to join it.
    least
        `least_similarities` of the set.
    """
    both = (nearest.similarity >= least[nearest.rows]) & (nearest.similarity != 0)
    return np.where(both, nearest.rows, NOT_MUTUAL).astype(np.int32)


def averaged(own: Float32Array, others: Iterable[tuple[NDArray[np.bool_], Float32Array]]) -> Float32Array:
    """The mean ``(m, d)`` of rows and of their neighbours, scaled to length 1; the same bits however many rows.

    Parameters
    ----------
    others
        For each place among the nearest: which rows ``(m,)`` have a neighbour there, and those, in order.
    """
    total = own.copy()
    for which, values in others:
        total[which] += values
    return l2_normalize(total)


@dataclass(frozen=True)
class SmoothedRows:
    """Rows after one more step.

    Attributes
    ----------
    source
        ``(n, d)`` rows of length 1: those after the steps before.
    neighbours
        ``(n, k) int32``: the rows that each is averaged with; -1 for none.
    """

    source: Rows
    neighbours: Numbers

    @property
    def n(self) -> int:
        return self.source.n

    @property
    def dim(self) -> int:
        return self.source.dim

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        for part in ranges(self.n, batch_rows or block_rows(self.dim), start, stop):
            yield part.start, self.take(np.arange(part.start, part.stop, dtype=np.int64))

    def take(self, rows: IntArray) -> Float32Array:
        columns = self.neighbours[rows].astype(np.int64).T
        # One at a time: all would be as many blocks as there are neighbours.
        others = ((column >= 0, self.source.take(column[column >= 0])) for column in columns)
        return averaged(self.source.take(rows), others)
