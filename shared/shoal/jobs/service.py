"""Runs a worker as a process of its own, with logs, metrics and traces, until it is stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from shoal import __version__, logs, tracing
from shoal.errors import OtherStore
from shoal.jobs.childprocess import code_stamp
from shoal.jobs.claims import Claim
from shoal.jobs.protocol import Counted, Event, Progressed
from shoal.jobs.queue import JobQueue
from shoal.jobs.worker import Observer, Observers, Worker
from shoal.settings import Settings
from shoal.store_identity import store_identity

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client import CollectorRegistry

OUTCOMES = ("succeed", "fail", "cancelled", "hand_back", "lost", "helped")
SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600)

log = structlog.get_logger(__name__)


def run_worker(
    service: str,
    kinds: Sequence[str],
    command: Sequence[str],
    *,
    package: str,
    ahead_at_start: bool = True,
) -> None:
    """Work until SIGTERM or SIGINT.

    Parameters
    ----------
    service
        Names it in logs.
    kinds
        Kinds of jobs that it runs; the first goes first.
    command
        Starts the child that runs one job.
    package
        The service's own, which the child imports beside `shoal`.
    ahead_at_start
        False starts a child ahead only once a first job has ended.

    Raises
    ------
    SystemExit
        The queue belongs to another store; the log says so.
    """
    settings = Settings()
    logs.configure(service, level=settings.log_level)
    observers: list[Observer] = []
    if settings.metrics_port:
        metrics = WorkerMetrics()
        metrics.serve(settings.metrics_host, settings.metrics_port)
        observers.append(metrics)
    if tracing.enabled():
        observers.append(JobSpans(tracing.provider(service)))
    queue = JobQueue.from_url(
        settings.redis_url.get_secret_value(), lease_s=settings.lease_s, store=store_identity(settings.store)
    )
    worker = Worker(
        queue,
        kinds,
        command,
        settings=settings,
        stamp=code_stamp(["shoal", package]),
        ahead_at_start=ahead_at_start,
        observer=Observers(observers),
        store=settings.store,
    )
    try:
        worker.run()
    except OtherStore as error:
        log.error("not working", code=error.code, detail=error.detail)
        sys.exit(1)


class WorkerMetrics(Observer):
    """Prometheus metrics of one worker: jobs, the duration of their stages, the images of extractions.

    Parameters
    ----------
    registry
        Where they are registered; a registry of their own by default.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # Here, not at the top: a worker without SHOAL_METRICS_PORT needs no metrics library.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

        without_created: Callable[[], None] = disable_created_metrics
        without_created()
        self.registry = registry = registry or CollectorRegistry()
        Info("shoal_build", "Version of this worker.", registry=registry).info({"version": __version__})
        self._busy = Gauge("shoal_worker_busy", "Whether the worker runs a job.", registry=registry)
        self._helping = Gauge("shoal_worker_helping", "Whether it helps with another's job.", registry=registry)
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
        self._stage_busy = Gauge(
            "shoal_extract_busy_ratio",
            "Fraction of the last seconds in which a stage of the running extraction worked; the largest limits it.",
            ["stage"],
            registry=registry,
        )
        self._shown: set[str] = set()
        self._claimed_at = self._staged_at = 0.0
        self._stage: str | None = None

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        self._busy.set(1)
        self._helping.set(claim.helper)
        self._claimed_at = time.monotonic()
        self._stage = None
        # A counter that starts at what it counts has not increased, as Prometheus sees it: all start at 0.
        for outcome in OUTCOMES:
            self._attempts.labels(claim.job.kind, outcome)
        if claim.job.kind.startswith("extract:"):
            for outcome in ("embedded", "reused", "failed"):
                self._images.labels(_model(claim), outcome)

    def received(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child sent events."""
        for event in events:
            if isinstance(event, Progressed):
                self._show_busy((event.progress.detail or {}).get("busy") or {})
                if event.progress.stage != self._stage:
                    self._end_stage(claim)
                    self._stage, self._staged_at = event.progress.stage, time.monotonic()
            elif isinstance(event, Counted) and claim.job.kind.startswith("extract:"):
                for outcome, number in event.counts.items():
                    self._images.labels(_model(claim), outcome).inc(number)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        self._end_stage(claim)
        self._busy.set(0)
        self._helping.set(0)
        self._show_busy(dict.fromkeys(self._shown, 0.0))
        self._attempts.labels(claim.job.kind, how).inc()
        self._seconds.labels(claim.job.kind, "all").observe(time.monotonic() - self._claimed_at)

    def serve(self, host: str, port: int) -> None:
        """Answer scrapes on ``host:port`` from a thread of its own."""
        from prometheus_client import start_http_server

        start_http_server(port, addr=host, registry=self.registry)

    def _show_busy(self, busy: Mapping[str, float]) -> None:
        for stage, fraction in busy.items():
            self._stage_busy.labels(stage).set(fraction)
            self._shown.add(stage)

    def _end_stage(self, claim: Claim) -> None:
        if self._stage is not None:
            self._seconds.labels(claim.job.kind, self._stage).observe(time.monotonic() - self._staged_at)
        self._stage = None


def _model(claim: Claim) -> str:
    model = claim.job.request.get("model")
    return model if isinstance(model, str) else str((model or {}).get("architecture"))


class JobSpans(Observer):
    """OpenTelemetry traces of one worker: a span for each attempt at a job."""

    def __init__(self, tracer_provider: TracerProvider) -> None:
        self._tracer = tracer_provider.get_tracer("shoal")
        self._span: Span | None = None

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        attributes: dict[str, str | int] = {
            "shoal.job.id": claim.job.id,
            "shoal.job.kind": claim.job.kind,
            "shoal.attempt": claim.attempt,
        }
        self._span = self._tracer.start_span(f"job {claim.job.kind}", attributes=attributes)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        if self._span is not None:
            self._span.set_attribute("shoal.outcome", how)
            self._span.end()
