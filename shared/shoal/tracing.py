"""OpenTelemetry traces, where the extra `tracing` is installed and OTEL_EXPORTER_OTLP_ENDPOINT is set.

An API has a span for each request, a worker one for each attempt at a job; both carry the job's id.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import structlog

from shoal.jobs.worker import Observer

if TYPE_CHECKING:
    from shoal.jobs.queue import Claim

log = structlog.get_logger(__name__)


def enabled() -> bool:
    """Whether traces are to be sent, and can be."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        log.warning("traces are asked for, but the extra `tracing` is not installed")
    return found


def provider(service: str, exporter: Any = None) -> Any:
    """Makes spans of ``service`` and sends them to the collector, or at once to ``exporter``."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    made = TracerProvider(resource=Resource.create({"service.name": f"shoal-{service}"}))
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def instrument(app: Any, tracer_provider: Any) -> None:
    """A span for each request that ``app`` answers, but for health and metrics."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    def name_the_job(span: Any, scope: dict[str, Any], message: dict[str, Any]) -> None:
        for name, value in message.get("headers", ()):
            if name.lower() == b"location" and value.startswith(b"/jobs/"):
                span.set_attribute("shoal.job.id", value.decode().removeprefix("/jobs/"))

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=tracer_provider,
        excluded_urls="healthz,readyz,metrics",
        client_response_hook=name_the_job,
        exclude_spans=["receive", "send"],
    )


class JobSpans(Observer):
    """A span for each attempt at a job."""

    def __init__(self, tracer_provider: Any) -> None:
        self._tracer = tracer_provider.get_tracer("shoal")
        self._span: Any = None

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        attributes = {"shoal.job.id": claim.job.id, "shoal.job.kind": claim.job.kind, "shoal.attempt": claim.attempt}
        self._span = self._tracer.start_span(f"job {claim.job.kind}", attributes=attributes)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        self._span.set_attribute("shoal.outcome", how)
        self._span.end()
