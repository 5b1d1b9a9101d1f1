"""A server that answers as scripted, and both clients in front of it."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from shoal import AsyncClient, Client
from shoal.client.transport import EventLoop, Threads, Transport


class Script(ThreadingHTTPServer):
    """Answers in order; the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.reply: Callable[[str, Any], tuple[int, bytes]] | None = None
        """Answers instead, from the path and the body."""
        self.retry_after = "0"
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Script

    def answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(length)
        body: Any = raw or None
        if self.headers.get("content-type") == "application/json":
            body = json.loads(raw)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, body))
        if self.server.reply is not None:
            status, data = self.server.reply(self.path, body)
        else:
            answers = self.server.answers
            status, payload = answers.pop(0) if len(answers) > 1 else answers[0]
            data = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after", self.server.retry_after)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class InLoop:
    """An `AsyncClient` with the plain methods of a `Client`, each run to its end in another thread's event loop."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient) -> None:
        self._portal = portal
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            return self._each(answer) if inspect.isasyncgen(answer) else self._portal.call(_result, answer)

        return call

    def __enter__(self) -> InLoop:
        return self

    def __exit__(self, *error: object) -> None:
        self._portal.call(self._client.close)

    def _each(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while (item := self._portal.call(_next, items)) is not END:
            yield item


END = object()


async def _result(answer: Awaitable[Any]) -> Any:
    return await answer


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, END)


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, portal: BlockingPortal) -> Callable[..., Client]:
    """Makes a client of either class; both have the same methods."""

    def make(*args: Any, **options: Any) -> Client:
        if request.param == "sync":
            return Client(*args, **options)
        return cast(Client, InLoop(portal, AsyncClient(*args, **options)))

    return make


@pytest.fixture
def client(script: Script, connect: Callable[..., Client]) -> Iterator[Client]:
    with connect(script.url, script.url, api_key="key-1") as client:
        yield client


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a client would have slept; it does not."""
    seconds: list[float] = []

    async def sleep(transport: Transport, for_s: float) -> None:
        seconds.append(for_s)

    monkeypatch.setattr(EventLoop, "sleep", sleep)
    monkeypatch.setattr(Threads, "sleep", sleep)
    return seconds
