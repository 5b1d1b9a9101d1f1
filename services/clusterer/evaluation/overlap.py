"""How two partitions of the same rows overlap: which groups of one were kept, split and merged in the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float64Array, IntArray
from clusterer.evaluation.contingency import Contingency

KEPT, DISSOLVED = 0.75, 0.5
"""Least Jaccard similarity of a group that was kept, and the largest of one that was dissolved."""
PART = 0.1
"""Least share of a group's rows that counts as a part of it."""


@dataclass(frozen=True)
class Side:
    """The groups of one partition, seen from the other.

    Attributes
    ----------
    sizes
        ``(k,) int64`` rows of each group.
    best, shared, jaccard
        ``(k,)``: the group of the other partition with the largest Jaccard similarity, of equals the first; the rows
        that both have; and that similarity, ``shared / (rows of either)``. -1 and 0 for a group without rows.
    parts
        ``(k,) int64``: groups of the other partition that hold at least `PART` of the group's rows.
    order, starts
        The table's cells, those of each group together, largest first; ``(k + 1,)``: where each group's begin.
    """

    table: Contingency
    sizes: IntArray
    best: IntArray
    shared: IntArray
    jaccard: Float64Array
    parts: IntArray
    order: IntArray
    starts: IntArray

    @classmethod
    def of(cls, table: Contingency) -> Side:
        """The clusters of a table, seen from its classes."""
        k, sizes = table.shape[0], table.cluster_sizes
        either = sizes[table.cluster] + table.class_sizes[table.class_] - table.count
        similar = table.count / either
        best, shared, jaccard = np.full(k, -1, np.int64), np.zeros(k, np.int64), np.zeros(k)
        # The last write wins: the most similar one, of equals the first.
        rising = np.lexsort((-table.class_, similar))
        best[table.cluster[rising]] = table.class_[rising]
        shared[table.cluster[rising]] = table.count[rising]
        jaccard[table.cluster[rising]] = similar[rising]
        large = table.count >= PART * sizes[table.cluster]
        parts = np.bincount(table.cluster[large], minlength=k).astype(np.int64)
        order = np.lexsort((table.class_, -table.count, table.cluster)).astype(np.int64)
        starts = np.searchsorted(table.cluster[order], np.arange(k + 1)).astype(np.int64)
        return cls(table, sizes, best, shared, jaccard, parts, order, starts)

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """``(k,)``: whether each group has rows."""
        return self.sizes > 0

    @property
    def kept(self) -> int:
        """How many groups have a counterpart of a Jaccard similarity of at least `KEPT`."""
        return int(np.count_nonzero(self.filled & (self.jaccard >= KEPT)))

    @property
    def dissolved(self) -> int:
        """How many groups have none above `DISSOLVED`."""
        return int(np.count_nonzero(self.filled & (self.jaccard <= DISSOLVED)))

    @property
    def split(self) -> IntArray:
        """The groups with several parts; those first of which most rows lie outside the largest part."""
        several = np.flatnonzero(self.parts > 1)
        largest = self.table.count[self.order[self.starts[several]]]
        return several[np.lexsort((several, largest - self.sizes[several]))]

    def cells_of(self, group: int, most: int) -> tuple[IntArray, IntArray]:
        """The other partition's groups that hold the most rows of one group, and how many."""
        cells = self.order[self.starts[group] : min(self.starts[group] + most, self.starts[group + 1])]
        return self.table.class_[cells], self.table.count[cells]


def transposed(table: Contingency) -> Contingency:
    """The table with clusters and classes exchanged."""
    order = np.lexsort((table.cluster, table.class_))
    return Contingency(table.shape[::-1], table.class_[order], table.cluster[order], table.count[order])
