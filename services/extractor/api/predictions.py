"""``POST /v1/embeddings``: OpenAI's embeddings API for images, which are sent as data URIs."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from typing import Annotated, Literal

import anyio
import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StringConstraints
from shoal.errors import InvalidRequest, JobFinished, Unavailable, by_code
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Job, Request
from shoal.settings import Settings
from shoal.web import SettingsDep, SubmitterDep
from shoal.web.jobs import Submitter
from shoal.web.pools import FOLLOW, WORK
from shoal.web.problems import problem_responses
from shoal.web.route import json_response
from shoal.web.route import router as make_router

from extractor.jobs import EMBED
from extractor.models import catalogue
from extractor.online.inline import MAX_BYTES, MAX_IMAGES, InlineFolder, InlineRequest

TIMEOUT_S = 120.0
POLL_S, MAX_POLL_S = 0.05, 0.5  # the first and the longest interval
MAX_ATTEMPTS = 2
PIECE = 1 << 19  # characters of base64; four encode three bytes
_DATA_URI = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,")
DataUri = Annotated[str, StringConstraints(min_length=1, max_length=4 * MAX_BYTES // 3 + 200)]

router = make_router(tags=["embeddings"])


class EmbedRequest(Request):
    """Body of `POST /v1/embeddings`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] = Field(
        description="A catalogue name or `timm:<name>`."
    )
    input: DataUri | Annotated[list[DataUri], Field(min_length=1, max_length=MAX_IMAGES)] = Field(
        description="Images as data URIs, `data:image/png;base64,…`: at most 64 images and 32 MiB in total."
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


@router.post("/v1/embeddings", response_model=EmbedResponse, responses=problem_responses(422, 503, 507))
async def embed(body: EmbedRequest, submitter: SubmitterDep, settings: SettingsDep) -> Response:
    """Embed a few images and wait for the result, as in OpenAI's embeddings API. Needs a free worker."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    folder, job = await WORK.run(_submit, body.model, inputs, submitter, settings)
    try:
        await _wait_for(submitter.queue, job)
        return await WORK.run(_answer, folder, body)
    finally:
        with anyio.CancelScope(shield=True):
            await WORK.run(folder.remove)


def _answer(folder: InlineFolder, body: EmbedRequest) -> Response:
    data = [
        EmbeddedImage(index=index, embedding=encoded(row, body.encoding_format))
        for index, row in enumerate(folder.read())
    ]
    return json_response(EmbedResponse(data=data, model=body.model))


def encoded(row: NDArray[np.float32], encoding: Literal["float", "base64"]) -> list[float] | str:
    """One embedding as a JSON value."""
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = row.tolist()
    return values


def decode_data_uris(inputs: list[str]) -> list[bytes]:
    """The bytes of each image.

    Raises
    ------
    InvalidRequest
        One is not a base64 data URI (URLs are not fetched), or together they are too large.
    """
    images = []
    for index, text in enumerate(inputs):
        match = _DATA_URI.match(text)
        if match is None:
            raise InvalidRequest(
                f"`input` {index} is not a data URI: send `data:image/png;base64,…`. URLs are not fetched.",
                field="input",
            )
        try:
            images.append(_decoded(text, match.end()))
        except binascii.Error as error:
            raise InvalidRequest(f"`input` {index} is not valid base64: {error}.", field="input") from error
    if sum(len(image) for image in images) > MAX_BYTES:
        raise InvalidRequest(f"`input` holds more than {MAX_BYTES:,} bytes: send fewer images at once.", field="input")
    return images


def _decoded(text: str, start: int) -> bytes:
    """The bytes of the base64 after ``start``, decoded in pieces, between which other threads run."""
    pieces = []
    for at in range(start, len(text), PIECE):
        piece = text[at : at + PIECE]
        if "=" in piece and at + PIECE < len(text):
            raise binascii.Error("data after the padding")
        pieces.append(base64.b64decode(piece, validate=True))
    return b"".join(pieces)


def _submit(model: str, inputs: list[str], submitter: Submitter, settings: Settings) -> tuple[InlineFolder, Job]:
    spec = catalogue.resolve(model, settings.models, settings=settings)
    folder = InlineFolder.create(settings.store, decode_data_uris(inputs))
    try:
        request = InlineRequest(model=model, inline=folder.token, count=len(inputs)).model_dump(mode="json")
        kind = EMBED + spec.backend
        submitter.check(kind)
        job, _ = submitter.queue.submit(kind, request, max_attempts=MAX_ATTEMPTS)
    except BaseException:
        folder.remove()
        raise
    return folder, job


async def _wait_for(queue: JobQueue, job: Job) -> None:
    """Wait, without holding a thread, until ``job`` has succeeded; cancel it when the wait ends early.

    Raises
    ------
    Unavailable
        It did not end within `TIMEOUT_S`.
    ShoalError
        The error with which the job failed.
    """
    try:
        end = time.monotonic() + TIMEOUT_S
        pause = POLL_S
        while time.monotonic() < end:
            now = await FOLLOW.run(queue.get, job.id)
            if now.state is JobState.SUCCEEDED:
                return
            if now.state.terminal:
                raise by_code(now.error) if now.error else Unavailable(f"The job /jobs/{job.id} was cancelled.")
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, MAX_POLL_S)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await FOLLOW.run(_cancel, queue, job)
        raise
    await FOLLOW.run(_cancel, queue, job)
    raise Unavailable(
        f"No worker embedded the images within {TIMEOUT_S:.0f} s; the job was cancelled. Check with `GET /readyz` that "
        "a worker of this backend runs, and with `GET /jobs?state=running` that it is free. For many images use "
        "`POST /extract`.",
        job=f"/jobs/{job.id}",
    )


def _cancel(queue: JobQueue, job: Job) -> None:
    try:
        queue.cancel(job.id)
    except JobFinished:
        return
