"""Runs an API: checks who can reach it, then listens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from shoal import logs, tracing
from shoal.errors import OtherStore, QueueUnavailable
from shoal.keys import KeyStore
from shoal.settings import Settings
from shoal.web import auth
from shoal.web.connections import ConnectionLimits, Connections

log = structlog.get_logger(__name__)

KEEP_ALIVE_S = 30
STOP_S = 10
SWITCH_S = 0.001
"""How long a thread that computes keeps Python's interpreter lock when the event loop wants it."""


def serve(build: Callable[[Settings], FastAPI], service: str, *, host: str, port: int) -> None:
    """Listen until SIGTERM or SIGINT.

    Parameters
    ----------
    build
        Makes the application.
    service
        Names it in logs and traces.
    host, port
        Where to listen.

    Raises
    ------
    SystemExit
        Others could reach the API and no key exists, or the queue belongs to another store; the log says what to do.
    """
    settings = Settings().model_copy(update={"host": host})
    logs.configure(service, level=settings.log_level)
    store = KeyStore.from_url(settings.redis_url.get_secret_value())
    try:
        auth.check_before_listening(settings, store)
    except auth.NoKeys as error:
        log.error("not listening", code=error.code, detail=error.detail)
        sys.exit(1)
    finally:
        store.close()
    app = build(settings)
    try:
        app.state.queue.check_store()
    except OtherStore as error:
        log.error("not listening", code=error.code, detail=error.detail)
        sys.exit(1)
    except QueueUnavailable:
        # It starts all the same, and asks again with every job that is submitted.
        log.warning("the queue is away")
    if tracing.wanted():
        tracing.instrument(app, tracing.provider(service))
    sys.setswitchinterval(SWITCH_S)
    uvicorn.run(app, host=host, port=port, **server_options(settings))


def server_options(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves an API: with our limits on connections, and without proxies that it believes."""
    return {
        "http": Connections(ConnectionLimits.of(settings)).protocol,
        "ws": "none",
        # Our own log has what uvicorn's would say, and never a query string. No proxy is believed about who asks.
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": STOP_S,
    }
