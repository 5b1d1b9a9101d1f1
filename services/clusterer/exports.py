"""Assignments as Parquet, CSV or JSON lines, block by block."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
from shoal.store.clustering import Clustering

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


def csv_blocks(clustering: Clustering) -> Iterator[bytes]:
    """The assignments as CSV with a header."""
    for number, batch in enumerate(clustering.iter_assignments()):
        # Arrow's CSV writer takes no dictionaries.
        table = pa.table({name: plain(batch, name) for name in batch.schema.names})
        block = io.BytesIO()
        csv.write_csv(table, block, csv.WriteOptions(include_header=number == 0))
        yield block.getvalue()


def jsonl_blocks(clustering: Clustering) -> Iterator[bytes]:
    """The assignments as one JSON object a line."""
    for batch in clustering.iter_assignments():
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in batch.to_pylist())
        yield "".join(f"{line}\n" for line in lines).encode()


def plain(batch: pa.RecordBatch, name: str) -> Any:
    """A column without dictionary encoding."""
    column = batch.column(name)
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
