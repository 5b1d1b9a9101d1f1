"""Runs a worker as a process of its own: logs, metrics, then jobs until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal import logs, tracing
from shoal.jobs.observer import Observer, Observers
from shoal.jobs.queue import JobQueue
from shoal.jobs.worker import Worker
from shoal.settings import Settings


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
    queue = JobQueue.from_url(settings.redis_url.get_secret_value(), lease_s=settings.lease_s)
    Worker(queue, kinds, command, settings=settings, prepare=prepare, observer=Observers(observers)).run()
