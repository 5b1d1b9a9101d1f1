"""What each cluster looks like: how large, how pure, how tight, and which rows show it best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.store.clustering import CLUSTERS_SCHEMA

from clusterer.assign import Assigned
from clusterer.contingency import Contingency, contingency
from clusterer.labels import UNMAPPED, LabelRule, learn_map
from clusterer.rows import Float32Array, IntArray, LabelArray

SHOWN_MEMBERS = 12


def describe_clusters(
    embeddings_id: str,
    assigned: Assigned,
    classes: IntArray,
    vocabulary: Sequence[str],
    class_of_cluster: IntArray,
) -> pa.Table:
    """One row a cluster, as `shoal.store.clustering.CLUSTERS_SCHEMA` has it.

    Parameters
    ----------
    assigned
        The set's rows and their clusters.
    classes
        ``(n,)``: class of each row, or -1.
    class_of_cluster
        ``(k,)``: the stored map from clusters to classes, or -1; its length is the number of clusters.
    """
    k = len(class_of_cluster)
    table = contingency(assigned.labels, classes, k, len(vocabulary))
    sizes = np.bincount(assigned.labels, minlength=k)
    distances = np.bincount(assigned.labels, weights=assigned.distance, minlength=k)
    filled = sizes > 0
    majority = learn_map(table, LabelRule.MAJORITY)
    by_distance = members(assigned.labels, assigned.distance, sizes)
    columns: dict[str, Any] = {
        "embeddings": [embeddings_id] * k,
        "cluster": np.arange(k, dtype=np.int32),
        "size": sizes,
        "labelled": table.cluster_sizes,
        "majority": [names(vocabulary, each) for each in majority],
        "purity": pa.array(_purity(table), mask=table.cluster_sizes == 0),
        "label": [names(vocabulary, each) for each in class_of_cluster],
        "tightness": pa.array(distances / np.maximum(sizes, 1), mask=~filled),
        "nearest": [rows[:SHOWN_MEMBERS].tolist() for rows in by_distance],
        "farthest": [rows[::-1][:SHOWN_MEMBERS].tolist() for rows in by_distance],
        "borderline": [rows[:SHOWN_MEMBERS].tolist() for rows in members(assigned.labels, assigned.margin, sizes)],
    }
    return pa.table(columns).cast(CLUSTERS_SCHEMA)


def members(labels: LabelArray, order_by: Float32Array, sizes: NDArray[np.int64]) -> list[IntArray]:
    """The rows of each cluster, by rising ``order_by``; of equals the first."""
    order = np.lexsort((np.arange(len(labels)), order_by, labels))
    return np.split(order, np.cumsum(sizes)[:-1])


def names(vocabulary: Sequence[str], position: int) -> str | None:
    """The label at a position of the vocabulary; None for -1."""
    return None if position == UNMAPPED else vocabulary[position]


def _purity(table: Contingency) -> NDArray[np.float64]:
    largest = np.zeros(table.shape[0])
    np.maximum.at(largest, table.cluster, table.count)
    purity: NDArray[np.float64] = largest / np.maximum(table.cluster_sizes, 1)
    return purity
