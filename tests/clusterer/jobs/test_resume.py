"""A clustering job that dies goes on at the iteration that it had reached, out of core or not, to the same bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from clusterer import pipeline
from clusterer.jobs import map as placing
from clusterer.jobs.memory import problem_of
from clusterer.jobs.plan import make_plan
from clusterer.jobs.workspace import Workspace
from clusterer.kmeans import State
from shoal.jobs.child import Cancelled, JobContext
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import ClusterRequest, Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]

FIELDS: dict[str, Any] = {
    "clusters": 12,
    "pca": {"components": 6},
    "seeds": [0, 1],
    "kmeans": {"iterations": 40, "restarts": 1},
}
SAME = (
    "spec.json",
    "transform.npz",
    "centroids.npy",
    "seeds/1/centroids.npy",
    "assignments.parquet",
    "map.parquet",
    "metrics.json",
)


def bytes_of(clustering: Clustering) -> dict[str, bytes]:
    """The result, but for what the request says of memory."""
    found = {name: (clustering.layout.folder / name).read_bytes() for name in SAME if name != "spec.json"}
    return found | {"iterations": str(iterations(clustering)).encode()}


def iterations(clustering: Clustering) -> list[dict[str, Any]]:
    """The iterations without their seconds."""
    return clustering.iterations().drop_columns(["seconds"]).to_pylist()


def tight_limit(store: Store, embeddings: str) -> int:
    """A memory limit that leaves no room for rows."""
    plan = make_plan(store, ClusterRequest.model_validate({"embeddings": embeddings, **FIELDS}), deadline=None)
    return problem_of([plan]).other_bytes


def stopped(request: dict[str, Any], settings: Settings, stop_after: int) -> str:
    """Run a job until so many iterations are done; its id."""

    def stop(progress: Progress) -> None:
        if progress.stage == "kmeans" and progress.done >= stop_after:
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    return context.id


def gone_on(job: str, request: dict[str, Any], store: Store, settings: Settings) -> Clustering:
    """The result of the next attempt at a job."""
    again = JobContext.local(request, kind="cluster", attempt=2)
    again.id = job
    return store.clustering(pipeline.run(again, settings)["clustering"])


def test_out_of_core_gives_the_bytes_of_in_memory(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    embeddings = make_set("mine", *planted(500, spread=2.0))
    usual = run_job(embeddings, **FIELDS)
    tight = run_job(embeddings, **FIELDS, memory_limit=tight_limit(store, embeddings))
    assert usual.run()["memory"]["rows"] == "memory"
    assert tight.run()["memory"]["rows"] == "file"
    assert bytes_of(tight) == bytes_of(usual)


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize("stop_after", [0, 3, 42])
def test_a_stopped_job_goes_on_to_the_same_result(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    settings: Settings,
    stop_after: int,
    out_of_core: bool,
) -> None:
    embeddings = make_set("mine", *planted(500, spread=2.0))
    undisturbed = run_job(embeddings, **FIELDS)
    request = {"embeddings": embeddings, **FIELDS}
    if out_of_core:
        request["memory_limit"] = tight_limit(store, embeddings)

    job = stopped(request, settings, stop_after)
    work = store.layout.work(f"c-{job}")
    assert (work / "transform.npz").is_file()
    assert (work / "train.f32").is_file() is out_of_core

    found = gone_on(job, request, store, settings)
    assert bytes_of(found) == bytes_of(undisturbed)
    seeds = [each["seed"] for each in iterations(undisturbed)]
    assert found.run()["resumed_iterations"] >= {0: 0, 3: 3, 42: seeds.count(0) + 2}[stop_after]
    assert not work.exists()


@pytest.mark.parametrize("stop_after", [1, 4, 20])
def test_a_stopped_job_computes_no_iteration_twice_but_the_one_it_was_in(
    planted: Planted,
    make_set: MakeSet,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    """Fails without: the state that is kept after each iteration."""
    kept: list[tuple[int, int, int]] = []
    keep = Workspace.keep_state
    request = {"embeddings": make_set("mine", *planted(500, spread=2.0)), **FIELDS}
    stopping = JobContext.local(request, kind="cluster")
    to_stop: list[JobContext] = []

    def counted(self: Workspace, seed: int, restart: int, state: State) -> None:
        kept.append((seed, restart, len(state.history)))
        keep(self, seed, restart, state)
        if len(kept) == stop_after and to_stop:
            to_stop.pop().stop()

    monkeypatch.setattr(Workspace, "keep_state", counted)
    pipeline.run(JobContext.local(request, kind="cluster"), settings)
    undisturbed, kept[:] = tuple(kept), ()
    to_stop.append(stopping)
    with pytest.raises(Cancelled):
        pipeline.run(stopping, settings)
    assert len(kept) == stop_after < len(undisturbed)
    gone_on(stopping.id, request, store, settings)
    assert tuple(kept) == undisturbed


def test_a_job_that_stops_at_the_map_does_not_lay_it_out_again(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "most_landmarks", lambda *_: 300)
    monkeypatch.setattr(pipeline, "most_landmarks", placing.most_landmarks)
    embeddings = make_set("mine", *planted(500, spread=2.0))
    undisturbed = run_job(embeddings, **FIELDS)
    request = {"embeddings": embeddings, **FIELDS}

    def stop(progress: Progress) -> None:
        if progress.stage == "map" and progress.done > 400:
            context.stop()

    context = JobContext.local(request, kind="cluster", on_progress=stop)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    monkeypatch.setattr(placing, "lay_out", None)
    found = gone_on(context.id, request, store, settings)
    assert bytes_of(found) == bytes_of(undisturbed)


@pytest.mark.parametrize("out_of_core", [False, True])
def test_each_attempt_says_how_far_the_job_is(
    planted: Planted,
    make_set: MakeSet,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    out_of_core: bool,
) -> None:
    marks: list[int] = []
    monkeypatch.setattr(JobContext, "advance", lambda self, mark: marks.append(mark))
    request = {"embeddings": make_set("mine", *planted(500, spread=2.0)), **FIELDS}
    if out_of_core:
        request["memory_limit"] = tight_limit(store, request["embeddings"])
    job = stopped(request, settings, 3)
    reached = marks[-1]
    assert marks[:4] == ([1, 2, 3, 4] if out_of_core else [1, 3, 4, 5])
    assert marks == sorted(marks)
    marks.clear()
    gone_on(job, request, store, settings)
    # Nothing is done again; only that the rows are held is said again.
    assert [mark for mark in marks if mark <= reached] == ([2] if out_of_core else [])
    assert marks == sorted(marks)


@pytest.mark.parametrize(("engine", "out_of_core"), [("auto", False), ("auto", True), ("faiss-super", False)])
@pytest.mark.parametrize("stop_after", [0, 1, 42])
def test_a_stopped_balanced_job_goes_on_with_its_prices_to_the_same_result(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    store: Store,
    settings: Settings,
    stop_after: int,
    engine: str,
    out_of_core: bool,
) -> None:
    embeddings = make_set("mine", *planted(500, spread=2.0))
    kmeans = {**FIELDS["kmeans"], "balanced": 1.1, "spherical": True, "engine": engine, "levels": [4]}
    request = {"embeddings": embeddings, **FIELDS, "kmeans": kmeans}
    undisturbed = run_job(**request)
    if out_of_core:
        request["memory_limit"] = tight_limit(store, embeddings)
    job = stopped(request, settings, stop_after)
    found = gone_on(job, request, store, settings)
    assert found.run()["resumed_iterations"] >= min(stop_after, 1)
    assert bytes_of(found) == bytes_of(undisturbed)
    assert found.run()["balance"] == undisturbed.run()["balance"]
    for name in ("prices.npy", "seeds/1/prices.npy"):
        prices = (found.layout.folder / name).read_bytes()
        assert prices == (undisturbed.layout.folder / name).read_bytes()
    kept = found.prices()
    assert kept is not None
    assert kept.any()


def test_work_files_that_a_power_cut_spoilt_are_made_again(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    """Fails without: a work file that cannot be read counting as missing."""
    embeddings = make_set("mine", *planted(500, spread=2.0))
    request = {"embeddings": embeddings, **FIELDS, "memory_limit": tight_limit(store, embeddings)}
    context = JobContext.local(request, kind="cluster")
    work = store.layout.work(f"c-{context.id}")
    work.mkdir(parents=True)
    for name in ("transform.npz", "train.f32", "kmeans-0-0.npz"):
        (work / name).write_bytes(b"")
    (work / "kmeans-1-0.npz").write_bytes(b"PK\x03\x04 cut off")
    found = store.clustering(pipeline.run(context, settings)["clustering"])
    assert bytes_of(found) == bytes_of(run_job(embeddings, **FIELDS))


def test_a_killed_job_goes_on_in_the_next_attempt(
    planted: Planted,
    make_set: MakeSet,
    store: Store,
    queue: JobQueue,
    clusterer_worker: subprocess.Popen[bytes],
    wait_until: Callable[..., None],
) -> None:
    embeddings = make_set("mine", *planted(20_000, spread=3.0), shard_rows=20_000)
    request = {"embeddings": embeddings, "clusters": 300, "seed": 0, "kmeans": {"iterations": 200, "restarts": 2}}
    job, _ = queue.submit("cluster", request)
    state = store.layout.work(f"c-{job.id}") / "kmeans-0-0.npz"

    def iterations_kept() -> int:
        if not state.is_file():
            return 0
        with np.load(state) as kept:
            return str(kept["history"]).count("inertia")

    wait_until(lambda: iterations_kept() >= 2, deadline_s=120, what="two iterations are kept")
    for child in psutil.Process(clusterer_worker.pid).children():
        child.kill()
    reached = iterations_kept()
    wait_until(lambda: queue.get(job.id).state.terminal, deadline_s=240, what="the job ends")
    done = queue.get(job.id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.attempt == 2
    assert done.result is not None
    found = store.clustering(done.result["clustering"])
    assert found.run()["resumed_iterations"] >= reached
