"""Levels above the clusters: k-means on the centroids of the level below, and again on its centroids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clusterer.data.rows import ArrayRows, Float32Array, IntArray, LabelArray
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.label_maps import ClassPairs
from clusterer.evaluation.label_metrics import accuracy_metrics, agreement
from clusterer.kmeans import Engine, fit_kmeans
from clusterer.kmeans.engine import OnRows


@dataclass(frozen=True)
class Level:
    """One level.

    Attributes
    ----------
    parents
        ``(k_below,) int32``: the group of each member of the level below.
    centroids
        ``(k, d) float32``: of the groups, each the mean of its members, whatever their sizes.
    """

    parents: LabelArray
    centroids: Float32Array


def build_levels(
    centroids: Float32Array,
    sizes: Sequence[int],
    *,
    engine: Engine,
    seed: int,
    spherical: bool = False,
    on_rows: OnRows | None = None,
    **options: Any,
) -> tuple[Level, ...]:
    """Group the clusters, then the groups, and so on [1]_.

    Members are not weighted by their rows: so upper levels follow the space that the data fill, not where they are
    dense.

    Parameters
    ----------
    centroids
        ``(k, d)``: of the clusters.
    sizes
        Numbers of groups, falling, the first below ``k``.
    options
        As of `fit_kmeans`: ``init``, ``iterations``, ``restarts``.

    References
    ----------
    .. [1] Vo et al.: Automatic data curation for self-supervised learning: a clustering-based approach. arXiv
       2405.15613.
    """
    levels: list[Level] = []
    for size in sizes:
        rows = ArrayRows(centroids)
        fit = fit_kmeans(rows, size, engine=engine, seed=seed, spherical=spherical, on_rows=on_rows, **options).best.fit
        levels.append(Level(fit.labels, fit.centroids))
        centroids = fit.centroids
    return tuple(levels)


def groups_of(clusters: LabelArray, levels: Sequence[Level]) -> list[LabelArray]:
    """The group of each row on each level, from below, given its cluster."""
    found: list[LabelArray] = []
    for level in levels:
        clusters = level.parents[clusters]
        found.append(clusters)
    return found


def describe_levels(
    levels: Sequence[Level],
    clusters: LabelArray,
    classes: IntArray,
    c: int,
    *,
    train: tuple[LabelArray, IntArray, int],
    pairs: ClassPairs | None = None,
) -> list[dict[str, Any]]:
    """Of each level, how many rows of a scored set each group has, and how groups agree with classes if there are any.

    Parameters
    ----------
    clusters, classes, c
        ``(n,)`` clusters and classes of the scored set's rows, and how many classes there are.
    train
        The same of the train set, on which label maps are learnt.
    pairs
        Which train class is right for which scored class, where the two sets have different classes.
    """
    described = []
    for level, scored, learnt in zip(levels, groups_of(clusters, levels), groups_of(train[0], levels), strict=True):
        k = len(level.centroids)
        table, train_table = contingency(scored, classes, k, c), contingency(learnt, train[1], k, train[2])
        entry: dict[str, Any] = {"groups": k, "sizes": np.bincount(scored, minlength=k).tolist()}
        entry |= agreement(table if table.n else None)
        entry["accuracy"] = accuracy_metrics(table, train_table, pairs) if table.n else None
        described.append(entry)
    return described
