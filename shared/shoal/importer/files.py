"""The files to import: vectors mapped into memory and checked, and what metadata and label files say of their rows."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shoal.errors import ImportInvalid
from shoal.labels import Columns, clean_label, is_path_name, join, may_be_text, read_labels, typed_values
from shoal.store.layout import IMG_EMB, METADATA
from shoal.store.npy import NpyInvalid, map_npy
from shoal.userfiles import UserFile

log = logging.getLogger(__name__)

PATHS = ("image_path", "path", "key", "url")
"""Metadata columns that name an image, in order of preference; other columns of paths are used if all are missing."""
_NUMBERS = ("width", "height", "bytes")
_CHUNK_BYTES = 32 << 20
_ZIP = b"PK\x03\x04"
"""First bytes of an ``.npz`` archive."""


@dataclass(frozen=True)
class Part:
    """One file of vectors: ``(rows, dim)`` mapped into memory."""

    file: Path
    values: NDArray[Any]


def open_parts(path: Path) -> list[Part]:
    """Open the files of vectors below ``path`` in the order of their numbers.

    Raises
    ------
    ImportInvalid
        No file is found, or one is truncated, pickled, not floating point, or not of shape ``(n, dim)``.
    """
    if path.is_dir():
        files = numbered(path / IMG_EMB, "npy")
        if not files:
            raise ImportInvalid(
                f"{path} has no {IMG_EMB}/*.npy. Import one .npy file, or a folder in clip-retrieval's layout.",
                file=str(path),
            )
    elif path.exists() and path.suffix.lower() == ".npy":
        files = [path]
    else:
        what = "is neither a folder nor a .npy file" if path.exists() else "does not exist"
        raise ImportInvalid(
            f"{path} {what}. Import one .npy file, or a folder in clip-retrieval's layout.", file=str(path)
        )
    parts = [_open_part(file) for file in files]
    for part in parts:
        if part.values.shape[1] != parts[0].values.shape[1]:
            raise ImportInvalid(
                f"{part.file} has {part.values.shape[1]} columns, {parts[0].file} has {parts[0].values.shape[1]}: all "
                "embeddings of a set must have the same length.",
                file=str(part.file),
            )
    if not sum(len(part.values) for part in parts):
        raise ImportInvalid(f"{path} holds no embeddings.", file=str(path))
    return parts


def _open_part(file: Path) -> Part:
    named = UserFile(file, error=ImportInvalid, members={"file": str(file)})
    with named.open(None) as opened:
        if opened.read(4) == _ZIP:
            raise named.invalid("is an archive of arrays (.npz): import the .npy file with the embeddings.")
        opened.seek(0)
        try:
            values = map_npy(opened)
        except NpyInvalid as error:
            raise named.invalid(
                f"is not a complete .npy file of plain numbers: {error}. Save the embeddings with "
                "`np.save(path, embeddings.astype(np.float32))`."
            ) from error
    if values.ndim != 2 or values.shape[1] == 0:
        raise ImportInvalid(f"{file} has shape {values.shape}; expected (n, dim).", file=str(file))
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise ImportInvalid(f"{file} holds {values.dtype}; expected float16, float32 or float64.", file=str(file))
    return Part(file, values)


def numbered(folder: Path, extension: str) -> list[Path]:
    """The files of ``folder`` by the last number in their names, so that ``_10`` comes after ``_9``."""
    return sorted(folder.glob(f"*.{extension}"), key=lambda file: (number_of(file), file.name))


def number_of(file: Path) -> int:
    """The last number in a file's name; -1 if it has none."""
    digits = re.findall(r"[0-9]+", file.stem)
    return int(digits[-1]) if digits else -1


def chunks(parts: Sequence[Part], start: int, stop: int) -> Iterator[tuple[Part, int, int, int]]:
    """The rows ``[start, stop)`` of all parts in chunks: part, first and last local row, first global row."""
    offset = 0
    for part in parts:
        lo, hi = max(start - offset, 0), min(stop - offset, len(part.values))
        step = max(1, _CHUNK_BYTES // (part.values.shape[1] * part.values.dtype.itemsize))
        for first in range(lo, hi, step):
            yield part, first, min(first + step, hi), offset + first
        offset += len(part.values)


def check_values(parts: Sequence[Part], dtype: np.dtype[Any]) -> str:
    """SHA-256 over the values of all parts.

    Raises
    ------
    ImportInvalid
        A value is NaN or infinite, or overflows ``dtype``; the message names file and row.
    """
    digest = hashlib.sha256()
    for part, lo, hi, _ in chunks(parts, 0, sum(len(part.values) for part in parts)):
        values = np.ascontiguousarray(part.values[lo:hi]).astype(part.values.dtype.newbyteorder("<"), copy=False)
        digest.update(values.dtype.str.encode())
        digest.update(values.data.cast("B"))
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(dtype, copy=False)).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            why = f"a value too large for {dtype}" if np.isfinite(values[row]).all() else "NaN or infinity"
            raise ImportInvalid(
                f"{part.file}, row {lo + row}: holds {why}. Remove such rows before importing.",
                file=str(part.file),
                row=lo + row,
            )
    return digest.hexdigest()


@dataclass(frozen=True)
class Rows:
    """The metadata of the rows, as columns."""

    paths: list[str]
    labels: list[str | None]
    splits: list[str | None]
    numbers: dict[str, list[int | None]]


def read_rows(
    path: Path, parts: Sequence[Part], labels: Path | None, split: str | None, requested: Columns | None = None
) -> Rows:
    """Read the metadata of the rows.

    Parameters
    ----------
    path
        The imported file or folder.
    parts
        Its vectors.
    labels, split
        As for `shoal.importer.import_embeddings`.
    requested
        The columns of the label file.

    Raises
    ------
    ImportInvalid
        Metadata, labels and vectors do not match.
    """
    count = sum(len(part.values) for part in parts)
    tables = _metadata_tables(path, parts)
    columns = {name: _column(tables, name) for name in ("label", "split")}
    own = next((values for name in _path_columns(tables) if (values := _column(tables, name)) is not None), None)
    generated = [f"{part.file.name}#{row}" for part in parts for row in range(len(part.values))]
    paths = _distinct(own, generated) if own else generated
    if labels is not None:
        # By the files' own paths: several rows may belong to one image.
        joined_by = [path or fallback for path, fallback in zip(own, generated, strict=True)] if own else None
        row_labels = _labels(labels, requested or Columns(), joined_by, count)
    else:
        row_labels = [clean_label(label) for label in columns["label"] or [None] * count]
    return Rows(
        paths=paths,
        labels=row_labels,
        splits=[split] * count if split is not None else columns["split"] or [None] * count,
        numbers={name: _numbers(tables, name, count) for name in _NUMBERS},
    )


def _labels(path: Path, requested: Columns, paths: Sequence[str] | None, count: int) -> list[str | None]:
    joined = join(read_labels(_file(path), requested), requested, paths, count)
    if joined.note:
        log.warning("%s", joined.note)
    return joined.labels


def _file(path: Path) -> UserFile:
    return UserFile(path, error=ImportInvalid, members={"file": str(path)})


def _metadata_tables(path: Path, parts: Sequence[Part]) -> list[tuple[Path, pa.Table]]:
    """The metadata files of the parts, one each; empty where there is no metadata."""
    files = numbered(path / METADATA, "parquet") if path.is_dir() else []
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
        with _file(file).open(None) as opened:
            try:
                parquet = pq.ParquetFile(opened)
                rows = parquet.metadata.num_rows
                names = _columns_to_read(file, parquet.schema_arrow)
                table = parquet.read(names).select(names)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ImportInvalid(f"{file} is not a complete Parquet file: {error}.", file=str(file)) from error
        if rows != len(part.values):
            raise ImportInvalid(
                f"{file} has {rows} rows, {part.file.name} has {len(part.values)}; expected one row per embedding.",
                file=str(file),
            )
        tables.append((file, table))
    return tables


def _columns_to_read(file: Path, schema: pa.Schema) -> list[str]:
    """The columns to read; raises if one of them is repeated."""
    fixed = {*PATHS, *_NUMBERS, "label", "split"}
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
            values.extend(typed_values(_file(file), name, table.column(name)))
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


def _distinct(paths: Sequence[str | None], generated: Sequence[str]) -> list[str]:
    """``paths`` made distinct: a missing path gets its generated name, a repeated one its row number as suffix."""
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
