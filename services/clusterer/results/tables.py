"""How each class fares, which classes are taken for which, and which clusters are best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from shoal.store.clustering import CLASSES_SCHEMA, CONFUSION_SCHEMA

from clusterer.data.rows import IntArray
from clusterer.evaluation.contingency import ClassPairs, Contingency, LabelRule, learn_map
from clusterer.results.clusters import names_of, top_members

SHOWN = 5
EXTREMES = 10
FEWEST_ROWS = 5
RULES = (LabelRule.HUNGARIAN, LabelRule.MAJORITY)


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
    """

    embeddings_id: str
    table: Contingency
    vocabulary: Sequence[str]
    learnt: Contingency
    names: Sequence[str]
    pairs: ClassPairs | None

    def right(self, class_of_cluster: IntArray) -> Any:
        """``(z,) bool``: whether the rows of each cell of ``table`` count as right."""
        mapped = class_of_cluster[self.table.cluster]
        return mapped == self.table.class_ if self.pairs is None else self.pairs.right(mapped, self.table.class_)


def classes_table(scored: Scored) -> pa.Table:
    """One row a class of the set, as `shoal.store.clustering.CLASSES_SCHEMA` has it."""
    table = scored.table
    sizes = table.class_sizes
    present: Any = np.flatnonzero(sizes)
    tops = top_members(table.class_, table.cluster, table.count, present)
    columns: dict[str, Any] = {
        "embeddings": pa.repeat(scored.embeddings_id, len(present)),
        "label": names_of(scored.vocabulary, present),
        "rows": sizes[present],
        "clusters": np.bincount(table.class_, minlength=len(sizes))[present],
        "top_clusters": tops.lists(cluster=tops.member),
    }
    for rule in RULES:
        right = scored.right(learn_map(scored.learnt, rule))
        hits = np.bincount(table.class_[right], weights=table.count[right], minlength=len(sizes))
        share = hits[present] / sizes[present]
        columns[f"accuracy_{rule}"] = share if scored.learnt.n else [None] * len(present)
    return pa.table(columns).select(CLASSES_SCHEMA.names).cast(CLASSES_SCHEMA)


def confusion_table(scored: Scored) -> pa.Table:
    """The cells of the confusion matrix that are not zero, as `shoal.store.clustering.CONFUSION_SCHEMA` has it."""
    parts = []
    for rule in RULES:
        if not scored.learnt.n:
            continue
        predicted = learn_map(scored.learnt, rule)[scored.table.cluster]
        width = len(scored.vocabulary)
        cells, at = np.unique((predicted + 1) * width + scored.table.class_, return_inverse=True)
        counts = np.bincount(at, weights=scored.table.count, minlength=len(cells)).astype(np.int64)
        columns: dict[str, Any] = {
            "embeddings": pa.repeat(scored.embeddings_id, len(cells)),
            "rule": pa.repeat(str(rule), len(cells)),
            "predicted": names_of(scored.names, cells // width - 1),
            "actual": names_of(scored.vocabulary, cells % width),
            "count": counts,
        }
        parts.append(pa.table(columns).cast(CONFUSION_SCHEMA))
    return pa.concat_tables(parts) if parts else CONFUSION_SCHEMA.empty_table()


def extremes(clusters: pa.Table, image_ids: pa.ChunkedArray[Any]) -> dict[str, list[dict[str, Any]]]:
    """The best and the worst clusters of a set with the images that show them: by purity, without labels by tightness.

    Clusters of fewer than five rows are left out where there are others: one row alone is always pure.
    """
    # Null is NaN here.
    size, purity, tightness, number = (
        clusters.column(name).to_numpy() for name in ("size", "purity", "tightness", "cluster")
    )
    filled = size > 0
    known = filled & ~np.isnan(purity.astype(np.float64))
    goodness = purity if known.any() else -tightness
    candidates = known if known.any() else filled
    large = candidates & (size >= FEWEST_ROWS)
    among: Any = np.flatnonzero(large if large.any() else candidates)
    ordered = among[np.lexsort((number[among], -size[among], -goodness[among].astype(np.float64)))]
    shown = {"best_clusters": ordered[:EXTREMES], "worst_clusters": ordered[::-1][:EXTREMES]}
    return {
        name: [_extreme(row, image_ids) for row in clusters.take(pa.array(chosen)).to_pylist()]
        for name, chosen in shown.items()
    }


def _extreme(row: dict[str, Any], image_ids: pa.ChunkedArray[Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("cluster", "size", "majority", "purity", "tightness", "top_classes")}
    return {**kept, "image_ids": image_ids.take(pa.array(row["nearest"][:SHOWN], pa.int64())).to_pylist()}
