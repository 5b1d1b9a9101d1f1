"""A sweep's points as one tidy table: a row per point and scored set."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

PARAMS: dict[str, pa.DataType] = {
    "embeddings": pa.string(),
    "model": pa.string(),
    "n": pa.int64(),
    "dim": pa.int64(),
    "normalize": pa.bool_(),
    "components": pa.int64(),
    "whiten": pa.bool_(),
    "over": pa.float64(),
    "k": pa.int64(),
    "train_classes": pa.int64(),
}
METRICS: dict[str, tuple[str, ...]] = {
    "accuracy_hungarian_train": ("accuracy", "hungarian", "train"),
    "accuracy_hungarian_scored": ("accuracy", "hungarian", "scored"),
    "accuracy_majority_train": ("accuracy", "majority", "train"),
    "accuracy_majority_scored": ("accuracy", "majority", "scored"),
    "accuracy_mixed_train": ("accuracy", "mixed", "train"),
    "accuracy_mixed_scored": ("accuracy", "mixed", "scored"),
    "accuracy_one_to_one": ("accuracy_one_to_one",),
    "ari": ("ari",),
    "ami": ("ami",),
    "nmi_arithmetic": ("nmi_arithmetic",),
    "homogeneity": ("homogeneity",),
    "completeness": ("completeness",),
    "fowlkes_mallows": ("fowlkes_mallows",),
    "purity": ("purity",),
    "silhouette": ("silhouette",),
    "davies_bouldin": ("davies_bouldin",),
    "calinski_harabasz": ("calinski_harabasz",),
    "inertia": ("inertia",),
    "empty_clusters": ("empty_clusters",),
    "size_imbalance": ("size_imbalance",),
    "chance_nmi": ("chance", "nmi"),
    "chance_accuracy": ("chance", "accuracy"),
}
SCHEMA = pa.schema(
    [
        ("point", pa.int64()),
        *PARAMS.items(),
        ("scored", pa.string()),
        ("scored_n", pa.int64()),
        ("n_labelled", pa.int64()),
        ("classes", pa.int64()),
        ("seeds", pa.int64()),
        ("restarts", pa.int64()),
        *((name + suffix, pa.float64()) for name in METRICS for suffix in ("", "_std")),
        ("stability", pa.float64()),
        ("linear_probe", pa.float64()),
        ("seconds", pa.float64()),
    ]
)

Row = dict[str, Any]


def tidy(points: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per point and scored set, means over the seeds and their standard deviations beside them."""
    return [_row(point, name) for point in points for name in point["scored"]]


def as_csv(rows: list[Row]) -> bytes:
    """The table as CSV with a header."""
    out = io.BytesIO()
    csv.write_csv(pa.Table.from_pylist(rows, schema=SCHEMA), out)
    return out.getvalue()


def as_parquet(rows: list[Row]) -> bytes:
    """The table as one Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out, compression="zstd")
    return out.getvalue()


def _row(point: Mapping[str, Any], scored: str) -> Row:
    entry = point["scored"][scored]
    mean, std, params = entry["mean"], entry["std"], point["params"]
    values = {name: _look_up(mean, path) for name, path in METRICS.items()}
    deviations = {f"{name}_std": _look_up(std, path) for name, path in METRICS.items()}
    row = {
        "point": point["index"],
        **{name: params[name] for name in PARAMS},
        "scored": scored,
        "scored_n": int(mean["n"]),
        "n_labelled": int(mean["n_labelled"]),
        "classes": int(mean["classes"]),
        "seeds": len(params["seeds"]),
        "restarts": params.get("restarts"),
        **values,
        **deviations,
        "stability": (entry.get("stability") or {}).get("ari_mean"),
        "linear_probe": point.get("linear_probe", {}).get(scored),
        "seconds": point["seconds"],
    }
    return {name: row[name] for name in SCHEMA.names}


def _look_up(values: Any, path: tuple[str, ...]) -> float | None:
    for part in path:
        if values is None:
            return None
        values = values.get(part)
    return None if values is None else float(values)
