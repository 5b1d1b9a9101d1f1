"""Liveness, readiness and metrics."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Annotated, Literal

from fastapi import Depends, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from shoal import __version__, disk
from shoal.errors import ShoalError
from shoal.jobs.kinds import waiting_for
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.web.pools import QUICK
from shoal.web.route import QueueDep, StoreDep
from shoal.web.route import router as make_router

WORKER_ALIVE_S = 60.0
CheckHosts = Callable[[], Awaitable[dict[str, str]]]
"""For each backend, `ok` or what to do so that its model host answers."""


class Health(BaseModel):
    """Answer of `/healthz`."""

    status: Literal["ok"] = Field("ok", description="Always `ok`.")
    version: str = Field(__version__, description="Version of the service.")


class Readiness(BaseModel):
    """Answer of `/readyz`."""

    ready: bool = Field(description="Whether all checks passed.")
    checks: dict[str, str] = Field(
        description="Result of each check, `queue`, `store`, `disk` and `workers`: `ok`, or what is wrong."
    )
    workers: dict[str, float | None] = Field(
        description="For each kind of job, seconds since the last heartbeat of a worker; null if there is no worker."
    )
    missing: dict[str, str] = Field(
        default_factory=dict,
        description="Kinds of jobs that no live worker runs, and how to start one. Their jobs wait.",
    )
    hosts: dict[str, str] = Field(
        default_factory=dict,
        description="For each backend, whether its model host answers: `ok`, or how to start one. Without it, images "
        "sent within a request are refused; jobs run, so `ready` does not depend on it.",
    )


router = make_router(pool=QUICK, tags=["operations"])


@router.get("/healthz")
async def healthz() -> Health:
    """Check that the process is alive. Nothing else is checked."""
    return Health()


async def _check_hosts(request: Request) -> dict[str, str]:
    ask: CheckHosts | None = request.app.state.check_hosts
    return await ask() if ask is not None else {}


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(
    request: Request,
    response: Response,
    queue: QueueDep,
    store: StoreDep,
    hosts: Annotated[dict[str, str], Depends(_check_hosts)],
) -> Readiness:
    """Check that a job submitted now would run: queue, store, disk and a live worker."""
    kinds: tuple[str, ...] = request.app.state.kinds
    queue_check, workers = _check_queue(queue, kinds)
    checks = {
        "queue": queue_check,
        "store": _check_store(store),
        "disk": _check_disk(store),
        "workers": _check_workers(workers),
    }
    ready = all(answer == "ok" for answer in checks.values())
    response.status_code = 200 if ready else 503
    missing = {kind: text for kind in kinds if (text := waiting_for(kind, _alive(workers))) and queue_check == "ok"}
    return Readiness(ready=ready, checks=checks, workers=workers, missing=missing, hosts=hosts)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Return the metrics of the service in the text format of Prometheus."""
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _check_queue(queue: JobQueue, kinds: tuple[str, ...]) -> tuple[str, dict[str, float | None]]:
    """Whether the queue answers, and the seconds since the last heartbeat of a worker of each kind."""
    try:
        queue.check_store()
        beats = queue.workers()
    except ShoalError as error:
        return error.detail, dict.fromkeys(kinds)
    now = time.time()
    return "ok", {kind: max(0.0, now - beats[kind].timestamp()) if kind in beats else None for kind in kinds}


def _check_store(store: Store) -> str:
    return "ok" if store.root.is_dir() and os.access(store.root, os.W_OK) else "the store is not a writable folder"


def _check_disk(store: Store) -> str:
    try:
        return disk.shortage(store.root) or "ok"
    except OSError as error:
        return f"the store's disk cannot be read: {error.strerror}"


def _check_workers(workers: Mapping[str, float | None]) -> str:
    return "ok" if _alive(workers) else f"no live worker for {' or '.join(workers)}"


def _alive(workers: Mapping[str, float | None]) -> list[str]:
    return [kind for kind, silent_s in workers.items() if silent_s is not None and silent_s < WORKER_ALIVE_S]


class QueueCollector(Collector):
    """Depths and counts of the queue, read at every scrape."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """The metrics of one scrape; without those of the queue if it is unreachable."""
        yield InfoMetricFamily("shoal_build", "Version of this service.", value={"version": __version__})
        try:
            depths, counts, beats = self._queue.depths(), self._queue.counts(), self._queue.workers()
            callbacks = self._queue.callbacks.counts()
        except ShoalError:
            yield GaugeMetricFamily("shoal_queue_up", "Whether the queue answers.", value=0)
            return
        seen = {kind: at.timestamp() for kind, at in beats.items()}
        yield GaugeMetricFamily("shoal_queue_up", "Whether the queue answers.", value=1)
        yield _family("shoal_queue_depth", "Jobs that wait for a worker.", "kind", depths)
        yield _family("shoal_jobs", "Jobs kept, by state.", "state", counts)
        yield _family("shoal_callbacks", "Webhooks that are to be delivered or were given up.", "state", callbacks)
        yield _family("shoal_worker_last_heartbeat_seconds", "Unix time of the last heartbeat.", "kind", seen)


def _family(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


class DiskCollector(Collector):
    """Free disk space of the store, read at every scrape."""

    def __init__(self, settings: Settings) -> None:
        self._store = settings.store

    def collect(self) -> Iterator[Metric]:
        """The gauge; nothing if the disk cannot be read."""
        try:
            free = shutil.disk_usage(self._store).free
        except OSError:
            return
        yield GaugeMetricFamily("shoal_store_free_bytes", "Bytes that are left for the store.", value=free)


def registry_for(queue: JobQueue, settings: Settings) -> CollectorRegistry:
    """A new registry with the collectors: a process may have several applications."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(queue))
    registry.register(DiskCollector(settings))
    return registry
