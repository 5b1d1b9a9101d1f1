"""``.parquet``: a column of lists of numbers, read by row group; other columns are labels, paths and splits."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.importer.formats.base import Array, Content, Stream, Values, as_objects, unreadable
from shoal.labels import may_be_text
from shoal.userfiles import UserFile

_BATCH_BYTES = 8 << 20
_MAX_BATCH = 1 << 16
_BUFFER = 1 << 20
_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)


def read_parquet(file: UserFile) -> Content:
    """The columns of a Parquet file.

    Raises
    ------
    ImportInvalid
        The file is not Parquet, is truncated, or has two columns of one name.
    """
    arrays: dict[str, Array] = {}
    with _opened(file) as parquet:
        rows = parquet.metadata.num_rows
        for field in parquet.schema_arrow:
            if field.name in arrays:
                raise file.invalid(f"has two columns `{field.name}`: keep one.", key=field.name)
            arrays[field.name] = _column(file, parquet, field, rows)
    return Content(file, "column", arrays)


@contextmanager
def _opened(file: UserFile) -> Iterator[pq.ParquetFile]:
    with file.open(None) as opened:
        try:
            with pq.ParquetFile(opened, buffer_size=_BUFFER) as parquet:
                yield parquet
        except _ERRORS as error:
            raise file.invalid(f"is not a complete Parquet file: {error}. Write it again.") from error


def _column(file: UserFile, parquet: pq.ParquetFile, field: pa.Field, rows: int) -> Array:
    kind = field.type.storage_type if isinstance(field.type, pa.ExtensionType) else field.type
    if not _is_list(kind):
        return _plain(file, field.name, kind, rows)
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return Array(field.name, (rows,), np.dtype(object), unreadable, str(kind), f"holds {kind}, no numbers")
    dim = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(parquet, field.name)
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    stream = Stream(partial(_vectors, file, field.name, dim, dtype), np.empty((0, dim), dtype))
    return Array(field.name, (rows, dim), dtype, stream, close=stream.close)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_it(kind) for is_it in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _plain(file: UserFile, name: str, kind: pa.DataType, rows: int) -> Array:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    plain = pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)
    if not (plain or may_be_text(kind) or pa.types.is_null(value) or pa.types.is_decimal(value)):
        return Array(name, (rows,), np.dtype(object), unreadable, str(kind), f"holds {kind}")
    stream = Stream(partial(_objects, file, name), np.empty(0, object))
    return Array(name, (rows,), np.dtype(object), stream, str(kind), close=stream.close)


def _first_length(parquet: pq.ParquetFile, name: str) -> int:
    batch = next(parquet.iter_batches(1, columns=[name]), None)
    first = batch.column(0)[0] if batch is not None and batch.num_rows else None
    return len(first) if first is not None and first.is_valid else 0


def _vectors(file: UserFile, name: str, dim: int, dtype: np.dtype[np.generic]) -> Generator[Values, None, None]:
    step = max(1, min(_MAX_BATCH, _BATCH_BYTES // max(dim * dtype.itemsize, 1)))
    row = 0
    with _opened(file) as parquet:
        for batch in _batches(parquet, name, step):
            column = batch.column(0)
            lists = column.storage if isinstance(column, pa.ExtensionArray) else column
            yield _dense(file, name, lists, dim, row)
            row += len(lists)


def _batches(parquet: pq.ParquetFile, name: str, rows: int) -> Iterator[pa.RecordBatch]:
    """A column by row group: read at once, they would all stay in memory."""
    for group in range(parquet.num_row_groups):
        yield from parquet.iter_batches(rows, row_groups=[group], columns=[name])


def _dense(file: UserFile, name: str, lists: pa.Array, dim: int, first: int) -> Values:
    """Lists of ``dim`` numbers as an array of ``(rows, dim)``; ``first`` is the row of the first, for messages."""
    lengths = np.asarray(pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False))
    if lists.null_count or (lengths != dim).any():
        at = int(np.argmax(lengths != dim))
        what = "no list" if lengths[at] < 0 else f"{lengths[at]} numbers"
        raise file.invalid(
            f"column `{name}`, row {first + at}: holds {what}; expected {dim} numbers in every row.",
            key=name,
            row=first + at,
        )
    flat = lists.flatten()
    if flat.null_count:
        at = int(np.argmax(np.asarray(flat.is_null().to_numpy(zero_copy_only=False)))) // max(dim, 1)
        raise file.invalid(
            f"column `{name}`, row {first + at}: a number is missing. Remove such rows before importing.",
            key=name,
            row=first + at,
        )
    values: Values = flat.to_numpy(zero_copy_only=False).reshape(len(lists), dim)
    return values


def _objects(file: UserFile, name: str) -> Generator[Values, None, None]:
    with _opened(file) as parquet:
        for batch in _batches(parquet, name, _MAX_BATCH):
            yield as_objects(batch.column(0).to_pylist())
