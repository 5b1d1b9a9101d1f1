"""``POST /v1/embeddings``: the shape of OpenAI's embeddings API, for images sent as data URIs."""

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

from extractor.models import catalogue
from extractor.online.inline import KIND_PREFIX, MAX_BYTES, MAX_IMAGES, InlineFolder, InlineRequest

TIMEOUT_S = 120.0
POLL_S, MAX_POLL_S = 0.05, 0.5  # the longer it takes, the less often it is asked for
MAX_ATTEMPTS = 2
PIECE = 1 << 19  # characters; four make three bytes
_DATA_URI = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,")
DataUri = Annotated[str, StringConstraints(min_length=1, max_length=4 * MAX_BYTES // 3 + 200)]

router = make_router(tags=["embeddings"])


class EmbedRequest(Request):
    """Body of `POST /v1/embeddings`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] = Field(
        description="A catalogue name or `timm:<name>`."
    )
    input: DataUri | Annotated[list[DataUri], Field(min_length=1, max_length=MAX_IMAGES)] = Field(
        description="Images as data URIs, `data:image/png;base64,…`: at most 64, and 32 MiB in all."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the little-endian float32 values as one text."
    )
    user: str | None = Field(None, max_length=1000, description="Accepted and not used.")


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
    """Embed a few images at once, in the shape of OpenAI's embeddings API. A worker must be free to do it."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    folder, job = await WORK.run(_submit, body.model, inputs, submitter, settings)
    try:
        # No thread is held meanwhile.
        await _finished(submitter.queue, job)
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
    """One embedding as JSON has it."""
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = row.tolist()
    return values


def decode_data_uris(inputs: list[str]) -> list[bytes]:
    """The bytes of each image.

    Raises
    ------
    InvalidRequest
        One is no data URI of base64 (addresses are not fetched), or all together are too large.
    """
    images = []
    for index, text in enumerate(inputs):
        match = _DATA_URI.match(text)
        if match is None:
            raise InvalidRequest(
                f"`input` {index} is no data URI: send `data:image/png;base64,…`. Addresses are not fetched.",
                field="input",
            )
        try:
            images.append(_decoded(text, match.end()))
        except binascii.Error as error:
            raise InvalidRequest(f"`input` {index} is not valid base64: {error}.", field="input") from error
    if sum(len(image) for image in images) > MAX_BYTES:
        raise InvalidRequest(f"`input` holds more than {MAX_BYTES} bytes: send fewer images at once.", field="input")
    return images


def _decoded(text: str, start: int) -> bytes:
    """The bytes of base64 from ``start`` on, in pieces: in one go no other thread would run for a while."""
    pieces = []
    for at in range(start, len(text), PIECE):
        piece = text[at : at + PIECE]
        if "=" in piece and at + PIECE < len(text):
            raise binascii.Error("there are data after the padding")
        pieces.append(base64.b64decode(piece, validate=True))
    return b"".join(pieces)


def _submit(model: str, inputs: list[str], submitter: Submitter, settings: Settings) -> tuple[InlineFolder, Job]:
    spec = catalogue.resolve(model, settings.models, settings=settings)
    folder = InlineFolder.create(settings.store, decode_data_uris(inputs))
    try:
        request = InlineRequest(model=model, inline=folder.token, count=len(inputs)).model_dump(mode="json")
        kind = KIND_PREFIX + spec.backend
        submitter.check(kind)
        job, _ = submitter.queue.submit(kind, request, max_attempts=MAX_ATTEMPTS)
    except BaseException:
        folder.remove()
        raise
    return folder, job


async def _finished(queue: JobQueue, job: Job) -> None:
    """Wait until ``job`` has succeeded; a job that nobody waits for any more is cancelled.

    Raises
    ------
    Unavailable
        It did not end in time.
    ShoalError
        What the job failed with.
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
        f"No worker embedded the images within {TIMEOUT_S:.0f} s; the job was cancelled. Is a worker of this backend "
        "running and free (GET /readyz, GET /jobs?state=running)? For many images use POST /extract.",
        job=f"/jobs/{job.id}",
    )


def _cancel(queue: JobQueue, job: Job) -> None:
    try:
        queue.cancel(job.id)
    except JobFinished:
        return
