"""Assignments whose parts are tasks of a Ray cluster: the same bytes as from the worker, also after losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clusterer.jobs import assign as assigning
from clusterer.jobs.workspace import Workspace
from shoal.errors import InvalidRequest
from shoal.jobs.child import Cancelled, JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import Clustering

from tests.clusterer.ray.conftest import RayCluster

FILES = ("assignments.parquet", "clusters.parquet", "drift.json")


def run(store: Store, settings: Settings, context: JobContext) -> AssignedSet:
    return store.assigned(assigning.run(context, settings)["assignments"])


def test_the_bytes_are_those_of_the_worker_after_a_killed_node_and_a_cancelled_attempt(
    store: Store,
    ray_settings: Settings,
    ray_cluster: RayCluster,
    planted: Callable[..., Any],
    make_set: Callable[..., str],
    run_job: Callable[..., Clustering],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assigning, "ROW_GROUP", 50)
    train, val = make_set("train", *planted(spread=0.8)), make_set("val", *planted(480, seed=9, spread=1.2))
    clustering = run_job(train, clusters=8, seed=0, pca={"components": 6})
    request = {"clustering": clustering.id, "embeddings": val}
    expected = run(store, ray_settings, JobContext.local(request, kind="assign"))
    node, keep = ray_cluster.add_node(), Workspace.keep_arrays
    kept: list[str] = []

    def losing(self: Workspace, name: str, arrays: dict[str, Any]) -> None:
        keep(self, name, arrays)
        kept.append(name)
        if len(kept) == 1:
            ray_cluster.kill(node)
        if len(kept) == 6:
            context.stop()

    monkeypatch.setattr(Workspace, "keep_arrays", losing)
    execution = {"engine": "ray", "workers": 3, "resources": {"cpus": 1}}
    context = JobContext.local({**request, "execution": execution}, kind="assign")
    with pytest.raises(Cancelled):
        run(store, ray_settings, context)
    assert len(kept) == 6
    again = JobContext.local(context.request, kind="assign", attempt=2)
    again.id = context.id
    found = run(store, ray_settings, again)
    assert found.run()["execution"]["workers"] == 3
    assert sorted(kept) == [f"part-{number:05}" for number in range(10)]
    assert found.run()["resumed_rows"] == 50 * 6 - 20 * ("part-00009" in kept[:6])
    for name in FILES:
        assert (found.layout.folder / name).read_bytes() == (expected.layout.folder / name).read_bytes()


def test_a_cluster_that_the_settings_do_not_name_is_refused(
    store: Store,
    ray_settings: Settings,
    planted: Callable[..., Any],
    make_set: Callable[..., str],
    run_job: Callable[..., Clustering],
) -> None:
    train = make_set("train", *planted())
    execution = {"engine": "ray", "address": "elsewhere:6379"}
    request = {"clustering": run_job(train, clusters=4, seed=0).id, "embeddings": train, "execution": execution}
    with pytest.raises(InvalidRequest, match="SHOAL_RAY_ADDRESSES") as caught:
        run(store, ray_settings, JobContext.local(request, kind="assign"))
    assert caught.value.members["field"] == "execution.address"
