"""A worker's metrics, for Prometheus to scrape from the worker itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)

from shoal import __version__
from shoal.jobs.observer import Observer
from shoal.jobs.protocol import Event, Progressed, Succeeded
from shoal.jobs.queue import Claim

disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600)


class WorkerMetrics(Observer):
    """Counts jobs, times their stages, and counts the images of finished extractions."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        Info("shoal_build", "Version of this worker.", registry=registry).info({"version": __version__})
        self._busy = Gauge("shoal_worker_busy", "Whether the worker runs a job.", registry=registry)
        self._attempts = Counter("shoal_job_attempts", "Attempts at jobs.", ["kind", "outcome"], registry=registry)
        self._seconds = Histogram(
            "shoal_job_duration_seconds",
            "Seconds that a stage of a job took; the stage `all` is the attempt as a whole.",
            ["kind", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._images = Counter(
            "shoal_extract_images", "Images of finished extractions.", ["model", "outcome"], registry=registry
        )
        self._claimed_at = self._staged_at = 0.0
        self._stage: str | None = None
        self._result: dict[str, Any] = {}

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        self._busy.set(1)
        self._claimed_at = time.monotonic()
        self._stage, self._result = None, {}

    def heard(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child said something."""
        for event in events:
            if isinstance(event, Progressed) and event.progress.stage != self._stage:
                self._end_stage(claim)
                self._stage, self._staged_at = event.progress.stage, time.monotonic()
            elif isinstance(event, Succeeded):
                self._result = event.result

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        self._end_stage(claim)
        self._busy.set(0)
        self._attempts.labels(claim.job.kind, how).inc()
        self._seconds.labels(claim.job.kind, "all").observe(time.monotonic() - self._claimed_at)
        if how == "succeed" and claim.job.kind.startswith("extract:"):
            model = claim.job.request.get("model")
            name = model if isinstance(model, str) else str((model or {}).get("architecture"))
            self._images.labels(name, "embedded").inc(float(self._result.get("rows", 0)))
            self._images.labels(name, "failed").inc(float(self._result.get("failed", 0)))

    def serve(self, host: str, port: int) -> None:
        """Answer scrapes on ``host:port`` from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)

    def _end_stage(self, claim: Claim) -> None:
        if self._stage is not None:
            self._seconds.labels(claim.job.kind, self._stage).observe(time.monotonic() - self._staged_at)
        self._stage = None
