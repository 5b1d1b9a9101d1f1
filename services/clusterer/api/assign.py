"""Assigns new embeddings or images to a published clustering, without a job.

A body may hold millions of numbers. They are handled a row at a time: otherwise they would hold the interpreter lock,
and with it the event loop.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import httpx
import numpy as np
from fastapi import Response
from pydantic import AfterValidator, Field, StringConstraints, model_validator
from shoal.errors import DimensionMismatch, InvalidRequest, NotFinite, Unavailable, by_code
from shoal.schemas import Request
from shoal.settings import Settings
from shoal.store.clustering import Clustering
from shoal.web import strictjson
from shoal.web.pools import WORK
from shoal.web.route import json_response

from clusterer.data.rows import Float32Array, Float64Array, LabelArray
from clusterer.data.transform import Transform
from clusterer.kmeans.engine import distance_and_margin, nearest, pad, priced

MAX_ROWS = 10_000
MAX_IMAGES = 64
MAX_DIM = 100_000
MAX_IMAGE_CHARACTERS = 64 * 2**20
EXTRACTOR_TIMEOUT_S = 150.0
PIECE = 1 << 18


def _as_array(row: list[float]) -> Float64Array:
    return np.array(row, dtype=np.float64)


Row = Annotated[list[float], Field(max_length=MAX_DIM, fail_fast=True), AfterValidator(_as_array)]
"""An embedding, validated to a float64 array. Only the first invalid value is reported."""


class AssignRequest(Request):
    """Body of `POST /clusterings/{id}/assign`: exactly one of the two fields."""

    embeddings: list[Row] | None = Field(
        None, min_length=1, max_length=MAX_ROWS, fail_fast=True, description="One list a row."
    )
    images: list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_IMAGE_CHARACTERS)]] | None = Field(
        None, min_length=1, max_length=MAX_IMAGES, description="Images as data URIs; the extractor must be running."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> AssignRequest:
        if (self.embeddings is None) == (self.images is None):
            raise ValueError("send exactly one of `embeddings` and `images`")
        return self


async def assign_online(
    clustering: Clustering, request: AssignRequest, settings: Settings, forwarded: dict[str, str]
) -> Response:
    """The nearest cluster of each row: ``cluster``, ``distance``, ``margin``, and ``label`` where clusters have one.

    No thread is held while the extractor works on images.

    Parameters
    ----------
    forwarded
        Headers for the extractor, on behalf of the caller.

    Raises
    ------
    DimensionMismatch
        A row has another length than the embeddings that were clustered.
    NotFinite
        A value is too large for float32.
    InvalidRequest
        Images for a clustering of imported embeddings, whose model is unknown.
    Unavailable
        The extractor does not answer.
    """
    if request.images is not None:
        vectors = await embed_images(request.images, clustering.spec["model"], settings, forwarded)
    else:
        vectors = request.embeddings or []
    return await WORK.run(_answer, clustering, vectors)


def _answer(clustering: Clustering, vectors: Sequence[Sequence[float]]) -> Response:
    return json_response(assigned(clustering, vectors))


def assigned(clustering: Clustering, vectors: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The nearest cluster of each embedding of ``vectors``."""
    transform = Transform.from_arrays(clustering.transform_arrays())
    rows = as_rows(vectors, transform.dim_in)
    labels, distance, margin = cheapest(transform(rows), clustering.centroids(), clustering.prices())
    names = clustering.clusters().column("label").to_pylist()
    return [
        {"cluster": cluster, "distance": own, "margin": gap, "label": names[cluster]}
        for cluster, own, gap in zip(labels.tolist(), distance.tolist(), margin.tolist(), strict=True)
    ]


def cheapest(
    rows: Float32Array, centroids: Float32Array, prices: Float64Array | None
) -> tuple[LabelArray, Float32Array, Float32Array]:
    """Cluster, distance and margin of each row, by the same rule as in the clustering."""
    if prices is None:
        labels, squared = nearest(rows, centroids, 2)
        return labels[:, 0], *distance_and_margin(squared)
    labels, costs = nearest(pad(rows), priced(centroids, prices), 2)
    own = labels[:, 0]
    squared = np.maximum(costs[:, 0] - prices[own], 0.0)
    return own, np.sqrt(squared).astype(np.float32), distance_and_margin(costs)[1]


def as_rows(vectors: Sequence[Sequence[float]], dim: int) -> Float32Array:
    """``(n, dim) float32``; errors name the row."""
    for row, vector in enumerate(vectors):
        if len(vector) != dim:
            raise DimensionMismatch(
                f"Row {row} has {len(vector)} values, but the embeddings of this clustering have {dim} dimensions.",
                row=row,
                expected=dim,
                got=len(vector),
            )
    rows = np.empty((len(vectors), dim), np.float32)
    # What is too large for float32 becomes infinite here and is refused below, so numpy need not warn as well.
    with np.errstate(over="ignore"):
        for row, vector in enumerate(vectors):
            rows[row] = vector
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise NotFinite(f"Row {bad[0]} holds a value that is not a finite float32.", row=int(bad[0]))
    return rows


async def embed_images(
    images: list[str], model: dict[str, Any], settings: Settings, forwarded: dict[str, str]
) -> list[list[float]]:
    """The embeddings of images by the model whose embeddings were clustered, from the extractor."""
    if model["backend"] == "import":
        raise InvalidRequest(
            "The model of this clustering is unknown, since its embeddings were imported. Send `embeddings` instead.",
            field="images",
        )
    headers = {"Content-Type": "application/json", **forwarded}
    if "Authorization" not in headers and settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    url = f"{settings.extractor_url.rstrip('/')}/v1/embeddings"
    try:
        async with httpx.AsyncClient(timeout=EXTRACTOR_TIMEOUT_S) as http:
            answer = await http.post(url, content=_request_pieces(model["name"], images), headers=headers)
    except httpx.TransportError as error:
        raise Unavailable(f"The extractor at {settings.extractor_url} does not answer ({error}).") from error
    if answer.is_error:
        raise by_code(_problem(answer))
    found = await WORK.run(strictjson.loads, answer.content)
    return [row["embedding"] for row in found["data"]]


async def _request_pieces(model: str, images: list[str]) -> AsyncIterator[bytes]:
    """The body of the extractor's request, some hundred kilobytes at a time."""
    yield json.dumps({"model": model, "encoding_format": "float"})[:-1].encode() + b', "input": '
    for number, image in enumerate(images):
        yield b'["' if number == 0 else b', "'
        for at in range(0, len(image), PIECE):
            yield json.dumps(image[at : at + PIECE])[1:-1].encode()
        yield b'"'
    yield b"]}"


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    known = document if isinstance(document, dict) else {}
    return {"detail": f"The extractor answered {answer.status_code}.", **known}
