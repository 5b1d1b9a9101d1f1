"""Equal rows: they have the same similarity to every other row, so one of them is compared for all.

Without this, ``m`` equal rows are ``m^2 / 2`` pairs of the same similarity, each of which would have to be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterer.data.rows import ArrayRows, Float32Array, IntArray, Rows, ranges
from clusterer.neighbours.found import Nearest

COMPARED_VALUES: Final = 2**22
SPREAD_VALUES: Final = 2**19
"""Copies of neighbours of new rows that are ordered at once."""


@dataclass(frozen=True)
class Copies:
    """Rows in sets of equal ones.

    Attributes
    ----------
    firsts
        ``(m,) int64``: the first row of each set, ascending.
    rows, starts
        ``(n,)`` and ``(m + 1,) int64``: the rows, set by set, each ascending, and where the sets start.
    own
        ``(m,) float32``: the similarity of the rows of a set with one another: 1, or 0 of rows of zeros.
    """

    firsts: IntArray
    rows: IntArray
    starts: IntArray
    own: Float32Array

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        return self.firsts.nbytes + self.rows.nbytes + self.starts.nbytes + self.own.nbytes

    @property
    def sizes(self) -> IntArray:
        """``(m,)`` numbers of rows of the sets."""
        return np.diff(self.starts)

    @property
    def sets(self) -> IntArray:
        """``(n,) int64``: the set of each row."""
        found = np.empty(len(self.rows), np.int64)
        found[self.rows] = np.repeat(np.arange(len(self)), self.sizes)
        return found

    @classmethod
    def none(cls, n: int) -> Copies:
        """``n`` rows of which no two are equal."""
        alone = np.arange(n, dtype=np.int64)
        return cls(alone, alone, np.arange(n + 1, dtype=np.int64), np.ones(n, np.float32))

    def split(self, which: int, parts: IntArray) -> Copies:
        """The same sets, but one of them in parts.

        Parameters
        ----------
        parts
            ``(m,)``: a number for each row of the set ``which``, the same for rows that stay together.
        """
        sets, members = self.sets, self.rows[self.starts[which] : self.starts[which + 1]]
        _, first_of, inverse = np.unique(parts, return_index=True, return_inverse=True)
        first = self.firsts[sets]
        first[members] = members[first_of][inverse]
        firsts, place, counts = np.unique(first, return_inverse=True, return_counts=True)
        starts = np.cumsum([0, *counts.tolist()], dtype=np.int64)
        return Copies(firsts, np.argsort(place, kind="stable"), starts, self.own[sets[firsts]])

    @classmethod
    def of(cls, rows: Rows) -> Copies | None:
        """The sets of equal rows; None where no two are equal."""
        _, first_of, inverse = np.unique(digests_of(rows), return_index=True, return_inverse=True)
        if len(first_of) == rows.n:
            return None
        first = _proven(rows, np.asarray(first_of, np.int64)[inverse])
        firsts, place, counts = np.unique(first, return_inverse=True, return_counts=True)
        own = np.zeros(len(firsts), np.float32)
        step = max(1, COMPARED_VALUES // rows.dim)
        for at in range(0, len(firsts), step):
            own[at : at + step] = rows.take(firsts[at : at + step]).any(axis=1)
        return cls(firsts, np.argsort(place, kind="stable"), np.cumsum([0, *counts.tolist()], dtype=np.int64), own)

    def spread(self, found: Nearest, k: int) -> Nearest:
        """The ``k`` nearest rows of every row, given the nearest sets of every set."""
        n = len(self.rows)
        rows, similarity = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        sizes = np.diff(self.starts)
        single = (sizes == 1) & (sizes[found.rows] == 1).all(axis=1) & (found.rows.shape[1] >= k)
        alone = self.firsts[single]
        if len(alone):
            rows[alone], similarity[alone] = self.firsts[found.rows[single]], found.similarity[single]
        for place in np.flatnonzero(~single).tolist():
            ids, values = self._around(place, found, k)
            for row in self.rows[self.starts[place] : self.starts[place + 1]].tolist():
                kept = np.flatnonzero(ids != row)[:k]
                rows[row], similarity[row] = ids[kept], values[kept]
        return Nearest(rows, similarity)

    def among(self, found: Nearest, k: int) -> Nearest:
        """The ``k`` nearest rows of other rows ``(m,)``, given their nearest sets: ``k`` of them, or all."""
        if found.rows.shape[1] == k and (self.sizes[found.rows] == 1).all():
            return Nearest(self.firsts[found.rows], found.similarity)
        step = max(1, SPREAD_VALUES // (k * found.rows.shape[1]))
        parts = [self._among(found.chosen(part), k) for part in ranges(len(found.rows), step)]
        return Nearest(
            np.concatenate([each.rows for each in parts]), np.concatenate([each.similarity for each in parts])
        )

    def _among(self, found: Nearest, k: int) -> Nearest:
        places = np.arange(k)
        least = np.minimum(self.sizes[found.rows], k)[:, :, None]
        at = self.starts[found.rows][:, :, None] + np.minimum(places, least - 1)
        ids = np.where(places < least, self.rows[at], len(self.rows)).reshape(len(found.rows), -1)
        similarity = np.where(places < least, found.similarity[:, :, None], -np.inf).reshape(ids.shape)
        order = np.lexsort((ids, -similarity), axis=1)[:, :k]
        return Nearest(*(np.take_along_axis(each, order, axis=1) for each in (ids, similarity)))

    def _around(self, place: int, found: Nearest, k: int) -> tuple[IntArray, Float32Array]:
        """Some rows, at least ``k + 1`` of the nearest ones of a set with its own, in their order."""
        sets = [place, *found.rows[place].tolist()]
        values = [self.own[place], *found.similarity[place]]
        members = [
            self.rows[self.starts[each] : min(self.starts[each + 1], self.starts[each] + k + 1)] for each in sets
        ]
        ids = np.concatenate(members)
        similarity = np.repeat(np.array(values, np.float32), [len(each) for each in members])
        order = np.lexsort((ids, -similarity))[: k + 1]
        return ids[order], similarity[order]


@dataclass(frozen=True)
class Equals:
    """Finds the row of a set that equals another row.

    Attributes
    ----------
    rows
        The set.
    digests
        ``(n,) V16``: of its rows, sorted, those of equal rows by ascending number.
    order
        ``(n,) int64``: the rows' numbers in that order.
    """

    rows: Rows
    digests: NDArray[np.void]
    order: IntArray

    @classmethod
    def among(cls, rows: Rows) -> Equals:
        """Those among ``rows``, all of which are read."""
        digests = digests_of(rows)
        order = np.argsort(digests, kind="stable").astype(np.int64, copy=False)
        return cls(rows, digests[order], order)

    @property
    def bytes(self) -> int:
        """Bytes of memory, beside the rows."""
        return self.digests.nbytes + self.order.nbytes

    def find(self, rows: Float32Array) -> IntArray:
        """The number of the first row of the set that has the same bits as each of ``(m, d)`` rows; -1 for none."""
        sought = digests_of(ArrayRows(rows))
        at = np.minimum(np.searchsorted(self.digests, sought), len(self.digests) - 1)
        found = np.where(self.digests[at] == sought, self.order[at], -1)
        which = np.flatnonzero(found >= 0)
        other = (self.rows.take(found[which]) != rows[which]).any(axis=1)
        found[which[other]] = -1
        return found


def digests_of(rows: Rows) -> NDArray[np.void]:
    """A digest of the bits of each row: ``(n,) V16``."""
    digests = np.empty(rows.n, "V16")
    for start, batch in rows.batches():
        digests[start : start + len(batch)] = np.frombuffer(
            b"".join(xxhash.xxh3_128_digest(row.data) for row in np.ascontiguousarray(batch)), "V16"
        )
    return digests


def _proven(rows: Rows, first: IntArray) -> IntArray:
    """``first`` with the row itself where it does not equal the one that has the same digest."""
    later = np.flatnonzero(first != np.arange(rows.n))
    step = max(1, COMPARED_VALUES // rows.dim)
    for start in range(0, len(later), step):
        part = later[start : start + step]
        other = (rows.take(part) != rows.take(first[part])).any(axis=1)
        first[part[other]] = part[other]
    return first
