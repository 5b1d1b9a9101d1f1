"""The application that both services are built from, and the server that runs it."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.types import Lifespan

from shoal import __version__, logs, tracing
from shoal.callbacks import CallbackRules
from shoal.errors import NoKeys, OtherStore, QueueUnavailable, ShoalError
from shoal.host import SWITCH_S
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore
from shoal.settings import Settings
from shoal.store import Store
from shoal.store_identity import store_identity
from shoal.web import auth, docs, health, jobs, problems, sessions
from shoal.web.connections import ConnectionLimits, Connections
from shoal.web.deliveries import Deliveries
from shoal.web.health import CheckHosts
from shoal.web.middleware import Audit, BodyLimits, RequestMetrics, SecurityHeaders, UnexpectedErrors

log = structlog.get_logger(__name__)

KEEP_ALIVE_S: Final = 30
STOP_S: Final = 10


def create_app(
    *,
    service: str,
    routers: Sequence[APIRouter],
    kinds: Sequence[str],
    summary: str | None = None,
    inline_paths: Sequence[str] = (),
    inline_folders: Sequence[str] = (),
    streamed: re.Pattern[str] | None = None,
    hosts: CheckHosts | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
    open_pages: re.Pattern[str] | None = None,
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
        Kinds of jobs that the service submits: it is ready if a live worker runs one of them.
    summary
        What the service does, for its OpenAPI document.
    inline_paths
        Ends of the paths whose bodies contain images or embeddings and may be larger than others.
    inline_folders
        Beginnings of such paths.
    streamed
        Methods and paths, such as ``PUT /uploads/a/parts/0``, whose routes receive their bodies themselves.
    hosts
        Says for each model host `ok` or what to do, for `/readyz`.
    lifespan
        Runs around the service's life.
    open_pages
        Paths that everybody may read without a key, since they hold no data.
    settings, queue, store
        What the routes work on; from the environment when left out.
    """
    settings = settings or Settings()
    app = FastAPI(
        title=f"Shoal {service}",
        summary=summary,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=_with_deliveries(lifespan),
    )
    app.state.settings = settings
    app.state.queue = queue or JobQueue.from_url(
        settings.redis_url.get_secret_value(), lease_s=settings.lease_s, store=store_identity(settings.store)
    )
    app.state.store = store or Store.of(settings)
    app.state.kinds = tuple(kinds)
    app.state.check_hosts = hosts
    app.state.registry = health.registry_for(app.state.queue, settings)
    app.state.keys = keys = (
        KeyStore.from_url(settings.redis_url.get_secret_value()) if auth.keys_needed(settings) else None
    )
    app.state.queue_limits = jobs.QueueLimits(
        settings.max_queued, settings.max_queued_per_key, keys, settings.absent_kinds
    )
    app.state.callbacks = rules = CallbackRules.of(settings)
    app.state.deliveries = Deliveries(app.state.queue.callbacks, rules, app.state.registry, jobs.with_links)
    app.state.streams = jobs.StreamLimits(settings.max_streams, settings.max_streams_per_client)
    problems.install(app)
    _add_middleware(app, service, tuple(inline_paths), tuple(inline_folders), streamed, open_pages)
    for router in [*routers, jobs.router, sessions.router, health.router, docs.router]:
        app.include_router(router)
    return app


def _with_deliveries(lifespan: Lifespan[FastAPI] | None) -> Lifespan[FastAPI]:
    """``lifespan`` with the deliveries of webhooks, where the settings allow any."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if app.state.callbacks.hosts.entries:
                stack.enter_context(app.state.deliveries.running())
            if lifespan is not None:
                await stack.enter_async_context(lifespan(app))
            yield

    return life


def _add_middleware(
    app: FastAPI,
    service: str,
    inline_paths: tuple[str, ...],
    inline_folders: tuple[str, ...],
    streamed: re.Pattern[str] | None,
    open_pages: re.Pattern[str] | None,
) -> None:
    """Add the middlewares. The one added last sees a request first."""
    settings: Settings = app.state.settings
    app.add_middleware(
        BodyLimits,
        max_bytes=settings.max_body_bytes,
        max_inline_bytes=settings.max_inline_bytes,
        inline_paths=inline_paths,
        inline_folders=inline_folders,
        streamed=streamed,
        max_streamed_bytes=settings.max_part_bytes,
        body_s=settings.body_timeout_s,
        max_held_bytes=settings.max_held_bytes,
    )
    auth.install(app, settings, app.state.keys, open_pages)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(SecurityHeaders, check_host=app.state.keys is None, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(Audit, service=service)
    app.add_middleware(RequestMetrics, registry=app.state.registry, service=service)


def serve(build: Callable[[Settings], FastAPI], service: str, *, host: str, port: int) -> None:
    """Listen until SIGTERM or SIGINT.

    Parameters
    ----------
    build
        Creates the application.
    service
        Names it in logs and traces.
    host, port
        The address to listen on.

    Raises
    ------
    SystemExit
        Other machines could reach the API and no key exists, or the queue belongs to another store; the log says what
        to do.
    """
    settings = Settings().model_copy(update={"host": host})
    logs.configure(service, level=settings.log_level)
    store = KeyStore.from_url(settings.redis_url.get_secret_value())
    try:
        auth.check_before_listening(settings, store)
    except NoKeys as error:
        _exit(error)
    finally:
        store.close()
    app = build(settings)
    try:
        app.state.queue.check_store()
    except OtherStore as error:
        _exit(error)
    except QueueUnavailable:
        # The service starts all the same: every submission checks again.
        log.warning("queue unreachable")
    if tracing.enabled():
        tracing.instrument(app, tracing.provider(service))
    sys.setswitchinterval(SWITCH_S)
    uvicorn.run(app, host=host, port=port, **server_options(settings))


def _exit(error: ShoalError) -> None:
    log.error("not listening", code=error.code, detail=error.detail)
    sys.exit(1)


def server_options(settings: Settings) -> dict[str, Any]:
    """Options of `uvicorn.run`: our limits on connections, and no trust in proxy headers."""
    return {
        "http": Connections(ConnectionLimits.of(settings)).protocol,
        "ws": "none",
        # Our audit log takes the place of uvicorn's access log and never contains a query string.
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": STOP_S,
    }
