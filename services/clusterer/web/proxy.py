"""`/ui/extractor/<path>`: the extractor's API at the pages' own origin, so that pages need only this one address.

Bodies are passed on as they arrive: an upload of gigabytes is never held. The caller's key or session goes along; the
extractor decides. Only the configured extractor is ever asked, and no redirect is followed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from shoal.errors import NotFound, Unavailable
from shoal.settings import Settings
from shoal.web.auth import PROXY, READING, refuse_other_sites
from shoal.web.middleware import BODY

from clusterer.web.extractor import ExtractorDep

STREAMED: Final = re.compile(rf"(POST|PUT) {PROXY}/uploads(/.*)?")
"""Requests whose bodies are passed on as they arrive."""
PASSED_ON: Final = frozenset(
    {"accept", "authorization", "content-length", "content-type", "cookie", "idempotency-key", "if-match",
     "last-event-id", "range", "x-csrf-token"}
)  # fmt: skip
"""Headers of a request that the extractor gets. Its `Origin` is this service's, and was checked here."""
RETURNED: Final = frozenset(
    {"accept-ranges", "cache-control", "content-disposition", "content-length", "content-range",
     "content-security-policy", "content-type", "etag", "location", "retry-after", "shoal-deleted-embeddings"}
)  # fmt: skip
TIMEOUT: Final = httpx.Timeout(150.0, connect=5.0, read=None)
"""An event stream may be silent for as long as it likes."""

router = APIRouter(include_in_schema=False)


@router.api_route(PROXY + "/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def forward(path: str, request: Request, client: ExtractorDep) -> StreamingResponse:
    """Pass a request on to the extractor, and its answer back.

    Raises
    ------
    Forbidden
        A page of another site sends it.
    NotFound
        The path leads elsewhere than below the extractor's address.
    Unavailable
        The extractor does not answer.
    """
    settings: Settings = request.app.state.settings
    if request.method not in READING:
        # The extractor does not see the `Origin` of the request.
        refuse_other_sites(request.scope)
    headers = [(name, value) for name, value in request.headers.items() if name in PASSED_ON]
    # Compressed bytes would arrive without the header that says so.
    headers.append(("accept-encoding", "identity"))
    has_body = any(name in request.headers for name in ("content-length", "transfer-encoding"))
    sent = client.build_request(
        request.method,
        _target(settings, path, request),
        headers=headers,
        content=_body(request) if has_body else None,
        timeout=TIMEOUT,
    )
    try:
        answer = await client.send(sent, stream=True, follow_redirects=False)
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"The extractor at {settings.extractor_url} does not answer ({reason}).") from error
    returned = {name: value for name, value in answer.headers.items() if name in RETURNED}
    return StreamingResponse(_answer(answer), status_code=answer.status_code, headers=returned)


def _target(settings: Settings, path: str, request: Request) -> httpx.URL:
    """The extractor's address of a request: only path and query come from it, so the host is always the same."""
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    prefix = f"{PROXY}/".encode()
    # The route matches the decoded path: `/ui/extractor%2F@host` too.
    if not raw.startswith(prefix) or any(part in {".", ".."} for part in path.split("/")):
        raise NotFound(f"The pages pass on paths below `{PROXY}/` only, without `.` and `..`.")
    base = httpx.URL(settings.extractor_url)
    query = request.scope["query_string"]
    full = base.raw_path.rstrip(b"/") + b"/" + raw[len(prefix) :] + (b"?" + query if query else b"")
    return base.copy_with(raw_path=full)


async def _body(request: Request) -> AsyncIterator[bytes]:
    held: bytes | None = request.scope.get(BODY)
    if held is not None:
        yield held
        return
    async for chunk in request.stream():
        yield chunk


async def _answer(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
