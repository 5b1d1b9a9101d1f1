"""The application that both services are built from."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from shoal import __version__
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore
from shoal.settings import Settings
from shoal.store import Store
from shoal.store_identity import store_identity
from shoal.web import auth, docs, health, jobs, problems
from shoal.web.audit import Audit
from shoal.web.counting import Counting
from shoal.web.headers import SecurityHeaders
from shoal.web.limits import Limits, QueueLimits
from shoal.web.streams import StreamLimits

SUMMARY = {
    "extractor": "Turns images into embeddings with pretrained networks and streams them into the store.",
    "clusterer": "Runs PCA and k-means over embeddings and says how good the groups are.",
}


def create_app(
    *,
    service: str,
    routers: Sequence[APIRouter],
    kinds: Sequence[str],
    settings: Settings | None = None,
    queue: JobQueue | None = None,
    store: Store | None = None,
) -> FastAPI:
    """An API with jobs, health, metrics and problems, plus the service's own routes.

    Parameters
    ----------
    service
        ``extractor`` or ``clusterer``.
    routers
        The service's own routes.
    kinds
        Kinds of jobs that the service submits: it is ready when a worker of one of them lives.
    settings, queue, store
        What the routes work on; from the environment when left out.
    """
    settings = settings or Settings()
    app = FastAPI(
        title=f"Shoal {service}", summary=SUMMARY.get(service), version=__version__, docs_url=None, redoc_url=None
    )
    app.state.settings = settings
    app.state.queue = queue or JobQueue.from_url(
        settings.redis_url.get_secret_value(), lease_s=settings.lease_s, store=store_identity(settings.store)
    )
    app.state.store = store or Store(settings.store)
    app.state.kinds = tuple(kinds)
    app.state.streams = StreamLimits(settings.max_streams, settings.max_streams_per_client)
    app.state.registry = health.registry_for(app.state.queue, settings)
    problems.install(app)
    _guard(app, service, settings)
    for router in [*routers, jobs.router, health.router, docs.router]:
        app.include_router(router)
    return app


def _guard(app: FastAPI, service: str, settings: Settings) -> None:
    """Stand before every route: the last one added sees a request first."""
    needed = auth.keys_needed(settings)
    store = KeyStore.from_url(settings.redis_url.get_secret_value()) if needed else None
    app.state.keys = store
    app.add_middleware(
        Limits,
        max_bytes=settings.max_body_bytes,
        max_inline_bytes=settings.max_inline_bytes,
        body_s=settings.body_timeout_s,
        max_held_bytes=settings.max_held_bytes,
        queue_limits=QueueLimits(settings.max_queued, settings.max_queued_per_key, store, settings.absent_kinds),
    )
    auth.install(app, settings, store)
    app.add_middleware(problems.Unexpected)
    app.add_middleware(SecurityHeaders, check_host=not needed, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(Audit, service=service)
    app.add_middleware(Counting, registry=app.state.registry, service=service)
