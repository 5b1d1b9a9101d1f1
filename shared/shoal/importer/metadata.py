"""The metadata files of a folder in clip-retrieval's layout: one Parquet file for each file of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ImportInvalid
from shoal.importer.keys import NUMBERS
from shoal.importer.parts import Part, number_of, numbered
from shoal.importer.records import Record
from shoal.labels import is_path_name, may_be_text, typed_values
from shoal.store.layout import IMG_EMB, METADATA
from shoal.userfiles import UserFile

PATHS = ("image_path", "path", "key", "url")
"""Metadata columns that name an image, in order of preference; other columns of paths are used if all are missing."""


def read_metadata(path: Path, parts: Sequence[Part]) -> Record | None:
    """What the metadata files say of the rows; None where there are none.

    Raises
    ------
    ImportInvalid
        A file is damaged, or does not match its file of vectors.
    """
    tables = _metadata_tables(path, parts)
    if not tables:
        return None
    count = sum(part.rows for part in parts)
    found = (values for name in _path_columns(tables) if (values := _column(tables, name)) is not None)
    return Record(
        paths=next(found, None),
        labels=_column(tables, "label"),
        splits=_column(tables, "split"),
        numbers={name: _numbers(tables, name, count) for name in NUMBERS},
    )


def _metadata_tables(path: Path, parts: Sequence[Part]) -> list[tuple[Path, pa.Table]]:
    """The metadata files of the parts, one each; empty where there is no metadata."""
    files = numbered(path / METADATA, "parquet") if parts[0].file.parent == path / IMG_EMB else []
    if not files:
        return []
    if len(files) != len(parts):
        raise ImportInvalid(
            f"{path} has {len(parts)} files in {IMG_EMB} and {len(files)} in {METADATA}; each needs a counterpart.",
            file=str(path / METADATA),
        )
    tables = []
    for part, file in zip(parts, files, strict=True):
        if len(parts) > 1 and number_of(part.file) != number_of(file):
            raise ImportInvalid(
                f"{part.file} and {file} have different numbers. Embeddings and metadata are paired by the number in "
                "their names.",
                file=str(file),
            )
        with UserFile(file, error=ImportInvalid, members={"file": str(file)}).open(None) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                rows = parquet.metadata.num_rows
                names = _columns_to_read(file, parquet.schema_arrow)
                table = parquet.read(names).select(names)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ImportInvalid(f"{file} is not a complete Parquet file: {error}.", file=str(file)) from error
        if rows != part.rows:
            raise ImportInvalid(
                f"{file} has {rows} rows, {part.file.name} has {part.rows}; expected one row per embedding.",
                file=str(file),
            )
        tables.append((file, table))
    return tables


def _columns_to_read(file: Path, schema: pa.Schema) -> list[str]:
    """The columns to read; raises if one of them is repeated."""
    fixed = {*PATHS, *NUMBERS, "label", "split"}
    names = [each.name for each in schema if each.name in fixed or (is_path_name(each.name) and may_be_text(each.type))]
    for name in names:
        if names.count(name) > 1:
            raise ImportInvalid(f"{file} has {names.count(name)} columns `{name}`: keep one.", file=str(file))
    return names


def _path_columns(tables: Sequence[tuple[Path, pa.Table]]) -> list[str]:
    """Columns that name an image, in order of preference."""
    others = {name for _, table in tables for name in table.column_names if is_path_name(name)}
    return [*PATHS, *sorted(others.difference(PATHS))]


def _column(tables: Sequence[tuple[Path, pa.Table]], name: str) -> list[str | None] | None:
    """A text column of all tables; None if no table has it."""
    if not any(name in table.column_names for _, table in tables):
        return None
    values: list[str | None] = []
    for file, table in tables:
        if name in table.column_names:
            values.extend(
                typed_values(UserFile(file, error=ImportInvalid, members={"file": str(file)}), name, table.column(name))
            )
        else:
            values.extend([None] * table.num_rows)
    return values


def _numbers(tables: Sequence[tuple[Path, pa.Table]], name: str, count: int) -> list[int | None]:
    """A column of whole numbers of all tables; None where it is missing or has another type."""
    values: list[int | None] = []
    for _, table in tables:
        if name in table.column_names and pa.types.is_integer(table.column(name).type):
            values.extend(table.column(name).to_pylist())
        else:
            values.extend([None] * table.num_rows)
    return values or [None] * count
