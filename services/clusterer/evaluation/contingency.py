"""How many rows of each class fell into each cluster: the one table from which every label metric follows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from clusterer.data.rows import Float64Array, IntArray

UNLABELLED = -1
DENSE_CELLS = 2**22


@dataclass(frozen=True)
class Contingency:
    """A sparse table of counts, clusters by classes.

    Attributes
    ----------
    shape
        ``(k, c)``: all clusters and classes that could occur, whether or not they do.
    cluster, class_
        ``(z,) int64``: coordinates of the cells that are not zero, by rising cluster, then class.
    count
        ``(z,) int64``: their counts.
    """

    shape: tuple[int, int]
    cluster: IntArray
    class_: IntArray
    count: IntArray

    @cached_property
    def n(self) -> int:
        """Number of rows counted."""
        return int(self.count.sum())

    @cached_property
    def cluster_sizes(self) -> IntArray:
        """``(k,) int64``: counted rows of each cluster."""
        return _sums(self.cluster, self.count, self.shape[0])

    @cached_property
    def class_sizes(self) -> IntArray:
        """``(c,) int64``: counted rows of each class."""
        return _sums(self.class_, self.count, self.shape[1])

    @property
    def perfect(self) -> bool:
        """Whether clusters and classes are the same partition under different names."""
        groups = {len(self.count), int(np.count_nonzero(self.cluster_sizes)), int(np.count_nonzero(self.class_sizes))}
        return len(groups) == 1

    def dense(self) -> IntArray:
        """The table as a ``(k, c) int64`` array."""
        table = np.zeros(self.shape, dtype=np.int64)
        table[self.cluster, self.class_] = self.count
        return table


def contingency(clusters: ArrayLike, classes: ArrayLike, k: int, c: int) -> Contingency:
    """Count the rows of each (cluster, class).

    Parameters
    ----------
    clusters
        ``(n,)`` integers in ``0..k-1``.
    classes
        ``(n,)`` integers in ``0..c-1``, or `UNLABELLED`: rows without a label are left out.
    """
    cluster, class_ = np.asarray(clusters, dtype=np.int64), np.asarray(classes, dtype=np.int64)
    known = class_ != UNLABELLED
    if not known.all():
        cluster, class_ = cluster[known], class_[known]
    cell = cluster * c + class_
    if k * c <= DENSE_CELLS:
        counts = np.bincount(cell, minlength=k * c)
        cells = np.flatnonzero(counts)
        counts = counts[cells]
    else:
        cells, counts = np.unique(cell, return_counts=True)
    return Contingency((k, c), cells // max(c, 1), cells % max(c, 1), counts.astype(np.int64))


def entropy(sizes: IntArray) -> float:
    """Entropy in nats of a partition into groups of these sizes."""
    share: Float64Array = sizes[sizes > 0] / max(int(sizes.sum()), 1)
    return float(-(share * np.log(share)).sum()) if len(share) > 1 else 0.0


def _sums(group: IntArray, count: IntArray, groups: int) -> IntArray:
    # Weights make bincount return float64, which is exact up to 2**53 rows.
    return np.bincount(group, weights=count, minlength=groups).astype(np.int64)
