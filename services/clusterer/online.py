"""Assigning a few new embeddings or images to a published clustering, at once and without a job."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import numpy as np
from pydantic import Field, StringConstraints, model_validator
from shoal.errors import DimensionMismatch, InvalidRequest, NotFinite, Unavailable, by_code
from shoal.schemas import Request
from shoal.settings import Settings
from shoal.store.clustering import Clustering
from shoal.web.auth import forwarded_headers

from clusterer.nearest import distance_and_margin, nearest
from clusterer.prices import pad, priced
from clusterer.rows import Float32Array, Float64Array, LabelArray
from clusterer.transform import Transform

MAX_ROWS = 10_000
MAX_IMAGES = 64
MAX_DIM = 100_000
MAX_IMAGE_CHARACTERS = 64 * 2**20
EXTRACTOR_TIMEOUT_S = 150.0


class AssignRequest(Request):
    """Body of `POST /clusterings/{id}/assign`: exactly one of the two."""

    embeddings: list[Annotated[list[float], Field(max_length=MAX_DIM)]] | None = Field(
        None, min_length=1, max_length=MAX_ROWS, description="One list a row."
    )
    images: list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_IMAGE_CHARACTERS)]] | None = Field(
        None, min_length=1, max_length=MAX_IMAGES, description="Images as data URIs; the extractor must be running."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> AssignRequest:
        if (self.embeddings is None) == (self.images is None):
            raise ValueError("send exactly one of `embeddings` and `images`")
        return self


def assign_online(clustering: Clustering, request: AssignRequest, settings: Settings) -> list[dict[str, Any]]:
    """The nearest cluster of each row: ``cluster``, ``distance``, ``margin``, and ``label`` where clusters have one.

    Raises
    ------
    DimensionMismatch
        A row has another length than the embeddings that were clustered.
    NotFinite
        A value is too large for float32.
    InvalidRequest
        Images for a clustering of imported embeddings, whose model is not known.
    Unavailable
        The extractor does not answer.
    """
    transform = Transform.from_arrays(clustering.transform_arrays())
    if request.images is not None:
        vectors = embed_images(request.images, clustering.spec["model"], settings)
    else:
        vectors = request.embeddings or []
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
    """Cluster, distance and margin of each row, by the rule by which the clustering itself was made."""
    if prices is None:
        labels, squared = nearest(rows, centroids, 2)
        return labels[:, 0], *distance_and_margin(squared)
    labels, costs = nearest(pad(rows), priced(centroids, prices), 2)
    own = labels[:, 0]
    squared = np.maximum(costs[:, 0] - prices[own], 0.0)
    return own, np.sqrt(squared).astype(np.float32), distance_and_margin(costs)[1]


def as_rows(vectors: list[list[float]], dim: int) -> Float32Array:
    """``(n, dim) float32``; a row that does not fit is named."""
    for row, vector in enumerate(vectors):
        if len(vector) != dim:
            raise DimensionMismatch(
                f"Row {row} has {len(vector)} values, but the clustering is of embeddings of {dim} dimensions.",
                row=row,
                expected=dim,
                got=len(vector),
            )
    # What is too large for float32 becomes infinite here and is refused below, so numpy need not warn as well.
    with np.errstate(over="ignore"):
        rows = np.array(vectors, dtype=np.float64).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise NotFinite(f"Row {bad[0]} holds a value that is not a finite float32.", row=int(bad[0]))
    return rows


def embed_images(images: list[str], model: dict[str, Any], settings: Settings) -> list[list[float]]:
    """The embeddings of images by the model whose embeddings were clustered, from the extractor."""
    if model["backend"] == "import":
        raise InvalidRequest(
            "These embeddings were imported, so their model is not known here: send `embeddings`.", field="images"
        )
    headers = forwarded_headers()
    if not headers and settings.api_key:
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
    body = {"model": model["name"], "input": images, "encoding_format": "float"}
    url = f"{settings.extractor_url.rstrip('/')}/v1/embeddings"
    try:
        answer = httpx.post(url, json=body, headers=headers, timeout=EXTRACTOR_TIMEOUT_S)
    except httpx.TransportError as error:
        raise Unavailable(f"The extractor at {settings.extractor_url} does not answer ({error}).") from error
    if answer.is_error:
        raise by_code(_problem(answer))
    return [row["embedding"] for row in answer.json()["data"]]


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    known = document if isinstance(document, dict) else {}
    return {"detail": f"The extractor answered {answer.status_code}.", **known}
