"""Sending the requests of a client: again where the service does not answer, and errors as exceptions."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import httpx

from shoal.client.requests import RETRY_STATUSES, Query, Request, Service, pause_s, problem, retry_after_s
from shoal.client.tables import Table, table_of
from shoal.client.transport import Body, Services, Transport
from shoal.client.vectors import Json
from shoal.errors import PreconditionFailed, Unavailable
from shoal.schemas import Job

TRIES = 5
"""How often a change is sent again that another writer's change came before."""


class Sending:
    """What every method of the clients is written with."""

    _over: ClassVar[type[Transport]]

    def __init__(
        self,
        extractor_url: str | None = None,
        clusterer_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        self._services = Services.of(extractor_url, clusterer_url, api_key, timeout_s)
        self._transport = self._over(self._services)
        self._retries = retries

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def _get(self, service: Service, path: str, query: Query | None = None) -> Json:
        answer: Json = (await self._send(Request(service, "GET", path, query or {}))).json()
        return answer

    async def _at_version(
        self,
        current: Callable[[], Awaitable[str]],
        etag: str | None,
        request: Callable[[str], Request],
        tries: int = TRIES,
    ) -> tuple[Json, str]:
        """The answer to a change and its version; without ``etag``, of the version that is current when it is made."""
        for last in [False] * (tries - 1) + [True]:
            version = etag or await current()
            try:
                answer = await self._send(request(version))
            except PreconditionFailed:
                if etag is not None or last:
                    raise
            else:
                return answer.json(), answer.headers["ETag"]
        raise AssertionError("unreachable")

    async def _pages(
        self, service: Service, path: str, name: str, query: Query, page_rows: int
    ) -> AsyncGenerator[Json, None]:
        """What the pages of a list have under ``name``, one after another."""
        cursor: str | None = None
        while True:
            page = await self._get(service, path, {**query, "limit": page_rows, "cursor": cursor})
            for each in page[name]:
                yield each
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def _lines(self, path: str, query: Query) -> AsyncGenerator[Json, None]:
        """The rows of a table of the clusterer, as they come."""
        async with self._open(Request("clusterer", "GET", path, {**query, "format": "jsonl"})) as body:
            async for line in body.lines():
                yield json.loads(line)

    async def _table(self, path: str, query: Query | None = None) -> Table:
        """A table of the clusterer as a whole."""
        answer = await self._send(Request("clusterer", "GET", path, {**(query or {}), "format": "arrow"}))
        return await self._transport.work(lambda: table_of(answer.content))

    async def _save(self, path: str, query: Query, target: Path) -> Path:
        """Write an answer of the clusterer to the file ``target``, as it comes."""
        async with self._open(Request("clusterer", "GET", path, query)) as body:
            with target.open("wb") as file:
                async for piece in body.pieces():
                    file.write(piece)
        return target

    async def _submit(self, service: Service, path: str, body: Json, key: str | None, nulls: Sequence[str] = ()) -> Job:
        """Submit ``body`` without its options that are None, except those in ``nulls``."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = {name: value for name, value in body.items() if value is not None or name in nulls}
        answer = await self._send(Request(service, "POST", path, json=body, headers=headers))
        return Job.model_validate(answer.json())

    @asynccontextmanager
    async def _open(self, request: Request) -> AsyncIterator[Body]:
        """An answer that is read as it comes; it cannot be repeated."""
        try:
            async with self._transport.open(request) as body:
                yield body
        except httpx.TransportError as error:
            url = self._services.urls[request.service]
            raise Unavailable(f"{url} does not answer, or broke off ({error}). Is `shoal up` running?") from error

    async def _send(self, request: Request) -> httpx.Response:
        """The answer, after as many tries as it takes."""
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = await self._transport.send(request)
            except httpx.TransportError as error:
                if last:
                    url = self._services.urls[request.service]
                    raise Unavailable(f"{url} does not answer ({error}). Is `shoal up` running?") from error
                await self._transport.sleep(pause_s(attempt))
                continue
            if response.status_code in RETRY_STATUSES and not last:
                await self._transport.sleep(retry_after_s(response.headers.get("Retry-After")))
                continue
            if response.is_error:
                raise problem(response)
            return response
        raise AssertionError("unreachable")
