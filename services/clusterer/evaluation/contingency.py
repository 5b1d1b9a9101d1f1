"""The table of clusters and classes that every label metric follows from, and the label maps learnt from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from clusterer.data.rows import Float64Array, IntArray

UNLABELLED = -1
"""The class of a row without a label."""
UNMAPPED = -1
"""The class of a cluster that a label map does not name."""
DENSE_CELLS = 2**22


@dataclass(frozen=True)
class Contingency:
    """A sparse table of counts, clusters by classes.

    Attributes
    ----------
    shape
        ``(k, c)``: all clusters and classes that may occur.
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
        ``(n,)`` integers in ``0..c-1``, or `UNLABELLED`: rows without a label are not counted.
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


class LabelRule(StrEnum):
    """The rule that gives a cluster its class."""

    HUNGARIAN = "hungarian"
    """One cluster to one class, so that most rows agree. With more clusters than classes the remaining clusters
    have no class, and their rows count as wrong."""
    MAJORITY = "majority"
    """Each cluster to the most frequent class in it; several clusters may share a class."""
    MIXED = "mixed"
    """One to one first, then the majority for the remaining clusters: the rule behind the over-clustering figures
    of arXiv 2008.10312."""


@dataclass(frozen=True)
class ClassPairs:
    """Which train class is right for which scored class, many to many.

    Attributes
    ----------
    scored_classes
        Number of scored classes.
    codes
        ``(p,) int64``, sorted: ``train * scored_classes + scored`` of each pair. Position 0 is a class like any other.
    """

    scored_classes: int
    codes: IntArray

    @classmethod
    def of(cls, train: IntArray, scored: IntArray, scored_classes: int) -> ClassPairs:
        """From the two sides of each pair, both ``(p,) int64``."""
        return cls(scored_classes, np.unique(train * scored_classes + scored))

    def right(self, train: IntArray, scored: IntArray) -> NDArray[np.bool_]:
        """``(z,) bool``: whether train class ``train[i]``, if it is one, is right for scored class ``scored[i]``."""
        known: NDArray[np.bool_] = np.isin(train * self.scored_classes + scored, self.codes)
        right: NDArray[np.bool_] = known & (train != UNMAPPED)
        return right


@dataclass(frozen=True)
class LabelledSet:
    """A set of rows with their classes.

    Attributes
    ----------
    id
        Its embeddings id.
    classes
        ``(n,) int64``: class of each row, or -1.
    vocabulary
        The labels of the classes.
    pairs
        Which train class is right for which of these classes; None where they are the train set's classes.
    unmapped
        How many rows have a label that the map of classes does not name.
    """

    id: str
    classes: IntArray
    vocabulary: tuple[str, ...]
    pairs: ClassPairs | None = None
    unmapped: int = 0

    def table(self, clusters: ArrayLike, k: int) -> Contingency:
        """The rows by cluster and class, given the ``(n,)`` cluster of each."""
        return contingency(clusters, self.classes, k, len(self.vocabulary))


def learn_map(table: Contingency, rule: LabelRule) -> IntArray:
    """The class of each cluster.

    A cluster without rows, and a match of a cluster with a class of which it has no row, carry no information and
    stay `UNMAPPED`. Ties go to the class that comes first.

    Parameters
    ----------
    table
        Counts of the rows that the map is learnt on.
    rule
        Which rule.

    Returns
    -------
    ``(k,) int64`` of class positions, or `UNMAPPED`.
    """
    if rule is LabelRule.MAJORITY:
        return _majority(table)
    matched = _hungarian(table)
    if rule is LabelRule.HUNGARIAN:
        return matched
    return np.where(matched == UNMAPPED, _majority(table), matched)


def accuracy(table: Contingency, class_of_cluster: IntArray, pairs: ClassPairs | None = None) -> float | None:
    """Share of the rows of ``table`` whose cluster maps to their class; None without rows.

    With ``pairs`` the map names train classes and ``table`` counts scored ones: a row is right when the two are a pair.
    """
    if not table.n:
        return None
    mapped = class_of_cluster[table.cluster]
    right = mapped == table.class_ if pairs is None else pairs.right(mapped, table.class_)
    return int(table.count[right].sum()) / table.n


def _majority(table: Contingency) -> IntArray:
    chosen = np.full(table.shape[0], UNMAPPED, dtype=np.int64)
    # The last write wins: cells go from small to large counts, and among equals from late to early classes.
    order = np.lexsort((-table.class_, table.count))
    chosen[table.cluster[order]] = table.class_[order]
    return chosen


def _hungarian(table: Contingency) -> IntArray:
    """The one-to-one matching with most rows; among equals the one that leaves most rows to the majority rule.

    Clusters are sorted by their content before they are matched, so that the map does not depend on their numbers.
    """
    (k, c), cluster, count = table.shape, table.cluster, table.count
    majority = np.zeros(k, dtype=np.int64)
    np.maximum.at(majority, cluster, count)
    content = np.bincount(cluster, weights=count * np.random.default_rng(0).random(c)[table.class_], minlength=k)
    order = np.argsort(content, kind="stable")
    place = np.empty(k, dtype=np.int64)
    place[order] = np.arange(k)
    # Transposed and negated as the solver needs it, which saves its copies.
    wide = k <= c
    cost = np.zeros((k, c) if wide else (c, k))
    cells = (place[cluster], table.class_)
    cost[cells if wide else cells[::-1]] = majority[cluster] - count * (table.n + 1.0)
    rows, columns = linear_sum_assignment(cost)
    places, classes = (rows, columns) if wide else (columns, rows)
    informative = cost[rows, columns] < 0
    chosen = np.full(k, UNMAPPED, dtype=np.int64)
    chosen[order[places[informative]]] = classes[informative]
    return chosen


def _sums(group: IntArray, count: IntArray, groups: int) -> IntArray:
    # Weights make bincount return float64, which is exact up to 2**53 rows.
    return np.bincount(group, weights=count, minlength=groups).astype(np.int64)
