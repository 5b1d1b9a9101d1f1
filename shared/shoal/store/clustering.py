"""Clusterings: prepared in a hidden folder, published as a whole, then only read."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.errors import ClusteringNotFound, MapNotFound, ShoalError, StoreCorrupt
from shoal.schemas.graph import NOISE
from shoal.store.files import storage_errors
from shoal.store.layout import ClusteringLayout, StoreLayout
from shoal.store.npy import read_npy, read_npz
from shoal.store.sealed import SealedFolder, SealedWriter
from shoal.store.table_schemas import (
    ASSIGNMENTS_SCHEMA,
    CLASSES_SCHEMA,
    CLUSTERS_SCHEMA,
    CONFUSION_SCHEMA,
    ITERATIONS_SCHEMA,
    LOSS,
    MAP_SCHEMA,
    PROBABILITY,
)


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` unless spec.json has the required fields."""
    lists = all(isinstance(spec.get(name), list) and spec[name] for name in ("scored", "seeds"))
    numbers = all(isinstance(spec.get(name), int) for name in ("k", "n", "dim", "best_seed"))
    if not lists or not numbers or not isinstance(spec.get("request"), dict):
        raise ValueError("required fields are missing")


def check_metrics(metrics: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` unless metrics.json has the metrics of every scored set."""
    scored = metrics.get("scored")
    for name in spec["scored"]:
        entry = scored.get(name) if isinstance(scored, dict) else None
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), dict) for key in ("seeds", "mean", "std")):
            raise ValueError(f"the metrics of {name} are missing")


def clustering_not_found(clustering_id: str) -> ClusteringNotFound:
    """The error for an unknown clustering id."""
    return ClusteringNotFound(
        f"Clustering {clustering_id!r} does not exist: `GET /clusterings` lists the ids.", clustering=clustering_id
    )


class Clustering(SealedFolder[ClusteringLayout]):
    """One published, immutable clustering; parameters as of `SealedFolder`."""

    def __init__(self, layout: ClusteringLayout, clustering_id: str | None = None) -> None:
        super().__init__(layout, clustering_id)
        for path in (layout.spec, layout.metrics) if self._records else ():
            self.check(path)
        self.spec: dict[str, Any] = self._json(layout.spec)
        with self.reading(layout.spec):
            check_spec(self.spec)

    def corrupt(self, path: Path, problem: str) -> ShoalError:
        """The error for a damaged file, or for a clustering that was deleted while it was read."""
        if not self.layout.folder.is_dir():
            return clustering_not_found(self.id)
        name = f"clusterings/{self.id}/{self.layout.name_of(path)}"
        return StoreCorrupt(
            f"{name} {problem}. `shoal verify {self.id}` lists all damage. Cluster again, and delete this one with "
            f"`DELETE /clusterings/{self.id}`.",
            file=name,
            clustering=self.id,
        )

    @property
    def k(self) -> int:
        """Number of clusters; noise is none."""
        return int(self.spec["k"])

    @property
    def noisy(self) -> bool:
        """Whether rows may be noise, whose cluster is -1. Tables of clusters have it behind all others."""
        return bool(self.spec.get("noise"))

    @property
    def slots(self) -> int:
        """Rows of the tables of clusters: the clusters, and noise."""
        return self.k + self.noisy

    def slot_of(self, clusters: NDArray[np.int32]) -> NDArray[np.int32]:
        """Places in the tables of clusters, given the numbers of clusters; noise is the last one."""
        return np.where(clusters == NOISE, np.int32(self.k), clusters) if self.noisy else clusters

    def number_of(self, slot: int) -> int:
        """The number of the cluster at a place in the tables of clusters."""
        return NOISE if slot == self.k else slot

    def has(self, cluster: int) -> bool:
        """Whether there is a cluster of that number; noise counts as one where rows may be noise."""
        return 0 <= cluster < self.k or (self.noisy and cluster == NOISE)

    @property
    def numbers_text(self) -> str:
        """The numbers that its clusters have, for messages."""
        return f"0 to {self.k - 1}" + (f", and {NOISE} for noise" if self.noisy else "")

    @property
    def scored(self) -> list[str]:
        """Ids of the embeddings that were assigned and scored, in the order of the request."""
        return list(self.spec["scored"])

    def run(self) -> dict[str, Any]:
        """How the job ran: engine, iterations, seconds per stage, peak memory."""
        return self._json(self.layout.run)

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        metrics = self._json(self.layout.metrics)
        with self.reading(self.layout.metrics):
            check_metrics(metrics, self.spec)
        return metrics

    def transform_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of transform.npz by name."""
        return self._archive(self.layout.transform)

    def reduction_arrays(self) -> dict[str, NDArray[Any]] | None:
        """The arrays of reduction.npz by name; None where rows were not reduced."""
        return self._archive(self.layout.reduction) if self._has(self.layout.reduction) else None

    def centroids(self, seed: int | None = None) -> NDArray[np.float32]:
        """``(k, d) float32`` of one seed; by default of the best one."""
        path = self.layout.centroids if seed is None else self.layout.seed_centroids(seed)
        with self.reading(path):
            return read_npy(path)

    def prices(self) -> NDArray[np.float64] | None:
        """``(k,) float64``: each cluster's addend to squared distances; None where sizes are not bounded."""
        if not self._has(self.layout.prices):
            return None
        with self.reading(self.layout.prices):
            return read_npy(self.layout.prices)

    @property
    def by_head(self) -> bool:
        """Whether a head clustered the rows; its assignments have a probability."""
        return self._has(self.layout.head)

    def head_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of head.npz by name."""
        return self._archive(self.layout.head)

    @property
    def by_graph(self) -> bool:
        """Whether groups were found on the graph of nearest rows."""
        return self._has(self.layout.graph)

    def graph_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of graph.npz by name."""
        return self._archive(self.layout.graph)

    def hierarchy(self) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """For each level from the lowest: the group of each member of the level below, and the groups' centroids."""
        if not self._has(self.layout.hierarchy):
            return []
        arrays = self._archive(self.layout.hierarchy)
        with self.reading(self.layout.hierarchy):
            levels = range(1, len(arrays) // 2 + 1)
            return [(arrays[f"parents_{level}"], arrays[f"centroids_{level}"]) for level in levels]

    def assignments(self, embeddings_id: str | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The assignments of one scored set, or of all, in row order."""
        if embeddings_id is None:
            return self._table(self.layout.assignments, columns=columns)
        of_set = pc.field("embeddings").cast(pa.string()) == embeddings_id
        return self._table(self.layout.assignments, columns=columns, filters=of_set)

    def assignments_of(self, embeddings_id: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The assignments of some rows of a scored set, in row order; it reads only the parts of the file with them."""
        of_set = pc.field("embeddings").cast(pa.string()) == embeddings_id
        wanted = pc.field("row").isin(pa.array(rows, pa.int64()))
        return self._table(self.layout.assignments, columns=list(columns), filters=of_set & wanted)

    def assignments_schema(self) -> pa.Schema:
        """The columns of the assignments: `ASSIGNMENTS_SCHEMA`, and one per level of a hierarchy."""
        with self.reading(self.layout.assignments):
            return pq.read_schema(self.layout.assignments).remove_metadata()

    def iter_assignments(self, batch_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The assignments in batches, for exports of any size."""
        return self._batches(self.layout.assignments, batch_rows)

    @property
    def has_map(self) -> bool:
        """Whether its rows were laid out on a map; older clusterings have none."""
        return self._has(self.layout.map)

    def map(self, embeddings_id: str | None = None) -> pa.Table:
        """The places of one scored set's rows on the map, by default the first's; see `MAP_SCHEMA`.

        Raises
        ------
        MapNotFound
            The clustering has none.
        """
        if not self.has_map:
            raise MapNotFound(
                f"Clustering {self.id!r} has no map: it was made by an earlier version of Shoal. Cluster the same "
                "embeddings again.",
                clustering=self.id,
            )
        of_set = pc.field("embeddings").cast(pa.string()) == (embeddings_id or self.scored[0])
        return self._table(self.layout.map, filters=of_set)

    def clusters(self, embeddings_id: str | None = None) -> pa.Table:
        """One row per cluster of a scored set, by default the first; see `CLUSTERS_SCHEMA`."""
        return self._table(self.layout.clusters, filters=self._of_set(embeddings_id))

    def classes(self, embeddings_id: str | None = None) -> pa.Table:
        """One row per class of a scored set, by default the first; see `CLASSES_SCHEMA`."""
        return self._table(self.layout.classes, filters=self._of_set(embeddings_id))

    def confusion(self, embeddings_id: str | None = None, rule: str = "hungarian") -> pa.Table:
        """The non-zero cells of a scored set's confusion matrix; see `CONFUSION_SCHEMA`."""
        return self._table(self.layout.confusion, filters=self._of_set(embeddings_id) & (pc.field("rule") == rule))

    def _of_set(self, embeddings_id: str | None) -> pc.Expression:
        return pc.field("embeddings") == (embeddings_id or self.scored[0])

    def iterations(self) -> pa.Table:
        """Every iteration of every restart of every seed."""
        return self._table(self.layout.iterations)

    def _archive(self, path: Path) -> dict[str, NDArray[Any]]:
        with self.reading(path):
            return read_npz(path)


class ClusteringWriter(SealedWriter[ClusteringLayout]):
    """Writes a clustering in a hidden folder; `publish` makes it appear in one step.

    As a context manager it removes an unpublished clustering on exit.

    Parameters
    ----------
    store
        Paths of the store.
    clustering_id
        Id of the new clustering.
    """

    def __init__(self, store: StoreLayout, clustering_id: str) -> None:
        super().__init__(store.clustering(clustering_id), store.temporary)

    def _folders(self) -> list[Path]:
        return [*super()._folders(), self.layout.report]

    def metrics(self, document: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        self._json(self.layout.metrics, document)

    def transform(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write transform.npz; equal arrays give equal bytes."""
        self._npz(self.layout.transform, arrays)

    def reduction(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write reduction.npz; equal arrays give equal bytes."""
        self._npz(self.layout.reduction, arrays)

    def graph(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write graph.npz; equal arrays give equal bytes."""
        self._npz(self.layout.graph, arrays)

    def hierarchy(self, levels: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> None:
        """Write hierarchy.npz: the parents and the centroids of each level, from below."""
        arrays: dict[str, NDArray[Any]] = {}
        for level, (parents, centroids) in enumerate(levels, start=1):
            arrays |= {f"parents_{level}": parents, f"centroids_{level}": centroids}
        self._npz(self.layout.hierarchy, arrays)

    def prices(self, by_seed: Mapping[int, NDArray[np.float64]], best: int) -> None:
        """Write each seed's prices beside its centroids, and the best one's as the clustering's."""
        self._bytes(self.layout.prices, _npy_bytes(by_seed[best]))
        for seed, prices in by_seed.items():
            self._bytes(self.layout.seed_prices(seed), _npy_bytes(prices))

    def heads(self, by_seed: Mapping[int, Mapping[str, NDArray[np.generic]]], best: int) -> None:
        """Write each seed's head beside its centroids, and the best one's as the clustering's."""
        self._npz(self.layout.head, by_seed[best])
        for seed, arrays in by_seed.items():
            self._npz(self.layout.seed_head(seed), arrays)

    def centroids(self, by_seed: Mapping[int, NDArray[np.float32]], best: int) -> None:
        """Write each seed's centroids, and the best one's as the clustering's."""
        self._bytes(self.layout.centroids, _npy_bytes(by_seed[best]))
        for seed, centroids in by_seed.items():
            path = self.layout.seed_centroids(seed)
            with storage_errors(path):
                path.parent.mkdir(parents=True)
            self._bytes(path, _npy_bytes(centroids))

    def assignments(self, tables: Iterator[pa.Table], levels: int = 0, *, probability: bool = False) -> None:
        """Write assignments.parquet from tables of `assignments_schema`, one scored set after another."""
        self._tables(self.layout.assignments, assignments_schema(levels, probability=probability), tables)

    def map(self, tables: Iterator[pa.Table]) -> None:
        """Write map.parquet from tables of `MAP_SCHEMA`, one scored set after another."""
        self._tables(self.layout.map, MAP_SCHEMA, tables)

    def clusters(self, table: pa.Table) -> None:
        """Write clusters.parquet."""
        self._table(self.layout.clusters, table.cast(CLUSTERS_SCHEMA))

    def classes(self, table: pa.Table) -> None:
        """Write classes.parquet."""
        self._table(self.layout.classes, table.cast(CLASSES_SCHEMA))

    def confusion(self, table: pa.Table) -> None:
        """Write confusion.parquet."""
        self._table(self.layout.confusion, table.cast(CONFUSION_SCHEMA))

    def iterations(self, table: pa.Table) -> None:
        """Write iterations.parquet."""
        by_head = LOSS.name in table.column_names
        self._table(
            self.layout.iterations, table.cast(ITERATIONS_SCHEMA.append(LOSS) if by_head else ITERATIONS_SCHEMA)
        )

    def preview(self) -> Clustering:
        """The clustering as written so far, for the report that becomes part of it."""
        return Clustering(self.layout, self._final.name)

    def _npz(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        with storage_errors(path), zipfile.ZipFile(path, "x") as archive:
            for name, array in arrays.items():
                # A ZipInfo has a fixed date by default; numpy's savez writes the current time.
                large = array.nbytes >= 2**31
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=large) as member:
                    np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def _npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def assignments_schema(levels: int = 0, *, probability: bool = False) -> pa.Schema:
    """`ASSIGNMENTS_SCHEMA`; by a head `PROBABILITY`; a column with the row's group for each level of a hierarchy."""
    schema = ASSIGNMENTS_SCHEMA.append(PROBABILITY) if probability else ASSIGNMENTS_SCHEMA
    for level in range(1, levels + 1):
        schema = schema.append(pa.field(f"level_{level}", pa.int32()))
    return schema
