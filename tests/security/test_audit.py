"""The audit log says who did what, and nothing that must stay secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from shoal.keys import KeyStore, Scope
from structlog.testing import capture_logs

BODY = {"embeddings": "a", "clusters": 3}
ClientWith = Callable[..., TestClient]


def _audited(client: TestClient, method: str, path: str, **options: object) -> list[dict[str, object]]:
    with capture_logs() as lines:
        client.request(method, path, **options)  # type: ignore[arg-type]
    return [dict(line) for line in lines if line["event"] == "audit"]


def test_submitting_and_cancelling_leave_a_line_each(client_with: ClientWith, keys: KeyStore) -> None:
    client = client_with(Scope.SUBMIT)
    key = keys.list()[-1].id
    [submitted] = _audited(client, "POST", "/things", json=BODY)
    job = client.get("/jobs").json()["jobs"][0]["id"]
    [cancelled] = _audited(client, "DELETE", f"/jobs/{job}")
    assert [line["action"] for line in (submitted, cancelled)] == ["submit", "cancel"]
    for line in (submitted, cancelled):
        assert (line["key"], line["caller"], line["job"], line["status"]) == (key, "tester", job, 202)
        assert line["request_id"]


def test_reading_leaves_none_and_being_refused_does(client_with: ClientWith) -> None:
    assert _audited(client_with(Scope.READ), "GET", "/jobs") == []
    [line] = _audited(client_with(None), "GET", "/jobs")
    assert (line["action"], line["status"], line["key"]) == ("refused", 401, None)
    [line] = _audited(client_with(Scope.READ), "POST", "/things", json=BODY)
    assert (line["action"], line["status"]) == ("refused", 403)


def test_no_line_holds_a_token_a_body_or_a_query(client_with: ClientWith, keys: KeyStore) -> None:
    _, token = keys.create("ops", Scope.ADMIN)
    client = client_with(None)
    headers = {"Authorization": f"Bearer {token}"}
    with capture_logs() as lines:
        client.post("/things?password=hunter2", json={**BODY, "secret": "hunter2"}, headers=headers)
        client.get("/jobs", headers={"Authorization": "Bearer hunter2"})
    assert len([line for line in lines if line["event"] == "audit"]) == 2
    assert token not in repr(lines)
    assert "hunter2" not in repr(lines)


def test_a_forged_line_stays_one_value(client_with: ClientWith) -> None:
    lines = _audited(client_with(None), "DELETE", '/jobs/a%0A{"event":"audit","caller":"root"}')
    assert [line["caller"] for line in lines] == ["anonymous"]


def test_every_refusal_leaves_a_line(make_app: Callable[..., FastAPI], client_with: ClientWith) -> None:
    open_client = TestClient(make_app(auth="off"))
    large = {"content": b"x" * 3000, "headers": {"Content-Type": "application/json"}}
    lengths = {"content": b"x", "headers": {"Content-Length": "1", "Transfer-Encoding": "chunked"}}
    cases: list[tuple[TestClient, str, dict[str, Any], int]] = [
        (open_client, "GET", {"headers": {"Host": "evil.example"}}, 421),
        (open_client, "POST", {"headers": {"Host": "evil.example"}}, 421),
        (client_with(Scope.SUBMIT, max_body_bytes=2000), "POST", large, 413),
        (client_with(Scope.SUBMIT), "GET", lengths, 400),
        (client_with(None), "GET", {}, 401),
    ]
    for client, method, options, status in cases:
        [line] = _audited(client, method, "/things" if method == "POST" else "/jobs", **options)
        assert (line["action"], line["status"]) == ("refused", status)
        assert line["client"]
        assert line["request_id"]
