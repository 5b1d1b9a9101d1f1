"""`POST /clusterings/{id}/assign`: the clusters of new embeddings or images, without a job.

A body may hold millions of numbers. They are parsed and computed on in pieces: otherwise one request would hold the
interpreter lock, and with it the event loop, or keep all others waiting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import to_json
from shoal.errors import InvalidRequest, UnsupportedMediaType
from shoal.inline import ARROW, MAX_IMAGES, MAX_URI, NPY
from shoal.schemas import Request as Schema
from shoal.store import Store
from shoal.web import SettingsDep, StoreDep
from shoal.web.auth import ForwardedHeaders
from shoal.web.pools import COMPUTE, WORK
from shoal.web.problems import problem_responses
from shoal.web.route import JSON_ITEMS, body_of, is_json, media_type, parse_json, parsing_pool
from shoal.web.route import router as make_router
from shoal.web.tables import table_pieces

from clusterer.api import images, vectors
from clusterer.api.images import Embedder
from clusterer.api.loaded import ClusteringsDep
from clusterer.api.parameters import ClusteringId
from clusterer.api.vectors import Vectors
from clusterer.data.rows import Float64Array
from clusterer.results.loaded import LoadedClustering, Space
from clusterer.results.named import Named
from clusterer.web import extractor as connections
from clusterer.web.extractor import ExtractorDep

MAX_ROWS: Final = 10_000
MAX_DIM: Final = 100_000
OUTLIER_QUANTILE: Final = 0.99
JSON: Final = "application/json"
READERS: Final = {NPY: vectors.read_npy, ARROW: vectors.read_arrow}
"""How bodies that are not JSON are read, by their media type."""
ANSWER_SCHEMA: Final = pa.schema(
    [
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("is_outlier", pa.bool_()),
        pa.field("label", pa.string()),
        pa.field("merged_cluster", pa.int32(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("probability", pa.float32()),
    ]
)
QUANTILE_TEXT: Final = (
    "A row is an outlier if it is farther from its centroid than this share of the train set's rows are from theirs."
)


def as_array(row: list[float]) -> Float64Array:
    """The values of a list, ``(n,)``."""
    return np.array(row, dtype=np.float64)


Row = Annotated[list[float], Field(max_length=MAX_DIM, fail_fast=True), AfterValidator(as_array)]
"""An embedding, validated to a float64 array. Only the first invalid value is reported."""


class AssignRequest(Schema):
    """JSON body of `POST /clusterings/{id}/assign`: exactly one of `embeddings` and `images`."""

    embeddings: list[Row] | None = Field(
        None, min_length=1, max_length=MAX_ROWS, fail_fast=True, description="One list a row."
    )
    images: list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_URI)]] | None = Field(
        None, min_length=1, max_length=MAX_IMAGES, description="Images as data URIs; the extractor must be running."
    )
    outlier_quantile: float | None = Field(
        None, gt=0, lt=1, description=f"{QUANTILE_TEXT} {OUTLIER_QUANTILE} by default."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> AssignRequest:
        if (self.embeddings is None) == (self.images is None):
            raise ValueError("send exactly one of `embeddings` and `images`")
        return self


router = make_router(lifespan=connections.lifespan)
BODY: Final = {
    "required": True,
    "content": {
        JSON: {"schema": AssignRequest.model_json_schema()},
        **{binary: {"schema": {"contentMediaType": binary}} for binary in READERS},
    },
}
ANSWER: Final[dict[str, object]] = {
    "description": "The rows in the order of the request. In an Arrow stream `id` comes first, if it was sent.",
    "content": {
        JSON: {
            "schema": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "cluster": {"type": "integer"},
                        "distance": {"type": ["number", "null"]},
                        "margin": {"type": ["number", "null"]},
                        "is_outlier": {"type": ["boolean", "null"]},
                        "label": {"type": ["string", "null"]},
                        "merged_cluster": {"type": "integer"},
                        "name": {"type": ["string", "null"]},
                        "probability": {"type": ["number", "null"]},
                    },
                    "required": ANSWER_SCHEMA.names,
                },
            }
        },
        ARROW: {},
    },
}


@router.post(
    "/clusterings/{clustering_id}/assign",
    tags=["assign"],
    response_class=Response,
    responses={200: ANSWER, **problem_responses(404, 409, 415, 422, 503)},
    openapi_extra={"requestBody": BODY},
)
async def assign(
    clustering_id: ClusteringId,
    request: Request,
    clusterings: ClusteringsDep,
    extractor: ExtractorDep,
    settings: SettingsDep,
    store: StoreDep,
    forwarded: ForwardedHeaders,
    outlier_quantile: Annotated[
        float | None,
        Query(gt=0, lt=1, description=f"As in a JSON body. {QUANTILE_TEXT} {OUTLIER_QUANTILE} by default."),
    ] = None,
) -> Response:
    """Assign new embeddings or images to clusters.

    Send JSON; or many embeddings as one `.npy` array of rows and values, or as an Arrow stream with one column of lists
    and, if you like, a column `id` of integers or strings, which comes back with the answer. Values are float16,
    float32 or float64, without nulls; buffers are not compressed. JSON is answered with JSON, the others with an Arrow
    stream, unless `Accept` names the other one.

    `distance` is the distance to the centroid after the clustering's normalisation and PCA, `margin` how much farther
    the next centroid is. `label` is that of the cluster. `is_outlier` compares `distance` with the distances of the
    train set's rows, of all clusters together; it is null if the train set was not scored. `merged_cluster` is the
    cluster that `cluster` is part of after merges, and `name` the name of that one, as `PUT /clusterings/{id}/names`
    set them. `probability` is that of the cluster by the clustering's head, and then `margin` is how much it exceeds
    that of the second; it is null in a clustering by k-means. A row of a clustering of several `spaces` has the
    vectors of all of them, one behind the other.
    """
    body = await body_of(request)
    if not (is_json(request) or media_type(request) in READERS) and body:
        raise _not_accepted()
    loaded = await clusterings.get(clustering_id)
    named = await WORK.run(named_clusters, store, loaded)
    if media_type(request) in READERS:
        sent = await parsing_pool(body).run(READERS[media_type(request)], body, loaded.check_dim)
    else:
        document = await parsing_pool(body).run(parse_json, body, AssignRequest)
        outlier_quantile = _only_one(document.outlier_quantile, outlier_quantile)
        if document.images is not None:
            parts = [
                await images.embed_inputs(document.images, embedder_of(each), extractor, settings, forwarded)
                for each in loaded.spaces
            ]
            sent = parts[0] if len(parts) == 1 else Vectors(np.concatenate([each.values for each in parts], axis=1))
        else:
            sent = await COMPUTE.run(vectors.of_rows, document.embeddings or [], loaded.check_dim)
    await COMPUTE.run(check_rows, loaded, sent)
    return await answer(loaded, named, sent, outlier_quantile or OUTLIER_QUANTILE, answer_type(request))


def check_rows(loaded: LoadedClustering, sent: Vectors) -> None:
    """Raise unless every row can be assigned: no error may come when a part of the answer has gone out.

    Raises
    ------
    NotFinite
        The message names the row.
    """
    sent.check_finite()
    if loaded.transform.largest_value < math.inf:
        for first, block in sent.blocks():
            loaded.check_size(block, first)


def embedder_of(space: Space) -> Embedder:
    """The model whose embeddings were clustered."""
    return Embedder(
        model=space.model,
        transform=space.image_transform,
        dim=space.dim,
        unknown="The model of this clustering is unknown, since its embeddings were imported. Send `embeddings` "
        "instead.",
        field="images",
        since="its embeddings were clustered",
        again="extract and cluster again",
    )


def _not_accepted() -> UnsupportedMediaType:
    accepted = [JSON, *READERS]
    return UnsupportedMediaType(
        f"Send the body as {', '.join(accepted[:-1])} or {accepted[-1]}, with that `Content-Type`.", accepted=accepted
    )


def _only_one(in_body: float | None, in_query: float | None) -> float | None:
    if in_body is not None and in_query is not None:
        raise InvalidRequest(
            "`outlier_quantile` is in the body and in the query. Send it once.", field="outlier_quantile"
        )
    return in_body if in_query is None else in_query


def answer_type(request: Request) -> str:
    """The media type of the answer: the one of JSON and Arrow that `Accept` prefers, by default that of the body."""
    usual = JSON if is_json(request) or not media_type(request) else ARROW
    weights = {JSON: 0.0, ARROW: 0.0}
    for part in request.headers.get("accept", "").lower().split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        if kind in weights:
            weights[kind] = _weight(parameters)
    return usual if weights[JSON] == weights[ARROW] else max(weights, key=lambda kind: weights[kind])


def _weight(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def named_clusters(store: Store, loaded: LoadedClustering) -> Named:
    """The names of the clusters now."""
    return Named.of(store.journal(loaded.id).read(), loaded.k, noisy=loaded.noisy)


async def answer(loaded: LoadedClustering, named: Named, sent: Vectors, quantile: float, media: str) -> Response:
    """The clusters of the rows. Those of many are sent block by block, as they are computed."""
    schema = ANSWER_SCHEMA if sent.ids is None else ANSWER_SCHEMA.insert(0, pa.field(vectors.ID, sent.ids.type))
    batches = assigned(loaded, named, sent, quantile, schema)
    pieces = json_rows(batches) if media == JSON else table_pieces(batches, schema, "arrow")
    if sent.n > sent.block_rows:
        return StreamingResponse(COMPUTE.iterate(pieces), media_type=media)
    return Response(await COMPUTE.run(b"".join, pieces), media_type=media)


def assigned(
    loaded: LoadedClustering, named: Named, sent: Vectors, quantile: float, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The answer to each block of rows."""
    limit = loaded.outlier_distance(quantile)
    for first, block in sent.blocks():
        found = loaded.assign(block, first)
        # Noise, -1, is the last place of the roots.
        merged, names, _ = named.columns(named.roots[found.labels])
        columns: dict[str, object] = {
            "cluster": found.labels,
            "distance": found.distance,
            "margin": found.margin,
            "is_outlier": pa.nulls(len(block), pa.bool_()) if limit is None else found.distance > limit,
            "label": loaded.label_of(found.labels),
            "merged_cluster": merged,
            "name": names,
            "probability": pa.nulls(len(block), pa.float32()) if found.probability is None else found.probability,
        }
        if sent.ids is not None:
            columns[vectors.ID] = sent.ids.slice(first, len(block))
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


def json_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """The rows of all batches as one JSON array, a few at a time: Arrow holds the interpreter lock meanwhile."""
    before = b"["
    for batch in batches:
        for first in range(0, batch.num_rows, JSON_ITEMS):
            yield before + to_json(batch.slice(first, JSON_ITEMS).to_pylist(), inf_nan_mode="null")[1:-1]
            before = b","
    yield b"]"
