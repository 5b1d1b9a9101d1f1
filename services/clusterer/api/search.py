"""`POST /search`: the rows of an embeddings set nearest to a row, a vector, an image or a text, without a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
from fastapi import Response
from httpx import AsyncClient
from pydantic import BaseModel, Field, StringConstraints, model_validator
from shoal.errors import DimensionMismatch, InvalidRequest, StoreCorrupt, VectorsInvalid
from shoal.inline import MAX_TEXT, MAX_URI
from shoal.schemas import Id
from shoal.schemas import Request as Schema
from shoal.settings import Settings
from shoal.web import DeadlineDep, SettingsDep
from shoal.web.auth import ForwardedHeaders
from shoal.web.pools import COMPUTE
from shoal.web.problems import problem_responses
from shoal.web.route import json_response
from shoal.web.route import router as make_router

from clusterer.api.assign import Row
from clusterer.api.images import Embedder, embed_inputs
from clusterer.api.loaded import SearchedSetsDep
from clusterer.data.rows import Float64Array
from clusterer.search.loaded import LoadedEmbeddings
from clusterer.search.nearest import Nearest, unit
from clusterer.web.extractor import ExtractorDep

MOST: Final = 1000
SOUGHT: Final = ("row", "vector", "image", "text")


class SearchRequest(Schema):
    """JSON body of `POST /search`: exactly one of `row`, `vector`, `image` and `text`."""

    embeddings: Id = Field(description="Id of the embeddings that are searched.")
    row: int | None = Field(
        None, ge=0, le=2**63 - 1, description="Number of a row of these embeddings. It is not in the answer itself."
    )
    vector: Row | None = Field(None, description="An embedding of the same model, of any length but 0.")
    image: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URI)] | None = Field(
        None, description="An image as a data URI; the extractor must be running."
    )
    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)] | None = Field(
        None,
        description="What the images show, in words, such as `a red boat on a lake`. The model of the embeddings must "
        "embed texts too, such as `open_clip:ViT-B-32`; the extractor must be running.",
    )
    k: int = Field(10, ge=1, le=MOST, description="How many rows are answered; all others, if there are fewer.")

    @model_validator(mode="after")
    def _exactly_one(self) -> SearchRequest:
        if sum(getattr(self, name) is not None for name in SOUGHT) != 1:
            raise ValueError("send exactly one of `row`, `vector`, `image` and `text`")
        return self


class Neighbour(BaseModel):
    """A row of an answer."""

    row: int = Field(description="Number of the row.")
    image_path: str = Field(description="Path of its image.")
    similarity: float = Field(description="Cosine of its embedding and the one that was sought, from -1 to 1.")
    label: str | None = Field(description="Label of its image; null if it has none.")


router = make_router()


@router.post(
    "/search",
    tags=["search"],
    response_model=list[Neighbour],
    responses=problem_responses(404, 409, 415, 422, 503),
)
async def search(
    body: SearchRequest,
    sets: SearchedSetsDep,
    extractor: ExtractorDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    forwarded: ForwardedHeaders,
) -> Response:
    """Find the rows of an embeddings set that are most similar to a row, a vector, an image or a text.

    The answer is exact: no row that is left out is more similar. Similarity is the cosine of two embeddings; rows of
    the same similarity come by number. A row that is sought is left out, its exact copies are not. An embedding of
    zeros has no direction: it is similar to nothing, and cannot be sought.

    The first search of a set reads all of it. The sets searched last stay loaded.
    """
    loaded = await sets.get(body.embeddings)
    try:
        vector = await _vector(body, loaded, extractor, settings, forwarded)
        nearest, reader = loaded.nearest(vector, body.k, body.row)
        async for _ in COMPUTE.iterate(loaded.scan(nearest, reader, deadline)):
            pass
        return await COMPUTE.run(_answer, loaded, nearest)
    except StoreCorrupt:
        await sets.get(body.embeddings)  # Its files are gone, if it was deleted meanwhile.
        raise


async def _vector(
    body: SearchRequest, loaded: LoadedEmbeddings, http: AsyncClient, settings: Settings, forwarded: dict[str, str]
) -> Float64Array:
    """The vector of length 1 that is sought."""
    if body.row is not None:
        return await COMPUTE.run(_of_row, loaded, body.row)
    if body.vector is not None:
        return await COMPUTE.run(_of_vector, loaded, body.vector)
    field = "image" if body.image is not None else "text"
    sought = body.image or body.text or ""
    embedded = await embed_inputs([sought], embedder_of(loaded, field), http, settings, forwarded)
    embedded.check_finite()
    return _direction(embedded.values[0], f"The embedding of the {field}", field)


def embedder_of(loaded: LoadedEmbeddings, field: str) -> Embedder:
    """The model of the embeddings, which embeds what ``field`` of the request has."""
    plan = loaded.embeddings.plan
    return Embedder(
        model=plan.model.model_dump(),
        transform=plan.transform,
        dim=loaded.dim,
        unknown="The model of these embeddings is unknown, since they were imported. Send `row` or `vector` instead.",
        field=field,
        since="these embeddings were extracted",
        again="extract again",
    )


def _of_row(loaded: LoadedEmbeddings, row: int) -> Float64Array:
    if row >= loaded.rows:
        there = f"{loaded.rows:,} rows, numbered from 0" if loaded.rows else "no rows"
        raise InvalidRequest(f"`row` is {row}, but {loaded.id} has {there}.", field="row", rows=loaded.rows)
    return _direction(loaded.vector(row), f"Row {row}", "row")


def _of_vector(loaded: LoadedEmbeddings, vector: Sequence[float]) -> Float64Array:
    if len(vector) != loaded.dim:
        raise DimensionMismatch(
            f"`vector` has {len(vector)} values, but these embeddings have {loaded.dim} dimensions.",
            field="vector",
            expected=loaded.dim,
            got=len(vector),
        )
    return _direction(np.asarray(vector, np.float64), "`vector`", "vector")


def _direction(vector: Float64Array, name: str, field: str) -> Float64Array:
    found = unit(vector)
    if found is None:
        raise VectorsInvalid(f"{name} is all zeros: it has no direction to compare.", field=field)
    return found


def _answer(loaded: LoadedEmbeddings, nearest: Nearest) -> Response:
    found = nearest.found()
    similarity = found.similarity.astype(float).tolist()
    described = loaded.described(found.rows)
    return json_response(
        [
            Neighbour.model_validate({"row": row, "similarity": cosine, **each})
            for row, cosine, each in zip(found.rows.tolist(), similarity, described, strict=True)
        ]
    )
