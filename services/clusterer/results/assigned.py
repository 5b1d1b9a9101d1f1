"""The result of assigning an embeddings set to a clustering: its tables, its drift, and both as the API shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import ClusteringNotFound, JsonValue
from shoal.schemas.graph import NOISE
from shoal.store import Store
from shoal.store.annotations import Annotations
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import Clustering
from shoal.store.table_schemas import ASSIGNED_CLUSTERS_SCHEMA

from clusterer.data.rows import Float32Array, Float64Array, IntArray, LabelArray
from clusterer.evaluation.drift import Shift, counted, stability, tenths
from clusterer.results.exports import named_assignments, named_schema
from clusterer.results.named import Named
from clusterer.results.tables import cluster_numbers

MOST_SHIFTED = 20
"""How many clusters that grew, and that shrank, drift.json names."""
CLUSTER_LABEL = pa.field("cluster_label", pa.string())
ClusterOrder = Literal["size", "grown", "shrunk", "outliers", "psi"]
_SPEC = ("clustering", "embeddings", "rows", "k", "outlier_quantile", "outlier_distance")


@dataclass(frozen=True)
class Baseline:
    """What new rows are compared with: the rows that the clustering was fitted on.

    Attributes
    ----------
    sizes
        ``(k,)`` rows of each cluster.
    distances
        ``(n,) float32``: distances to the centroids, sorted.
    borders
        See `clusterer.evaluation.drift.tenths`.
    """

    embeddings_id: str
    sizes: IntArray
    distances: Float32Array
    borders: Float32Array

    @classmethod
    def of(cls, clustering: Clustering, distances: Float32Array | None) -> Baseline | None:
        """The baseline of a clustering; None where its train set was not scored, so that nothing of it is stored."""
        train = clustering.spec.get("train")
        if distances is None or not len(distances) or train is None:
            return None
        sizes = clustering.clusters(train).column("size").to_numpy().astype(np.int64)
        return cls(train, sizes, distances, tenths(distances))


@dataclass
class Tally:
    """Counts over the rows that are assigned.

    Attributes
    ----------
    k
        Number of clusters; noise counts as the last one where rows may be noise.
    limit
        The distance beyond which a row is an outlier; None where it is not known.
    sizes, outliers, distance
        ``(k,)``: rows, outliers and the sum of the distances of each cluster.
    tenths
        Rows between the baseline's `borders`.
    """

    k: int
    limit: float | None
    borders: Float32Array | None
    noisy: bool = False
    sizes: IntArray = field(init=False)
    outliers: IntArray = field(init=False)
    distance: Float64Array = field(init=False)
    tenths: IntArray | None = field(init=False)

    def __post_init__(self) -> None:
        self.sizes, self.outliers = np.zeros(self.k, np.int64), np.zeros(self.k, np.int64)
        self.distance = np.zeros(self.k)
        self.tenths = None if self.borders is None else np.zeros(len(self.borders) + 1, np.int64)

    def add(self, clusters: LabelArray, distance: Float32Array) -> pa.Array:
        """Count some rows; whether each is an outlier, null where that is not known."""
        if self.noisy:
            clusters = np.where(clusters == NOISE, self.k - 1, clusters)
        self.sizes += np.bincount(clusters, minlength=self.k)
        self.distance += np.bincount(clusters, weights=distance, minlength=self.k)
        if self.tenths is not None and self.borders is not None:
            self.tenths += counted(distance, self.borders)
        if self.limit is None:
            return pa.nulls(len(clusters), pa.bool_())
        beyond = distance > self.limit
        self.outliers += np.bincount(clusters[beyond], minlength=self.k)
        return pa.array(beyond)


def drift_of(
    tally: Tally, quantile: float, baseline: Baseline | None, labels: pa.Array
) -> tuple[dict[str, JsonValue], Shift]:
    """drift.json, and the shift between the clusters' sizes."""
    rows = int(tally.sizes.sum())
    outliers: dict[str, JsonValue] = {"quantile": quantile, "distance": _finite(tally.limit)}
    outliers |= {"rows": None, "share": None, "train_share": None}
    if baseline is None or tally.limit is None or tally.tenths is None:
        nothing = Shift(0.0, np.zeros(tally.k), 0.0, 0.0)
        return {"train": None, "rows": rows, "outliers": outliers, "sizes": None, "distances": None}, nothing
    n = len(baseline.distances)
    beyond = int(tally.outliers.sum())
    sizes = stability(baseline.sizes, tally.sizes)
    train_tenths = counted(baseline.distances, baseline.borders)
    distances = stability(train_tenths, tally.tenths)
    train_beyond = n - int(np.searchsorted(baseline.distances, np.float32(tally.limit), side="right"))
    return {
        "train": {"embeddings": baseline.embeddings_id, "rows": n},
        "rows": rows,
        "outliers": {
            **outliers,
            "rows": beyond,
            "share": beyond / max(rows, 1),
            "train_share": train_beyond / n,
        },
        "sizes": {
            **sizes.record(),
            "appeared": int(np.count_nonzero((baseline.sizes == 0) & (tally.sizes > 0))),
            "vanished": int(np.count_nonzero((baseline.sizes > 0) & (tally.sizes == 0))),
            **_shifted(baseline.sizes, tally.sizes, labels, cluster_numbers(tally.k, noisy=tally.noisy)),
        },
        "distances": {
            **distances.record(),
            "mean": _finite(float(tally.distance.sum()) / max(rows, 1)),
            "train_mean": _finite(float(baseline.distances.mean(dtype=np.float64))),
            "borders": [_finite(float(each)) for each in baseline.borders],
            "rows": tally.tenths.tolist(),
            "train_rows": train_tenths.tolist(),
        },
    }, sizes


def _shifted(
    before: IntArray, after: IntArray, labels: pa.Array, numbers: LabelArray
) -> dict[str, list[dict[str, JsonValue]]]:
    """The clusters whose shares grew and shrank most, by the difference of the shares."""
    p, q = before / max(int(before.sum()), 1), after / max(int(after.sum()), 1)
    change = q - p
    order = np.argsort(-change, kind="stable")

    def described(clusters: IntArray) -> list[dict[str, JsonValue]]:
        return [
            {
                "cluster": int(numbers[each]),
                "label": labels[each].as_py(),
                "train_share": float(p[each]),
                "share": float(q[each]),
            }
            for each in clusters.tolist()
        ]

    return {
        "grown": described(order[:MOST_SHIFTED][change[order[:MOST_SHIFTED]] > 0]),
        "shrunk": described(order[::-1][:MOST_SHIFTED][change[order[::-1][:MOST_SHIFTED]] < 0]),
    }


def clusters_table(tally: Tally, baseline: Baseline | None, shift: Shift, labels: pa.Array) -> pa.Table:
    """clusters.parquet, as `shoal.store.table_schemas.ASSIGNED_CLUSTERS_SCHEMA` has it."""
    k, known = tally.k, baseline is not None
    before = baseline.sizes if baseline is not None else np.zeros(k, np.int64)
    unknown = np.full(k, not known)
    return pa.table(
        [
            cluster_numbers(k, noisy=tally.noisy),
            labels,
            tally.sizes,
            tally.sizes / max(int(tally.sizes.sum()), 1),
            pa.array(before, mask=unknown),
            pa.array(before / max(int(before.sum()), 1), mask=unknown),
            pa.array(shift.parts, mask=unknown),
            pa.array(tally.outliers, mask=np.full(k, tally.limit is None)),
            pa.array(tally.distance / np.maximum(tally.sizes, 1), mask=tally.sizes == 0),
        ],
        schema=ASSIGNED_CLUSTERS_SCHEMA,
    )


def facts(assigned: AssignedSet) -> dict[str, JsonValue]:
    """What was assigned, how it ran, and its drift. JSON values only."""
    base = f"/assignments/{assigned.id}"
    with assigned.reading(assigned.layout.spec):
        return {
            "id": assigned.id,
            **{name: assigned.spec[name] for name in _SPEC},
            **assigned.run(),
            "drift": assigned.drift(),
            "links": {"self": base, **{name: f"{base}/{name}" for name in ("rows", "clusters")}},
        }


def summary(assigned: AssignedSet) -> dict[str, JsonValue]:
    """The entry of assignments in a list."""
    shown = facts(assigned)
    kept = ("id", "finished_at", "clustering", "embeddings", "rows", "k", "links")
    return {**{name: shown[name] for name in kept}, "drift": brief(shown["drift"])}


def result_of(assigned: AssignedSet) -> dict[str, JsonValue]:
    """A job's result; without the ids of its request, which would be taken for what it made."""
    spec, drift = assigned.spec, assigned.drift()
    return {
        "assignments": assigned.id,
        "rows": spec["rows"],
        "outliers": drift["outliers"]["rows"],
        "drift": brief(drift),
    }


def brief(drift: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The main figures of drift.json."""
    kept = ("psi", "shift", "psi_chance", "beyond_chance")
    parts = {name: drift[name] and {key: drift[name][key] for key in kept} for name in ("sizes", "distances")}
    return {"outliers": drift["outliers"], **parts}


def list_clusters(assigned: AssignedSet, *, sort: ClusterOrder, limit: int) -> list[dict[str, JsonValue]]:
    """The clusters by ``sort``, largest first; equal ones by number."""
    table = assigned.clusters()
    if sort in {"grown", "shrunk"}:
        change = pc.subtract(table.column("share"), table.column("train_share"))
        key = change if sort == "grown" else pc.negate(change)
    else:
        key = table.column(sort)
    keyed = table.append_column("key", key)
    order = pc.sort_indices(keyed, sort_keys=[("key", "descending"), ("cluster", "ascending")])
    rows: list[dict[str, JsonValue]] = table.take(order.slice(0, limit)).to_pylist()
    return rows


def rows_schema(assigned: AssignedSet) -> pa.Schema:
    """Schema of the described rows: stored columns, path and label, `NAMED_SCHEMA`, label of the cluster."""
    return named_schema(assigned).append(CLUSTER_LABEL)


def described_rows(store: Store, assigned: AssignedSet) -> Iterator[pa.RecordBatch]:
    """Every row with its image's path and label, its cluster's label, and the name of the cluster after merges.

    Where the clustering was deleted, clusters have no names.
    """
    labels, schema = assigned.clusters().column("label").combine_chunks(), rows_schema(assigned)
    noisy = bool(assigned.spec.get("noise"))
    try:
        said = store.journal(str(assigned.spec["clustering"])).read()
    except ClusteringNotFound:
        said = Annotations()
    named = Named.of(said, len(labels) - noisy, noisy=noisy)
    for batch in named_assignments(store, assigned, named):
        more = labels.take(pa.array(named.slots(batch.column("cluster").to_numpy())))
        yield pa.RecordBatch.from_arrays([*batch.columns, more], schema=schema)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
