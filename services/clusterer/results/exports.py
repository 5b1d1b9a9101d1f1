"""The assignments with the image path and label of each row, read from the embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from shoal.errors import EmbeddingsNotFound
from shoal.store import EmbeddingSet, Store
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import Clustering

from clusterer.results.named import NAMED_SCHEMA, Named

DESCRIBED = ("image_path", "label")
Assigned = Clustering | AssignedSet
"""What has assignments: of its own scored sets, or of a set that was assigned later."""


class RowDescriptions:
    """The paths and labels of one set's rows, read in ascending order.

    Parameters
    ----------
    found
        The set; None if it was deleted.
    """

    def __init__(self, found: EmbeddingSet | None) -> None:
        self._shards = iter(()) if found is None else found.iter_metadata(("image_id", *DESCRIBED))
        self._kept: list[pa.Table] = []

    def describe(self, rows: NDArray[np.int64], image_ids: pa.Array) -> list[pa.Array]:
        """Path and label of each row; null where the set no longer has it."""
        table = self._covering(int(rows[0]), int(rows[-1]))
        if table is None:
            return [pa.nulls(len(rows), pa.string()) for _ in DESCRIBED]
        place = np.searchsorted(table.column("row").to_numpy(), rows)
        inside = place < table.num_rows
        found = table.take(pa.array(np.where(inside, place, 0)))
        # A set that was deleted and created again may have other images in its rows.
        same = pc.and_(pa.array(inside), pc.equal(_whole(found.column("image_id")), image_ids))
        return [pc.if_else(same, _whole(found.column(name)), pa.scalar(None, pa.string())) for name in DESCRIBED]

    def _covering(self, first: int, last: int) -> pa.Table | None:
        while not self._kept or self._kept[-1].column("row")[-1].as_py() < last:
            shard = next(self._shards, None)
            if shard is None:
                break
            self._kept.append(shard)
        self._kept = [each for each in self._kept if each.column("row")[-1].as_py() >= first]
        return pa.concat_tables(self._kept) if self._kept else None


def deleted_headers(store: Store, found: Assigned, embeddings: Iterable[str] | None = None) -> dict[str, str]:
    """Headers of a table of ``found`` that say what it refers to, but is no longer in the store.

    Parameters
    ----------
    embeddings
        The sets that the table is of; by default all that were scored.
    """
    sets = [each for each in (found.scored if embeddings is None else embeddings) if _open(store, each) is None]
    headers = {"Shoal-Deleted-Embeddings": ", ".join(sets)} if sets else {}
    clustering = str(found.spec["clustering"]) if isinstance(found, AssignedSet) else found.id
    if not store.layout.clustering(clustering).folder.is_dir():
        headers["Shoal-Deleted-Clustering"] = clustering
    return headers


def described_schema(clustering: Assigned) -> pa.Schema:
    """Schema of the described assignments: the stored columns, then path and label."""
    schema = clustering.assignments_schema()
    for name in DESCRIBED:
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def described_assignments(store: Store, clustering: Assigned, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Every assignment with its image's path and label."""
    of_set, described = "", RowDescriptions(None)
    for batch in clustering.iter_assignments():
        for embeddings_id, part in _by_set(batch):
            if embeddings_id != of_set:
                of_set, described = embeddings_id, RowDescriptions(_open(store, embeddings_id))
            more = described.describe(part.column("row").to_numpy(), part.column("image_id"))
            yield pa.RecordBatch.from_arrays([*part.columns, *more], schema=schema)


def named_schema(clustering: Assigned) -> pa.Schema:
    """Schema of the described assignments with the columns of `NAMED_SCHEMA` behind them."""
    return pa.schema([*described_schema(clustering), *NAMED_SCHEMA])


def named_assignments(store: Store, clustering: Assigned, named: Named) -> Iterator[pa.RecordBatch]:
    """Every described assignment with its cluster after moves and merges, that one's name and flag."""
    schema = named_schema(clustering)
    for batch in described_assignments(store, clustering, described_schema(clustering)):
        of_set = batch.column("embeddings")[0].as_py()
        merged = named.moved(of_set, batch.column("row").to_numpy(), batch.column("cluster").to_numpy())
        yield pa.RecordBatch.from_arrays([*batch.columns, *named.columns(merged)], schema=schema)


def _by_set(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The parts of a block that are of one set each."""
    column: Any = batch.column("embeddings")
    codes = column.indices.to_numpy()
    borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for first, last in pairwise(borders):
        if first < last:
            yield column[first].as_py(), batch.slice(first, last - first)


def _open(store: Store, embeddings_id: str) -> EmbeddingSet | None:
    try:
        return store.embeddings(embeddings_id)
    except EmbeddingsNotFound:
        return None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
