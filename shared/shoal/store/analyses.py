"""Analyses: what jobs find out about embeddings, such as duplicates, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.errors import DuplicatesNotFound, JsonValue, NotFound, QualityNotFound, ShoalError, StoreCorrupt
from shoal.store.layout import AnalysisLayout, StoreLayout
from shoal.store.sealed import SealedFolder, SealedWriter
from shoal.store.table_schemas import (
    GROUPS_SCHEMA,
    IMAGES_SCHEMA,
    LABEL_ERRORS_SCHEMA,
    MEMBERS_SCHEMA,
    OUTLIERS_SCHEMA,
    PAIRS_SCHEMA,
)

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class AnalysisKind:
    """A kind of analysis.

    Attributes
    ----------
    name
        Of its job's kind, its route and its folder of the store.
    prefix
        Start of its ids, before the id of the job.
    tables
        Schema of each table, by the name of its file.
    not_found
        The error for an unknown id.
    """

    name: str
    prefix: str
    tables: Mapping[str, pa.Schema]
    not_found: type[NotFound]

    def missing(self, which: str) -> NotFound:
        """The error for the unknown id ``which``."""
        return self.not_found(f"{which!r} is not an id of {self.name}: `GET /{self.name}` lists the ids.")


DUPLICATES = AnalysisKind(
    "duplicates",
    "d",
    {"groups": GROUPS_SCHEMA, "members": MEMBERS_SCHEMA, "pairs": PAIRS_SCHEMA},
    DuplicatesNotFound,
)
QUALITY = AnalysisKind(
    "quality",
    "q",
    {"outliers": OUTLIERS_SCHEMA, "labels": LABEL_ERRORS_SCHEMA, "images": IMAGES_SCHEMA},
    QualityNotFound,
)
ANALYSES = {each.name: each for each in (DUPLICATES, QUALITY)}


class Analysis(SealedFolder[AnalysisLayout]):
    """One published analysis.

    Parameters
    ----------
    kind
        Which tables it has.
    layout
        Paths of its folder.
    """

    def __init__(self, kind: AnalysisKind, layout: AnalysisLayout) -> None:
        self.kind = kind
        super().__init__(layout)
        self.spec: dict[str, JsonValue] = self._json(layout.spec)
        with self.reading(layout.spec):
            check_analysis_spec(self.spec)

    def corrupt(self, path: Path, problem: str) -> ShoalError:
        """The error for a damaged file, or for an analysis that was deleted while it was read."""
        if not self.layout.folder.is_dir():
            return self.kind.missing(self.id)
        name = f"{self.kind.name}/{self.id}/{self.layout.name_of(path)}"
        return StoreCorrupt(
            f"{name} {problem}. `shoal verify {self.id}` lists all damage. Send the request again, and delete this "
            f"result with `DELETE /{self.kind.name}/{self.id}`.",
            file=name,
        )

    @property
    def sets(self) -> list[str]:
        """Ids of the embeddings that were analysed."""
        return list(self.spec["sets"])

    def run(self) -> dict[str, JsonValue]:
        """How the job ran."""
        return self._json(self.layout.run)

    def rows(self, name: str) -> int:
        """Number of rows of a table."""
        path = self.layout.table(name)
        with self.reading(path), pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows)

    def schema(self, name: str) -> pa.Schema:
        """The columns of a table."""
        return self.kind.tables[name]

    def table(self, name: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """A table, or the rows of it that ``where`` selects."""
        return self._table(self.layout.table(name), columns=columns, filters=where)

    def page(self, name: str, start: int, limit: int) -> pa.Table:
        """The rows of a table from ``start``, at most ``limit``; only the parts of its file that hold them are read."""
        path = self.layout.table(name)
        with self.reading(path), pq.ParquetFile(path) as file:
            first, before, chosen = 0, 0, []
            for index in range(file.num_row_groups):
                stop = first + file.metadata.row_group(index).num_rows
                before = stop if stop <= start else before
                chosen += [index] if stop > start and first < start + limit else []
                first = stop
            return file.read_row_groups(chosen).slice(start - before, limit)

    def batches(self, name: str) -> Iterator[pa.RecordBatch]:
        """A table in batches, for downloads of any size."""
        return self._batches(self.layout.table(name), BATCH_ROWS)


class AnalysisWriter(SealedWriter[AnalysisLayout]):
    """Writes an analysis in a hidden folder; `publish` makes it appear in one step.

    Parameters
    ----------
    store
        Paths of the store.
    kind
        Which tables it has.
    which
        Id of the new analysis.
    """

    def __init__(self, store: StoreLayout, kind: AnalysisKind, which: str) -> None:
        super().__init__(store.analysis(kind.name, which), store.temporary)
        self._kind = kind

    def table(self, name: str, tables: Iterator[pa.Table]) -> None:
        """Write a table from parts that follow each other."""
        self._tables(self.layout.table(name), self._kind.tables[name], tables)


def check_analysis_spec(spec: Mapping[str, JsonValue]) -> None:
    """Raise a ``ValueError`` unless spec.json has the required fields."""
    objects = all(isinstance(spec.get(name), dict) for name in ("request", "totals"))
    if not objects or not isinstance(spec.get("sets"), list):
        raise ValueError("required fields are missing")
