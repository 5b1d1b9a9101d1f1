"""A model host: answers new images from models that stay loaded, over HTTP on a unix socket (`extractor.online.wire`).

One process for each backend. Only this user can reach the socket; keys, rate limits and the audit log are the APIs'.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import structlog
import uvicorn
from numpy.typing import NDArray
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import TypeAdapter, ValidationError
from shoal import __version__, logs
from shoal.errors import (
    BodyTooLarge,
    DeadlinePassed,
    InvalidRequest,
    ModelNotServed,
    Overloaded,
    ShoalError,
    SocketUnusable,
)
from shoal.host import SWITCH_S
from shoal.schemas import CustomModel
from shoal.settings import Settings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from extractor.backends.loading import import_libraries
from extractor.online import wire
from extractor.online.entries import WarmModel
from extractor.online.listener import Listener
from extractor.online.metrics import OTHER, HostMetrics
from extractor.online.models import WarmModels

STOP_S, CLOSE_S = 5, 2
"""Seconds that requests have to end when the host is told to, and its models to close after that."""
KEEP_ALIVE_S = 60
PROBLEM_JSON = "application/problem+json"
_LABEL = "shoal.model"
"""Key of a request's scope: its model as a label of metrics."""
_MODEL: TypeAdapter[str | CustomModel] = TypeAdapter(str | CustomModel)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asked:
    """What the headers of a request say.

    Attributes
    ----------
    lengths
        Bytes of each image or text.
    timeout_s
        Seconds in which the answer is wanted.
    texts
        Whether the inputs are texts.
    """

    model: str | CustomModel
    lengths: tuple[int, ...]
    timeout_s: float
    texts: bool = False

    @classmethod
    def read(cls, headers: Headers) -> Asked:
        """Read and check the headers.

        Raises
        ------
        InvalidRequest
            One is missing or not as `extractor.online.wire` describes it.
        BodyTooLarge
            There are too many images, or they are too large.
        """
        try:
            model = _MODEL.validate_json(headers[wire.MODEL])
            lengths = tuple(int(part) for part in headers[wire.LENGTHS].split(","))
            timeout_s = float(headers.get(wire.TIMEOUT_MS, 1000 * wire.DEFAULT_TIMEOUT_S)) / 1000
        except KeyError as error:
            raise InvalidRequest(f"The header {error.args[0]!r} is missing.") from None
        except (ValidationError, ValueError) as error:
            raise InvalidRequest(f"The headers cannot be read: {error}.") from error
        if min(lengths) < 0 or not 0 < timeout_s <= wire.MAX_TIMEOUT_S:
            raise InvalidRequest(
                f"{wire.LENGTHS} holds a negative number, or {wire.TIMEOUT_MS} is not above 0 and at most "
                f"{1000 * wire.MAX_TIMEOUT_S:.0f}."
            )
        if len(lengths) > wire.MAX_IMAGES or sum(lengths) > wire.MAX_BYTES:
            raise BodyTooLarge(
                f"The request holds {len(lengths)} images of {sum(lengths):,} bytes; at most {wire.MAX_IMAGES} images "
                f"of {wire.MAX_BYTES:,} bytes are embedded at once. Send fewer."
            )
        return cls(model, lengths, timeout_s, headers.get(wire.INPUTS) == "texts")


class Host:
    """The application of one host.

    Parameters
    ----------
    backend
        ``torch`` or ``tfserving``.
    settings
        Of this process.
    """

    def __init__(self, backend: str, settings: Settings) -> None:
        self.metrics = HostMetrics()
        self._backend = backend
        self._settings = settings
        self._held_bytes = 0
        self.app = Starlette(
            routes=[
                Route("/embed", _Endpoint(self), methods=["POST"]),
                Route("/models", self._list),
                Route("/metrics", self._metrics),
                Route("/healthz", self._health),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.models = WarmModels(self._backend, self._settings, self.metrics)
        self.models.prepare(lambda: import_libraries(self._backend, self._settings))
        log.info("model host ready", backend=self._backend, limit_bytes=self.models.limit)
        yield
        # A batch that does not end keeps its model; the end of the process ends it.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.models.close()

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"models": self.models.describe(), "limit_bytes": self.models.limit})

    async def _metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__, "backend": self._backend})

    @contextmanager
    def _hold(self, size: int) -> Iterator[None]:
        """Count ``size`` bytes of a body while it is in memory.

        Raises
        ------
        Overloaded
            All bodies together would be too large.
        """
        if self._held_bytes and self._held_bytes + size > self._settings.max_held_bytes:
            raise Overloaded(
                f"The model host holds {self._held_bytes:,} bytes of images; at most {self._settings.max_held_bytes:,} "
                "are allowed (SHOAL_MAX_HELD_BYTES). Send the request again in 1 s.",
                retry_after_s=1,
            )
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size

    async def embed(self, request: Request) -> Response:
        """Answer ``POST /embed``."""
        began = asyncio.get_running_loop().time()
        asked = Asked.read(request.headers)
        deadline = began + asked.timeout_s
        with self._hold(sum(asked.lengths)):
            try:
                async with asyncio.timeout_at(deadline):
                    inputs = await _body(request, asked.lengths)
            except TimeoutError:
                raise DeadlinePassed("The request's body did not arrive in time.") from None
            work = asyncio.create_task(self._embed(request.scope, asked, inputs, deadline, began))
            gone = asyncio.create_task(_until_gone(request.receive))
            try:
                await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise ClientDisconnect
                return work.result()
            finally:
                work.cancel()
                gone.cancel()
                # What is given up must have left its queue before its bytes are not counted any more.
                await asyncio.wait([work, gone])

    async def _embed(self, scope: Scope, asked: Asked, inputs: list[bytes], deadline: float, began: float) -> Response:
        try:
            vectors, model = await self._vectors(scope, asked, inputs, deadline)
        except ModelNotServed:
            # TensorFlow Serving has another version by now: it is loaded anew.
            vectors, model = await self._vectors(scope, asked, inputs, deadline)
        model.metrics.total.observe(asyncio.get_running_loop().time() - began)
        return _npy(vectors, model)

    async def _vectors(
        self, scope: Scope, asked: Asked, inputs: list[bytes], deadline: float
    ) -> tuple[NDArray[np.float32], WarmModel]:
        async with self.models.use(asked.model, deadline) as model:
            scope[_LABEL] = model.metrics.label
            try:
                async with asyncio.timeout_at(deadline):
                    if asked.texts:
                        return await _text_vectors(model, inputs), model
                    return await model.batcher.embed(inputs), model
            except TimeoutError:
                raise DeadlinePassed(
                    f"The model {model.spec.name!r} did not embed the input within {asked.timeout_s:g} s. Send less at "
                    "once, or the request again with a longer time limit."
                ) from None


class _Endpoint:
    """``POST /embed`` as an ASGI application: what it answers is counted, and a client that has gone gets nothing."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "ok"
        answer: Response | None = None
        try:
            answer = await self._host.embed(Request(scope, receive))
        except ShoalError as error:
            outcome, answer = error.code, problem(error)
        except ClientDisconnect:
            outcome = "client_gone"
            return
        except asyncio.CancelledError:
            outcome = "client_gone"
            raise
        except Exception:
            log.exception("request failed")
            outcome, answer = ShoalError.code, problem(ShoalError("An internal error occurred; see the host's log."))
        finally:
            self._host.metrics.requests.labels(scope.get(_LABEL, OTHER), outcome).inc()
        await answer(scope, receive, send)


async def _text_vectors(model: WarmModel, texts: Sequence[bytes]) -> NDArray[np.float32]:
    """Embeddings (n, dim) of texts.

    Raises
    ------
    InvalidRequest
        The model has no text tower, or a text is not UTF-8.
    """
    if model.texts is None:
        raise InvalidRequest(model.spec.no_texts, field="input")
    try:
        decoded = [text.decode() for text in texts]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"A text is not UTF-8: {error}.", field="input") from error
    return await model.texts.embed(decoded)


async def _body(request: Request, lengths: Sequence[int]) -> list[bytes]:
    """The images of a request.

    Raises
    ------
    InvalidRequest
        The body is longer or shorter than its lengths say.
    """
    size = sum(lengths)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > size:
            break
    if len(body) != size:
        raise InvalidRequest(f"The body has {len(body):,} bytes or more; {wire.LENGTHS} says {size:,}.")
    ends = list(accumulate(lengths))
    with memoryview(body) as view:
        return [bytes(view[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


async def _until_gone(receive: Receive) -> None:
    """Return when the client closes the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _npy(vectors: NDArray[np.float32], model: WarmModel) -> Response:
    file = io.BytesIO()
    np.save(file, vectors)
    return Response(
        file.getvalue(), media_type=wire.NPY, headers={wire.DIGEST: model.digest, wire.TRANSFORM: model.transform}
    )


def problem(error: ShoalError) -> Response:
    """``error`` as a response."""
    retry_s = error.members.get("retry_after_s")
    headers = {"Retry-After": str(retry_s)} if retry_s else {}
    content = json.dumps(error.problem()).encode()
    return Response(content, error.status, headers, PROBLEM_JSON)


def run(backend: str) -> int:
    """Listen until SIGTERM or SIGINT, then let the requests that run end.

    Returns
    -------
    int
        The exit status: 1 if the socket cannot be had; the log says why.
    """
    settings = Settings()
    logs.configure(f"model-host-{backend}", level=settings.log_level)
    # Requests end at these signals, not the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    sys.setswitchinterval(SWITCH_S)
    try:
        with Listener(wire.socket_path(settings.online, backend)) as listener:
            host = Host(backend, settings)
            if settings.metrics_port:
                host.metrics.serve(settings.metrics_host, settings.metrics_port)
            uvicorn.Server(_config(host)).run(sockets=[listener.socket])
    except SocketUnusable as error:
        log.error("not listening", code=error.code, detail=error.detail)
        return 1
    return 0


def _config(host: Host) -> uvicorn.Config:
    return uvicorn.Config(
        host.app,
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
