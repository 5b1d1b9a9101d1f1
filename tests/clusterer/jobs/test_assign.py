"""Assigning stored embeddings to a clustering: the scored set's bits, outliers, drift, resumption, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from clusterer.evaluation import drift
from clusterer.jobs import assign as assigning
from clusterer.jobs.assign_plan import plan_assign
from clusterer.results.loaded import LoadedClustering
from shoal.errors import (
    ClusteringNotFound,
    DimensionMismatch,
    EmbeddingsIncomplete,
    MemoryLimitTooSmall,
    ModelChanged,
    StoreCorrupt,
)
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import RESULTS, AssignRequest, Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import Clustering
from shoal.store.verify_results import verify_any

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
RunAssign = Callable[..., AssignedSet]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pca": {"pca": {"components": 6}},
    "whitened": {"pca": {"components": 5, "whiten": True}, "normalize": False},
    "spherical": {"pca": {"components": 6}, "kmeans": {"spherical": True}},
    "balanced": {"kmeans": {"balanced": 1.1}},
    "levels": {"kmeans": {"levels": [3, 2]}},
}


@pytest.fixture
def run_assign(store: Store, settings: Settings) -> RunAssign:
    """``run_assign(clustering, embeddings, **fields of the request)``: what the job publishes."""

    def run(clustering: Clustering, embeddings: str, **fields: Any) -> AssignedSet:
        request = {"clustering": clustering.id, "embeddings": embeddings, **fields}
        return store.assigned(assigning.run(JobContext.local(request, kind="assign"), settings)["assignments"])

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_have_the_bits_of_a_scored_set_and_of_the_online_route(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    run_assign: RunAssign,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(assigning, "ROW_GROUP", 64)
    train, val = make_set("train", *planted(spread=0.8)), make_set("val", *planted(150, seed=9, spread=1.2))
    clustering = run_job({"train": train, "score": [train, val]}, clusters=8, seed=0, **KINDS[kind])
    assigned = run_assign(clustering, val)
    rows = pq.read_table(assigned.layout.rows)
    scored = clustering.assignments(val)
    assert rows.drop_columns("is_outlier").equals(scored.select(rows.drop_columns("is_outlier").column_names))

    loaded = LoadedClustering.load(store, clustering.id)
    online = loaded.assign(np.ascontiguousarray(store.embeddings(val).take(np.arange(150))))
    assert np.array_equal(rows.column("distance").to_numpy(), online.distance)
    assert np.array_equal(rows.column("margin").to_numpy(), online.margin)
    limit = loaded.outlier_distance(0.99)
    assert limit is not None
    assert rows.column("is_outlier").to_pylist() == (online.distance > limit).tolist()
    assert verify_any(store.layout, assigned.id).ok


def test_a_killed_job_goes_on_after_its_last_part(
    planted: Planted,
    make_set: MakeSet,
    run_job: RunJob,
    run_assign: RunAssign,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assigning, "ROW_GROUP", 50)
    train, val = make_set("train", *planted()), make_set("val", *planted(220, seed=9))
    clustering = run_job(train, clusters=4, seed=0)
    undisturbed = run_assign(clustering, val)

    def stop(progress: Progress) -> None:
        if progress.done >= 50:
            context.stop()

    request = {"clustering": clustering.id, "embeddings": val}
    context = JobContext.local(request, kind="assign", on_progress=stop)
    # Every report counts, however fast the parts follow each other.
    monkeypatch.setattr("shoal.jobs.child.PROGRESS_INTERVAL_S", 0)
    with pytest.raises(Cancelled):
        assigning.run(context, settings)
    kept = sorted(store.layout.work(f"a-{context.id}").iterdir())
    assert kept
    assert store.assigned_ids() == [undisturbed.id]
    kept[0].write_bytes(b"cut off")  # Computed again.

    again = JobContext.local(request, kind="assign", attempt=2)
    again.id = context.id
    found = store.assigned(assigning.run(again, settings)["assignments"])
    assert found.run()["resumed_rows"] == 50 * (len(kept) - 1)
    for name in ("assignments.parquet", "clusters.parquet", "drift.json", "spec.json"):
        assert (found.layout.folder / name).read_bytes() == (undisturbed.layout.folder / name).read_bytes()
    assert not store.layout.work(f"a-{context.id}").exists()
    result = assigning.run(again, settings)
    assert [result[name] for name in RESULTS if name in result] == [found.id]


def test_drift_is_small_for_rows_of_the_train_sets_kind_and_large_for_others(
    planted: Planted, make_set: MakeSet, run_job: RunJob, run_assign: RunAssign
) -> None:
    train = make_set("train", *planted(2000))
    clustering = run_job(train, clusters=4, seed=0)
    itself = run_assign(clustering, train).drift()
    assert itself["sizes"]["psi"] == itself["distances"]["psi"] == 0
    assert itself["outliers"]["rows"] == 20
    assert itself["outliers"]["share"] == itself["outliers"]["train_share"] == 0.01
    assert itself["distances"]["rows"] == itself["distances"]["train_rows"] == [200] * 10

    alike = run_assign(clustering, make_set("alike", *planted(1000, seed=5))).drift()
    assert not alike["sizes"]["beyond_chance"]
    assert alike["sizes"]["shift"] == alike["distances"]["shift"] == "small"
    assert alike["outliers"]["share"] < 0.03

    vectors, labels = planted(1000, seed=6, spread=0.6)
    few = np.flatnonzero(np.array(labels) != "c")
    other = run_assign(clustering, make_set("other", vectors[few], [labels[each] for each in few]))
    found = other.drift()
    assert found["sizes"]["shift"] == found["distances"]["shift"] == "large"
    assert found["sizes"]["beyond_chance"]
    assert found["distances"]["beyond_chance"]
    assert found["sizes"]["vanished"] == 1
    assert found["sizes"]["shrunk"][0]["label"] == "c"
    assert found["sizes"]["shrunk"][0]["share"] == 0
    assert len(found["sizes"]["grown"]) == 3
    assert found["outliers"]["share"] > 0.5
    table = other.clusters()
    assert sum(table.column("psi").to_pylist()) == pytest.approx(found["sizes"]["psi"])
    assert sum(table.column("outliers").to_pylist()) == found["outliers"]["rows"]


def test_without_a_scored_train_set_outliers_and_drift_are_unknown(
    planted: Planted, make_set: MakeSet, run_job: RunJob, run_assign: RunAssign
) -> None:
    train, val = make_set("train", *planted()), make_set("val", *planted(40, seed=9))
    assigned = run_assign(run_job({"train": train, "score": [val]}, clusters=4, seed=0), val)
    drift = assigned.drift()
    assert drift["train"] is None
    assert drift["sizes"] is drift["distances"] is drift["outliers"]["rows"] is None
    assert pq.read_table(assigned.layout.rows).column("is_outlier").null_count == 40
    assert assigned.clusters().column("train_size").null_count == 4


def test_what_cannot_be_assigned_is_refused(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, settings: Settings
) -> None:
    vectors, labels = planted()
    train = make_set("train", vectors, labels, transform={"size": 8})
    clustering = run_job(train, clusters=4, seed=0)

    def refused(error: type[Exception], embeddings: str, clustering_id: str = clustering.id, **fields: Any) -> str:
        request = {"clustering": clustering_id, "embeddings": embeddings, **fields}
        with pytest.raises(error) as caught:
            assigning.run(JobContext.local(request, kind="assign"), settings)
        return str(caught.value)

    refused(ClusteringNotFound, train, "c-none")
    refused(EmbeddingsIncomplete, make_set("half", vectors, finish=False))
    assert "8 dimensions" in refused(DimensionMismatch, make_set("narrow", vectors[:, :8]))
    assert "`size` is 9 instead of 8" in refused(ModelChanged, make_set("other", vectors, transform={"size": 9}))
    assert "MiB" in refused(MemoryLimitTooSmall, train, memory_limit="256MiB")
    assert store.assigned_ids() == []


def test_embeddings_of_another_model_are_refused(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = make_set("train", *planted())
    clustering = run_job(train, clusters=4, seed=0)
    other = {**clustering.spec["model"], "name": "raw_pixels", "seed": 3}
    found = store.clustering(clustering.id)
    found.spec["model"] = other
    monkeypatch.setattr(Store, "clustering", lambda self, which: found)
    with pytest.raises(ModelChanged, match="weights or the settings of the model `raw_pixels` were others"):
        plan_assign(store, AssignRequest(clustering=clustering.id, embeddings=train))
    other["backend"] = "import"
    plan_assign(store, AssignRequest(clustering=clustering.id, embeddings=train))


def test_damage_is_found(
    planted: Planted, make_set: MakeSet, run_job: RunJob, run_assign: RunAssign, store: Store
) -> None:
    train = make_set("train", *planted())
    assigned = run_assign(run_job(train, clusters=4, seed=0), train)
    content = bytearray(assigned.layout.rows.read_bytes())
    content[100] ^= 1
    assigned.layout.rows.write_bytes(content)
    [problem] = verify_any(store.layout, assigned.id).problems
    assert problem.file == "assignments.parquet"
    with pytest.raises(StoreCorrupt):
        list(store.assigned(assigned.id).iter_assignments())


def test_the_stability_index_and_what_chance_gives() -> None:
    before, after = np.array([100, 100, 0, 0]), np.array([150, 50, 0, 0])
    p, q = np.array([0.5, 0.5]), np.array([150.5 / 201, 50.5 / 201])
    found = drift.stability(before, after)
    assert found.psi == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    assert found.parts[2:].tolist() == [0, 0]
    rng = np.random.default_rng(0)
    draws = [drift.stability(rng.multinomial(5000, [0.05] * 20), rng.multinomial(800, [0.05] * 20)) for _ in range(400)]
    values = np.array([each.psi for each in draws])
    assert values.mean() == pytest.approx(draws[0].expected, rel=0.1)
    assert np.mean(values > draws[0].chance) == pytest.approx(drift.CHANCE, abs=0.03)
    assert drift.stability(np.array([3]), np.array([4])).psi == 0
