"""Sweeps whose points are tasks of a Ray cluster: the same points as in the worker, also after losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from clusterer.jobs import sweep as sweeping
from shoal.errors import MemoryLimitTooSmall
from shoal.jobs.child import Cancelled, JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.sweeps import Sweep

from tests.clusterer.ray.conftest import RayCluster

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
GRID: dict[str, Any] = {
    "clusters": [3, 5],
    "pca": {"components": [None, 8, 4], "whiten": [False, True]},
    "normalize": [True, False],
    "seeds": [0, 1],
    "kmeans": {"iterations": 10, "restarts": 2},
}
RAY = {"engine": "ray", "resources": {"memory": "1GiB"}}


def points_of(sweep: Sweep) -> list[dict[str, Any]]:
    """What the points found: everything but their times."""
    return [{name: value for name, value in point.items() if name != "seconds"} for point in sweep.points()]


def run(store: Store, settings: Settings, request: dict[str, Any], context: JobContext | None = None) -> Sweep:
    context = context or JobContext.local(request, kind="sweep")
    return store.sweep(sweeping.run(context, settings)["sweep"])


def test_points_are_those_of_the_worker(
    store: Store, ray_settings: Settings, planted: Planted, make_set: MakeSet
) -> None:
    train, scored = make_set("train", *planted(600, spread=1.5)), make_set("val", *planted(200, seed=4))
    request = {"embeddings": {"train": train, "score": [train, scored]}, "linear_probe": True, **GRID}
    expected = run(store, ray_settings, request)
    found = run(store, ray_settings, {**request, "execution": RAY})
    assert len(points_of(found)) == 24
    assert json.dumps(points_of(found)) == json.dumps(points_of(expected))
    spherical = {"embeddings": train, "clusters": [4], "kmeans": {"spherical": True, "max_points_per_centroid": 50}}
    again = run(store, ray_settings, {**spherical, "execution": RAY})
    assert points_of(again) == points_of(run(store, ray_settings, spherical))


def test_a_killed_node_costs_its_points_alone_and_a_cancelled_sweep_goes_on(
    store: Store,
    ray_settings: Settings,
    ray_cluster: RayCluster,
    planted: Planted,
    make_set: MakeSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embeddings = make_set("mine", *planted(3000, spread=2.0), shard_rows=3000)
    request = {"embeddings": embeddings, "clusters": list(range(20, 32)), "seeds": [0]}
    expected = points_of(run(store, ray_settings, request))
    node, commit = ray_cluster.add_node(), Sweep.commit_point
    committed: list[int] = []

    def killing(self: Sweep, index: int, document: dict[str, Any]) -> None:
        commit(self, index, document)
        committed.append(index)
        if len(committed) == 1:
            ray_cluster.kill(node)
        if len(committed) == 8:
            context.stop()

    monkeypatch.setattr(Sweep, "commit_point", killing)
    context = JobContext.local({**request, "execution": {**RAY, "workers": 3}}, kind="sweep")
    with pytest.raises(Cancelled):
        run(store, ray_settings, request, context)
    assert len(committed) == 8
    again = JobContext.local(context.request, kind="sweep")
    again.id = context.id
    found = run(store, ray_settings, request, again)
    assert sorted(committed) == list(range(12))
    assert points_of(found) == expected


def test_a_point_too_large_for_a_worker_is_refused_with_the_size_that_it_needs(
    store: Store, ray_settings: Settings, planted: Planted, make_set: MakeSet
) -> None:
    embeddings = make_set("mine", *planted())
    execution = {"engine": "ray", "resources": {"memory": 2**28}}
    with pytest.raises(
        MemoryLimitTooSmall, match=r"needs about [0-9]+ MiB\. Send as much as `execution\.resources\.memory`"
    ):
        run(store, ray_settings, {"embeddings": embeddings, "clusters": [4], "execution": execution})
