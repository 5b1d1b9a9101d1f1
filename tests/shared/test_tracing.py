"""Traces of requests and of jobs, where they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shoal import tracing
from shoal.jobs.queue import JobQueue
from shoal.jobs.service import JobSpans
from shoal.jobs.worker import Observers
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import create_app


def test_a_request_has_a_span_and_health_has_none(queue: JobQueue, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    app = create_app(
        service="test", routers=[], kinds=["k"], settings=Settings(store=tmp_path), queue=queue, store=Store(tmp_path)
    )
    tracing.instrument(app, tracing.provider("test", exporter))
    with TestClient(app) as client:
        client.get("/healthz")
        client.get("/jobs")
    [span] = exporter.get_finished_spans()
    assert span.name == "GET /jobs"
    assert span.resource.attributes["service.name"] == "shoal-test"


def test_an_attempt_has_a_span_that_names_its_job(queue: JobQueue) -> None:
    exporter = InMemorySpanExporter()
    job, _ = queue.submit("cluster", {})
    claim = queue.claim(["cluster"], "worker")
    assert claim is not None
    spans = Observers([JobSpans(tracing.provider("test", exporter))])
    spans.started(claim)
    spans.received(claim, [])
    spans.ended(claim, "succeed")
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {
        "shoal.job.id": job.id,
        "shoal.job.kind": "cluster",
        "shoal.attempt": 1,
        "shoal.outcome": "succeed",
    }


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not tracing.enabled()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert tracing.enabled()
