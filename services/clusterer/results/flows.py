"""Single images in clusterings: those that are in one cluster here and in another there, and where some images are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import ClusterNotFound, EmbeddingsNotFound, JsonValue
from shoal.store import Store
from shoal.store.clustering import Clustering

from clusterer.data.rows import IntArray
from clusterer.results.named import Named

SHOWN = ["image_path", "label"]


def flow(
    store: Store, sides: tuple[Clustering, Clustering], clusters: tuple[int, int], *, start: int, limit: int
) -> tuple[int, list[dict[str, JsonValue]]]:
    """A page of the images in one cluster of the first clustering and one of the second, and how many there are.

    Rows are matched as in `compare`, and counted in the embeddings that the first has assigned.

    Raises
    ------
    ClusterNotFound
        A clustering has no such cluster.
    """
    for side, cluster in zip(sides, clusters, strict=True):
        if not side.has(cluster):
            raise ClusterNotFound(
                f"Clustering {side.id!r} has clusters {side.numbers_text}, not {cluster}.", clusters=side.k
            )
    a, b = sides
    both = [name for name in a.scored if name in b.scored]
    found = [(name, _by_row(sides, clusters, name)) for name in both] or _by_image(sides, clusters)
    total = sum(len(rows) for _, rows in found)
    listed: list[dict[str, JsonValue]] = []
    for name, rows in found:
        part = rows[start : start + limit - len(listed)]
        start = max(0, start - len(rows))
        listed += [{"embeddings": name, **each} for each in described(store, name, part)]
    return total, listed


def _by_row(sides: tuple[Clustering, Clustering], clusters: tuple[int, int], embeddings_id: str) -> IntArray:
    """The rows of a set in both clusters, ascending."""
    ours, theirs = (
        _inside(side.assignments(embeddings_id, columns=["row", "cluster"]), cluster).column("row").to_numpy()
        for side, cluster in zip(sides, clusters, strict=True)
    )
    return np.intersect1d(ours, theirs, assume_unique=True)


def _by_image(sides: tuple[Clustering, Clustering], clusters: tuple[int, int]) -> list[tuple[str, IntArray]]:
    """The rows of the first clustering whose images are in both clusters, by set."""
    columns = ["embeddings", "row", "image_id", "cluster"]
    ours, theirs = (
        _inside(side.assignments(columns=columns), cluster) for side, cluster in zip(sides, clusters, strict=True)
    )
    shared = ours.filter(pc.is_in(ours.column("image_id"), value_set=theirs.column("image_id").combine_chunks()))
    names = shared.column("embeddings").cast(pa.string())
    return [
        (name, shared.filter(pc.equal(names, name)).column("row").to_numpy())
        for name in sides[0].scored
        if name in names.unique().to_pylist()
    ]


def _inside(table: pa.Table, cluster: int) -> pa.Table:
    return table.filter(pc.equal(table.column("cluster"), cluster))


def described(store: Store, embeddings_id: str, rows: IntArray) -> list[dict[str, JsonValue]]:
    """``row``, ``image_path`` and ``label`` of rows in their order; both null where the embeddings were deleted."""
    known: dict[int, dict[str, JsonValue]] = {}
    try:
        embeddings = store.embeddings(embeddings_id)
        left: list[int] = np.unique(rows).tolist()
        while left:
            # The first table ends with the shard of the first row.
            part = next(embeddings.iter_metadata(SHOWN, start=left[0]))
            inside = [row for row in left if row < left[0] + part.num_rows]
            taken = part.select(SHOWN).take(pa.array([row - left[0] for row in inside], pa.int64())).to_pylist()
            known |= dict(zip(inside, taken, strict=True))
            left = left[len(inside) :]
    except EmbeddingsNotFound:
        known = {}
    nothing: dict[str, JsonValue] = dict.fromkeys(SHOWN)
    return [{"row": row, **known.get(row, nothing)} for row in rows.tolist()]


def places(store: Store, clustering: Clustering, embeddings_id: str, rows: list[int]) -> list[dict[str, JsonValue]]:
    """The cluster of each of some rows of a scored set, with moves, merges and names; unknown rows are left out."""
    table = clustering.assignments(embeddings_id, columns=["row", "cluster", "distance"])
    table = table.filter(pc.is_in(table.column("row"), value_set=pa.array(rows, pa.int64())))
    named = Named.read(store, clustering)
    clusters = table.column("cluster").to_numpy()
    merged, names, flags = named.columns(named.moved(embeddings_id, table.column("row").to_numpy(), clusters))
    listed: list[dict[str, JsonValue]] = (
        table.append_column("merged_cluster", merged)
        .append_column("name", names)
        .append_column("flag", flags)
        .to_pylist()
    )
    return listed
