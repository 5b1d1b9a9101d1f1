"""Submitting again, and waiting for a worker that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Response
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.schemas import ClusterRequest, Job
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import IdempotencyKey, SubmitterDep, accepted, create_app

KIND = "extract:tfserving"
BODY = {"embeddings": "a", "clusters": 3}
MONDAY = {"Idempotency-Key": "monday"}
router = APIRouter()


@router.post("/things", status_code=202)
def post_thing(body: ClusterRequest, response: Response, submitter: SubmitterDep, key: IdempotencyKey = None) -> Job:
    return accepted(submitter.submit(KIND, body, key), response)


@pytest.fixture
def client_of(queue: JobQueue, redis_server: str, tmp_path: Path) -> Any:
    """``client_of(headers, **settings)``: a client of a service with these settings."""

    def make(headers: dict[str, str] | None = None, **changes: Any) -> TestClient:
        settings = Settings(store=tmp_path, redis_url=redis_server, **changes)
        app = create_app(
            service="test",
            routers=[router],
            kinds=[KIND, "cluster"],
            settings=settings,
            queue=queue,
            store=Store(tmp_path),
        )
        return TestClient(app, headers=headers)

    return make


def test_a_request_sent_again_gets_its_job_however_full_the_queue_is(client_of: Any) -> None:
    client = client_of(max_queued=1)
    job = client.post("/things", json=BODY, headers=MONDAY).json()
    again = client.post("/things", json=BODY, headers=MONDAY)
    assert (again.status_code, again.json()["id"]) == (202, job["id"])
    assert client.post("/things", json={**BODY, "clusters": 4}, headers=MONDAY).status_code == 409
    assert client.post("/things", json=BODY).status_code == 429


def test_the_same_key_of_two_callers_is_two_jobs(client_of: Any, redis_server: str) -> None:
    keys = KeyStore.from_url(redis_server)
    tokens = [keys.create(name, Scope.SUBMIT)[1] for name in ("one", "two")]
    keys.close()
    one, two = (client_of({"Authorization": f"Bearer {token}"}, auth="required") for token in tokens)
    first, other = (client.post("/things", json=BODY, headers=MONDAY).json()["id"] for client in (one, two))
    assert first != other
    assert one.post("/things", json=BODY, headers=MONDAY).json()["id"] == first
    assert two.post("/things", json={**BODY, "clusters": 9}, headers=MONDAY).status_code == 409


def test_a_queued_job_names_the_worker_that_is_missing_until_there_is_one(client_of: Any, queue: JobQueue) -> None:
    client = client_of()
    job = client.post("/things", json=BODY).json()
    assert job["waiting_for"] == (
        "No worker for extract:tfserving is running. Start one with "
        "`python -m extractor worker --backend tfserving`, which needs `shoal[tf]`."
    )
    assert client.get(f"/jobs/{job['id']}").json() == job
    assert client.get("/jobs").json()["jobs"] == [job]
    queue.beat("worker", [KIND])
    assert client.get(f"/jobs/{job['id']}").json()["waiting_for"] is None
    queue.leave("worker", [KIND])
    queue.claim([KIND], "worker")
    assert client.get(f"/jobs/{job['id']}").json()["waiting_for"] is None


def test_readiness_names_the_kinds_that_nobody_runs(client_of: Any, queue: JobQueue) -> None:
    client = client_of()
    queue.beat("worker", ["cluster"])
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["missing"]) == {KIND}
    assert "shoal[tf]" in answer.json()["missing"][KIND]
    queue.beat("worker", [KIND])
    assert client.get("/readyz").json()["missing"] == {}


def test_what_this_machine_cannot_run_is_refused_at_once(client_of: Any, queue: JobQueue) -> None:
    client = client_of(absent_kinds=frozenset({KIND}))
    refused = client.post("/things", json=BODY)
    assert (refused.status_code, refused.json()["code"]) == (422, "backend_not_installed")
    assert "pip install 'shoal[tf]'" in refused.json()["detail"]
    # A worker of another machine on the same queue can.
    queue.beat("worker", [KIND])
    assert client.post("/things", json=BODY).status_code == 202
