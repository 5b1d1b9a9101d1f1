"""What the API says when a model host answers, refuses, hangs, breaks off or is not there."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.online import client as module
from extractor.online import wire
from extractor.online.client import HostClient
from shoal.errors import BackendNotInstalled, ImageUnrecognised, InvalidRequest, ModelHostDown, Overloaded, ShoalError

VECTORS = np.arange(6, dtype=np.float32).reshape(2, 3)
Scenario = Callable[["Scripted", HostClient], Awaitable[Any]]


@dataclass
class Scripted:
    """A host that answers as it is told, on a real socket.

    Attributes
    ----------
    answer
        Writes the answer to a request; its path is given.
    requests
        Path, headers and body of each.
    """

    answer: Callable[[str, asyncio.StreamWriter], Awaitable[None]]
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.server = await asyncio.start_unix_server(self._serve, path)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for each in self.serving:
            each.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)
        self.serving.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = lines[0].split()[1]
                self.requests.append((path, headers, body))
                self.arrived.set()
                await self.answer(path, writer)
        self.gone.set()


def sent(content: bytes, status: int = 200, **headers: str) -> Callable[[str, asyncio.StreamWriter], Awaitable[None]]:
    """Answers every request alike."""

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()

    return answer


def npy(vectors: np.ndarray[Any, Any] = VECTORS) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()


async def hang(path: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def break_off(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    writer.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run(folder: Path) -> Callable[..., Any]:
    """``run(answer, scenario)``: the result of ``scenario(host, client)`` beside a host that answers so."""

    async def main(answer: Callable[[str, asyncio.StreamWriter], Awaitable[None]], scenario: Scenario) -> Any:
        host, client = Scripted(answer), HostClient(folder)
        async with AsyncExitStack() as stack:
            await host.listen(wire.socket_path(folder, "torch"))
            stack.push_async_callback(host.stop)
            stack.push_async_callback(client.aclose)
            return await asyncio.wait_for(scenario(host, client), 60)

    return lambda *arguments: asyncio.run(main(*arguments))


def test_images_go_as_they_are_and_vectors_come_back(run: Callable[..., Any]) -> None:
    async def scenario(host: Scripted, client: HostClient) -> None:
        found = await client.embed("torch", {"architecture": "é", "weights": "random"}, [b"one", b"\0\xff"], 7.5)
        assert found.digest == "abc"
        np.testing.assert_array_equal(found.vectors, VECTORS)
        [(path, headers, body)] = host.requests
        assert (path, body) == ("/embed", b"one\0\xff")
        assert json.loads(headers["x-shoal-model"]) == {"architecture": "é", "weights": "random"}
        assert (headers["x-shoal-lengths"], headers["x-shoal-timeout-ms"]) == ("3,2", "7500")

    run(sent(npy(), X_Shoal_Model_Digest="abc"), scenario)


def test_a_refusal_keeps_its_code_its_status_and_its_time(run: Callable[..., Any]) -> None:
    async def refused(host: Scripted, client: HostClient) -> ShoalError:
        with pytest.raises(ShoalError) as caught:
            await client.embed("torch", "m", [b"x"])
        return caught.value

    def problem(code: str, **members: Any) -> bytes:
        return json.dumps({"code": code, "detail": "Why.", "status": 418, **members}).encode()

    error = run(sent(problem("image_unrecognised", input=3), 422), refused)
    assert (type(error), error.status, error.detail) == (ImageUnrecognised, 422, "Why.")
    assert error.members == {"input": 3}
    error = run(sent(problem("overloaded"), 503, Retry_After="4"), refused)
    assert (type(error), error.status, error.members) == (Overloaded, 503, {"retry_after_s": 4})
    error = run(sent(problem("of_another_version"), 429, Retry_After="9"), refused)
    assert (error.problem()["code"], error.problem()["status"], error.members["retry_after_s"]) == (
        "of_another_version",
        429,
        9,
    )
    error = run(sent(b"<html>", 500), refused)
    assert (error.code, error.status) == ("internal_error", 500)


def test_without_a_host_it_is_said_how_to_start_one(folder: Path) -> None:
    async def scenario(client: HostClient, backend: str) -> None:
        try:
            await client.embed(backend, "m", [b"x"])
        finally:
            await client.aclose()

    with pytest.raises(ModelHostDown, match=r"`shoal up`.*`python -m extractor host --backend torch`.*shoal\[torch\]"):
        asyncio.run(scenario(HostClient(folder), "torch"))
    with pytest.raises(ModelHostDown, match=r"--backend tfserving.*shoal\[tf\]") as caught:
        asyncio.run(scenario(HostClient(folder), "tfserving"))
    assert (caught.value.status, caught.value.members["retry_after_s"]) == (503, 5)
    wire.socket_path(folder, "torch").touch()  # Left by a host that was killed.
    with pytest.raises(ModelHostDown):
        asyncio.run(scenario(HostClient(folder), "torch"))
    with pytest.raises(BackendNotInstalled, match=r"pip install 'shoal\[tf\]'"):
        asyncio.run(scenario(HostClient(folder, {"extract:tfserving"}), "tfserving"))


def test_a_description_that_no_header_holds_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"catalogue\.toml"):
        asyncio.run(HostClient(folder).embed("torch", {"rename": [["a" * 200, "é" * 200]] * 100}, [b"x"]))


@pytest.mark.parametrize(("answer", "says"), [(break_off, "ended while"), (hang, r"did not answer within 0\.1 s")])
def test_a_host_that_breaks_off_or_hangs_is_down(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, answer: Any, says: str
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)

    async def scenario(host: Scripted, client: HostClient) -> None:
        with pytest.raises(ModelHostDown, match=says):
            await client.embed("torch", "m", [b"x"], 0.1)

    run(answer, scenario)


def test_a_host_that_was_started_anew_is_asked_over_a_new_connection(run: Callable[..., Any], folder: Path) -> None:
    async def scenario(host: Scripted, client: HostClient) -> None:
        await client.embed("torch", "m", [b"x"])
        await host.stop()
        await host.listen(wire.socket_path(folder, "torch"))
        assert (await client.embed("torch", "m", [b"x"])).vectors.shape == (2, 3)

    run(sent(npy()), scenario)


def test_a_request_that_is_cancelled_leaves_the_host(run: Callable[..., Any]) -> None:
    async def scenario(host: Scripted, client: HostClient) -> None:
        asking = asyncio.create_task(client.embed("torch", "m", [b"x"]))
        await host.arrived.wait()
        asking.cancel()
        await host.gone.wait()

    async def wait_for_the_end(path: str, writer: asyncio.StreamWriter) -> None:
        while not writer.transport.is_closing():
            writer.write(b"H")  # Fails as soon as nobody reads.
            await writer.drain()
            await asyncio.sleep(0.001)
        raise ConnectionError

    run(wait_for_the_end, scenario)


def test_more_requests_than_connections_are_refused_at_once(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 2)

    async def scenario(host: Scripted, client: HostClient) -> None:
        waiting = [asyncio.create_task(client.embed("torch", "m", [b"x"])) for _ in range(2)]
        while len(host.requests) < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await client.embed("torch", "m", [b"x"])
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        third = asyncio.create_task(client.embed("torch", "m", [b"x"]))
        while len(host.requests) < 3:
            await asyncio.sleep(0.001)
        for each in (waiting[1], third):
            each.cancel()
        await asyncio.wait([waiting[1], third])

    run(hang, scenario)


MODELS = json.dumps({"models": [{"name": "raw_pixels", "bytes": 1}]}).encode()


def test_what_a_host_says_about_itself_is_asked_once_a_second(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60.0)

    async def scenario(host: Scripted, client: HostClient) -> None:
        for states in await asyncio.gather(*(client.states() for _ in range(5))):
            assert (states["torch"].answers, states["torch"].models) == (True, frozenset({"raw_pixels"}))
            assert (states["tfserving"].answers, states["tfserving"].models) == (False, frozenset())
        assert [path for path, _, _ in host.requests] == ["/models"]
        monkeypatch.setattr(module, "FRESH_S", 0.0)
        await client.states()
        assert len(host.requests) == 2

    run(sent(MODELS), scenario)


def test_a_host_that_hangs_keeps_nobody_waiting(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(module, "ASK_S", 0.2)
    healthy = True

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        await (sent(MODELS) if healthy else hang)(path, writer)

    async def scenario(host: Scripted, client: HostClient) -> None:
        nonlocal healthy
        while not (await client.states())["torch"].answers:
            await asyncio.sleep(0.001)
        healthy = False
        while (await client.states())["torch"].answers:
            await asyncio.sleep(0.001)
        assert len(host.requests) < 100

    run(answer, scenario)
