"""OpenTelemetry traces, where the extra `tracing` is installed and OTEL_EXPORTER_OTLP_ENDPOINT is set.

An API has a span for each request, a worker one for each attempt at a job; both carry the job's id.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)


def enabled() -> bool:
    """Whether OTEL_EXPORTER_OTLP_ENDPOINT is set and the exporter is installed."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but tracing is not installed: pip install 'shoal[tracing]'")
    return found


def provider(service: str, exporter: SpanExporter | None = None) -> TracerProvider:
    """A tracer provider of ``service`` that sends spans to the collector, or at once to ``exporter``."""
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


def instrument(app: FastAPI, tracer_provider: TracerProvider) -> None:
    """Trace each request to ``app``, except health and metrics."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    def name_the_job(span: Span, scope: dict[str, Any], message: dict[str, Any]) -> None:
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
