"""Liveness, readiness and metrics."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Literal

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field

from shoal import __version__
from shoal.errors import ShoalError
from shoal.jobs.kinds import waiting_for
from shoal.jobs.queue import JobQueue
from shoal.settings import MIN_FREE_BYTES, Settings
from shoal.store import Store
from shoal.web.pools import QUICK
from shoal.web.route import QueueDep, SettingsDep, StoreDep
from shoal.web.route import router as make_router

WORKER_ALIVE_S = 60.0


class Health(BaseModel):
    """Answer of `/healthz`: the process lives."""

    status: Literal["ok"] = "ok"
    version: str = __version__


class Readiness(BaseModel):
    """Answer of `/readyz`: what the service needs, and whether it has it."""

    ready: bool
    checks: dict[str, str]
    workers: dict[str, float | None] = Field(
        description="Seconds since a worker of each kind was heard of; null when none is known."
    )
    missing: dict[str, str] = Field(
        default_factory=dict, description="Kinds that no live worker runs, and what to do: their jobs wait."
    )


router = make_router(pool=QUICK, tags=["operations"])


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process lives; asks nothing else."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(request: Request, response: Response, queue: QueueDep, store: StoreDep, settings: SettingsDep) -> Readiness:
    """Whether a job that is sent now would run: queue, store, disk, and a live worker."""
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
    return Readiness(ready=ready, checks=checks, workers=workers, missing=missing)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _check_queue(queue: JobQueue, kinds: tuple[str, ...]) -> tuple[str, dict[str, float | None]]:
    """Whether the queue answers, and how many seconds ago a worker of each kind was heard of."""
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
        free = shutil.disk_usage(store.root).free
    except OSError as error:
        return f"the store's disk cannot be read: {error}"
    return "ok" if free >= MIN_FREE_BYTES else f"only {free >> 20} MiB are free for the store"


def _check_workers(workers: Mapping[str, float | None]) -> str:
    return "ok" if _alive(workers) else f"no live worker for {' or '.join(workers)}"


def _alive(workers: Mapping[str, float | None]) -> list[str]:
    return [kind for kind, silent_s in workers.items() if silent_s is not None and silent_s < WORKER_ALIVE_S]


class QueueCollector(Collector):
    """The queue's depths and counts, read when Prometheus asks."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape; none of the queue's when it cannot be reached."""
        yield InfoMetricFamily("shoal_build", "Version of this service.", value={"version": __version__})
        try:
            depths, counts, beats = self._queue.depths(), self._queue.counts(), self._queue.workers()
        except ShoalError:
            yield GaugeMetricFamily("shoal_queue_up", "Whether the queue answers.", value=0)
            return
        seen = {kind: at.timestamp() for kind, at in beats.items()}
        yield GaugeMetricFamily("shoal_queue_up", "Whether the queue answers.", value=1)
        yield _family("shoal_queue_depth", "Jobs that wait for a worker.", "kind", depths)
        yield _family("shoal_jobs", "Jobs kept, by state.", "state", counts)
        yield _family("shoal_worker_last_heartbeat_seconds", "Unix time of the last heartbeat.", "kind", seen)


def _family(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


class DiskCollector(Collector):
    """What is left for the store, read when Prometheus asks."""

    def __init__(self, settings: Settings) -> None:
        self._store = settings.store

    def collect(self) -> Iterator[Metric]:
        """The one gauge; none when the disk cannot be read."""
        try:
            free = shutil.disk_usage(self._store).free
        except OSError:
            return
        yield GaugeMetricFamily("shoal_store_free_bytes", "Bytes that are left for the store.", value=free)


def registry_for(queue: JobQueue, settings: Settings) -> CollectorRegistry:
    """A fresh registry with the collectors, so that several applications fit into one process."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(queue))
    registry.register(DiskCollector(settings))
    return registry
