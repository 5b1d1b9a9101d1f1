"""What each cluster looks like: how large, how pure, how tight, and which rows show it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.store.clustering import CLUSTERS_SCHEMA

from clusterer.data.rows import Float32Array, IntArray, LabelArray
from clusterer.evaluation.contingency import UNMAPPED, Contingency, LabelRule, contingency, learn_map
from clusterer.kmeans.assign import Assigned

SHOWN_MEMBERS = 12
SHOWN_CLASSES = 5


def describe_clusters(
    embeddings_id: str,
    assigned: Assigned,
    classes: IntArray,
    vocabulary: Sequence[str],
    label_of_cluster: pa.Array[Any],
) -> pa.Table:
    """One row a cluster, as `shoal.store.clustering.CLUSTERS_SCHEMA` has it.

    Parameters
    ----------
    assigned
        The set's rows and their clusters.
    classes
        ``(n,)``: class of each row, or -1.
    label_of_cluster
        ``(k,)``: what the stored map calls each cluster; its length is the number of clusters.
    """
    k = len(label_of_cluster)
    table = contingency(assigned.labels, classes, k, len(vocabulary))
    sizes = np.bincount(assigned.labels, minlength=k)
    distances = np.bincount(assigned.labels, weights=assigned.distance, minlength=k)
    filled = sizes > 0
    majority = learn_map(table, LabelRule.MAJORITY)
    by_distance = by_cluster(assigned.labels, assigned.distance)
    by_margin = by_cluster(assigned.labels, assigned.margin)
    columns: dict[str, Any] = {
        "embeddings": pa.repeat(embeddings_id, k),
        "cluster": np.arange(k, dtype=np.int32),
        "size": sizes,
        "labelled": table.cluster_sizes,
        "majority": names_of(vocabulary, majority),
        "purity": pa.array(_purity(table), mask=table.cluster_sizes == 0),
        "label": label_of_cluster,
        "tightness": pa.array(distances / np.maximum(sizes, 1), mask=~filled),
        "nearest": _shown(by_distance, sizes),
        "farthest": _shown(by_distance, sizes, last=True),
        "top_classes": top_classes(table, vocabulary),
        "borderline": _shown(by_margin, sizes),
    }
    return pa.table(columns).select(CLUSTERS_SCHEMA.names).cast(CLUSTERS_SCHEMA)


def by_cluster(labels: LabelArray, order_by: Float32Array) -> IntArray:
    """All rows, those of each cluster together, by rising ``order_by``; of equals the first."""
    return np.lexsort((np.arange(len(labels)), order_by, labels))


def top_classes(table: Contingency, vocabulary: Sequence[str]) -> pa.Array[Any]:
    """The most frequent classes of each cluster, with their counts."""
    tops = top_members(table.cluster, table.class_, table.count, np.arange(table.shape[0]))
    return tops.lists(label=names_of(vocabulary, tops.member))


@dataclass(frozen=True)
class TopMembers:
    """The members of most rows of each group, largest first, one group after the other.

    Attributes
    ----------
    offsets
        ``(groups + 1,) int32``: where each group begins.
    member, count
        ``(m,) int64``: the members and how many rows they have in the group.
    """

    offsets: NDArray[np.int32]
    member: IntArray
    count: IntArray

    def lists(self, **named: Any) -> pa.Array[Any]:
        """A list for each group of what ``named`` says of its members, with their counts."""
        (name, values), *_ = named.items()
        structs = pa.StructArray.from_arrays([pa.array(values), pa.array(self.count)], names=[name, "count"])
        return pa.ListArray.from_arrays(pa.array(self.offsets), structs)


def top_members(group: IntArray, member: IntArray, count: IntArray, groups: IntArray) -> TopMembers:
    """The members of most rows of each of some groups, given the cells of a table; of equals the first."""
    order = np.lexsort((member, -count, group))
    sorted_groups = group[order]
    starts, ends = (np.searchsorted(sorted_groups, groups, side=side) for side in ("left", "right"))
    offsets, places = _heads(starts, np.minimum(ends - starts, SHOWN_CLASSES))
    cells = order[places]
    return TopMembers(offsets, member[cells], count[cells])


def names_of(vocabulary: Sequence[str], positions: IntArray) -> pa.Array[Any]:
    """The labels at some positions of the vocabulary; null for -1."""
    return pa.array(vocabulary, pa.string()).take(pa.array(positions, mask=positions == UNMAPPED))


def _shown(ordered: IntArray, sizes: NDArray[np.int64], *, last: bool = False) -> pa.Array[Any]:
    """The first rows of each cluster, or the last ones from behind, as lists."""
    ends = np.cumsum(sizes)
    offsets, places = _heads(ends - sizes, np.minimum(sizes, SHOWN_MEMBERS))
    if last:
        # From the end of the cluster as far back as the place lies behind its beginning.
        taken = np.diff(offsets)
        places = np.repeat(2 * ends - sizes - 1, taken) - places
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ordered[places]))


def _heads(starts: IntArray, counts: IntArray) -> tuple[NDArray[np.int32], IntArray]:
    """Offsets of lists of ``counts`` members, and the places ``starts``, ``starts + 1``, … of all of them."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    return offsets.astype(np.int32), places


def _purity(table: Contingency) -> NDArray[np.float64]:
    largest = np.zeros(table.shape[0])
    np.maximum.at(largest, table.cluster, table.count)
    purity: NDArray[np.float64] = largest / np.maximum(table.cluster_sizes, 1)
    return purity
