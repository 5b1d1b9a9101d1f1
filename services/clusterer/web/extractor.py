"""The connections to the extractor that all requests of an application share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import httpx
from fastapi import Depends, FastAPI, Request

TIMEOUT_S: Final = 150.0
LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=32)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close what the first request made."""
    yield
    client: httpx.AsyncClient | None = getattr(app.state, "extractor", None)
    if client is not None:
        await client.aclose()
        del app.state.extractor


async def _extractor(request: Request) -> httpx.AsyncClient:
    state = request.app.state
    if not hasattr(state, "extractor"):
        # Not through a proxy: the extractor is a service of this installation.
        state.extractor = httpx.AsyncClient(timeout=TIMEOUT_S, limits=LIMITS, trust_env=False)
    client: httpx.AsyncClient = state.extractor
    return client


ExtractorDep = Annotated[httpx.AsyncClient, Depends(_extractor)]
"""The client that all requests of an application share."""
