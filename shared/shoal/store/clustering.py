"""Clusterings: prepared in a hidden folder, published as a whole, then only read."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.errors import ClusteringNotFound, ShoalError, StoreCorrupt, StoreError
from shoal.store.documents import first_line
from shoal.store.files import damage_of, publish_folder, record_file, storage_errors
from shoal.store.layout import ClusteringLayout, StoreLayout, files_below, is_id
from shoal.store.npy import NPY_ERRORS, read_npy
from shoal.store.records import FileRecord, FilesRecord, seal_of
from shoal.store.table_schemas import (
    ASSIGNMENTS_SCHEMA,
    CLASSES_SCHEMA,
    CLUSTERS_SCHEMA,
    CONFUSION_SCHEMA,
    ITERATIONS_SCHEMA,
)

FORMAT = 1
ROW_GROUP = 131_072


def read_records(layout: ClusteringLayout) -> dict[str, FileRecord]:
    """Read the records of files.json, by path.

    Raises
    ------
    ValueError
        The file is damaged, or does not match its seal.
    """
    content = layout.files.read_bytes()
    found = FilesRecord.model_validate_json(content)
    if seal_of(json.loads(content)) != found.seal:
        raise ValueError("it does not match its seal")
    return {record.path: record for record in found.files}


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


def corrupt(layout: ClusteringLayout, path: Path, problem: str, clustering_id: str) -> ShoalError:
    """The error for a damaged file of a clustering, or for a clustering that was deleted while it was read."""
    if not layout.folder.is_dir():
        return clustering_not_found(clustering_id)
    name = f"clusterings/{clustering_id}/{layout.name_of(path)}"
    return StoreCorrupt(
        f"{name} {problem}. `shoal verify {clustering_id}` lists all damage. Cluster again, and delete this one with "
        f"`DELETE /clusterings/{clustering_id}`.",
        file=name,
        clustering=clustering_id,
    )


def clustering_not_found(clustering_id: str) -> ClusteringNotFound:
    """The error for an unknown clustering id."""
    return ClusteringNotFound(
        f"Clustering {clustering_id!r} does not exist: `GET /clusterings` lists the ids.", clustering=clustering_id
    )


class Clustering:
    """One published, immutable clustering.

    Parameters
    ----------
    layout
        Paths of its folder.
    clustering_id
        Its id, if it is not the folder's name.
    """

    def __init__(self, layout: ClusteringLayout, clustering_id: str | None = None) -> None:
        self.layout = layout
        self.id = clustering_id or layout.folder.name
        self._records: dict[str, FileRecord] = {}
        if layout.files.exists():  # older clusterings have no checksums
            with self.reading(layout.files, checked=False):
                self._records = read_records(layout)
        for path in (layout.spec, layout.metrics) if self._records else ():
            self.check(path)
        self.spec: dict[str, Any] = self._json(layout.spec)
        with self.reading(layout.spec):
            check_spec(self.spec)

    def check(self, path: Path) -> Path:
        """Compare one of the clustering's files with its record; returns ``path``.

        Raises
        ------
        StoreCorrupt
            The file is missing or damaged.
        """
        record = self._records.get(self.layout.name_of(path))
        try:
            problem = damage_of(path, record) if record else None
            if record is None and not path.is_file():
                problem = "is missing"
        except FileNotFoundError:
            problem = "is missing"
        if problem:
            raise corrupt(self.layout, path, problem, self.id)
        return path

    @property
    def k(self) -> int:
        """Number of clusters."""
        return int(self.spec["k"])

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

    def assignments_schema(self) -> pa.Schema:
        """The columns of the assignments: `ASSIGNMENTS_SCHEMA`, and one per level of a hierarchy."""
        with self.reading(self.layout.assignments):
            return pq.read_schema(self.layout.assignments).remove_metadata()

    def iter_assignments(self, batch_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The assignments in batches, for exports of any size."""
        with self.reading(self.layout.assignments), pq.ParquetFile(self.layout.assignments) as file:
            yield from file.iter_batches(batch_size=batch_rows)

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

    def _has(self, path: Path) -> bool:
        """Whether the clustering was published with this file, even if it is missing now."""
        return self.layout.name_of(path) in self._records or path.is_file()

    def _archive(self, path: Path) -> dict[str, NDArray[Any]]:
        with self.reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def _table(self, path: Path, **options: Any) -> pa.Table:
        with self.reading(path):
            return pq.read_table(path, partitioning=None, **options)

    def _json(self, path: Path) -> dict[str, Any]:
        with self.reading(path):
            document: Any = json.loads(path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("it is not a JSON object")
            return document

    @contextmanager
    def reading(self, path: Path, *, checked: bool = True) -> Iterator[None]:
        """Compare a file with its record, and turn errors of reading it into `StoreCorrupt`."""
        if checked and self._records:
            self.check(path)
        try:
            yield
        except (KeyError, pa.ArrowException, zipfile.BadZipFile, *NPY_ERRORS) as error:
            raise corrupt(self.layout, path, f"cannot be read ({first_line(error)})", self.id) from error


class ClusteringWriter:
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
        if not is_id(clustering_id):
            raise StoreError(f"{clustering_id!r} is not an id: use letters, digits, `.`, `_` and `-` only.")
        self._final = store.clustering(clustering_id).folder
        self.layout = ClusteringLayout(store.temporary / f"{clustering_id}.{secrets.token_hex(8)}")

    def __enter__(self) -> ClusteringWriter:
        with storage_errors(self.layout.folder):
            self.layout.report.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self.layout.folder, ignore_errors=True)

    def spec(self, document: Mapping[str, Any]) -> None:
        """Write spec.json."""
        self._json(self.layout.spec, {"format": FORMAT, **document})

    def run(self, document: Mapping[str, Any]) -> None:
        """Write run.json."""
        self._json(self.layout.run, document)

    def metrics(self, document: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        self._json(self.layout.metrics, document)

    def transform(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write transform.npz; equal arrays give equal bytes."""
        self._npz(self.layout.transform, arrays)

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

    def centroids(self, by_seed: Mapping[int, NDArray[np.float32]], best: int) -> None:
        """Write each seed's centroids, and the best one's as the clustering's."""
        self._bytes(self.layout.centroids, _npy_bytes(by_seed[best]))
        for seed, centroids in by_seed.items():
            path = self.layout.seed_centroids(seed)
            with storage_errors(path):
                path.parent.mkdir(parents=True)
            self._bytes(path, _npy_bytes(centroids))

    def assignments(self, tables: Iterator[pa.Table], levels: int = 0) -> None:
        """Write assignments.parquet from tables of `assignments_schema`, one scored set after another."""
        path, schema = self.layout.assignments, assignments_schema(levels)
        with storage_errors(path), pq.ParquetWriter(path, schema, compression="zstd") as file:
            for table in tables:
                file.write_table(table.cast(schema), row_group_size=ROW_GROUP)

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
        self._table(self.layout.iterations, table.cast(ITERATIONS_SCHEMA))

    def preview(self) -> Clustering:
        """The clustering as written so far, for the report that becomes part of it."""
        return Clustering(self.layout, self._final.name)

    def publish(self) -> bool:
        """Make the clustering appear; False if one of that id exists, unchanged."""
        folder = self.layout.folder
        with storage_errors(self.layout.files):
            files = tuple(record_file(path, self.layout.name_of(path)) for path in files_below(folder))
            self.layout.files.write_text(FilesRecord(files=files).sealed().model_dump_json(indent=1) + "\n")
        return publish_folder(self.layout.folder, self._final)

    def _json(self, path: Path, document: Mapping[str, Any]) -> None:
        self._bytes(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def _npz(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        with storage_errors(path), zipfile.ZipFile(path, "x") as archive:
            for name, array in arrays.items():
                # A ZipInfo has a fixed date by default; numpy's savez writes the current time.
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy_bytes(array))

    def _bytes(self, path: Path, content: bytes) -> None:
        with storage_errors(path), path.open("xb") as file:
            file.write(content)

    def _table(self, path: Path, table: pa.Table) -> None:
        with storage_errors(path):
            pq.write_table(table, path, compression="zstd")


def _npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def assignments_schema(levels: int = 0) -> pa.Schema:
    """`ASSIGNMENTS_SCHEMA`, and a column with the row's group for each level of a hierarchy."""
    schema = ASSIGNMENTS_SCHEMA
    for level in range(1, levels + 1):
        schema = schema.append(pa.field(f"level_{level}", pa.int32()))
    return schema
