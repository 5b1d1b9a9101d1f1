"""What a worker counts, as Prometheus would read it."""

from __future__ import annotations

import pytest
from shoal.jobs.child import JobContext
from shoal.jobs.claims import Claim
from shoal.jobs.protocol import ChildJob, Counted, Event, Progressed
from shoal.jobs.queue import JobQueue
from shoal.jobs.service import WorkerMetrics
from shoal.schemas import Progress

KIND = "extract:torch"


@pytest.fixture
def claim(queue: JobQueue) -> Claim:
    """An extraction that a worker has claimed."""
    queue.submit(KIND, {"model": {"architecture": "resnet50", "weights": "mine.pth"}})
    claim = queue.claim([KIND], "worker")
    assert claim is not None
    return claim


def _images(metrics: WorkerMetrics, outcome: str) -> float | None:
    labels = {"model": "resnet50", "outcome": outcome}
    return metrics.registry.get_sample_value("shoal_extract_images_total", labels)


def test_images_are_counted_while_the_job_runs(claim: Claim) -> None:
    metrics = WorkerMetrics()
    metrics.started(claim)
    # Prometheus sees no increase in a counter that was never at 0.
    assert (_images(metrics, "embedded"), _images(metrics, "failed")) == (0, 0)
    metrics.received(claim, [Progressed(Progress(stage="embed")), Counted({"embedded": 5, "failed": 1})])
    metrics.received(claim, [Counted({"embedded": 4})])
    assert (_images(metrics, "embedded"), _images(metrics, "failed")) == (9, 1)
    metrics.ended(claim, "lost")
    assert _images(metrics, "embedded") == 9


def test_attempts_start_at_zero_and_are_counted_by_their_end(claim: Claim) -> None:
    metrics = WorkerMetrics()
    metrics.started(claim)

    def attempts(outcome: str) -> float | None:
        labels = {"kind": KIND, "outcome": outcome}
        return metrics.registry.get_sample_value("shoal_job_attempts_total", labels)

    assert [attempts(outcome) for outcome in ("succeed", "fail", "cancelled", "hand_back", "lost")] == [0] * 5
    metrics.ended(claim, "fail")
    assert (attempts("succeed"), attempts("fail")) == (0, 1)


def test_what_a_job_counts_is_sent_with_its_progress_and_never_twice() -> None:
    events: list[Event] = []
    ctx = JobContext(ChildJob("a", KIND, 1, "owner", {}), events.append, clock=lambda: 0.0)
    ctx.progress("embed", 0, 10, "images")
    ctx.count(embedded=3, failed=1)
    ctx.count(embedded=2, failed=0)
    ctx.progress("embed", 6, 10, "images")
    assert [event for event in events if isinstance(event, Counted)] == []
    ctx.progress("embed", 10, 10, "images")
    ctx.send_counts()
    assert [event for event in events if isinstance(event, Counted)] == [Counted({"embedded": 5, "failed": 1})]


def test_the_stages_of_an_extraction_are_as_busy_as_it_said_last_until_it_ends(claim: Claim) -> None:
    metrics = WorkerMetrics()

    def busy(stage: str) -> float | None:
        return metrics.registry.get_sample_value("shoal_extract_busy_ratio", {"stage": stage})

    metrics.started(claim)
    for decode in (0.5, 0.98):
        detail = {"busy": {"decode": decode, "network": 0.4, "write": 0.01}}
        metrics.received(claim, [Progressed(Progress(stage="embed", detail=detail))])
    metrics.received(claim, [Progressed(Progress(stage="embed"))])
    assert [busy(stage) for stage in ("decode", "network", "write")] == [0.98, 0.4, 0.01]
    metrics.ended(claim, "succeed")
    assert [busy(stage) for stage in ("decode", "network", "write")] == [0, 0, 0]
