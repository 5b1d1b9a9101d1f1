"""The rows to import: paths, labels, splits and sizes from clip-retrieval metadata and label files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ImportInvalid
from shoal.importer.vectors import Part, number_of, numbered
from shoal.labels import Columns, clean_label, is_path_name, join, may_be_text, read_labels, typed_values
from shoal.store.layout import IMG_EMB, METADATA
from shoal.userfiles import UserFile

log = logging.getLogger(__name__)

_PATHS = ("image_path", "path", "key", "url")
"""Columns that name an image, the most telling first; where there is none of them, others that hold paths are taken."""
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
    columns = {name: _column(tables, name) for name in ("label", "split")}
    own = next((values for name in _path_columns(tables) if (values := _column(tables, name)) is not None), None)
    generated = [f"{part.file.name}#{row}" for part in parts for row in range(len(part.values))]
    paths = _distinct(own, generated) if own else generated
    if labels is not None:
        # By the files' own paths: the rows of one image have one label.
        joined_by = [path or fallback for path, fallback in zip(own, generated, strict=True)] if own else None
        row_labels = _labels(labels, asked or Columns(), joined_by, count)
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
    for part, file in zip(parts, files, strict=True):
        if len(parts) > 1 and number_of(part.file) != number_of(file):
            raise ImportInvalid(
                f"{part.file} and {file} have different numbers: embeddings and metadata are paired by the number in "
                "their names, and each needs its other.",
                file=str(file),
            )
        with _file(file).open(None) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                rows = parquet.metadata.num_rows
                names = _wanted(file, parquet.schema_arrow)
                table = parquet.read(names).select(names)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ImportInvalid(f"{file} is no complete Parquet file: {error}.", file=str(file)) from error
        if rows != len(part.values):
            raise ImportInvalid(
                f"{file} has {rows} rows, {part.file.name} has {len(part.values)}: one row per embedding is needed.",
                file=str(file),
            )
        tables.append((file, table))
    return tables


def _wanted(file: Path, schema: pa.Schema) -> list[str]:
    """The columns to read, each of which must be there once."""
    fixed = {*_PATHS, *_NUMBERS, "label", "split"}
    names = [each.name for each in schema if each.name in fixed or (is_path_name(each.name) and may_be_text(each.type))]
    for name in names:
        if names.count(name) > 1:
            raise ImportInvalid(f"{file} has {names.count(name)} columns `{name}`: keep one.", file=str(file))
    return names


def _path_columns(tables: Sequence[tuple[Path, pa.Table]]) -> list[str]:
    """Columns that name an image, the most telling first."""
    others = {name for _, table in tables for name in table.column_names if is_path_name(name)}
    return [*_PATHS, *sorted(others.difference(_PATHS))]


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
    own = [path or fallback for path, fallback in zip(paths, generated, strict=True)]
    taken = set(own)
    seen: set[str] = set()
    out = []
    for row, path in enumerate(own):
        name = path
        while name in seen or (name != path and name in taken):
            name = f"{name}#{row}"
        seen.add(name)
        out.append(name)
    return out
