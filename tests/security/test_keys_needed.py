"""Who gets in: nothing but health without a key, nothing beyond a key's scope with one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from shoal.errors import NoKeys
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.web.auth import check_before_listening, keys_needed

BODY = {"embeddings": "a", "clusters": 3}
ClientWith = Callable[..., TestClient]


def test_no_route_but_health_answers_without_a_key(
    client_with: ClientWith, every_request: Callable[[object], list[tuple[str, str]]]
) -> None:
    client = client_with(None)
    routes = every_request(client.app)
    assert {path for _, path in routes} > {"/docs", "/openapi.json", "/metrics", "/jobs", "/jobs/some", "/things"}
    others = [("GET", "/nothing"), ("PUT", "/jobs"), ("OPTIONS", "/jobs"), ("TRACE", "/jobs")]
    for method, path in [*routes, *others]:
        status = client.request(method, path).status_code
        expected = {200, 204, 405, 422, 503} if path in {"/healthz", "/readyz", "/session"} else {401}
        assert status in expected, (method, path, status)


@pytest.mark.parametrize("path", ["/healthz/", "/healthz/../jobs", "/healthz%2f..%2fjobs", "//healthz", "/HEALTHZ"])
def test_no_spelling_of_health_opens_more(client_with: ClientWith, path: str) -> None:
    assert client_with(None).get(path).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic {token}")],
        [("Authorization", "{token}")],
        [("Authorization", "Bearer {token} x")],
        [("Authorization", "Bearer {token}"), ("Authorization", "Bearer {token}")],
        [("Authorization", "Bearer nothing"), ("Authorization", "Bearer {token}")],
        [("X-API-Key", "{token}")],
        [("Cookie", "Authorization=Bearer {token}")],
        [("Proxy-Authorization", "Bearer {token}")],
        [("X-Forwarded-For", "127.0.0.1")],
        [("X-Original-URL", "/healthz")],
        [("X-Rewrite-URL", "/healthz")],
        [("Authorization", "Bearer \xe9")],
    ],
)
def test_header_tricks_open_nothing(client_with: ClientWith, keys: KeyStore, headers: list[tuple[str, str]]) -> None:
    _, token = keys.create("ops", Scope.ADMIN)
    sent = [(name.encode(), value.format(token=token).encode("latin-1")) for name, value in headers]
    answer = client_with(None).get("/jobs", headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert token not in answer.text


def test_a_token_in_the_address_opens_nothing(client_with: ClientWith, keys: KeyStore) -> None:
    _, token = keys.create("ops", Scope.ADMIN)
    assert client_with(None).get("/jobs", params={"access_token": token, "api_key": token}).status_code == 401


def test_a_method_override_stays_what_was_sent(client_with: ClientWith) -> None:
    client = client_with(Scope.READ)
    assert client.get("/jobs", headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 200
    assert client.post("/things", json=BODY, headers={"X-HTTP-Method-Override": "GET"}).status_code == 403


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [(Scope.READ, (200, 403, 403, 403)), (Scope.SUBMIT, (200, 202, 202, 403)), (Scope.ADMIN, (200, 202, 202, 204))],
)
def test_a_key_does_what_its_scope_says(
    client_with: ClientWith, scope: Scope, statuses: tuple[int, int, int, int]
) -> None:
    client = client_with(scope)
    listed = client.get("/jobs").status_code
    submitted = client.post("/things", json=BODY)
    cancelled = client.delete(f"/jobs/{submitted.json().get('id', 'none')}").status_code
    deleted = client.delete("/things/x").status_code
    assert (listed, submitted.status_code, cancelled, deleted) == statuses
    if scope is Scope.READ:
        assert client.get("/jobs").json()["jobs"] == []


def test_a_key_revoked_while_a_service_runs_is_refused(client_with: ClientWith, keys: KeyStore) -> None:
    client = client_with(Scope.READ)
    assert client.get("/jobs").status_code == 200
    keys.revoke(keys.list()[-1].id)
    assert client.get("/jobs").status_code == 401


def test_metrics_have_a_token_of_their_own_that_opens_nothing_else(client_with: ClientWith, tmp_path: object) -> None:
    file = tmp_path / "token"  # type: ignore[operator]
    file.write_text("m" * 64)
    client = client_with(None, metrics_token_file=file)
    headers = {"Authorization": f"Bearer {'m' * 64}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    assert client.get("/jobs", headers=headers).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer m"}).status_code == 401


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "127.8.8.8"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "10.0.0.7"}, True),
        ({"host": "example.org"}, True),
        ({"host": "localhost.example.org"}, True),
        ({"host": "0.0.0.0", "published_host": "127.0.0.1"}, False),
        ({"host": "127.0.0.1", "published_host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "auth": "off"}, False),
        ({"auth": "required"}, True),
    ],
)
def test_keys_are_needed_beyond_loopback(settings: dict[str, str], needed: bool) -> None:
    assert keys_needed(Settings(**settings)) is needed  # type: ignore[arg-type]


def test_a_service_refuses_to_listen_to_others_before_there_is_a_key(keys: KeyStore) -> None:
    settings = Settings(host="0.0.0.0")
    with pytest.raises(NoKeys, match="shoal keys create"):
        check_before_listening(settings, keys)
    key, _ = keys.create("ops", Scope.ADMIN)
    check_before_listening(settings, keys)
    keys.revoke(key.id)
    with pytest.raises(NoKeys):
        check_before_listening(settings, keys)
    check_before_listening(settings.model_copy(update={"auth": "off"}), keys)


def test_while_the_keys_cannot_be_read_nobody_gets_in(make_app: Callable[..., object], keys: KeyStore) -> None:
    _, token = keys.create("ops", Scope.ADMIN)
    app = make_app(redis_url="unix:///nowhere/valkey.sock")
    with TestClient(app) as client:  # type: ignore[arg-type]
        answer = client.get("/jobs", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")


def test_what_is_refused_carries_no_body_back_and_says_what_to_do(client_with: ClientWith) -> None:
    answer = client_with(None).post("/things", json={**BODY, "secret": "hunter2"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in answer.text
    assert "shoal keys create" in answer.json()["detail"]
