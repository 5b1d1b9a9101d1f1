"""The rows to import: paths, labels, splits and sizes from clip-retrieval metadata and label files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ImportInvalid
from shoal.importer.vectors import Part, numbered
from shoal.labels import Columns, clean_label, join, read_labels, typed_values
from shoal.store.layout import IMG_EMB, METADATA
from shoal.userfiles import UserFile

log = logging.getLogger(__name__)

_PATHS = ("image_path", "path", "key", "url")
"""Columns that name an image, the most telling first."""
_NUMBERS = ("width", "height", "bytes")


@dataclass(frozen=True)
class Rows:
    """What is known of the rows besides their vectors, as columns. ``named``: the paths are the files' own."""

    paths: list[str]
    named: bool
    labels: list[str | None]
    splits: list[str | None]
    numbers: dict[str, list[int | None]]


def read_rows(
    path: Path, parts: Sequence[Part], labels: Path | None, split: str | None, asked: Columns | None = None
) -> Rows:
    """Gather what is known of the rows besides their vectors.

    Parameters
    ----------
    path
        The imported file or folder.
    parts
        Its vectors.
    labels, split
        As for `shoal.importer.import_embeddings`.
    asked
        The columns of the label file.

    Raises
    ------
    ImportInvalid
        Metadata and vectors do not fit together, or the labels do not fit them.
    """
    count = sum(len(part.values) for part in parts)
    tables = _metadata_tables(path, parts)
    columns = {name: _column(tables, name) for name in (*_PATHS, "label", "split")}
    own = next((values for name in _PATHS if (values := columns[name]) is not None), None)
    generated = [f"{part.file.name}#{row}" for part in parts for row in range(len(part.values))]
    paths = _distinct(own, generated) if own else generated
    if labels is not None:
        row_labels = _labels(labels, asked or Columns(), paths if own else None, count)
    else:
        row_labels = [clean_label(label) for label in columns["label"] or [None] * count]
    return Rows(
        paths=paths,
        named=own is not None,
        labels=row_labels,
        splits=[split] * count if split is not None else columns["split"] or [None] * count,
        numbers={name: _numbers(tables, name, count) for name in _NUMBERS},
    )


def _labels(path: Path, asked: Columns, paths: Sequence[str] | None, count: int) -> list[str | None]:
    joined = join(read_labels(_file(path), asked), asked, paths, count)
    if joined.note:
        log.warning("%s", joined.note)
    return joined.labels


def _file(path: Path) -> UserFile:
    return UserFile(path, error=ImportInvalid, members={"file": str(path)})


def _metadata_tables(path: Path, parts: Sequence[Part]) -> list[tuple[Path, pa.Table]]:
    """The metadata files that belong to the parts, one each; none at all where there is no metadata."""
    files = numbered(path / METADATA, "parquet") if path.is_dir() else []
    if not files:
        return []
    if len(files) != len(parts):
        raise ImportInvalid(
            f"{path} has {len(parts)} files in {IMG_EMB} and {len(files)} in {METADATA}: each needs its other.",
            file=str(path / METADATA),
        )
    tables = []
    wanted = {*_PATHS, *_NUMBERS, "label", "split"}
    for part, file in zip(parts, files, strict=True):
        with _file(file).open(None) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                rows = parquet.metadata.num_rows
                table = parquet.read([name for name in parquet.schema_arrow.names if name in wanted])
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ImportInvalid(f"{file} is no complete Parquet file: {error}.", file=str(file)) from error
        if rows != len(part.values):
            raise ImportInvalid(
                f"{file} has {rows} rows, {part.file.name} has {len(part.values)}: one row per embedding is needed.",
                file=str(file),
            )
        tables.append((file, table))
    return tables


def _column(tables: Sequence[tuple[Path, pa.Table]], name: str) -> list[str | None] | None:
    """A text column of all tables together; None where no table has it."""
    if not any(name in table.column_names for _, table in tables):
        return None
    values: list[str | None] = []
    for file, table in tables:
        if name in table.column_names:
            values.extend(typed_values(_file(file), name, table.column(name)))
        else:
            values.extend([None] * table.num_rows)
    return values


def _numbers(tables: Sequence[tuple[Path, pa.Table]], name: str, count: int) -> list[int | None]:
    """A column of whole numbers; all None where it is absent or of another type."""
    values: list[int | None] = []
    for _, table in tables:
        if name in table.column_names and pa.types.is_integer(table.column(name).type):
            values.extend(table.column(name).to_pylist())
        else:
            values.extend([None] * table.num_rows)
    return values or [None] * count


def _distinct(paths: Sequence[str | None], generated: Sequence[str]) -> list[str]:
    """``paths``, with the generated name for a missing one and the row's number behind one that comes again."""
    seen: Counter[str] = Counter()
    out = []
    for row, (path, fallback) in enumerate(zip(paths, generated, strict=True)):
        own = path or fallback
        seen[own] += 1
        out.append(own if seen[own] == 1 else f"{own}#{row}")
    return out
