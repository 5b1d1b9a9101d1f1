"""What every answer carries, and what pages of other sites cannot make a browser do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shoal.keys import Scope

BODY = {"embeddings": "a", "clusters": 3}
ClientWith = Callable[..., TestClient]
MakeApp = Callable[..., FastAPI]


@pytest.mark.parametrize("path", ["/healthz", "/jobs", "/nothing", "/openapi.json", "/docs"])
def test_every_answer_says_how_a_browser_must_treat_it(client_with: ClientWith, path: str) -> None:
    headers = client_with(Scope.READ).get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ("script-src" in headers["Content-Security-Policy"]) == (path == "/docs")
    assert headers["Cache-Control"] == "no-store"
    assert len(headers["X-Request-Id"]) == 32
    assert "server" not in headers


def test_a_refusal_carries_them_too(client_with: ClientWith) -> None:
    assert client_with(None).get("/jobs").headers["X-Content-Type-Options"] == "nosniff"


def test_a_request_id_of_the_client_is_not_taken_over(client_with: ClientWith) -> None:
    answer = client_with(Scope.READ).get("/jobs", headers={"X-Request-Id": "forged"})
    assert answer.headers["X-Request-Id"] != "forged"


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_no_other_site_may_read_an_answer(client_with: ClientWith, method: str) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client_with(Scope.READ).request(method, "/jobs", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_form_of_another_site_submits_nothing(make_app: MakeApp, kind: str | None) -> None:
    # What a browser sends across sites without asking first.
    client = TestClient(make_app(auth="off"))
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post("/things", content=b'{"embeddings": "a", "clusters": 3}', headers=headers)
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported_media_type"
    assert client.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "localhost/evil",
        "local host",
        "",
        "evil.example.",
        "[::1].evil.example",
    ],
)
def test_a_name_that_was_pointed_here_gets_no_answer_without_keys(make_app: MakeApp, host: str) -> None:
    client = TestClient(make_app(auth="off"))
    answer = client.get("/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001", "extractor-api:8001", "shoal.example:443"]
)
def test_the_names_that_a_service_has_are_answered(make_app: MakeApp, host: str) -> None:
    client = TestClient(make_app(auth="off", allowed_hosts="shoal.example"))
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


def test_with_keys_any_name_will_do(client_with: ClientWith) -> None:
    assert client_with(Scope.READ).get("/jobs", headers={"Host": "shoal.example"}).status_code == 200
