"""Jobs, problems, health and metrics as every service answers them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Response
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.schemas import ClusterRequest, Job
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import IdempotencyKey, SubmitterDep, accepted, create_app
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

router = APIRouter()
KIND = "test"


@router.post("/things", status_code=202)
def post_thing(body: ClusterRequest, response: Response, submitter: SubmitterDep, key: IdempotencyKey = None) -> Job:
    return accepted(submitter.submit(KIND, body, key), response)


@router.api_route("/broken", methods=["GET", "POST"])
def broken() -> None:
    raise RuntimeError("a secret that must not leave")


@pytest.fixture
def client(queue: JobQueue, tmp_path: Path) -> TestClient:
    settings = Settings(store=tmp_path)
    app = create_app(
        service="test", routers=[router], kinds=[KIND], settings=settings, queue=queue, store=Store(tmp_path)
    )
    return TestClient(app, raise_server_exceptions=False)


BODY = {"embeddings": "a", "clusters": 3}


def test_a_submitted_job_is_accepted_and_found_again(client: TestClient) -> None:
    answer = client.post("/things", json=BODY)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert (job["state"], job["request"], job["kind"]) == ("queued", BODY, KIND)
    assert client.get(answer.headers["Location"]).json() == job
    assert [each["id"] for each in client.get("/jobs", params={"state": "queued"}).json()["jobs"]] == [job["id"]]


def test_the_same_key_gives_the_same_job_back(client: TestClient) -> None:
    headers = {"Idempotency-Key": "monday"}
    first, second = (client.post("/things", json=BODY, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    other = client.post("/things", json={**BODY, "clusters": 4}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_queued_job_is_cancelled_at_once_and_its_events_end(client: TestClient) -> None:
    job = client.post("/things", json=BODY).json()
    cancelled = client.delete(f"/jobs/{job['id']}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    with client.stream("GET", f"/jobs/{job['id']}/events") as events:
        lines = [line for line in events.iter_lines() if line.startswith("data: ")]
    assert json.loads(lines[-1].removeprefix("data: "))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({**BODY, "clusters": 1}, "out_of_range", "clusters"),
        ({**BODY, "clusters": "3"}, "wrong_type", "clusters"),
        ({**BODY, "k": 3}, "unknown_field", "k"),
        ({"clusters": 3}, "missing_field", "embeddings"),
        ({**BODY, "over": 1.5}, "invalid_value", ""),
        ({**BODY, "embeddings": 3}, "wrong_type", "embeddings"),
        ({**BODY, "embeddings": "../x"}, "invalid_value", "embeddings"),
        ({**BODY, "embeddings": {"train": "a"}}, "missing_field", "embeddings.score"),
        ({**BODY, "embeddings": {"train": "a", "score": ["b"], "test": 1}}, "unknown_field", "embeddings.test"),
        (
            {**BODY, "embeddings": {"train": "a", "score": [{}]}},
            "missing_field",
            "embeddings.score.0.embeddings",
        ),
    ],
)
def test_a_refused_body_names_code_and_field(client: TestClient, body: dict[str, Any], code: str, field: str) -> None:
    answer = client.post("/things", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["errors"][0]["field"] == field
    assert problem["detail"]


def test_no_sentence_speaks_of_our_classes(client: TestClient) -> None:
    values: list[object] = [3, None, [], {}, "", "../x", {"train": 3, "score": [{}, 4]}]
    for value in values:
        detail = client.post("/things", json={**BODY, "embeddings": value}).json()["detail"]
        assert not [word for word in ("constrained", "EmbeddingSets", "ScoredSet", "dictionary") if word in detail]
    assert client.post("/things", json={**BODY, "embeddings": 3}).json()["detail"] == (
        "embeddings: Send a string or an object."
    )


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_of_another_type_is_told_the_right_one(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/things", content=json.dumps(BODY).encode(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"embeddings": "a", "over": NaN}', "not_finite"),
        (b"{", "invalid_json"),
        (b'{"embeddings": "\xff"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "wrong_type"),
    ],
)
def test_bodies_that_are_no_json_objects_are_refused(client: TestClient, content: bytes, code: str) -> None:
    answer = client.post("/things", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_unknown_jobs_routes_and_cursors_are_problems(client: TestClient) -> None:
    for path, status, code in [
        ("/jobs/nothing", 404, "job_not_found"),
        ("/jobs/nothing/events", 404, "job_not_found"),
        ("/nowhere", 404, "not_found"),
        ("/jobs?cursor=rubbish", 422, "invalid_request"),
        ("/jobs?state=sleeping", 422, "invalid_value"),
    ]:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
    assert client.put("/jobs").json()["code"] == "method_not_allowed"


def test_an_unexpected_error_says_nothing_of_its_inside(client: TestClient) -> None:
    answer = client.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    # It is an answer like any other: the browser is told how to treat it, and the log can be searched for it.
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"]


def test_an_unexpected_error_of_a_change_is_audited(client: TestClient) -> None:
    with capture_logs(processors=[merge_contextvars]) as lines:
        assert client.post("/broken").status_code == 500
    [line] = [line for line in lines if line["event"] == "audit"]
    assert (line["action"], line["status"]) == ("failed", 500)
    [error] = [line for line in lines if line["event"] == "request_failed"]
    assert error["request_id"] == line["request_id"]


def test_readiness_waits_for_a_worker(client: TestClient, queue: JobQueue) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    before = client.get("/readyz")
    assert (before.status_code, before.json()["checks"]["queue"]) == (503, "ok")
    assert "no live worker" in before.json()["checks"]["workers"]
    assert before.json()["workers"] == {KIND: None}
    queue.beat("me", [KIND])
    after = client.get("/readyz")
    assert after.status_code == 200
    assert 0 <= after.json()["workers"][KIND] < 30


def test_a_worker_that_fell_silent_makes_nothing_ready(
    client: TestClient, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "workers", lambda: {KIND: datetime.now(UTC) - timedelta(seconds=90)})
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["workers"]) == (503, f"no live worker for {KIND}")
    assert answer.json()["workers"][KIND] >= 90


def test_metrics_show_the_queue(client: TestClient) -> None:
    client.post("/things", json=BODY)
    client.get("/jobs/nothing")
    text = client.get("/metrics").text
    assert f'shoal_queue_depth{{kind="{KIND}"}} 1.0' in text
    assert 'shoal_jobs{state="queued"} 1.0' in text
    assert 'route="/jobs/{job_id}",service="test",status="404"' in text


def test_requests_are_counted_by_route_and_never_by_what_a_client_makes_up(client: TestClient) -> None:
    client.get("/jobs/made-up-id")
    client.get("/made-up-path")
    client.request("MADEUP", "/jobs")
    client.get("/broken")
    counted = [
        line for line in client.get("/metrics").text.splitlines() if line.startswith("shoal_http_requests_total{")
    ]
    assert not [line for line in counted if "made" in line.lower()]
    for route, status in (("/jobs/{job_id}", 404), ("unmatched", 404), ("/broken", 500)):
        assert [line for line in counted if f'route="{route}"' in line and f'status="{status}"' in line]
    assert [line for line in counted if 'method="other"' in line]
