"""The map of a published clustering as a table: where each row lies, and its cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
from shoal.store.clustering import Clustering

PLACES_SCHEMA: Final = pa.schema(
    [("row", pa.int64()), ("x", pa.float32()), ("y", pa.float32()), ("cluster", pa.int32())]
)


def places_with_clusters(clustering: Clustering, embeddings_id: str) -> Iterator[pa.RecordBatch]:
    """Every row of a scored set, in row order.

    Raises
    ------
    MapNotFound
        The clustering has no map.
    StoreCorrupt
        Its map or its assignments are damaged.
    """
    places = clustering.map(embeddings_id).select(["row", "x", "y"])
    clusters = clustering.assignments(embeddings_id, columns=["cluster"]).column("cluster")
    with clustering.reading(clustering.layout.map):
        return iter(places.append_column("cluster", clusters).cast(PLACES_SCHEMA).to_batches())
