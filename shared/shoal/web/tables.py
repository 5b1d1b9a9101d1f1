"""Tables as Parquet, CSV, JSON Lines or an Arrow stream, of any size: only one block at a time is in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from shoal.inline import ARROW
from shoal.web.pools import EXPORTS

TableFormat = Literal["parquet", "csv", "jsonl", "arrow"]
MEDIA_TYPES: Final[dict[TableFormat, str]] = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "arrow": ARROW,
}
TABLE_RESPONSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The table.", "content": {media: {} for media in MEDIA_TYPES.values()}}
}
"""OpenAPI entry of the answer of `table_response`."""
BLOCK_ROWS: Final = 4096
"""Rows per block."""
GROUP_ROWS: Final = 65_536
"""Rows per row group of Parquet."""

Batches = Iterator[pa.RecordBatch]


def table_response(
    batches: Batches,
    schema: pa.Schema,
    format: TableFormat,  # noqa: A002
    name: str,
    headers: dict[str, str] | None = None,
) -> StreamingResponse:
    """``batches`` as a download.

    Parameters
    ----------
    name
        Name of the file, without its extension.
    headers
        Further headers.
    """
    content = {"Content-Disposition": f'attachment; filename="{name}.{format}"', **(headers or {})}
    pieces = EXPORTS.iterate(table_pieces(batches, schema, format))
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[format], headers=content)


def table_pieces(batches: Batches, schema: pa.Schema, format: TableFormat) -> Iterator[bytes]:  # noqa: A002
    """``batches`` as the bytes of a file."""
    write: Callable[[Batches, pa.Schema], Iterator[bytes]] = {
        "parquet": _parquet,
        "csv": _csv,
        "jsonl": _jsonl,
        "arrow": _arrow,
    }[format]
    return write(batches, schema)


def _blocks(batches: Batches) -> Batches:
    for batch in batches:
        for first in range(0, batch.num_rows, BLOCK_ROWS):
            yield batch.slice(first, BLOCK_ROWS)


def _csv(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    # Arrow's CSV writer does not support dictionaries.
    plain = pa.schema([pa.field(each.name, _plain(each.type)) for each in schema])
    header = True
    for batch in _blocks(batches):
        block = io.BytesIO()
        csv.write_csv(pa.Table.from_batches([batch]).cast(plain), block, csv.WriteOptions(include_header=header))
        yield block.getvalue()
        header = False
    if header:
        block = io.BytesIO()
        csv.write_csv(plain.empty_table(), block)
        yield block.getvalue()


def _jsonl(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    for batch in _blocks(batches):
        yield b"".join(to_json(row, inf_nan_mode="null") + b"\n" for row in batch.to_pylist())


def _arrow(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    sink = _Sink()
    plain = pa.schema([pa.field(each.name, _plain(each.type)) for each in schema])
    with ipc.new_stream(pa.PythonFile(sink, "w"), plain) as writer:
        for batch in _blocks(batches):
            writer.write_table(pa.Table.from_batches([batch]).cast(plain))
            yield sink.take()
    yield sink.take()


def _parquet(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    sink = _Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
        for table in _groups(batches):
            writer.write_table(table, row_group_size=GROUP_ROWS)
            yield sink.take()
    yield sink.take()


def _groups(batches: Batches) -> Iterator[pa.Table]:
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        if sum(each.num_rows for each in kept) >= GROUP_ROWS:
            yield pa.Table.from_batches(kept)
            kept = []
    if kept:
        yield pa.Table.from_batches(kept)


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


class _Sink(io.RawIOBase):
    """A file that hands out what was written to it in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        """The bytes written since the last call."""
        found, self._pieces = b"".join(self._pieces), []
        return found
