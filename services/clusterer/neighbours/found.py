"""What is found: the nearest rows so far, and runs of pairs that are merged into one sorted sequence."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, IntArray

PAIR: Final = np.dtype([("i", np.int64), ("j", np.int64), ("similarity", np.float32)])
PAIRS_AT_ONCE: Final = 2**20
"""Pairs of a block that is yielded, about: a row's pairs stay together."""
NO_ROW: Final = -1

PairArray = NDArray[np.void]
"""``(m,)`` of `PAIR`."""


@dataclass(frozen=True)
class Nearest:
    """The nearest other rows of every row.

    Attributes
    ----------
    rows
        ``(n, k) int64``: their numbers, by descending similarity, equal ones by ascending number.
    similarity
        ``(n, k) float32``: their cosines.
    """

    rows: IntArray
    similarity: Float32Array

    def chosen(self, part: slice) -> Nearest:
        """Those of some rows."""
        return Nearest(self.rows[part], self.similarity[part])


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, each once; those that a search yields come by ascending ``(i, j)``.

    Attributes
    ----------
    i, j
        ``(m,) int64``: numbers of the rows; of two rows of one set the smaller is ``i``.
    similarity
        ``(m,) float32``: their cosines.
    """

    i: IntArray
    j: IntArray
    similarity: Float32Array

    def __len__(self) -> int:
        return len(self.i)

    def chosen(self, which: IntArray | NDArray[np.bool_]) -> Pairs:
        """The pairs of a mask, or of positions."""
        return Pairs(self.i[which], self.j[which], self.similarity[which])


class Best:
    """The ``k`` nearest rows of each of ``n`` rows among those that were added: the same ones in any order of adding.

    Attributes
    ----------
    rows, similarity
        ``(n, k) int64`` and ``(n, k) float32``; `NO_ROW` and -inf where none was added yet.
    """

    def __init__(self, n: int, k: int) -> None:
        self.rows: IntArray = np.full((n, k), NO_ROW, np.int64)
        self.similarity: Float32Array = np.full((n, k), -np.inf, np.float32)

    def floors(self, part: slice) -> Float32Array:
        """Similarities of the least of the ``k`` rows: less similar ones are of no use."""
        return self.similarity[part, -1]

    def add(self, places: IntArray, rows: IntArray, similarity: Float32Array) -> None:
        """Add one row for each of ``places`` ``(m,)``; a place may occur many times, and a row again."""
        kept = similarity >= self.similarity[places, -1]
        places, rows, similarity = places[kept], rows[kept], similarity[kept]
        if not len(places):
            return
        k = self.rows.shape[1]
        touched = np.unique(places)
        at = np.concatenate([np.repeat(touched, k), places])
        rows = np.concatenate([self.rows[touched].ravel(), rows])
        similarity = np.concatenate([self.similarity[touched].ravel(), similarity])
        order = np.lexsort((rows, -similarity, at))
        at, rows, similarity = at[order], rows[order], similarity[order]
        again = np.zeros(len(at), bool)
        again[1:] = (at[1:] == at[:-1]) & (rows[1:] == rows[:-1]) & (rows[1:] != NO_ROW)
        at, rows, similarity = at[~again], rows[~again], similarity[~again]
        first = np.searchsorted(at, touched)
        chosen = first[:, None] + np.arange(k)
        self.rows[touched], self.similarity[touched] = rows[chosen], similarity[chosen]


def sorted_pairs(i: IntArray, j: IntArray, similarity: Float32Array) -> PairArray:
    """Pairs ``(m,)`` by ascending ``(i, j)``."""
    order = np.lexsort((j, i))
    found = np.empty(len(i), PAIR)
    found["i"], found["j"], found["similarity"] = i[order], j[order], similarity[order]
    return found


def merged(runs: Sequence[PairArray], n: int, at_once: int = PAIRS_AT_ONCE) -> Iterator[Pairs]:
    """All pairs of sorted runs by ascending ``(i, j)``, in blocks.

    Parameters
    ----------
    runs
        Runs that are sorted by ``(i, j)`` and have no pair in common; memory maps are read once, in order.
    n
        Rows that ``i`` may be.
    at_once
        Pairs of a block, about; more where one row has more.
    """
    runs = [run for run in runs if len(run)]
    counts = np.zeros(n + 1, np.int64)
    for run in runs:
        for first in range(0, len(run), at_once):
            part, times = np.unique(run["i"][first : first + at_once], return_counts=True)
            counts[part + 1] += times
    ends = np.cumsum(counts)
    first, places = 0, [0] * len(runs)
    while first < n and ends[first] < ends[-1]:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + at_once, "right")) - 1)
        stops = [_end(run, place, last) for run, place in zip(runs, places, strict=True)]
        parts = [np.array(run[a:b]) for run, a, b in zip(runs, places, stops, strict=True) if a < b]
        if parts:
            block = np.concatenate(parts)
            block = sorted_pairs(block["i"], block["j"], block["similarity"])
            yield Pairs(*(np.ascontiguousarray(block[name]) for name in ("i", "j", "similarity")))
        first, places = last, stops


def _end(run: PairArray, first: int, row: int) -> int:
    """Number of pairs of a run whose ``i`` is below ``row``, at least ``first``."""
    # Not `searchsorted`, which copies a column of a run first.
    return bisect_left(run["i"], row, first)
