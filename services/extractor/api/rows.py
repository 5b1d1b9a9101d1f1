"""The rows of an embeddings set, a page at a time or all of them as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from shoal.errors import InvalidRequest
from shoal.store import EmbeddingSet

PAGE_ROWS = 100
MAX_PAGE_ROWS = 10_000


def start_of(cursor: str | None) -> int:
    """The row at which a page begins.

    Raises
    ------
    InvalidRequest
        ``cursor`` is not the ``next_cursor`` of a page.
    """
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and int(cursor) < 2**53):
        raise InvalidRequest(
            f"`cursor` is {cursor!r}: send `next_cursor` of the page before, or nothing for the first page.",
            field="cursor",
        )
    return int(cursor)


def page(embeddings: EmbeddingSet, start: int, limit: int | None) -> dict[str, Any]:
    """Some rows, how many there are, and where the next page begins.

    Raises
    ------
    InvalidRequest
        ``limit`` is more than a page holds.
    """
    limit = limit or PAGE_ROWS
    if limit > MAX_PAGE_ROWS:
        raise InvalidRequest(
            f"`limit` is {limit}: a page of JSON has {MAX_PAGE_ROWS} rows at most. Follow `next_cursor`, or send "
            "`format=jsonl`, which streams all rows.",
            field="limit",
        )
    stop = start + limit
    found = [row for batch in batches(embeddings, start, stop) for row in batch.to_pylist()]
    return {
        "rows": found,
        "total": embeddings.rows,
        "complete": embeddings.complete,
        "next_cursor": str(stop) if stop < embeddings.rows else None,
    }


def batches(embeddings: EmbeddingSet, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """The metadata of the rows from ``start`` to ``stop``."""
    for table in embeddings.iter_metadata(start=start, stop=stop):
        yield from table.to_batches()
