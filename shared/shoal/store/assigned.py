"""Assignments: the clusters of an embeddings set that was assigned to an existing clustering, and its drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from shoal.errors import AssignmentsNotFound, JsonValue, ShoalError, StoreCorrupt
from shoal.store.clustering import assignments_schema
from shoal.store.layout import AssignedLayout, StoreLayout
from shoal.store.sealed import SealedFolder, SealedWriter
from shoal.store.table_schemas import ASSIGNED_CLUSTERS_SCHEMA

OUTLIER = pa.field("is_outlier", pa.bool_())


def assigned_schema(levels: int = 0, *, probability: bool = False) -> pa.Schema:
    """The columns of assignments.parquet: those of a clustering's, and `OUTLIER`."""
    return assignments_schema(levels, probability=probability).append(OUTLIER)


def check_assigned_spec(spec: Mapping[str, JsonValue]) -> None:
    """Raise a ``ValueError`` unless spec.json has the required fields."""
    texts = all(isinstance(spec.get(name), str) for name in ("clustering", "embeddings"))
    numbers = all(isinstance(spec.get(name), int) for name in ("k", "rows"))
    if not texts or not numbers or not isinstance(spec.get("request"), dict):
        raise ValueError("required fields are missing")


def assignments_not_found(assignments_id: str) -> AssignmentsNotFound:
    """The error for an unknown id of assignments."""
    return AssignmentsNotFound(
        f"Assignments {assignments_id!r} do not exist: `GET /assignments` lists the ids.", assignments=assignments_id
    )


class AssignedSet(SealedFolder[AssignedLayout]):
    """The published clusters of one embeddings set; parameters as of `SealedFolder`."""

    def __init__(self, layout: AssignedLayout, assignments_id: str | None = None) -> None:
        super().__init__(layout, assignments_id)
        self.spec: dict[str, JsonValue] = self._json(layout.spec)
        with self.reading(layout.spec):
            check_assigned_spec(self.spec)

    def corrupt(self, path: Path, problem: str) -> ShoalError:
        """The error for a damaged file, or for assignments that were deleted while they were read."""
        if not self.layout.folder.is_dir():
            return assignments_not_found(self.id)
        name = f"assignments/{self.id}/{self.layout.name_of(path)}"
        return StoreCorrupt(
            f"{name} {problem}. `shoal verify {self.id}` lists all damage. Assign again, and delete this one with "
            f"`DELETE /assignments/{self.id}`.",
            file=name,
            assignments=self.id,
        )

    @property
    def scored(self) -> list[str]:
        """The id of the embeddings, as a clustering lists those whose rows it has."""
        return [str(self.spec["embeddings"])]

    def run(self) -> dict[str, JsonValue]:
        """How the job ran."""
        return self._json(self.layout.run)

    def drift(self) -> dict[str, JsonValue]:
        """The content of drift.json."""
        return self._json(self.layout.drift)

    def clusters(self) -> pa.Table:
        """One row a cluster; see `ASSIGNED_CLUSTERS_SCHEMA`."""
        return self._table(self.layout.clusters)

    def assignments_schema(self) -> pa.Schema:
        """See `assigned_schema`."""
        return assigned_schema(int(self.spec.get("levels", 0)), probability=bool(self.spec.get("by_head")))

    def iter_assignments(self, batch_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The clusters of the rows in batches, in row order."""
        return self._batches(self.layout.rows, batch_rows)


class AssignedWriter(SealedWriter[AssignedLayout]):
    """Writes assignments in a hidden folder; `publish` makes them appear in one step.

    Parameters
    ----------
    store
        Paths of the store.
    assignments_id
        Id of the new assignments.
    """

    def __init__(self, store: StoreLayout, assignments_id: str) -> None:
        super().__init__(store.assigned(assignments_id), store.temporary)

    def drift(self, document: Mapping[str, JsonValue]) -> None:
        """Write drift.json."""
        self._json(self.layout.drift, document)

    def clusters(self, table: pa.Table) -> None:
        """Write clusters.parquet."""
        self._table(self.layout.clusters, table.cast(ASSIGNED_CLUSTERS_SCHEMA))

    def rows(self, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
        """Write assignments.parquet from tables of a schema, see `assigned_schema`, in row order."""
        self._tables(self.layout.rows, schema, tables)
