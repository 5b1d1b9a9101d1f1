"""Both services under requests that their OpenAPI documents allow, and under ones they do not.

`SHOAL_FUZZ_CASES` sets how many requests each service gets at least: 120 by default, 2000 with `make test-fuzz`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from clusterer import pipeline
from clusterer.api import clusterings as clusterer_api
from clusterer.jobs import assign, duplicates, quality
from extractor.api import routes as extractor_api
from extractor.online.client import HostClient, HostState
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from shoal.importer import import_embeddings
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES, QUALITY

CASES = int(os.environ.get("SHOAL_FUZZ_CASES", "120"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
Requests = Callable[[FastAPI], list[tuple[str, str]]]
SERVICES = {"extractor": extractor_api.build, "clusterer": clusterer_api.build}
OPEN = {"/healthz", "/readyz", "/session"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with labelled embeddings and a clustering of them."""
    folder = tmp_path_factory.mktemp("stored")
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    np.save(folder / "vectors.npy", rows)
    np.save(folder / "labels.npy", np.array(["a", "b"] * 20))
    store = Store(folder / "store")
    found = import_embeddings(store, folder / "vectors.npy", name="known", labels=folder / "labels.npy", split=None)
    request = {"embeddings": found, "clusters": 3, "seeds": [0]}
    own = Settings(store=store.root)
    clustering = pipeline.run(JobContext.local(request, kind="cluster"), own)["clustering"]
    assign.run(JobContext.local({"clustering": clustering, "embeddings": found}, kind="assign"), own)
    duplicates.run(JobContext.local({"embeddings": found, "threshold": 0.5}, kind="duplicates"), own)
    quality.run(JobContext.local({"embeddings": found}, kind="quality"), own)
    return store.root


@pytest.fixture
def known_ids(queue: JobQueue, stored: Path) -> dict[str, str]:
    """Ids that exist, so that not every request ends at 404."""
    job, _ = queue.submit("cluster", {"embeddings": "none", "clusters": 2})
    queue.cancel(job.id)
    store = Store(stored)
    return {
        "job_id": job.id,
        "embeddings_id": store.embeddings_ids()[0],
        "clustering_id": store.clustering_ids()[0],
        "assignments_id": store.assigned_ids()[0],
        "duplicates_id": store.analysis_ids(DUPLICATES)[0],
        "quality_id": store.analysis_ids(QUALITY)[0],
    }


@pytest.fixture(params=SERVICES)
def app(
    request: pytest.FixtureRequest,
    redis_server: str,
    queue: JobQueue,
    stored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FastAPI]:
    """One of the services, with keys, without a worker and without a model host."""
    # Nobody works, but somebody seems to: the services are ready.
    alive = dict.fromkeys(("extract:torch", "cluster"), datetime.now(UTC) + timedelta(days=1))
    monkeypatch.setattr(queue, "workers", lambda: alive)

    async def answering(hosts: HostClient) -> dict[str, HostState]:
        return {"torch": HostState(True), "tfserving": HostState()}

    monkeypatch.setattr(HostClient, "states", answering)
    for folder in ("data", "models"):
        (tmp_path / folder).mkdir()
    shutil.copytree(stored, tmp_path / "store")
    chosen = Settings(
        data=tmp_path / "data",
        models=tmp_path / "models",
        store=tmp_path / "store",
        online=tmp_path / "online",
        redis_url=redis_server,
        auth="required",
        rate_limit=1e6,
        max_queued=1_000_000,
        max_queued_per_key=1_000_000,
    )
    app = SERVICES[request.param](chosen, queue, Store(chosen.store))
    yield app
    app.state.keys.close()


def fuzz(app: FastAPI, token: str, known_ids: dict[str, str], cases: int) -> int:
    """Send at least ``cases`` requests; how many it were."""
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    sent = turn = 0
    while sent < cases:
        # Another turn with another seed: some routes have few different requests, and their part goes to the others.
        each = max(3, -(-(cases - sent) // len(operations)))
        for operation in operations:
            sent += _fuzz_operation(operation, headers, known_ids, each, turn)
        turn += 1
    return sent


def _fuzz_operation(operation: Any, headers: dict[str, str], known_ids: dict[str, str], cases: int, turn: int) -> int:
    tame, wild = (
        operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )
    sent = 0

    @seed(turn)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategies.one_of(tame, wild), known=strategies.booleans())
    def check(case: Any, known: bool) -> None:
        nonlocal sent
        sent += 1
        # What is deleted is gone for the cases that follow.
        for name in set(known_ids) & set(case.path_parameters or {}) if known and case.method != "DELETE" else ():
            case.path_parameters[name] = known_ids[name]
        case.call_and_validate(headers=headers, checks=CHECKS)

    check()
    return sent


def test_no_request_breaks_a_service_or_gets_an_answer_that_is_not_documented(
    app: FastAPI, keys: KeyStore, known_ids: dict[str, str]
) -> None:
    _, token = keys.create("fuzz", Scope.ADMIN)
    assert fuzz(app, token, known_ids, CASES) >= CASES


def test_every_documented_route_but_health_needs_a_key(app: FastAPI, keys: KeyStore) -> None:
    _, token = keys.create("fuzz", Scope.READ)
    document = app.openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN), path
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert token not in repr(document)


def test_no_route_but_health_answers_without_a_key(app: FastAPI, every_request: Requests) -> None:
    requests = every_request(app)
    assert {path for _, path in requests} > {"/docs", "/openapi.json", "/metrics", "/jobs", "/healthz", "/readyz"}
    client = TestClient(app, raise_server_exceptions=False)
    answered = {path for method, path in requests if client.request(method, path).status_code != 401}
    # The pages hold no data: they read it with the key, or the session, of the person who looks at them.
    pages = {"/", "/ui/static/some", "/ui/some"} if "/ui/some" in {path for _, path in requests} else set()
    assert answered == OPEN | pages


def test_a_read_key_neither_submits_nor_deletes(
    app: FastAPI, every_request: Requests, keys: KeyStore, queue: JobQueue
) -> None:
    _, token = keys.create("reader", Scope.READ)
    client = TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False)
    writing = [each for each in every_request(app) if each[0] not in {"GET", "HEAD"} and each[1] != "/session"]
    assert {method for method, _ in writing} - {"PUT", "PATCH"} == {"POST", "DELETE"}
    before = len(queue.list().jobs)
    assert {client.request(method, path, json={}).status_code for method, path in writing} == {403}
    assert len(queue.list().jobs) == before


def test_everything_that_a_request_carries_has_a_bound(app: FastAPI) -> None:
    document = app.openapi()
    unbounded: list[str] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                unbounded += _unbounded(document, parameter["schema"], f"{method} {path} {parameter['name']}", set())
            for content in operation.get("requestBody", {}).get("content", {}).values():
                unbounded += _unbounded(document, content["schema"], f"{method} {path}", set())
    # The values of an embedding are checked as they are turned into float32: only there is their bound known.
    assert [where for where in unbounded if not where.endswith((".embeddings[][]", "SearchRequest.vector[]"))] == []


def _unbounded(document: dict[str, Any], schema: dict[str, Any], where: str, seen: set[str]) -> Iterator[str]:
    """Names of the numbers, texts and lists within ``schema`` that may be as large as one likes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from _unbounded(document, document["components"]["schemas"][name], name, seen | {name})
        return
    number = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    bounds = {
        "integer": number,
        "number": number,
        "array": ({"maxItems"},),
        "string": ({"maxLength", "enum", "const"},),
    }
    if not all(each & set(schema) for each in bounds.get(schema.get("type", ""), ())):
        yield where
    for inner in (inner for union in ("anyOf", "oneOf", "allOf") for inner in schema.get(union, ())):
        yield from _unbounded(document, inner, where, seen)
    for name, inner in schema.get("properties", {}).items():
        yield from _unbounded(document, inner, f"{where}.{name}", seen)
    if "items" in schema:
        yield from _unbounded(document, schema["items"], f"{where}[]", seen)
