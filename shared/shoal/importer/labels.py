"""Labels for imported embeddings: from ``.npy``, CSV or Parquet, by order or by the images' paths."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import ImportInvalid

LABEL_COLUMN = "label"
PATH_COLUMNS = ("image_path", "path")
_NAMED = 5
"""How many missing paths an error names."""


@dataclass(frozen=True)
class LabelTable:
    """What a label file holds. ``paths`` is None when it has no column of paths."""

    file: Path
    labels: list[str | None]
    paths: list[str | None] | None = None


def read_labels(file: Path) -> LabelTable:
    """Read a label file.

    Parameters
    ----------
    file
        ``.npy``: ``(n,)`` integers, booleans or strings. CSV with a header line, or Parquet: the column ``label``, or
        the only column; a column ``image_path`` or ``path`` says which image each label belongs to.

    Raises
    ------
    ImportInvalid
        The file is missing or of another kind, or has no labels in it; the message says what would have been right.
    """
    readers = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ImportInvalid(f"{file} is no label file: give .npy, .csv or .parquet.", file=str(file))
    try:
        return reader(file)
    except OSError as error:
        raise ImportInvalid(f"{file} cannot be read: {error}.", file=str(file)) from error


def labels_for(table: LabelTable, paths: Sequence[str] | None, rows: int) -> list[str | None]:
    """The label of each of the ``rows`` embeddings.

    Parameters
    ----------
    table
        The labels.
    paths
        The images' paths where the embeddings come with any. With paths on both sides labels are joined by path and
        labels of other images are left out; else the n-th label belongs to the n-th embedding.
    rows
        Number of embeddings.

    Raises
    ------
    ImportInvalid
        The counts differ, a path has no label (it is named), or has two different ones.
    """
    if table.paths is not None and paths is not None:
        return _join(table, table.paths, paths)
    if len(table.labels) != rows:
        hint = " (a CSV's first line is its header)" if table.file.suffix.lower() == ".csv" else ""
        raise ImportInvalid(
            f"{table.file} has {len(table.labels)} labels for {rows} embeddings: one is needed for each{hint}.",
            file=str(table.file),
        )
    return table.labels


def _join(table: LabelTable, label_paths: Sequence[str | None], paths: Sequence[str]) -> list[str | None]:
    by_path: dict[str | None, str | None] = {}
    for row, (path, label) in enumerate(zip(label_paths, table.labels, strict=True)):
        if by_path.setdefault(path, label) != label:
            raise ImportInvalid(
                f"{table.file}, row {row}: {path!r} has the label {label!r} here and {by_path[path]!r} above.",
                file=str(table.file),
                row=row,
            )
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise ImportInvalid(
            f"{table.file} has no label for {len(missing)} of {len(paths)} embeddings: {', '.join(missing[:_NAMED])}"
            f"{' and others' if len(missing) > _NAMED else ''}.",
            file=str(table.file),
            missing=len(missing),
        )
    return [by_path[path] for path in paths]


def _read_npy(file: Path) -> LabelTable:
    try:
        array: Any = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ImportInvalid(
            f"{file} is no complete .npy file of plain values: it is cut off, of another kind, or holds Python "
            "objects. Save the labels with `np.save(path, labels.astype(str))`.",
            file=str(file),
        ) from error
    if array.ndim != 1 or array.dtype.kind not in "biuUS":
        raise ImportInvalid(
            f"{file} holds {array.shape} {array.dtype}: labels are one dimension of integers, booleans or strings.",
            file=str(file),
        )
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ImportInvalid(f"{file} holds bytes that are no UTF-8: {error}.", file=str(file)) from error
    return LabelTable(file, [str(value) for value in array.tolist()])


def _read_csv(file: Path) -> LabelTable:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            columns: list[list[str | None]] = [[] for _ in header]
            for row, fields in enumerate(line for line in reader if line):
                if len(fields) != len(header):
                    raise ImportInvalid(
                        f"{file}, line {reader.line_num}: {len(fields)} fields under a header of {len(header)}.",
                        file=str(file),
                        row=row,
                    )
                for column, value in zip(columns, fields, strict=True):
                    column.append(value or None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ImportInvalid(f"{file} is no CSV in UTF-8: {error}.", file=str(file)) from error
    return _pick(file, dict(zip(header, columns, strict=True)) if len(set(header)) == len(header) else {}, header)


def _read_parquet(file: Path) -> LabelTable:
    try:
        schema = pq.read_schema(file)
        wanted = [name for name in schema.names if name in (LABEL_COLUMN, *PATH_COLUMNS)]
        table = pq.read_table(file, columns=wanted if LABEL_COLUMN in wanted else None, partitioning=None)
    except pa.ArrowException as error:
        raise ImportInvalid(f"{file} is no Parquet file: {error}.", file=str(file)) from error
    columns = {name: text_column(table.column(name), file, name) for name in table.column_names}
    return _pick(file, columns, schema.names)


def text_column(column: Any, file: Path, field: str) -> list[str | None]:
    """The values of a column of strings, integers or booleans as strings.

    Raises
    ------
    ImportInvalid
        The column holds values of another type.
    """
    kind: Any = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if not any(
        check(kind)
        for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    ) and not pa.types.is_null(kind):
        raise ImportInvalid(
            f"{file}, column `{field}`: holds {kind}, strings or integers are needed.", file=str(file), field=field
        )
    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return values


def _pick(file: Path, columns: dict[str, list[str | None]], names: Sequence[str]) -> LabelTable:
    """The labels, and paths where there are any, among the columns of a file."""
    label = LABEL_COLUMN if LABEL_COLUMN in columns else next(iter(columns)) if len(columns) == 1 else None
    if label is None:
        raise ImportInvalid(
            f"{file} has the columns {', '.join(names) or '(none)'}: labels are read from `{LABEL_COLUMN}`, or from "
            "the only column there is.",
            file=str(file),
            field=LABEL_COLUMN,
        )
    paths = next((columns[name] for name in PATH_COLUMNS if name in columns and name != label), None)
    return LabelTable(file, columns[label], paths)
