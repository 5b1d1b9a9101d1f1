"""The tables of a clustering: its clusters, how each class fares, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.schemas.graph import NOISE
from shoal.store.table_schemas import CLASSES_SCHEMA, CLUSTERS_SCHEMA, CONFUSION_SCHEMA

from clusterer.data.rows import Float32Array, IntArray, LabelArray
from clusterer.evaluation.contingency import UNMAPPED, ClassPairs, Contingency, LabelledSet, LabelRule, learn_map
from clusterer.kmeans.assigned import Assigned

SHOWN_MEMBERS = 12
SHOWN_CLASSES = 5
EXTREME_CLUSTERS, EXTREME_IMAGES = 10, 5
FEWEST_ROWS = 5
RULES = (LabelRule.HUNGARIAN, LabelRule.MAJORITY)


def describe_clusters(
    labelled: LabelledSet, assigned: Assigned, label_of_cluster: pa.Array, *, noisy: bool = False
) -> pa.Table:
    """One row a cluster, as `shoal.store.table_schemas.CLUSTERS_SCHEMA` has it.

    Parameters
    ----------
    assigned
        The set's rows and their clusters.
    label_of_cluster
        ``(k,)``: label of each cluster under the stored map.
    noisy
        Whether the last cluster is noise, whose number is -1 in the table.
    """
    k = len(label_of_cluster)
    table, vocabulary = labelled.table(assigned.labels, k), labelled.vocabulary
    sizes = np.bincount(assigned.labels, minlength=k)
    distances = np.bincount(assigned.labels, weights=assigned.distance, minlength=k)
    filled = sizes > 0
    majority = learn_map(table, LabelRule.MAJORITY)
    by_distance = by_cluster(assigned.labels, assigned.distance)
    by_margin = by_cluster(assigned.labels, assigned.margin)
    columns: dict[str, object] = {
        "embeddings": pa.repeat(labelled.id, k),
        "cluster": cluster_numbers(k, noisy=noisy),
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


def cluster_numbers(slots: int, *, noisy: bool) -> NDArray[np.int32]:
    """The numbers of clusters in their order; noise, the last of them if there is any, has -1."""
    numbers = np.arange(slots, dtype=np.int32)
    if noisy:
        numbers[-1] = NOISE
    return numbers


def by_cluster(labels: LabelArray, order_by: Float32Array) -> IntArray:
    """All rows, those of each cluster together, by rising ``order_by``; of equals the first."""
    return np.lexsort((np.arange(len(labels)), order_by, labels))


def top_classes(table: Contingency, vocabulary: Sequence[str]) -> pa.Array:
    """The most frequent classes of each cluster, with their counts."""
    tops = top_members(table.cluster, table.class_, table.count, np.arange(table.shape[0]))
    return tops.lists("label", names_of(vocabulary, tops.member))


@dataclass(frozen=True)
class Scored:
    """One scored set under one clustering.

    Attributes
    ----------
    table
        Its rows by cluster and class.
    vocabulary
        The labels of its classes.
    learnt
        The table that label maps are learnt on.
    names
        The labels of the classes of ``learnt``.
    pairs
        Which of ``names`` is right for which of ``vocabulary``; None when they are the same.
    noisy
        Whether the last cluster of the tables is noise.
    """

    embeddings_id: str
    table: Contingency
    vocabulary: Sequence[str]
    learnt: Contingency
    names: Sequence[str]
    pairs: ClassPairs | None
    noisy: bool = False

    def right(self, class_of_cluster: IntArray) -> NDArray[np.bool_]:
        """``(z,) bool``: whether the rows of each cell of ``table`` count as right."""
        mapped = class_of_cluster[self.table.cluster]
        return mapped == self.table.class_ if self.pairs is None else self.pairs.right(mapped, self.table.class_)


def classes_table(scored: Scored) -> pa.Table:
    """One row a class of the set, as `shoal.store.table_schemas.CLASSES_SCHEMA` has it."""
    table = scored.table
    sizes = table.class_sizes
    present: IntArray = np.flatnonzero(sizes)
    numbers = cluster_numbers(table.shape[0], noisy=scored.noisy).astype(np.int64)
    tops = top_members(table.class_, table.cluster, table.count, present)
    columns: dict[str, object] = {
        "embeddings": pa.repeat(scored.embeddings_id, len(present)),
        "label": names_of(scored.vocabulary, present),
        "rows": sizes[present],
        "clusters": np.bincount(table.class_, minlength=len(sizes))[present],
        "top_clusters": tops.lists("cluster", numbers[tops.member]),
    }
    for rule in RULES:
        right = scored.right(learn_map(scored.learnt, rule))
        hits = np.bincount(table.class_[right], weights=table.count[right], minlength=len(sizes))
        share = hits[present] / sizes[present]
        columns[f"accuracy_{rule}"] = share if scored.learnt.n else [None] * len(present)
    return pa.table(columns).select(CLASSES_SCHEMA.names).cast(CLASSES_SCHEMA)


def confusion_table(scored: Scored) -> pa.Table:
    """The cells of the confusion matrix that are not zero, as `shoal.store.table_schemas.CONFUSION_SCHEMA` has it."""
    parts = []
    for rule in RULES:
        if not scored.learnt.n:
            continue
        predicted = learn_map(scored.learnt, rule)[scored.table.cluster]
        width = len(scored.vocabulary)
        cells, at = np.unique((predicted + 1) * width + scored.table.class_, return_inverse=True)
        counts = np.bincount(at, weights=scored.table.count, minlength=len(cells)).astype(np.int64)
        columns: dict[str, object] = {
            "embeddings": pa.repeat(scored.embeddings_id, len(cells)),
            "rule": pa.repeat(str(rule), len(cells)),
            "predicted": names_of(scored.names, cells // width - 1),
            "actual": names_of(scored.vocabulary, cells % width),
            "count": counts,
        }
        parts.append(pa.table(columns).cast(CONFUSION_SCHEMA))
    return pa.concat_tables(parts) if parts else CONFUSION_SCHEMA.empty_table()


def extremes(clusters: pa.Table, image_ids: pa.ChunkedArray) -> dict[str, list[dict[str, Any]]]:
    """The best and the worst clusters of a set with images of each: by purity, without labels by tightness.

    Clusters of fewer than five rows are left out if there are larger ones: a single row is always pure.
    """
    # Null is NaN here.
    size, purity, tightness, number = (
        clusters.column(name).to_numpy() for name in ("size", "purity", "tightness", "cluster")
    )
    filled = (size > 0) & (number != NOISE)
    known = filled & ~np.isnan(purity.astype(np.float64))
    goodness = purity if known.any() else -tightness
    candidates = known if known.any() else filled
    large = candidates & (size >= FEWEST_ROWS)
    among: IntArray = np.flatnonzero(large if large.any() else candidates)
    ordered = among[np.lexsort((number[among], -size[among], -goodness[among].astype(np.float64)))]
    shown = {"best_clusters": ordered[:EXTREME_CLUSTERS], "worst_clusters": ordered[::-1][:EXTREME_CLUSTERS]}
    return {
        name: [_extreme(row, image_ids) for row in clusters.take(pa.array(chosen)).to_pylist()]
        for name, chosen in shown.items()
    }


def _extreme(row: dict[str, Any], image_ids: pa.ChunkedArray) -> dict[str, Any]:
    kept = {name: row[name] for name in ("cluster", "size", "majority", "purity", "tightness", "top_classes")}
    return {**kept, "image_ids": image_ids.take(pa.array(row["nearest"][:EXTREME_IMAGES], pa.int64())).to_pylist()}


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

    def lists(self, name: str, values: pa.Array | IntArray) -> pa.Array:
        """A list for each group: of each member its value, under ``name``, and its count."""
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


def names_of(vocabulary: Sequence[str], positions: IntArray) -> pa.Array:
    """The labels at some positions of the vocabulary; null for -1."""
    return pa.array(vocabulary, pa.string()).take(pa.array(positions, mask=positions == UNMAPPED))


def _shown(ordered: IntArray, sizes: NDArray[np.int64], *, last: bool = False) -> pa.Array:
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
