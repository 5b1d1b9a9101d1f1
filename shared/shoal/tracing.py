"""OpenTelemetry traces, where the extra `tracing` is installed and OTEL_EXPORTER_OTLP_ENDPOINT is set.

A job's span belongs to the trace of the request that submitted it: the request's context travels with the job.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)


def wanted() -> bool:
    """Whether traces are to be sent, and can be."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        log.warning("traces are asked for, but the extra `tracing` is not installed")
        return False
    return True


def configure(service: str, exporter: Any = None) -> None:
    """Send this process' spans to the collector, or to ``exporter`` in tests."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": f"shoal-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def instrument(app: Any, service: str) -> None:
    """Trace every request of ``app``, when traces are wanted."""
    if not wanted():
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    configure(service)
    FastAPIInstrumentor.instrument_app(app, excluded_urls="healthz,readyz,metrics")


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """A span around a block; nothing where OpenTelemetry is not installed."""
    if importlib.util.find_spec("opentelemetry.trace") is None:
        yield
        return
    from opentelemetry import trace

    with trace.get_tracer("shoal").start_as_current_span(name, attributes=attributes):
        yield
