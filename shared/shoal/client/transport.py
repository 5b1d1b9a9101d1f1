"""How requests travel: awaited in an event loop, or in the caller's thread.

Every method of the two clients is written once, as a coroutine that reaches the outside through a `Transport` alone.
Over an `EventLoop` it is awaited. Over `Threads` nothing suspends it, so that `run` takes it from start to end.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio
import httpx
from anyio import to_thread

from shoal.client.requests import Request, Service, problem
from shoal.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """Where the services are, and what every request to them carries.

    Attributes
    ----------
    urls
        Base URL of each.
    timeout_s
        Of one request.
    """

    urls: dict[Service, str]
    headers: dict[str, str]
    timeout_s: float

    @classmethod
    def of(
        cls, extractor_url: str | None, clusterer_url: str | None, api_key: str | None, timeout_s: float
    ) -> Services:
        """The services of these URLs, the environment's where they are None."""
        settings = Settings()
        key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
        return cls(
            {
                "extractor": extractor_url or settings.extractor_url,
                "clusterer": clusterer_url or settings.clusterer_url,
            },
            {"Authorization": f"Bearer {key}"} if key else {},
            timeout_s,
        )

    def clients(self, make: Callable[..., T]) -> dict[Service, T]:
        """An httpx client of each service."""
        return {
            # Not through a proxy: for this machine, localhost would be the proxy itself.
            service: make(base_url=url, headers=self.headers, timeout=self.timeout_s, trust_env=not is_local(url))
            for service, url in self.urls.items()
        }


def is_local(url: str) -> bool:
    """Whether a service of this URL runs on this machine."""
    host = httpx.URL(url).host
    return host == "localhost" or host.startswith("127.") or host == "::1"


@dataclass(frozen=True)
class Body:
    """The body of an answer, read as it comes: its lines, or its bytes in pieces."""

    lines: Callable[[], AsyncIterator[str]]
    pieces: Callable[[], AsyncIterator[bytes]]


class Transport(ABC):
    """All that a coroutine of the clients may wait for."""

    @abstractmethod
    def __init__(self, services: Services) -> None: ...

    @abstractmethod
    async def send(self, request: Request) -> httpx.Response:
        """The answer, an error's too, with its body."""

    @abstractmethod
    def open(self, request: Request) -> AbstractAsyncContextManager[Body]:
        """The body of the answer, within the context; the exception of an answer that is an error."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    async def work(self, function: Callable[[], T]) -> T:
        """The result of a function that computes or reads files."""

    @abstractmethod
    async def together(self, worker: Callable[[], Coroutine[object, None, None]], count: int) -> None:
        """Run ``count`` workers at once until all have ended; the first error is raised."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections."""


class EventLoop(Transport):
    """Requests of one event loop, of asyncio or trio."""

    def __init__(self, services: Services) -> None:
        self._clients = services.clients(httpx.AsyncClient)

    async def send(self, request: Request) -> httpx.Response:
        http = self._clients[request.service]
        return await http.send(request.build(http))

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Body]:
        http = self._clients[request.service]
        response = await http.send(request.build(http), stream=True)
        try:
            if response.is_error:
                await response.aread()
                raise problem(response)
            yield Body(response.aiter_lines, response.aiter_bytes)
        finally:
            await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def work(self, function: Callable[[], T]) -> T:
        return await to_thread.run_sync(function)

    async def together(self, worker: Callable[[], Coroutine[object, None, None]], count: int) -> None:
        errors: list[Exception] = []

        async def guarded() -> None:
            try:
                await worker()
            except Exception as error:
                errors.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(guarded)
        if errors:
            raise errors[0]

    async def close(self) -> None:
        for http in self._clients.values():
            await http.aclose()


class Threads(Transport):
    """Requests that hold the caller's thread; its coroutines are never suspended."""

    def __init__(self, services: Services) -> None:
        self._clients = services.clients(httpx.Client)

    async def send(self, request: Request) -> httpx.Response:
        http = self._clients[request.service]
        return http.send(request.build(http))

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Body]:
        http = self._clients[request.service]
        response = http.send(request.build(http), stream=True)
        try:
            if response.is_error:
                response.read()
                raise problem(response)
            yield Body(lambda: _each(response.iter_lines()), lambda: _each(response.iter_bytes()))
        finally:
            response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def work(self, function: Callable[[], T]) -> T:
        return function()

    async def together(self, worker: Callable[[], Coroutine[object, None, None]], count: int) -> None:
        # One of them in this thread, which alone receives Ctrl-C.
        with ThreadPoolExecutor(max(count - 1, 1)) as pool:
            others = [pool.submit(lambda: run(worker())) for _ in range(count - 1)]
            await worker()
        for other in others:
            other.result()

    async def close(self) -> None:
        for http in self._clients.values():
            http.close()


async def _each(items: Iterator[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


def run(coroutine: Coroutine[object, None, T]) -> T:
    """The result of a coroutine over `Threads`."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine} waits for an event loop")


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an asynchronous generator over `Threads`."""
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
