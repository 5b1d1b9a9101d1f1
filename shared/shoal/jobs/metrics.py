"""A worker's metrics, for Prometheus to scrape from the worker itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

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
from shoal.jobs.protocol import Counted, Event, Progressed
from shoal.jobs.queue import Claim

disable_created_metrics()  # type: ignore[no-untyped-call]

OUTCOMES = ("succeed", "fail", "cancelled", "hand_back", "lost")
SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600)


class WorkerMetrics(Observer):
    """Counts jobs, times their stages, and counts the images of extractions as they are done."""

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
            "shoal_extract_images",
            "Images that extractions have been through.",
            ["model", "outcome"],
            registry=registry,
        )
        self._claimed_at = self._staged_at = 0.0
        self._stage: str | None = None

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        self._busy.set(1)
        self._claimed_at = time.monotonic()
        self._stage = None
        # A counter that starts at what it counts has not increased, as Prometheus sees it: all start at 0.
        for outcome in OUTCOMES:
            self._attempts.labels(claim.job.kind, outcome)
        if claim.job.kind.startswith("extract:"):
            for outcome in ("embedded", "failed"):
                self._images.labels(_model(claim), outcome)

    def heard(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child said something."""
        for event in events:
            if isinstance(event, Progressed) and event.progress.stage != self._stage:
                self._end_stage(claim)
                self._stage, self._staged_at = event.progress.stage, time.monotonic()
            elif isinstance(event, Counted) and claim.job.kind.startswith("extract:"):
                for outcome, number in event.counts.items():
                    self._images.labels(_model(claim), outcome).inc(number)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        self._end_stage(claim)
        self._busy.set(0)
        self._attempts.labels(claim.job.kind, how).inc()
        self._seconds.labels(claim.job.kind, "all").observe(time.monotonic() - self._claimed_at)

    def serve(self, host: str, port: int) -> None:
        """Answer scrapes on ``host:port`` from a thread of its own."""
        start_http_server(port, addr=host, registry=self.registry)

    def _end_stage(self, claim: Claim) -> None:
        if self._stage is not None:
            self._seconds.labels(claim.job.kind, self._stage).observe(time.monotonic() - self._staged_at)
        self._stage = None


def _model(claim: Claim) -> str:
    model = claim.job.request.get("model")
    return model if isinstance(model, str) else str((model or {}).get("architecture"))
