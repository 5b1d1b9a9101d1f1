"""Counts and times the requests that a service answers."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LABELS = ("service", "method", "route", "status")


class Counting:
    """Counts requests by route and status, and times them up to the start of the answer.

    Parameters
    ----------
    registry
        Where the metrics go.
    service
        Their first label.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, service: str) -> None:
        self._app = app
        self._service = service
        self._requests = Counter("shoal_http_requests", "Requests answered.", LABELS, registry=registry)
        self._seconds = Histogram(
            "shoal_http_request_duration_seconds", "Seconds a request took.", LABELS[:3], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._count(scope, str(message["status"]), start)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException:
            # What leaves here unanswered is answered further out, with a 500.
            if not answered:
                self._count(scope, "500", start)
            raise

    def _count(self, scope: Scope, status: str, start: float) -> None:
        # The route's template, not the path: what a client makes up must not become a label's value.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(self._service, method, route, status).inc()
        self._seconds.labels(self._service, method, route).observe(time.perf_counter() - start)
