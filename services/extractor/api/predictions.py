"""Images answered while the client waits: OpenAI's routes for embeddings and models, and TorchServe's for predictions.

The requests go to the model hosts (`extractor.online.client`): neither the queue nor the store takes part.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal, cast

import numpy as np
from fastapi import Depends, Path, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StringConstraints
from shoal.errors import JsonValue, ModelNotFound, UnknownModel
from shoal.inline import MAX_URI
from shoal.schemas import CustomModel
from shoal.schemas import Request as Body
from shoal.settings import Settings
from shoal.web import SettingsDep
from shoal.web.auth import refuse_other_sites
from shoal.web.middleware import BODY, header_values
from shoal.web.pools import WORK
from shoal.web.problems import problem_responses
from shoal.web.route import json_response
from shoal.web.route import router as make_router

from extractor.api.images import decode_data_uris, image_of, texts_of
from extractor.models import catalogue
from extractor.models.spec import ModelSpec
from extractor.online import wire
from extractor.online.client import Embedded, HostClient
from extractor.online.wire import MAX_BYTES, MAX_IMAGES

DataUri = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URI)]
ModelName = Annotated[
    str, Path(max_length=300, description="Name from the catalogue, `timm:<name>` or `open_clip:<name>`.")
]
MODEL_HEADERS = {
    "headers": {
        wire.DIGEST: {"description": "SHA-256 of the record of the model that ran.", "schema": {"type": "string"}},
        wire.TRANSFORM: {
            "description": "How the images became its input: the `transform` of an embeddings' plan, as JSON.",
            "schema": {"type": "string"},
        },
    }
}
IMAGE_BODY = {
    "requestBody": {
        "description": "The bytes of one image, at most 32 MiB; its content decides the format. Any content type will "
        "do but JSON. A form (`multipart/form-data`) with one file named `data` or `body` is accepted too.",
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "maxLength": MAX_BYTES}}
        },
    }
}

router = make_router(tags=["embeddings"])


async def _hosts(request: Request) -> HostClient:
    return cast(HostClient, request.app.state.hosts)


HostsDep = Annotated[HostClient, Depends(_hosts)]


class EmbedRequest(Body):
    """Body of `POST /v1/embeddings`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] | CustomModel = Field(
        description="A catalogue name, `timm:<name>`, `open_clip:<name>`, or an object that describes a model of your "
        "own, as in `POST /extract`."
    )
    input: DataUri | Annotated[list[DataUri], Field(min_length=1, max_length=MAX_IMAGES)] = Field(
        description="Images as data URIs, `data:image/png;base64,…`: at most 64 images and 32 MiB in total. Or texts, "
        "for a model that embeds texts into the space of its images, such as `open_clip:ViT-B-32`; a text beyond the "
        "model's length, mostly 77 tokens, is cut off."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Format of an embedding: a list of numbers, or its little-endian float32 values in base64."
    )
    user: str | None = Field(None, max_length=1000, description="Accepted for compatibility with OpenAI; ignored.")


class EmbeddedImage(BaseModel):
    """One embedding."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Images have no tokens: always 0."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbedResponse(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[EmbeddedImage]
    model: str
    usage: Usage = Field(default_factory=Usage)


class OpenAIModel(BaseModel):
    """A model as OpenAI's API describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which its weights were written here; 0 for a model without a file.")
    owned_by: Literal["shoal"] = "shoal"


class OpenAIModels(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class Ping(BaseModel):
    """Answer of `GET /ping`."""

    status: Literal["Healthy", "Unhealthy"]


@router.post(
    "/v1/embeddings",
    response_model=EmbedResponse,
    responses={200: MODEL_HEADERS, **problem_responses(422, 500, 503, 507)},
)
async def embed(body: EmbedRequest, hosts: HostsDep, settings: SettingsDep) -> Response:
    """Embed a few images or texts, as in OpenAI's embeddings API, on a model host that keeps models loaded."""
    spec, inputs, kind = await WORK.run(_read, body, settings)
    model = body.model
    sent = model if isinstance(model, str) else model.model_dump(mode="json", exclude_unset=True)
    found = await hosts.embed(spec.backend, sent, inputs, kind=kind)
    return await WORK.run(_answer, spec.name, found, body.encoding_format)


@router.get("/v1/models", tags=["models"], responses=problem_responses(422))
def list_openai_models(settings: SettingsDep) -> OpenAIModels:
    """List the models that a request can use, as in OpenAI's API. `GET /models` says more about each."""
    specs = catalogue.all_models(settings.models, settings=settings)
    usable = (spec for spec in specs if spec.readiness(settings.models, offline=settings.offline) != "needs_file")
    return OpenAIModels(data=[_openai_model(spec, settings) for spec in usable])


@router.get("/v1/models/{name:path}", tags=["models"], responses=problem_responses(404, 422))
def get_openai_model(name: ModelName, settings: SettingsDep) -> OpenAIModel:
    """Return a model, as in OpenAI's API."""
    return _openai_model(resolve_named(name, settings), settings)


@router.get("/ping", responses={503: {"model": Ping}})
async def ping(response: Response, hosts: HostsDep) -> Ping:
    """Check, as in TorchServe, whether a model host answers."""
    healthy = any(state.answers for state in (await hosts.states()).values())
    response.status_code = 200 if healthy else 503
    return Ping(status="Healthy" if healthy else "Unhealthy")


@router.post(
    "/predictions/{name:path}",
    response_model=list[float],
    responses={200: MODEL_HEADERS, **problem_responses(404, 413, 415, 422, 500, 503, 507)},
    openapi_extra=IMAGE_BODY,
)
async def predict(name: ModelName, request: Request, hosts: HostsDep, settings: SettingsDep) -> Response:
    """Embed one image, whose bytes are the body, as in TorchServe. Returns the embedding as a list of numbers."""
    refuse_other_sites(request.scope)
    kind = ", ".join(header_values(request.scope, "content-type"))
    spec, image = await WORK.run(_read_image, name, request.scope[BODY], kind, str(request.url)[:300], settings)
    found = await hosts.embed(spec.backend, name, [image])
    return _of_model(json_response(found.vectors[0].tolist()), found)


def resolve_named(name: str, settings: Settings) -> ModelSpec:
    """The model that a path names.

    Raises
    ------
    ModelNotFound
        There is none. In a body an unknown model is a wrong field (422); in a path it is a missing resource (404).
    """
    try:
        return catalogue.resolve(name, settings.models, settings=settings)
    except UnknownModel as error:
        raise ModelNotFound(error.detail, **error.members) from None


def _read(body: EmbedRequest, settings: Settings) -> tuple[ModelSpec, list[bytes], wire.Inputs]:
    spec = catalogue.resolve(body.model, settings.models, settings=settings)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    if spec.reads_text and not any(each.startswith("data:") for each in inputs):
        return spec, texts_of(inputs), "texts"
    hint = "Send texts without images beside them." if spec.reads_text else spec.no_texts
    return spec, decode_data_uris(inputs, hint), "images"


def _read_image(name: str, body: bytes, kind: str, url: str, settings: Settings) -> tuple[ModelSpec, bytes]:
    return resolve_named(name, settings), image_of(body, kind, url)


def _answer(name: str, found: Embedded, encoding: Literal["float", "base64"]) -> Response:
    data: list[dict[str, JsonValue]] = [
        {"object": "embedding", "index": index, "embedding": encoded(row, encoding)}
        for index, row in enumerate(found.vectors)
    ]
    return _of_model(json_response({"object": "list", "data": data, "model": name, "usage": dict(Usage())}), found)


def _of_model(answer: Response, found: Embedded) -> Response:
    """``answer`` with the headers that say which model made it."""
    answer.headers[wire.DIGEST] = found.digest
    answer.headers[wire.TRANSFORM] = found.transform
    return answer


def encoded(row: NDArray[np.float32], encoding: Literal["float", "base64"]) -> list[float] | str:
    """One embedding as a JSON value."""
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = row.tolist()
    return values


def _openai_model(spec: ModelSpec, settings: Settings) -> OpenAIModel:
    file = spec.weights.local_file(settings.models)
    return OpenAIModel(id=spec.name, created=int(file.stat().st_mtime) if file is not None else 0)
