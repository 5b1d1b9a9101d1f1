"""Too much at once: large and deep bodies, fast keys, full queues."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope

BODY = {"embeddings": "a", "clusters": 3}
ClientWith = Callable[..., TestClient]
JSON = {"Content-Type": "application/json"}


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000 + 1):
        yield b"x" * 1000


def test_a_body_that_says_it_is_too_large_is_not_read(client_with: ClientWith) -> None:
    answer = client_with(Scope.SUBMIT, max_body_bytes=2000).post("/things", content=b"x" * 2001, headers=JSON)
    assert (answer.status_code, answer.json()["code"], answer.json()["max_bytes"]) == (413, "body_too_large", 2000)


def test_a_body_that_grows_too_large_is_cut_off(client_with: ClientWith) -> None:
    answer = client_with(Scope.SUBMIT, max_body_bytes=2000).post("/things", content=_chunks(5000), headers=JSON)
    assert answer.status_code == 413


def test_a_body_of_the_largest_size_gets_through(client_with: ClientWith) -> None:
    body = json.dumps(BODY).encode()
    answer = client_with(Scope.SUBMIT, max_body_bytes=2000).post(
        "/things", content=body + b" " * (2000 - len(body)), headers=JSON
    )
    assert answer.status_code == 202


def test_routes_that_take_images_take_larger_bodies(client_with: ClientWith) -> None:
    client = client_with(Scope.SUBMIT, max_body_bytes=2000, max_inline_bytes=10_000)
    assert client.post("/v1/embeddings", json={"text": "x" * 5000}).json() == 5000
    assert client.post("/v1/embeddings", json={"text": "x" * 10_000}).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"clusters": ' + b"9" * 100_000 + b', "embeddings": "a"}',
        b'{"embeddings": "a", "clusters": 1e999}',
        b'{"embeddings": "a", "clusters": NaN}',
        b'{"embeddings": "a", "clusters": -Infinity}',
        b'{"embeddings": "\xff\xfe", "clusters": 3}',
        b'{"embeddings": "\\ud800", "clusters": 3}',
        b'{"embeddings": "a\\u0000", "clusters": 3}',
        b"\xef\xbb\xbf{}",
        b"",
        b"null",
        b'{"embeddings": "a", "clusters": 9223372036854775808}',
        b'{"embeddings": "a", "clusters": 3, "__proto__": {}}',
        b'{"embeddings": "a", "clusters": 3, "seeds": [' + b"1," * 5000 + b"1]}",
        b'{"embeddings": "' + b"a" * 5000 + b'", "clusters": 3}',
    ],
)
def test_a_hostile_body_is_refused_and_never_breaks_the_service(client_with: ClientWith, body: bytes) -> None:
    answer = client_with(Scope.SUBMIT).post("/things", content=body, headers=JSON)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_body_is_never_unpacked(client_with: ClientWith, coding: str) -> None:
    # Nothing that a sender packs small is unpacked large: a packed body is no JSON.
    packed = gzip.compress(json.dumps({**BODY, "x": "0" * 10_000_000}).encode())
    assert len(packed) < 20_000
    answer = client_with(Scope.SUBMIT).post("/things", content=packed, headers={**JSON, "Content-Encoding": coding})
    assert answer.status_code in {400, 415, 422}


def test_a_key_that_asks_too_fast_waits(make_app: Callable[..., FastAPI], keys: KeyStore) -> None:
    _, slow = keys.create("slow", Scope.READ, rate=0.1)
    _, other = keys.create("other", Scope.READ)
    client = TestClient(make_app())
    answers = [client.get("/jobs", headers={"Authorization": f"Bearer {slow}"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["Retry-After"]) >= 1
    assert client.get("/jobs", headers={"Authorization": f"Bearer {other}"}).status_code == 200


def test_a_full_queue_asks_to_come_back(client_with: ClientWith) -> None:
    client = client_with(Scope.SUBMIT, max_queued=2)
    statuses = [client.post("/things", json=BODY).status_code for _ in range(3)]
    assert statuses == [202, 202, 429]
    refused = client.post("/things", json=BODY)
    assert (refused.json()["code"], int(refused.headers["Retry-After"])) == ("queue_full", 10)


def test_a_full_queue_holds_without_keys_too(make_app: Callable[..., FastAPI]) -> None:
    client = TestClient(make_app(auth="off", max_queued=1))
    assert [client.post("/things", json=BODY).status_code for _ in range(2)] == [202, 429]


def test_one_key_cannot_fill_the_queue_for_others(
    client_with: ClientWith, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.web.jobs.RECOUNT_S", 0.0)
    greedy = client_with(Scope.SUBMIT, max_queued_per_key=2)
    jobs = [greedy.post("/things", json=BODY) for _ in range(3)]
    assert [job.status_code for job in jobs] == [202, 202, 429]
    assert client_with(Scope.SUBMIT, max_queued_per_key=2).post("/things", json=BODY).status_code == 202
    queue.cancel(jobs[0].json()["id"])
    assert greedy.post("/things", json=BODY).status_code == 202


@pytest.fixture
def port(make_app: Callable[..., FastAPI]) -> Iterator[int]:
    """A real server without keys, for what no HTTP client would send."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(make_app(auth="off"), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(30)


def _raw(port: int, request: bytes) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        answer = b""
        # A server that refuses early may close before all is sent, and closes with a reset what it did not read.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + SMUGGLED,
        b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 60\r\n\r\nabcd" + SMUGGLED,
        b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n" + SMUGGLED,
        b"POST /things HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_clean_http_is_refused(port: int, request_: bytes) -> None:
    answer = _raw(port, request_)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")) or answer == b""
    assert b"200 OK" not in answer
    assert _raw(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
