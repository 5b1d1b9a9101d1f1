"""Connections that send too little, too slowly, or are too many."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI
from shoal.web import connections

Serve = Callable[..., int]
MakeApp = Callable[..., FastAPI]
HALF = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX-"
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
WHOLE_AND_CLOSE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """``connect(port, first=b"")``: a connection that has sent ``first``."""
    with contextlib.ExitStack() as opened:

        def make(port: int, first: bytes = b"") -> socket.socket:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(first)
            return connection

        yield make


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_half_headers_keep_nobody_out(make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket]) -> None:
    port = serve(make_app(auth="off"), header_timeout_s=20)
    held = [connect(port, HALF) for _ in range(2050)]
    start = time.monotonic()
    for _ in range(5):
        assert httpx.get(f"http://127.0.0.1:{port}/jobs", timeout=30).status_code == 200
    assert time.monotonic() - start < 10
    assert received(held[0]) == b"", "the one that has waited longest makes room"


@pytest.mark.parametrize("first", [b"", HALF, WHOLE + HALF], ids=["nothing", "half a header", "half a second header"])
def test_headers_that_do_not_come_close_the_connection(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], first: bytes
) -> None:
    port = serve(make_app(auth="off"), header_timeout_s=0.3)
    answer = received(connect(port, first))
    assert b"HTTP/1.1 408 " in answer
    assert b'"code": "request_timeout"' in answer
    assert (b"200 OK" in answer) == first.startswith(WHOLE)


def test_headers_byte_by_byte_gain_no_time(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket]
) -> None:
    connection = connect(serve(make_app(auth="off"), header_timeout_s=0.5), HALF)
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 20:
            connection.sendall(b"a")
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1000).startswith(b"HTTP/1.1 408"):
                    break
    assert time.monotonic() - start < 10


def test_a_body_that_drips_after_its_refusal_is_cut_off(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.3)
    head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    connection = connect(serve(make_app()), head)
    answer = b""
    start = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 20:
            connection.sendall(b"a")
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                chunk = connection.recv(1000)
                answer += chunk
                if not chunk:
                    break
    assert answer.startswith(b"HTTP/1.1 401")
    assert time.monotonic() - start < 10


def test_a_body_that_does_not_come_is_given_up(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket]
) -> None:
    app = make_app(auth="off", body_timeout_s=0.3)
    head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
    assert received(connect(serve(app, body_timeout_s=0.3), head)).startswith(b"HTTP/1.1 408")


def test_a_client_that_reads_nothing_is_cut_off(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.3)
    app = make_app(auth="off")

    @app.get("/endless")
    def endless() -> bytes:
        return b"x" * 50_000_000

    dropped = threading.Event()
    drop = connections.Connection.drop
    monkeypatch.setattr(connections.Connection, "drop", lambda each: (drop(each), dropped.set()))
    connection = connect(serve(app), b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert dropped.wait(30)
    assert len(received(connection)) < 50_000_000


def test_one_address_has_only_so_many(make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket]) -> None:
    port = serve(make_app(auth="off"), max_connections_per_client=2)
    first, *others = [connect(port) for _ in range(3)]
    assert received(first) == b""
    others[1].sendall(WHOLE)
    assert others[1].recv(1000).startswith(b"HTTP/1.1 200")


def test_when_all_are_busy_a_new_one_is_told_so(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], wait_until: Callable[..., None]
) -> None:
    port = serve(make_app(auth="off"), max_connections=2)
    head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    busy = [connect(port, head) for _ in range(2)]
    assert [each.recv(1000)[:12] for each in busy] == [b"HTTP/1.1 100"] * 2
    answer = received(connect(port, WHOLE))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "too_many_connections"' in answer
    busy[0].close()
    wait_until(lambda: received(connect(port, WHOLE_AND_CLOSE)).startswith(b"HTTP/1.1 200"))


def test_bodies_that_drip_keep_nobody_out(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], wait_until: Callable[..., None]
) -> None:
    port = serve(make_app(auth="off"), max_connections=4, max_connections_per_client=3)
    head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    dripping = [connect(port, head) for _ in range(3)]

    def answered() -> bool:
        for each in dripping:
            with contextlib.suppress(ConnectionError):
                each.sendall(b"a")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        return False

    wait_until(answered, what="one of them makes room")


@pytest.mark.parametrize("request_", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n"])
def test_what_is_no_http_is_refused_with_a_problem(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], request_: bytes
) -> None:
    answer = received(connect(serve(make_app(auth="off")), request_))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert b'"code": "malformed_request"' in answer


def test_bodies_fill_only_so_much_memory(
    make_app: MakeApp, serve: Serve, connect: Callable[..., socket.socket], wait_until: Callable[..., None]
) -> None:
    port = serve(make_app(auth="off", max_held_bytes=1_500_000))
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    held = connect(port, head + b"2000000\r\n\r\n" + b" " * 1_000_000)
    url, body = f"http://127.0.0.1:{port}/v1/embeddings", b'{"text": "' + b"x" * 1_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}

    def refused() -> bool:
        # The rest of a refused body is not read, which a client that is still sending may see as a reset.
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(url, content=body, headers=headers, timeout=30)
            return answer.status_code == 429 and bool(answer.headers["retry-after"])
        return False

    wait_until(refused)
    assert httpx.post(url, json={"text": "small"}, timeout=30).json() == 5
    held.close()
    wait_until(lambda: httpx.post(url, content=body, headers=headers, timeout=30).is_success)
