"""A sweep whose process is killed goes on after its last point; one that is cancelled stops and keeps its points."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import psutil
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.store import Store


def test_a_killed_sweep_keeps_its_points_and_ends(
    planted: Callable[..., Any],
    make_set: Callable[..., str],
    store: Store,
    queue: JobQueue,
    clusterer_worker: subprocess.Popen[bytes],
    wait_until: Callable[..., None],
) -> None:
    """Fails without: the points that are there being left out, and the link, which fails where one is."""
    embeddings = make_set("mine", *planted(2000, spread=2.0), shard_rows=2000)
    request = {"embeddings": embeddings, "clusters": list(range(20, 44)), "seeds": [0]}
    job, _ = queue.submit("sweep", request)
    points = store.layout.sweep(f"s-{job.id}").points
    wait_until(lambda: points.is_dir() and any(points.glob("*.json")), deadline_s=120, what="a point is there")
    for child in psutil.Process(clusterer_worker.pid).children():
        child.kill()
    kept = {path.name: path.stat().st_mtime_ns for path in points.glob("*.json")}
    assert 0 < len(kept) < 24
    wait_until(lambda: queue.get(job.id).state.terminal, deadline_s=240, what="the sweep ends")
    done = queue.get(job.id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.attempt == 2
    found = store.sweep(f"s-{job.id}")
    assert found.complete
    assert found.finished_points() == list(range(24))
    assert {name: (points / name).stat().st_mtime_ns for name in kept} == kept


def test_a_cancelled_sweep_stops_and_keeps_its_points(
    planted: Callable[..., Any],
    make_set: Callable[..., str],
    store: Store,
    queue: JobQueue,
    clusterer_worker: subprocess.Popen[bytes],
    wait_until: Callable[..., None],
) -> None:
    embeddings = make_set("mine", *planted(2000, spread=2.0), shard_rows=2000)
    job, _ = queue.submit("sweep", {"embeddings": embeddings, "clusters": list(range(20, 220)), "seeds": [0]})
    points = store.layout.sweep(f"s-{job.id}").points
    wait_until(lambda: points.is_dir() and any(points.glob("*.json")), deadline_s=120, what="a point is there")
    queue.cancel(job.id)
    wait_until(lambda: queue.get(job.id).state.terminal, deadline_s=60, what="the sweep stops")
    assert queue.get(job.id).state is JobState.CANCELLED
    half = store.sweep(f"s-{job.id}")
    assert not half.complete
    assert 0 < len(half.finished_points()) < 200
