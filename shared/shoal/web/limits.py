"""How much one request may carry, one key may have in work, and one queue may hold."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import (
    BackendNotInstalled,
    BodyTooLarge,
    JobNotFound,
    MalformedRequest,
    QueueFull,
    RequestTimeout,
    ShoalError,
    TooManyRequests,
)
from shoal.jobs.kinds import not_installed
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore
from shoal.web.asgi import BODY, header_values, refuse
from shoal.web.auth import caller
from shoal.web.pools import BODIES, LARGE_BODY

RETRY_AFTER_S: Final = 10
RECOUNT_S: Final = 5.0
"""How often at most a key's unfinished jobs are counted again: it takes a round trip a job."""
BODY_S: Final = 60.0
"""How long a request's body may take to arrive."""
MAX_HELD_BYTES: Final = 2**29
HELD_RETRY_S: Final = 2


@dataclass
class QueueLimits:
    """How many jobs may wait.

    Parameters
    ----------
    max_queued
        Of one kind.
    max_queued_per_key
        Unfinished jobs of one API key.
    store
        Where a key's jobs are kept; None where no keys are needed.
    absent
        Kinds whose workers are not installed on this machine.
    """

    max_queued: int
    max_queued_per_key: int
    store: KeyStore | None
    absent: frozenset[str] = frozenset()
    _counted: dict[str, float] = field(default_factory=dict)

    def check(self, queue: JobQueue, kind: str) -> None:
        """Raise ``QueueFull`` unless the caller may submit one more job of ``kind``.

        Raises
        ------
        BackendNotInstalled
            The job would wait for ever.
        """
        if kind in self.absent and kind not in queue.workers():
            raise BackendNotInstalled(not_installed(kind), kind=kind)
        depth = queue.depths().get(kind, 0)
        if depth >= self.max_queued:
            raise QueueFull(f"{depth} jobs of kind {kind} wait already: come back later.", retry_after_s=RETRY_AFTER_S)
        key_id = caller.get().key_id
        if self.store is None or key_id is None or self.store.tracked_count(key_id) < self.max_queued_per_key:
            return
        if self._unfinished(self.store, queue, key_id) >= self.max_queued_per_key:
            raise QueueFull(
                f"This API key has {self.max_queued_per_key} unfinished jobs, as many as it may have.",
                retry_after_s=RETRY_AFTER_S,
            )

    def count(self, job_id: str) -> None:
        """Put the job to the caller's account."""
        key_id = caller.get().key_id
        if self.store is not None and key_id is not None:
            self.store.track(key_id, job_id)

    def _unfinished(self, store: KeyStore, queue: JobQueue, key_id: str) -> int:
        if monotonic() - self._counted.get(key_id, -RECOUNT_S) >= RECOUNT_S:
            self._counted[key_id] = monotonic()
            store.forget(key_id, [job_id for job_id in store.tracked(key_id) if _has_ended(queue, job_id)])
        return store.tracked_count(key_id)


def _has_ended(queue: JobQueue, job_id: str) -> bool:
    try:
        return queue.get(job_id).state.terminal
    except JobNotFound:
        return True


_limits: ContextVar[QueueLimits | None] = ContextVar("shoal_limits", default=None)
"""The limits of the application that answers the request."""


def check_queue(queue: JobQueue, kind: str) -> None:
    """Raise ``QueueFull`` unless the caller of the request that is being answered may submit a job of ``kind``."""
    limits = _limits.get()
    if limits is not None:
        limits.check(queue, kind)


def count_job(job_id: str) -> None:
    """Put the job to the account of the caller of the request that is being answered."""
    limits = _limits.get()
    if limits is not None:
        limits.count(job_id)


class Limits:
    """Reads a request's body before any route runs, and refuses it when it is too large or too slow.

    Parameters
    ----------
    max_bytes
        Of a body.
    max_inline_bytes
        Of a body that carries images or embeddings themselves.
    body_s
        Seconds in which a body must arrive.
    max_held_bytes
        Of all bodies at once that are arriving or being worked on; small ones are always taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_inline_bytes: int,
        queue_limits: QueueLimits,
        body_s: float = BODY_S,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._app = app
        self._max_held_bytes = max_held_bytes
        self._held = 0
        self._body_s = body_s
        self._max_bytes = max_bytes
        self._max_inline_bytes = max_inline_bytes
        self._queue_limits = queue_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[int] = []
        try:
            await self._answer(scope, receive, send, held)
        finally:
            self._held -= sum(held)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, held: list[int]) -> None:
        try:
            body = await self._read(scope, receive, held)
        except ShoalError as error:
            await refuse(error, scope, receive, send)
            return
        except ClientDisconnect:
            return
        scope[BODY] = body
        token = _limits.set(self._queue_limits)
        try:
            await self._app(scope, _replay(body, receive), send)
        finally:
            _limits.reset(token)

    async def _read(self, scope: Scope, receive: Receive, held: list[int]) -> bytes:
        inline = scope["path"] == "/v1/embeddings" or scope["path"].endswith("/assign")
        most = self._max_inline_bytes if inline else self._max_bytes
        too_large = BodyTooLarge(
            f"The body has more than {most} bytes, the most that this route takes.", max_bytes=most
        )
        declared = header_values(scope, "content-length")
        if declared and header_values(scope, "transfer-encoding"):
            # Two lengths: a proxy before us may believe the other one, and take what follows for another request.
            raise MalformedRequest("The request gives its length in two ways.")
        if any(not value.isdigit() or int(value) > most for value in declared):
            raise too_large
        chunks, size = [], 0
        with anyio.move_on_after(self._body_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                held.append(len(chunks[-1]))
                self._held += held[-1]
                if size > most:
                    raise too_large
                if size > LARGE_BODY and self._held > self._max_held_bytes:
                    raise TooManyRequests(
                        f"The requests under way hold {self._held} bytes, and {self._max_held_bytes} may be held at "
                        "once: send it again later.",
                        retry_after_s=HELD_RETRY_S,
                    )
                if not message.get("more_body", False):
                    # Copying a large body takes a while too.
                    return b"".join(chunks) if size <= LARGE_BODY else await BODIES.run(_joined, chunks)
        raise RequestTimeout(f"The body did not arrive within {self._body_s:.0f} seconds.")


def _joined(chunks: list[bytes]) -> bytes:
    """One text of all ``chunks``, which are let go of one by one: all at once takes a while."""
    body = b"".join(chunks)
    while chunks:
        chunks.pop()
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    # The body once, then whatever comes: a disconnect, which is what event streams wait for.
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
