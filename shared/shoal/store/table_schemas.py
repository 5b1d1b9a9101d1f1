"""The Arrow schemas of the store's Parquet tables."""

from __future__ import annotations

import pyarrow as pa


def _schema(fields: list[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


LISTING_SCHEMA = _schema(
    [
        ("image_id", pa.string(), False),
        ("image_path", pa.string(), False),
        ("label", pa.string(), True),
        ("split", pa.string(), True),
        ("stamp", pa.string(), True),
    ]
)
"""Schema of listing.parquet. ``stamp`` tells two contents of one path apart (size and time of change, or a hash)."""
METADATA_SCHEMA = _schema(
    [
        ("row", pa.int64(), False),
        ("image_id", pa.string(), False),
        ("image_path", pa.string(), False),
        ("label", pa.string(), True),
        ("split", pa.string(), True),
        ("width", pa.int32(), True),
        ("height", pa.int32(), True),
        ("bytes", pa.int64(), True),
        ("sha256", pa.string(), True),
    ]
)
ERRORS_SCHEMA = _schema([(name, pa.string(), False) for name in ("image_id", "image_path", "code", "message")])
THUMBS_SCHEMA = _schema([("row", pa.int64(), False), ("image", pa.binary(), False)])
ASSIGNMENTS_SCHEMA = pa.schema(
    [
        ("embeddings", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("margin", pa.float32()),
    ]
)
CLUSTERS_SCHEMA = pa.schema(
    [
        ("embeddings", pa.string()),
        ("cluster", pa.int32()),
        ("size", pa.int64()),
        ("labelled", pa.int64()),
        ("majority", pa.string()),
        ("purity", pa.float64()),
        ("label", pa.string()),
        ("tightness", pa.float64()),
        ("nearest", pa.list_(pa.int64())),
        ("farthest", pa.list_(pa.int64())),
        ("borderline", pa.list_(pa.int64())),
        ("top_classes", pa.list_(pa.struct([("label", pa.string()), ("count", pa.int64())]))),
    ]
)
CLASSES_SCHEMA = pa.schema(
    [
        ("embeddings", pa.string()),
        ("label", pa.string()),
        ("rows", pa.int64()),
        ("clusters", pa.int64()),
        ("accuracy_hungarian", pa.float64()),
        ("accuracy_majority", pa.float64()),
        ("top_clusters", pa.list_(pa.struct([("cluster", pa.int64()), ("count", pa.int64())]))),
    ]
)
CONFUSION_SCHEMA = pa.schema(
    [
        ("embeddings", pa.string()),
        ("rule", pa.string()),
        ("predicted", pa.string()),
        ("actual", pa.string()),
        ("count", pa.int64()),
    ]
)
ITERATIONS_SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("restart", pa.int32()),
        ("iteration", pa.int32()),
        ("inertia", pa.float64()),
        ("moved", pa.int64()),
        ("empty", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
