"""How the groups on each level of a hierarchy agree with classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clusterer.data.rows import IntArray, LabelArray
from clusterer.evaluation.contingency import ClassPairs, contingency
from clusterer.evaluation.label_metrics import Metrics, accuracy_metrics, agreement
from clusterer.kmeans import Level, groups_of


def describe_levels(
    levels: Sequence[Level],
    clusters: LabelArray,
    classes: IntArray,
    c: int,
    *,
    train: tuple[LabelArray, IntArray, int],
    pairs: ClassPairs | None = None,
) -> list[Metrics]:
    """The sizes of the groups of each level on a scored set and, with labels, how they agree with classes.

    Parameters
    ----------
    clusters, classes, c
        ``(n,)`` clusters and classes of the scored set's rows, and how many classes there are.
    train
        The same of the train set, on which label maps are learnt.
    pairs
        Which train class is right for which scored class, when the two sets have different classes.
    """
    described = []
    for level, scored, learnt in zip(levels, groups_of(clusters, levels), groups_of(train[0], levels), strict=True):
        k = len(level.centroids)
        table, train_table = contingency(scored, classes, k, c), contingency(learnt, train[1], k, train[2])
        entry: Metrics = {"groups": k, "sizes": np.bincount(scored, minlength=k).tolist()}
        entry |= agreement(table if table.n else None)
        entry["accuracy"] = accuracy_metrics(table, train_table, pairs) if table.n else None
        described.append(entry)
    return described
