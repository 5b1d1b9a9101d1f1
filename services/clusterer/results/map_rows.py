"""What single rows of a clustering are, however many rows it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import EmbeddingsNotFound, JsonValue
from shoal.store import EmbeddingSet, Store
from shoal.store.clustering import Clustering

from clusterer.results.named import Named

COLUMNS = ("row", "image_id", "cluster", "distance", "margin")
DESCRIBED = ("image_id", "image_path", "label")


def describe_rows(
    store: Store, clustering: Clustering, named: Named, embeddings_id: str, rows: Sequence[int]
) -> list[dict[str, JsonValue]]:
    """Path, label, cluster, distance and margin of ascending ``rows``; those that were not assigned are left out."""
    found = clustering.assignments_of(embeddings_id, rows, COLUMNS)
    kept = found.column("row").to_numpy()
    merged = named.moved(embeddings_id, kept, found.column("cluster").to_numpy().astype(np.int32))
    said = zip(*(column.to_pylist() for column in named.columns(merged)), strict=True)
    described = _metadata(store, embeddings_id, kept)
    answer: list[dict[str, JsonValue]] = []
    for each, (root, name, flag) in zip(found.to_pylist(), said, strict=True):
        known = described.get(each["row"], {})
        # A set that was deleted and created again may have other images in its rows.
        same = known.get("image_id") == each.pop("image_id")
        shown = {field: known[field] if same else None for field in DESCRIBED[1:]}
        answer.append({**each, **shown, "merged_cluster": root, "name": name, "flag": flag})
    return answer


def _metadata(store: Store, embeddings_id: str, rows: NDArray[np.int64]) -> dict[int, dict[str, JsonValue]]:
    try:
        embeddings = store.embeddings(embeddings_id)
    except EmbeddingsNotFound:
        return {}
    found = _shards(embeddings, rows[rows < embeddings.rows])
    return {each["row"]: each for table in found for each in table.to_pylist()}


def _shards(embeddings: EmbeddingSet, rows: NDArray[np.int64]) -> list[pa.Table]:
    """The metadata of ascending rows; each shard that has one of them is read once."""
    tables = []
    while len(rows):
        shard = next(embeddings.iter_metadata(DESCRIBED, start=int(rows[0])))
        here = rows[rows < rows[0] + shard.num_rows]
        tables.append(shard.take(pa.array(here - rows[0])))
        rows = rows[len(here) :]
    return tables
