"""Images and texts of a request: the extractor embeds them, by the model of what they are compared with."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import numpy as np
from shoal.errors import InvalidRequest, ModelChanged, ShoalError, Unavailable, relayed
from shoal.inline import MODEL_DIGEST, TRANSFORM
from shoal.settings import Settings
from shoal.store.records import ModelRecord
from shoal.web import strictjson
from shoal.web.pools import WORK

from clusterer.api.vectors import Vectors
from clusterer.data.rows import Float32Array
from clusterer.results.loaded import transform_change

PIECE: Final = 1 << 18
OVERRIDES: Final = ("size", "crop_fraction", "interpolation", "mean", "std", "decode")
"""What a request may set of the transform of a model of its own."""


@dataclass(frozen=True)
class Embedder:
    """The model that embeds the images of a request.

    Attributes
    ----------
    model
        The record of the model of the embeddings that they are compared with.
    transform
        How images became that model's input; None if that is not known.
    dim
        Length of an embedding.
    unknown
        What the caller does where the model is not known.
    field
        The field that has the images or the text.
    since, again
        When the embeddings were made, and what makes them again.
    """

    model: Mapping[str, object]
    transform: Mapping[str, object] | None
    dim: int
    unknown: str
    field: str
    since: str
    again: str


async def embed_inputs(
    inputs: list[str],
    embedder: Embedder,
    http: httpx.AsyncClient,
    settings: Settings,
    forwarded: Mapping[str, str],
) -> Vectors:
    """The embeddings of images, which are data URIs, or of texts. No thread is held while the extractor works.

    Parameters
    ----------
    forwarded
        Headers for the extractor, on behalf of the caller.

    Raises
    ------
    InvalidRequest
        The embeddings were imported, so their model is unknown.
    ModelChanged
        The model's weights are not those of the embeddings.
    Unavailable
        The extractor does not answer.
    ShoalError
        What the extractor answered.
    """
    record = ModelRecord.model_validate(embedder.model)
    if record.backend == "import":
        raise InvalidRequest(embedder.unknown, field=embedder.field)
    headers = {"Content-Type": "application/json", **forwarded}
    if "Authorization" not in headers and settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    url = f"{settings.extractor_url.rstrip('/')}/v1/embeddings"
    model = model_of(record, embedder.transform)
    try:
        answer = await http.post(url, content=_request_pieces(model, inputs), headers=headers)
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"The extractor at {settings.extractor_url} does not answer ({reason}).") from error
    if answer.is_error:
        raise _problem(answer, embedder.field)
    try:
        _check_model(embedder, record.digest, answer.headers)
        rows = await WORK.run(_embeddings, answer.content, len(inputs))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"The extractor at {url} answered what is not embeddings ({error}).") from error
    if rows.shape[1] != embedder.dim:
        raise _changed(embedder, f"its embeddings have {rows.shape[1]} dimensions instead of {embedder.dim}")
    return Vectors(rows)


def model_of(record: ModelRecord, transform: Mapping[str, object] | None) -> str | dict[str, object]:
    """The model as a request names it: by its name, or by the parts of which the name of a custom model is made.

    Parameters
    ----------
    transform
        How its images became the network's input, where that is known.
    """
    asked = record.requested()
    file = asked.weights_file or ""
    parts = {
        f"{asked.architecture}-random{asked.seed}": "random",
        f"{asked.architecture}-{file.partition('.')[0]}": (record.loaded and record.loaded.file) or file,
    }
    if asked.backend != "torch" or not parts.get(asked.name):
        return asked.name
    custom: dict[str, object] = {
        "architecture": asked.architecture,
        "weights": parts[asked.name],
        "layout": asked.layout or "auto",
        "embedding": asked.embedding,
    }
    if asked.seed is not None:
        custom["seed"] = asked.seed
    if asked.keys is not None:
        rules = asked.keys.model_dump(mode="json")
        custom |= {name: value for name, value in rules.items() if value}
    if transform is not None:
        custom["transform"] = {name: transform[name] for name in OVERRIDES if name in transform}
    return custom


async def _request_pieces(model: str | dict[str, object], inputs: list[str]) -> AsyncIterator[bytes]:
    """The body of the extractor's request, some hundred kilobytes at a time."""
    yield json.dumps({"model": model, "encoding_format": "base64"})[:-1].encode() + b', "input": '
    for number, text in enumerate(inputs):
        yield b'["' if number == 0 else b', "'
        for at in range(0, len(text), PIECE):
            yield json.dumps(text[at : at + PIECE])[1:-1].encode()
        yield b'"'
    yield b"]}"


def _check_model(embedder: Embedder, digest: str, headers: Mapping[str, str]) -> None:
    if headers.get(MODEL_DIGEST, digest) != digest:
        raise _changed(embedder, "its weights or its settings are others now")
    change = transform_change(embedder.transform, json.loads(headers.get(TRANSFORM, "{}")))
    if change is not None:
        raise _changed(embedder, f"of its images' transform, {change}")


def _changed(embedder: Embedder, why: str) -> ModelChanged:
    name = str(embedder.model["name"])
    return ModelChanged(
        f"The model `{name}` has changed since {embedder.since}: {why}. Restore it, or {embedder.again}.", model=name
    )


def _embeddings(content: bytes, count: int) -> Float32Array:
    """``(count, dim) float32`` of the extractor's answer; an error of Python if it holds none."""
    data = sorted(strictjson.loads(content)["data"], key=lambda each: each["index"])
    rows = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data]
    if len(rows) != count:
        raise ValueError(f"{len(rows)} embeddings for {count} inputs")
    return np.stack(rows).astype(np.float32, copy=False)


def _problem(answer: httpx.Response, field: str) -> ShoalError:
    """The error that the extractor answered, with its status, in terms of this route's request."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if isinstance(document, dict):
        document.pop("message", None)  # `detail` as OpenAI's clients call it.
        if document.get("field") == "input":
            theirs = "`input`" if field in ("images", "words") else "`input` 0"
            document |= {"field": field, "detail": str(document.get("detail", "")).replace(theirs, f"`{field}`")}
    return relayed(document, answer.status_code, answer.headers.get("Retry-After", ""), "The extractor")
