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
"""What every row has, and what a reader gets who names no columns."""
PROPERTIES_SCHEMA = _schema(
    [
        ("brightness", pa.float32(), True),
        ("luma_1", pa.float32(), True),
        ("luma_5", pa.float32(), True),
        ("luma_99", pa.float32(), True),
        ("entropy", pa.float32(), True),
        ("sharpness", pa.float32(), True),
        ("pixel_hash", pa.string(), True),
    ]
)
"""Further columns of the metadata, of sets whose images were decoded; a file may lack them, and then they are null."""
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
PROBABILITY = pa.field("probability", pa.float32())
"""A further column of the assignments of a clustering by a head."""
MAP_SCHEMA = pa.schema(
    [
        ("embeddings", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("x", pa.float32()),
        ("y", pa.float32()),
    ]
)
ASSIGNED_CLUSTERS_SCHEMA = pa.schema(
    [
        ("cluster", pa.int32()),
        ("label", pa.string()),
        ("size", pa.int64()),
        ("share", pa.float64()),
        ("train_size", pa.int64()),
        ("train_share", pa.float64()),
        ("psi", pa.float64()),
        ("outliers", pa.int64()),
        ("distance", pa.float64()),
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
LOSS = pa.field("loss", pa.float64())
"""A further column of the iterations of a head, whose ``inertia`` is null."""
_SET = pa.dictionary(pa.int32(), pa.string())
GROUPS_SCHEMA = _schema(
    [
        ("group", pa.int64(), False),
        ("first", pa.int64(), False),
        ("size", pa.int64(), False),
        ("dropped", pa.int64(), False),
        ("least_similarity", pa.float32(), False),
        ("copy", pa.string(), False),
    ]
)
"""A row per group of duplicates. ``first`` is the number of its first row in members.parquet."""
MEMBERS_SCHEMA = _schema(
    [
        ("group", pa.int64(), False),
        ("embeddings", _SET, False),
        ("row", pa.int64(), False),
        ("image_id", pa.string(), False),
        ("image_path", pa.string(), False),
        ("label", pa.string(), True),
        ("width", pa.int32(), True),
        ("height", pa.int32(), True),
        ("bytes", pa.int64(), True),
        ("similarity", pa.float32(), False),
        ("copy", pa.string(), True),
        ("keep", pa.bool_(), False),
        ("reason", pa.string(), False),
    ]
)
PAIRS_SCHEMA = _schema(
    [
        ("group", pa.int64(), False),
        ("embeddings_a", _SET, False),
        ("row_a", pa.int64(), False),
        ("embeddings_b", _SET, False),
        ("row_b", pa.int64(), False),
        ("similarity", pa.float32(), False),
    ]
)
_IMAGE: list[tuple[str, pa.DataType, bool]] = [
    ("row", pa.int64(), False),
    ("image_id", pa.string(), False),
    ("image_path", pa.string(), False),
    ("label", pa.string(), True),
]
OUTLIERS_SCHEMA = _schema(
    [*_IMAGE, ("distance", pa.float32(), False), ("p", pa.float64(), False), ("outlier", pa.bool_(), False)]
)
"""Every row, the farthest from its neighbours first."""
LABEL_ERRORS_SCHEMA = _schema(
    [
        *_IMAGE,
        ("suggested", pa.string(), False),
        ("score", pa.float32(), False),
        ("disagreeing", pa.int32(), False),
        ("error", pa.bool_(), False),
    ]
)
"""Every labelled row, the most doubtful label first."""
IMAGES_SCHEMA = _schema(
    [*_IMAGE, ("issue", pa.string(), False), ("value", pa.float64(), False), ("score", pa.float32(), False)]
)
"""A row per row and property that stands out, the most striking first."""
