"""A browser's session: what it may do, what another site cannot make it do, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shoal import sessions
from shoal.keys import KeyStore, Scope
from structlog.testing import capture_logs

BODY = {"embeddings": "a", "clusters": 3}
Log_in = Callable[..., TestClient]


@pytest.fixture
def log_in(make_app: Callable[..., FastAPI], keys: KeyStore) -> Log_in:
    """``log_in(scope)``: a browser with a session of a fresh key, which it sends no other way."""

    def make(scope: Scope, **changes: object) -> TestClient:
        client = TestClient(make_app(**changes), raise_server_exceptions=False)
        answer = client.post("/session", json={"key": keys.create("ann", scope)[1]})
        assert answer.status_code == 200, answer.text
        return client

    return make


def csrf(client: TestClient) -> dict[str, str]:
    return {"X-CSRF-Token": str(client.get("/session").json()["csrf"])}


def test_a_key_becomes_a_cookie_that_no_script_reads(make_app: Callable[..., FastAPI], keys: KeyStore) -> None:
    client = TestClient(make_app())
    _, token = keys.create("ann", Scope.SUBMIT)
    assert client.get("/session").json() == {
        "needed": True, "authenticated": False, "name": None, "scope": None, "csrf": None,
    }  # fmt: skip
    answer = client.post("/session", json={"key": f" {token}\n"})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie
    assert token.rpartition("_")[2] not in cookie
    who = client.get("/session").json()
    assert (who["authenticated"], who["name"], who["scope"]) == (True, "ann", "submit")
    assert client.get("/jobs").status_code == 200


@pytest.mark.parametrize("changes", [{"secure_cookies": True}, {}])
def test_over_https_the_cookie_is_secure(
    make_app: Callable[..., FastAPI], keys: KeyStore, changes: dict[str, object]
) -> None:
    url = "http://testserver" if changes else "https://testserver"
    client = TestClient(make_app(**changes), base_url=url)
    answer = client.post("/session", json={"key": keys.create("ann", Scope.READ)[1]})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_wrong_key_opens_nothing_and_guesses_are_limited(make_app: Callable[..., FastAPI], keys: KeyStore) -> None:
    client = TestClient(make_app())
    _, token = keys.create("ann", Scope.READ)
    wrong = token[:-3] + "AAA"
    answers = [client.post("/session", json={"key": key}) for key in ["", "x", *[wrong] * sessions.LOGINS]]
    assert [each.status_code for each in answers[:3]] == [422, 401, 401]
    assert answers[-1].status_code == 429
    assert "set-cookie" not in answers[-1].headers
    assert client.post("/session", json={"key": token}).status_code == 429
    assert client.get("/jobs").status_code == 401


def test_a_change_needs_the_token_of_the_page(log_in: Log_in) -> None:
    client = log_in(Scope.SUBMIT)
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "x" * 43}):
        answer = client.post("/things", json=BODY, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")
    foreign = {**csrf(client), "Origin": "https://elsewhere.example"}
    assert client.post("/things", json=BODY, headers=foreign).json()["code"] == "csrf_failed"
    assert client.request("DELETE", "/session").status_code == 403
    own = {**csrf(client), "Origin": "http://testserver"}
    assert client.post("/things", json=BODY, headers=own).status_code == 202


def test_a_session_may_what_its_key_may(log_in: Log_in) -> None:
    reader = log_in(Scope.READ)
    answer = reader.post("/things", json=BODY, headers=csrf(reader))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_session_ends_with_its_logout_its_key_and_its_time(
    log_in: Log_in, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = log_in(Scope.SUBMIT)
    stolen = dict(client.cookies)
    assert client.request("DELETE", "/session", headers=csrf(client)).status_code == 204
    for name, value in stolen.items():
        client.cookies.set(name, value)
    assert client.get("/jobs").status_code == 401
    assert client.get("/session").json()["authenticated"] is False

    revoked = log_in(Scope.SUBMIT)
    keys.revoke(keys.list()[-1].id)
    assert revoked.get("/jobs").status_code == 401

    old = log_in(Scope.SUBMIT)
    later = time.time() + sessions.LONGEST_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert old.get("/jobs").status_code == 401


def test_a_login_takes_the_place_of_the_session_before(log_in: Log_in, keys: KeyStore) -> None:
    client = log_in(Scope.READ)
    before = dict(client.cookies)
    assert client.post("/session", json={"key": keys.create("bob", Scope.READ)[1]}).json()["name"] == "bob"
    other = TestClient(client.app, cookies=before)
    assert other.get("/jobs").status_code == 401


def test_a_key_in_the_header_counts_before_the_cookie(log_in: Log_in, keys: KeyStore) -> None:
    client = log_in(Scope.READ)
    bearer = {"Authorization": f"Bearer {keys.create('tool', Scope.SUBMIT)[1]}"}
    assert client.post("/things", json=BODY, headers=bearer).status_code == 202
    assert client.get("/jobs", headers={"Authorization": "Bearer x"}).status_code == 401


@pytest.mark.parametrize("cookie", ["", "a", "x" * 43, "a; shoal_session=b", "\N{SNOWMAN}"])
def test_a_made_up_cookie_is_no_session(make_app: Callable[..., FastAPI], cookie: str) -> None:
    client = TestClient(make_app())
    headers = {b"Cookie": f"shoal_session={cookie}".encode()}
    assert client.get("/jobs", headers=headers).status_code == 401
    assert client.get("/session", headers=headers).json()["authenticated"] is False


def test_where_no_keys_are_needed_everybody_is_in(make_app: Callable[..., FastAPI]) -> None:
    client = TestClient(make_app(auth="off"))
    assert client.get("/session").json() == {
        "needed": False, "authenticated": False, "name": None, "scope": "admin", "csrf": None,
    }  # fmt: skip


def test_logins_are_audited_without_the_key(make_app: Callable[..., FastAPI], keys: KeyStore) -> None:
    client = TestClient(make_app())
    _, token = keys.create("ann", Scope.READ)
    with capture_logs() as lines:
        client.post("/session", json={"key": token})
        client.request("DELETE", "/session", headers=csrf(client))
        client.post("/session", json={"key": "wrong"})
    audited = [(line["action"], line["caller"]) for line in lines if line["event"] == "audit"]
    assert audited == [("login", "ann"), ("logout", "ann"), ("refused", "anonymous")]
    assert token not in repr(lines)
