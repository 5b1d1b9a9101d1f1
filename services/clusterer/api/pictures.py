"""`/embeddings/{id}/thumbnails` and `/embeddings/{id}/rows`: the images of an embeddings set, for pages."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path, Query, Response
from shoal.errors import InvalidRequest
from shoal.schemas import Id
from shoal.web.pools import WORK
from shoal.web.problems import problem_responses
from shoal.web.route import json_response
from shoal.web.route import router as make_router

from clusterer.api.loaded import SetsDep
from clusterer.results.images import SetImages

MOST: Final = 256
"""Thumbnails of one request."""
EmbeddingsId = Annotated[Id, Path(description="Id of the embeddings.")]

router = make_router()


@router.get(
    "/embeddings/{embeddings_id}/thumbnails",
    tags=["images"],
    response_model=dict[str, str | None],
    responses=problem_responses(404, 409, 422),
)
async def get_thumbnails(
    embeddings_id: EmbeddingsId,
    sets: SetsDep,
    rows: Annotated[
        str,
        Query(
            pattern=r"^[0-9]{1,15}(,[0-9]{1,15})*$",
            max_length=16 * MOST,
            description=f"Numbers of rows, with commas between them: at most {MOST}.",
            examples=["0,17,4"],
        ),
    ],
) -> Response:
    """Return the thumbnails of rows as data URIs; null for a row without one.

    A set has thumbnails if it was extracted with `thumbnails: true`, as it is by default.
    """
    images = await sets.get(embeddings_id)
    answer = await WORK.run(_thumbnails, images, rows)
    # A row of a complete set never changes.
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


@router.get(
    "/embeddings/{embeddings_id}/rows/{row}",
    tags=["images"],
    response_model=dict[str, Any],
    responses=problem_responses(404, 409, 422),
)
async def get_row(
    embeddings_id: EmbeddingsId,
    sets: SetsDep,
    row: Annotated[int, Path(ge=0, le=10**15, description="Number of the row, from 0.")],
) -> Response:
    """Return what is known of the image of a row: its path, label, split, size, digest and properties."""
    images = await sets.get(embeddings_id)
    return await WORK.run(_details, images, row)


def _thumbnails(images: SetImages, rows: str) -> Response:
    numbers = [int(each) for each in rows.split(",")]
    if len(numbers) > MOST:
        raise InvalidRequest(f"`rows` names {len(numbers)} rows; send at most {MOST}.", field="rows", most=MOST)
    _check(images, max(numbers), "rows")
    return json_response(images.thumbnails(numbers))


def _details(images: SetImages, row: int) -> Response:
    _check(images, row, "row")
    return json_response(images.details(row))


def _check(images: SetImages, row: int, field: str) -> None:
    rows = images.embeddings.rows
    if row >= rows:
        there = f"{rows:,} rows, numbered from 0" if rows else "no rows"
        raise InvalidRequest(f"{images.id} has {there}: there is no row {row}.", field=field, rows=rows)
