"""Runs a worker as a process of its own: logs, metrics, then jobs until it is told to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import structlog

from shoal import logs, tracing
from shoal.errors import OtherStore
from shoal.jobs.observer import Observer, Observers
from shoal.jobs.queue import JobQueue
from shoal.jobs.worker import Worker
from shoal.settings import Settings
from shoal.store_identity import store_identity

log = structlog.get_logger(__name__)


def run_worker(
    service: str, kinds: Sequence[str], command: Sequence[str], *, prepare: Callable[[], object] = lambda: None
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
    prepare
        Called before each child is started.

    Raises
    ------
    SystemExit
        The queue belongs to another store; the log says so.
    """
    settings = Settings()
    logs.configure(service, level=settings.log_level)
    observers: list[Observer] = []
    if settings.metrics_port:
        # Only where it is asked for: a worker needs no metrics library.
        from shoal.jobs.metrics import WorkerMetrics

        metrics = WorkerMetrics()
        metrics.serve(settings.metrics_host, settings.metrics_port)
        observers.append(metrics)
    if tracing.wanted():
        observers.append(tracing.JobSpans(tracing.provider(service)))
    queue = JobQueue.from_url(
        settings.redis_url.get_secret_value(), lease_s=settings.lease_s, store=store_identity(settings.store)
    )
    worker = Worker(
        queue,
        kinds,
        command,
        settings=settings,
        prepare=prepare,
        observer=Observers(observers),
        store=settings.store,
    )
    try:
        worker.run()
    except OtherStore as error:
        log.error("not working", code=error.code, detail=error.detail)
        sys.exit(1)
