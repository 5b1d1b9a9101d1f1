"""Clusterings on a cluster of two nodes: the same bytes as on one machine, also when a node is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from shoal.errors import InvalidRequest
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

from tests.clusterer.conftest import MakeSet, Planted
from tests.clusterer.jobs.test_resume import gone_on, stopped
from tests.clusterer.ray.conftest import RayCluster

CHUNKS = 40_000
"""Rows: three chunks, so that both workers have some."""
KMEANS = {"iterations": 8, "restarts": 2}
"""Each iteration is a call of every worker."""
REQUEST: dict[str, Any] = {
    "clusters": 12,
    "pca": {"components": 8},
    "seeds": [0, 1],
    "kmeans": KMEANS,
    "memory_limit": "1GiB",
}
TWO = {"engine": "ray", "workers": 2}


def clustered(store: Store, settings: Settings, embeddings: Any, **fields: Any) -> Clustering:
    context = JobContext.local({"embeddings": embeddings, **REQUEST, **fields}, kind="cluster")
    return store.clustering(pipeline.run(context, settings)["clustering"])


def assert_same(ours: Clustering, theirs: Clustering) -> None:
    for name, array in theirs.transform_arrays().items():
        assert np.array_equal(ours.transform_arrays()[name], array), name
    assert np.array_equal(ours.centroids(), theirs.centroids())
    for each in theirs.scored:
        assert ours.assignments(each).equals(theirs.assignments(each))
    columns = ["seed", "iteration", "inertia", "moved", "empty"]
    assert ours.iterations().select(columns).equals(theirs.iterations().select(columns))


@pytest.fixture(autouse=True)
def _small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map's layout, which the job's own process computes, takes longer than all the rest."""
    monkeypatch.setattr("clusterer.jobs.map.MOST_LANDMARKS", 256)


@pytest.fixture(scope="module")
def vectors(planted: Planted) -> Any:
    return planted(CHUNKS, groups=6, spread=1.5)


def test_a_clustering_is_the_same_on_a_cluster(
    store: Store, ray_settings: Settings, make_set: MakeSet, vectors: Any
) -> None:
    rows = vectors[0].copy()
    rows[[5, 17_000, 17_001, CHUNKS - 1]] = 0.0
    train = make_set("train", rows, vectors[1], shard_rows=7000)
    scored = make_set("scored", rows[:500] + 0.1, vectors[1][:500])
    sets = {"train": train, "score": [train, scored]}
    here = clustered(store, ray_settings, sets)
    there = clustered(store, ray_settings, sets, execution=TWO)
    assert_same(there, here)
    assert here.run()["execution"] == {"engine": "local"}
    execution = there.run()["execution"]
    assert (execution["engine"], execution["workers"], execution["lost"]) == ("ray", 2, [])
    assert there.run()["zero_rows"] == here.run()["zero_rows"] == {train: 4, scored: 0}
    ours, theirs = (each.metrics()["scored"][train]["mean"] for each in (there, here))
    assert ours["ari"] == theirs["ari"]
    assert ours["silhouette"] == pytest.approx(theirs["silhouette"], rel=1e-9)


def test_a_chosen_and_sampled_set_gives_the_same_groups_of_unit_centroids(
    store: Store, ray_settings: Settings, make_set: MakeSet, vectors: Any
) -> None:
    embeddings = make_set("mine", *vectors, shard_rows=7000)
    options = {**KMEANS, "max_points_per_centroid": 1500, "spherical": True, "levels": [4]}
    fields = {"where": {"labels": ["a", "b", "c", "d", "e"]}, "seeds": [3], "kmeans": options}
    here = clustered(store, ray_settings, embeddings, **fields)
    assert_same(clustered(store, ray_settings, embeddings, **fields, execution=TWO), here)


def test_sums_that_float64_rounds_agree_to_its_rounding(
    store: Store, ray_settings: Settings, make_set: MakeSet, vectors: Any
) -> None:
    embeddings = make_set("mine", *vectors, shard_rows=7000)
    fields = {"seeds": [3], "pca": None, "kmeans": {"engine": "faiss", "balanced": 2.0, "iterations": 4, "restarts": 2}}
    here = clustered(store, ray_settings, embeddings, **fields)
    there = clustered(store, ray_settings, embeddings, **fields, execution=TWO)
    assert np.allclose(there.centroids(), here.centroids(), rtol=1e-6, atol=1e-6)
    assert there.run()["balance"] == here.run()["balance"]


DYING_DRIVER = """
import json, os, signal, sys
from clusterer import pipeline
from clusterer.jobs.workspace import Workspace
from shoal.jobs.child import ChildJob, JobContext
from shoal.settings import Settings

def die_at_three(work, seed, restart, state):
    keep_state(work, seed, restart, state)
    if len(state.history) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

keep_state, Workspace.keep_state = Workspace.keep_state, die_at_three
pipeline.run(JobContext(ChildJob("killed", "cluster", 1, "worker.1", json.loads(sys.argv[1])), print), Settings())
"""


@pytest.mark.parametrize("how", ["told to stop", "killed"])
def test_a_driver_that_ends_resumes_at_its_iteration(
    store: Store, ray_settings: Settings, make_set: MakeSet, vectors: Any, how: str
) -> None:
    embeddings = make_set("mine", *vectors, shard_rows=7000)
    request = {**REQUEST, "embeddings": embeddings, "seeds": [1], "execution": TWO}
    if how == "killed":
        job = "killed"
        dead = subprocess.run([sys.executable, "-c", DYING_DRIVER, json.dumps(request)], check=False, timeout=200)
        assert dead.returncode == -signal.SIGKILL
    else:
        job = stopped(request, ray_settings, stop_after=3)
    there = gone_on(job, request, store, ray_settings)
    assert there.run()["resumed_iterations"] >= 3
    assert_same(there, clustered(store, ray_settings, embeddings, seeds=[1]))


def test_a_lost_node_costs_one_iteration_of_its_rows(
    store: Store,
    ray_cluster: RayCluster,
    ray_settings: Settings,
    make_set: MakeSet,
    vectors: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails without: the rows of a lost worker being taken over."""
    embeddings = make_set("mine", *vectors, shard_rows=7000)
    fields = {"seeds": [1], "kmeans": {"restarts": 1, "iterations": 8, "init": "random"}}
    here = clustered(store, ray_settings, embeddings, **fields)
    node = ray_cluster.add_node(num_cpus=8)
    context = JobContext.local(
        {"embeddings": embeddings, **REQUEST, **fields, "execution": {**TWO, "workers": 3}}, kind="cluster"
    )
    advance = context.advance

    def kill_at_three(mark: int) -> None:
        if mark == pipeline.HELD + 3:
            ray_cluster.kill(node)
        advance(mark)

    monkeypatch.setattr(context, "advance", kill_at_three)
    there = store.clustering(pipeline.run(context, ray_settings)["clustering"])
    assert_same(there, here)
    lost = there.run()["execution"]["lost"]
    assert len(lost) == 1
    assert 0 < lost[0]["rows"] < CHUNKS


def test_an_engine_that_reads_all_rows_in_one_place_is_refused(
    store: Store, ray_settings: Settings, make_set: MakeSet, planted: Planted
) -> None:
    embeddings = make_set("mine", *planted())
    with pytest.raises(InvalidRequest, match="faiss-super") as caught:
        clustered(
            store, ray_settings, embeddings, kmeans={"engine": "faiss-super"}, clusters=4, execution={"engine": "ray"}
        )
    assert caught.value.members["field"] == "kmeans.engine"


def test_rows_of_one_worker_are_the_same_too(
    store: Store, ray_settings: Settings, make_set: MakeSet, planted: Planted
) -> None:
    """What a worker returns cannot be written: nothing may count on an addition having made a copy of it."""
    vectors, labels = planted(600, groups=3)
    embeddings = make_set("few", np.tile(vectors, 80), labels)
    fields = {"clusters": 3, "seeds": [0], "pca": {"components": 16}}
    here = clustered(store, ray_settings, embeddings, **fields)
    assert_same(clustered(store, ray_settings, embeddings, **fields, execution=TWO), here)
