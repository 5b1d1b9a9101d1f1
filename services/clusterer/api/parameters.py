"""Parameters and answers that routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from shoal.errors import JsonValue
from shoal.schemas import Id
from shoal.store.analyses import Analysis
from shoal.web.tables import TableFormat, table_response

from clusterer.results.tools import safe_texts

ClusteringId = Annotated[Id, Path(description="Id of the clustering.")]
Scored = Annotated[Id | None, Query(description="Id of the scored embeddings; the first by default.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number to return.")]
Cursor = Annotated[
    str | None, Query(max_length=15, pattern="^[0-9]+$", description="`next_cursor` of the previous page.")
]
PathText = Annotated[
    str | None,
    Query(alias="q", min_length=1, max_length=400, description="Only images with this text in their path."),
]
LabelText = Annotated[str | None, Query(max_length=4096, description="Only images with this label.")]
IsDecided = Annotated[bool | None, Query(description="Only what is decided, or only what is not.")]


def paged(name: str, page: list[dict[str, JsonValue]], total: int, start: int) -> dict[str, JsonValue]:
    """A page that begins at ``start``, how many there are in all, and where the next page begins; null at the end."""
    stop = start + len(page)
    return {name: page, "total": total, "next_cursor": str(stop) if page and stop < total else None}


def analysis_table(found: Analysis, table: str, format: TableFormat) -> Response:  # noqa: A002
    """A table of an analysis as a file; cells of CSV are safe for a spreadsheet."""
    batches = found.batches(table)
    name = f"{found.id}-{table}"
    return table_response(safe_texts(batches) if format == "csv" else batches, found.schema(table), format, name)
