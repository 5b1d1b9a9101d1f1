"""Two clusterings beside each other, over the rows that both have assigned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import JsonValue, NoSharedRows
from shoal.store.clustering import Clustering

from clusterer.data.rows import IntArray, LabelArray
from clusterer.evaluation.contingency import Contingency, contingency
from clusterer.evaluation.label_metrics import adjusted_rand_index, information_metrics
from clusterer.evaluation.overlap import DISSOLVED, KEPT, PART, Side, transposed

PARTS_SHOWN = 10
Numbers = tuple[Callable[[int], int], Callable[[int], int]]
"""The number of the cluster at a place in the tables of either clustering: noise, the last one, has -1."""
CompareOrder = Literal["changed", "size", "cluster"]


@dataclass(frozen=True)
class SharedRows:
    """The clusters of the rows that two clusterings share.

    Attributes
    ----------
    by
        What a row is recognised by: ``row`` of embeddings that both have assigned, or ``image_id``.
    embeddings
        The ids of these embeddings.
    a, b
        ``(n,) int32``: clusters under each.
    """

    by: Literal["row", "image_id"]
    embeddings: list[str]
    a: LabelArray
    b: LabelArray

    @classmethod
    def of(cls, a: Clustering, b: Clustering) -> SharedRows:
        """Match the rows by number in the embeddings that both have scored; where there are none, by image.

        Raises
        ------
        NoSharedRows
            They have assigned no row in common.
        """
        both = [name for name in a.scored if name in b.scored]
        found = [_by_row(a, b, name) for name in both] or [_by_image(a, b)]
        ours, theirs = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        if not len(ours):
            raise NoSharedRows(
                f"Clusterings {a.id!r} and {b.id!r} share no rows: {a.id} has assigned {', '.join(a.scored)}, {b.id} "
                f"{', '.join(b.scored)}, and no image is in both. Compare clusterings of the same images; `score` of "
                "`POST /cluster` and `POST /assign` assign further embeddings.",
                clusterings=[a.id, b.id],
            )
        return cls("row" if both else "image_id", both, ours, theirs)


def _by_row(a: Clustering, b: Clustering, embeddings_id: str) -> tuple[LabelArray, LabelArray]:
    ours, theirs = (each.assignments(embeddings_id, columns=["row", "cluster"]) for each in (a, b))
    rows = [each.column("row").to_numpy() for each in (ours, theirs)]
    clusters = [each.column("cluster").to_numpy() for each in (ours, theirs)]
    if np.array_equal(rows[0], rows[1]):
        return clusters[0], clusters[1]
    _, at, their_at = np.intersect1d(rows[0], rows[1], assume_unique=True, return_indices=True)
    return clusters[0][at], clusters[1][their_at]


def _by_image(a: Clustering, b: Clustering) -> tuple[LabelArray, LabelArray]:
    """An image that one of them has assigned several times counts once, as it stands first."""
    ours, theirs = (each.assignments(columns=["image_id", "cluster"]) for each in (a, b))
    first = pc.index_in(ours.column("image_id"), value_set=ours.column("image_id").combine_chunks())
    once = np.flatnonzero(first.to_numpy() == np.arange(len(ours)))
    found = pc.index_in(ours.column("image_id"), value_set=theirs.column("image_id").combine_chunks())
    at = found.fill_null(-1).to_numpy()[once]
    known = at >= 0
    return ours.column("cluster").to_numpy()[once[known]], theirs.column("cluster").to_numpy()[at[known]]


def compare(a: Clustering, b: Clustering, *, sort: CompareOrder, limit: int) -> dict[str, JsonValue]:
    """What became of the clusters of ``a`` in ``b``. JSON values only.

    Parameters
    ----------
    sort
        Order of ``clusters``: the least similar to any of ``b`` first, the largest, or by number.
    limit
        The most entries of each list.

    Raises
    ------
    NoSharedRows
        They have assigned no row in common.
    """
    shared = SharedRows.of(a, b)
    table = contingency(a.slot_of(shared.a), b.slot_of(shared.b), a.slots, b.slots)
    before, after = Side.of(table), Side.of(transposed(table))
    numbers = a.number_of, b.number_of
    labels = [_labels(each) for each in (a, b)]
    information = information_metrics(table)
    split, merged = before.split, after.split
    return {
        "a": _side(a, before),
        "b": _side(b, after),
        "matched_by": shared.by,
        "embeddings": shared.embeddings,
        "rows": table.n,
        "ari": adjusted_rand_index(table),
        "ami": information["ami"],
        "nmi_arithmetic": information["nmi_arithmetic"],
        "same": table.perfect,
        "split": {
            "total": len(split),
            "clusters": [_parted(before, each, labels, numbers) for each in split[:limit].tolist()],
        },
        "merged": {
            "total": len(merged),
            "clusters": [_parted(after, each, labels[::-1], numbers[::-1]) for each in merged[:limit].tolist()],
        },
        "clusters": [_described(before, each, labels, numbers) for each in _ordered(before, sort)[:limit].tolist()],
        "cells": _cells(table, limit, numbers),
        "total_cells": len(table.count),
        "limits": {"kept": KEPT, "dissolved": DISSOLVED, "part": PART},
    }


def _side(clustering: Clustering, side: Side) -> dict[str, JsonValue]:
    return {
        "clustering": clustering.id,
        "k": clustering.k,
        "filled": int(np.count_nonzero(side.filled)),
        "kept": side.kept,
        "dissolved": side.dissolved,
    }


def _ordered(side: Side, sort: CompareOrder) -> IntArray:
    filled = np.flatnonzero(side.filled)
    if sort == "cluster":
        return filled
    keys = (filled, -side.sizes[filled]) if sort == "size" else (filled, -side.sizes[filled], side.jaccard[filled])
    return filled[np.lexsort(keys)]


def _described(side: Side, cluster: int, labels: list[pa.Array], numbers: Numbers) -> dict[str, JsonValue]:
    best, shared = int(side.best[cluster]), int(side.shared[cluster])
    return {
        "cluster": numbers[0](cluster),
        "label": labels[0][cluster].as_py(),
        "size": int(side.sizes[cluster]),
        "best": numbers[1](best),
        "best_label": labels[1][best].as_py(),
        "jaccard": float(side.jaccard[cluster]),
        "shared": shared,
        "share": shared / int(side.sizes[cluster]),
        "share_of_best": shared / int(side.table.class_sizes[best]),
        "parts": int(side.parts[cluster]),
    }


def _parted(side: Side, cluster: int, labels: list[pa.Array], numbers: Numbers) -> dict[str, JsonValue]:
    size = int(side.sizes[cluster])
    groups, counts = side.cells_of(cluster, PARTS_SHOWN)
    parts = [
        {"cluster": numbers[1](group), "label": labels[1][group].as_py(), "rows": rows, "share": rows / size}
        for group, rows in zip(groups.tolist(), counts.tolist(), strict=True)
        if rows >= PART * size
    ]
    return {"cluster": numbers[0](cluster), "label": labels[0][cluster].as_py(), "size": size, "parts": parts}


def _cells(table: Contingency, limit: int, numbers: Numbers) -> list[dict[str, int]]:
    order = np.lexsort((table.class_, table.cluster, -table.count))[:limit]
    columns = (table.cluster[order].tolist(), table.class_[order].tolist(), table.count[order].tolist())
    return [{"a": numbers[0](a), "b": numbers[1](b), "rows": rows} for a, b, rows in zip(*columns, strict=True)]


def _labels(clustering: Clustering) -> pa.Array:
    return clustering.clusters().column("label").combine_chunks()
