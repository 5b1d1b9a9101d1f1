"""What every request passes before and after its route: metrics, audit log, security headers, limits on its body.

The order is that of `shoal.web.app.create_app`: the metrics and the audit log see every answer, refusals included.
"""

from __future__ import annotations

import ipaddress
import re
import time
import uuid
from typing import Final

import anyio
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import (
    BodyTooLarge,
    HostNotAllowed,
    MalformedRequest,
    RequestTimeout,
    ShoalError,
    TooManyRequests,
)
from shoal.keys import ANONYMOUS, Caller
from shoal.web.pools import BODIES, LARGE_BODY
from shoal.web.problems import UNEXPECTED, shoal_problem

log = structlog.get_logger()
audit_log = structlog.get_logger("shoal.audit")

BODY: Final = "shoal.body"
"""Key of a request's body in its scope. Starlette would copy the body, on the event loop."""
REQUEST_ID: Final = "shoal.request_id"
CALLER: Final = "caller"
"""Key of the `Caller` in a request's state: ``request.state.caller``."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LABELS: Final = ("service", "method", "route", "status")
REFUSED: Final = frozenset({400, 401, 403, 408, 413, 421, 429})
"""Statuses that refuse the sender rather than the content: not allowed, too much, too slow or not HTTP."""
MAX_AUDITED_PATH: Final = 300
HELD_RETRY_S: Final = 2

# A page of a service, such as a report, loads nothing, sends nothing and sits in no frame.
PAGE_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# The page of the routes runs the scripts of this service and sends requests to this service only.
DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS: Final = "/docs"
SECURITY_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def header_values(scope: Scope, name: str) -> list[str]:
    """Every value of the header ``name``, which is given in lower case."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


async def refuse(error: ShoalError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with ``error`` as a problem; the rest of the request is not read."""
    await shoal_problem(error)(scope, receive, send)


class HttpMiddleware:
    """Base of the middlewares: passes on whatever is not HTTP."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        await (self.handle if scope["type"] == "http" else self._app)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        raise NotImplementedError


class RequestMetrics(HttpMiddleware):
    """Counts requests by route and status, and times them until the answer starts.

    Parameters
    ----------
    registry
        Registers the metrics.
    service
        Value of their label ``service``.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, service: str) -> None:
        super().__init__(app)
        self._service = service
        self._requests = Counter("shoal_http_requests", "Requests answered.", LABELS, registry=registry)
        self._seconds = Histogram(
            "shoal_http_request_duration_seconds", "Seconds until the answer starts.", LABELS[:3], registry=registry
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        start = time.perf_counter()
        answered = False

        async def counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._count(scope, str(message["status"]), start)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except BaseException:
            # The server answers 500 to an exception that arrives here before an answer has started.
            if not answered:
                self._count(scope, "500", start)
            raise

    def _count(self, scope: Scope, status: str, start: float) -> None:
        # The route's template, not the path: a label must not take values that clients invent.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(self._service, method, route, status).inc()
        self._seconds.labels(self._service, method, route).observe(time.perf_counter() - start)


class Audit(HttpMiddleware):
    """Logs who submitted, cancelled or deleted what, and every refusal; never a body and never a token."""

    def __init__(self, app: ASGIApp, *, service: str) -> None:
        super().__init__(app)
        self._service = service

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        started: list[Message] = []

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            await send(message)

        await self._app(scope, receive, recorded)
        if started and (scope["method"] not in {"GET", "HEAD", "OPTIONS"} or started[0]["status"] in REFUSED):
            self._write(scope, started[0])

    def _write(self, scope: Scope, answer: Message) -> None:
        caller: Caller = scope.get("state", {}).get(CALLER, ANONYMOUS)
        client = scope.get("client")
        location = next(
            (value.decode("latin-1") for key, value in answer["headers"] if key.lower() == b"location"), None
        )
        target = (location or scope["path"])[:MAX_AUDITED_PATH]
        audit_log.info(
            "audit",
            service=self._service,
            action=_action(scope["method"], scope["path"], answer["status"]),
            key=caller.key_id,
            caller=caller.name,
            target=target,
            job=target.split("/")[2] if target.startswith("/jobs/") else None,
            status=answer["status"],
            client=client[0] if client else None,
            request_id=scope.get(REQUEST_ID),
        )


def _action(method: str, path: str, status: int) -> str:
    if status in REFUSED:
        return "refused"
    if status >= 400:
        return "failed"
    if path == "/session":
        return "logout" if method == "DELETE" else "login"
    if method == "DELETE":
        return "cancel" if path.startswith("/jobs/") else "delete"
    if path == "/uploads" or path.startswith("/uploads/"):
        return "upload"
    return "submit" if status == 202 else "compute"


class SecurityHeaders(HttpMiddleware):
    """Adds security headers and a request id; without API keys, refuses foreign host names (DNS rebinding).

    Any web site can make its own name resolve to this machine and then let its visitors' browsers send requests here.
    Such a name has a dot; `localhost` and names of containers have none, and an address is no name.

    Parameters
    ----------
    check_host
        Whether to refuse host names with a dot that are not in ``allowed_hosts``.
    """

    def __init__(self, app: ASGIApp, *, check_host: bool, allowed_hosts: frozenset[str] = frozenset()) -> None:
        super().__init__(app)
        self._check_host = check_host
        self._allowed = allowed_hosts

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        request_id = scope[REQUEST_ID] = uuid.uuid4().hex
        policy = DOCS_POLICY if scope["path"] == DOCS else PAGE_POLICY

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers["x-request-id"] = request_id
                headers.setdefault("content-security-policy", policy)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            hosts = header_values(scope, "host")
            if self._check_host and not (len(hosts) == 1 and host_is_ours(hosts[0], self._allowed)):
                error = HostNotAllowed(
                    "This service runs without API keys and does not accept this `Host` header. Use `localhost` or the "
                    "IP address, or add the name to SHOAL_ALLOWED_HOSTS."
                )
                await refuse(error, scope, receive, with_headers)
            else:
                await self._app(scope, receive, with_headers)


def host_is_ours(host: str, allowed: frozenset[str]) -> bool:
    """Whether a Host header is an address, a name without a dot, or one of ``allowed``."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower().rstrip(".")
    if name in {each.lower() for each in allowed}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name and name.replace("-", "").replace("_", "").isalnum()
    return True


class UnexpectedErrors(HttpMiddleware):
    """Answers 500 when a route or an inner middleware raises: this answer too gets headers and an audit line."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if answered:
                # Too late for another answer: the server closes the connection, and the client sees that.
                raise
            log.error("request_failed", method=scope["method"], path=scope["path"], exc_info=error)
            await refuse(ShoalError(UNEXPECTED), scope, receive, send)


class BodyLimits(HttpMiddleware):
    """Receives a request's body before any route runs; refuses one that is too large or too slow.

    Parameters
    ----------
    max_bytes
        Of a body.
    max_inline_bytes
        Of a body sent to one of ``inline_paths``.
    inline_paths
        Ends of the paths whose bodies contain images or embeddings.
    inline_folders
        Beginnings of such paths.
    streamed
        Paths whose routes receive their bodies themselves, see `shoal.web.spool`.
    max_streamed_bytes
        Of such a body, as its sender declares it.
    body_s
        Seconds within which a body must arrive.
    max_held_bytes
        Of all bodies that are arriving or being processed; small ones are always accepted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_inline_bytes: int,
        inline_paths: tuple[str, ...],
        inline_folders: tuple[str, ...] = (),
        streamed: re.Pattern[str] | None = None,
        max_streamed_bytes: int = 0,
        body_s: float,
        max_held_bytes: int,
    ) -> None:
        super().__init__(app)
        self._max_bytes = max_bytes
        self._max_inline_bytes = max_inline_bytes
        self._inline_paths = inline_paths
        self._inline_folders = inline_folders
        self._streamed = streamed
        self._max_streamed_bytes = max_streamed_bytes
        self._body_s = body_s
        self._max_held_bytes = max_held_bytes
        self._held = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        held: list[int] = []
        if self._streamed is not None and self._streamed.fullmatch(f"{scope['method']} {scope['path']}"):
            try:
                _check_length(scope, self._max_streamed_bytes)
            except ShoalError as error:
                await refuse(error, scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        try:
            try:
                body = scope[BODY] = await self._receive(scope, receive, held)
            except ShoalError as error:
                await refuse(error, scope, receive, send)
            except ClientDisconnect:
                pass
            else:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._held -= sum(held)

    async def _receive(self, scope: Scope, receive: Receive, held: list[int]) -> bytes:
        path: str = scope["path"]
        inline = path.endswith(self._inline_paths) or path.startswith(self._inline_folders)
        most = self._max_inline_bytes if inline else self._max_bytes
        _check_length(scope, most)
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
                    raise too_large(most)
                if size > LARGE_BODY and self._held > self._max_held_bytes:
                    raise TooManyRequests(
                        f"The bodies of the current requests take {self._held} bytes; the limit is "
                        f"{self._max_held_bytes}. Send the request again in {HELD_RETRY_S} s.",
                        retry_after_s=HELD_RETRY_S,
                    )
                if not message.get("more_body", False):
                    # Copying a large body takes a while too.
                    return b"".join(chunks) if size <= LARGE_BODY else await BODIES.run(_join, chunks)
        raise too_slow(self._body_s)


def _check_length(scope: Scope, most: int) -> None:
    declared = header_values(scope, "content-length")
    if declared and header_values(scope, "transfer-encoding"):
        # With two lengths, a proxy before this service may believe the other one and take the rest for a new request.
        raise MalformedRequest("The request has both `Content-Length` and `Transfer-Encoding`. Send one of them.")
    if any(not value.isdigit() or int(value) > most for value in declared):
        raise too_large(most)


def too_slow(seconds: float) -> RequestTimeout:
    """The error for a body that did not arrive within ``seconds``."""
    return RequestTimeout(f"The body did not arrive within {seconds:.0f} s. Send the request again.")


def too_large(most: int) -> BodyTooLarge:
    """The error for a body of more than ``most`` bytes."""
    return BodyTooLarge(
        f"The body is larger than {most} bytes, the limit of this route. Send less at once.", max_bytes=most
    )


def _join(chunks: list[bytes]) -> bytes:
    """All ``chunks`` as one body. They are freed one by one: freeing all at once takes a while."""
    body = b"".join(chunks)
    while chunks:
        chunks.pop()
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    # First the body, then whatever arrives: a disconnect, which event streams wait for.
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
