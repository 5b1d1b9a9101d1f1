"""Maps from clusters to classes, learnt on one set of rows and applied to the same or to another."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from scipy.optimize import linear_sum_assignment

from clusterer.contingency import Contingency
from clusterer.rows import IntArray

UNMAPPED = -1


class LabelRule(StrEnum):
    """How a cluster gets its class."""

    HUNGARIAN = "hungarian"
    """One cluster to one class, so that most rows agree. With more clusters than classes the clusters left over
    have no class, and their rows count as wrong."""
    MAJORITY = "majority"
    """Each cluster to the most frequent class in it; several clusters may share a class."""
    MIXED = "mixed"
    """One to one first, then the majority for the clusters left over: the rule behind the over-clustering figures
    of arXiv 2008.10312."""


def learn_map(table: Contingency, rule: LabelRule) -> IntArray:
    """The class of each cluster.

    A cluster without rows, and a match of a cluster with a class of which it has no row, carry no information and
    stay `UNMAPPED`. Ties go to the class that comes first.

    Parameters
    ----------
    table
        Counts of the rows that the map is learnt on.
    rule
        How.

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


def accuracy(table: Contingency, class_of_cluster: IntArray) -> float | None:
    """Share of the rows of ``table`` whose cluster maps to their class; None without rows."""
    if not table.n:
        return None
    right = class_of_cluster[table.cluster] == table.class_
    return int(table.count[right].sum()) / table.n


def _majority(table: Contingency) -> IntArray:
    chosen = np.full(table.shape[0], UNMAPPED, dtype=np.int64)
    # The last write wins: cells go from small to large counts, and among equals from late to early classes.
    order = np.lexsort((-table.class_, table.count))
    chosen[table.cluster[order]] = table.class_[order]
    return chosen


def _hungarian(table: Contingency) -> IntArray:
    """The one-to-one matching with most rows; among equals the one that leaves most rows to the majority rule.

    Clusters are put in an order that depends on their content alone before they are matched, so that the map does not
    depend on how they are numbered.
    """
    dense = table.dense()
    majority = dense.max(axis=1, initial=0)
    weight = np.where(dense > 0, dense * (table.n + 1.0) - majority[:, None], 0.0)
    order = np.argsort(dense @ np.random.default_rng(0).random(table.shape[1]), kind="stable")
    clusters, classes = linear_sum_assignment(weight[order], maximize=True)
    clusters = order[clusters]
    chosen = np.full(table.shape[0], UNMAPPED, dtype=np.int64)
    told = dense[clusters, classes] > 0
    chosen[clusters[told]] = classes[told]
    return chosen
