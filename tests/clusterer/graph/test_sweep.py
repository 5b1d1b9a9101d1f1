"""Groups without a number as points of a sweep, beside k-means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.jobs import sweep
from shoal.errors import ClustersInvalid
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.sweeps import as_csv, as_parquet
from shoal.store.verify_results import verify_any

MakeSet = Callable[..., str]
Planted = Callable[..., tuple[Any, list[str]]]


@pytest.mark.parametrize("first", ["kmeans", "hdbscan"])
def test_methods_that_count_groups_themselves_have_one_point(
    make_set: MakeSet, planted: Planted, store: Store, settings: Settings, first: str
) -> None:
    vectors, labels = planted(160)
    noise = 9 * np.random.default_rng(3).normal(size=(20, 16)).astype(np.float32)
    embeddings = make_set("mine", np.concatenate([vectors, noise]), [*labels, *"x" * 20])
    methods = sorted(("kmeans", "leiden", "hdbscan"), key=lambda each: each != first)
    request = {
        "embeddings": embeddings,
        "clusters": [2, 3],
        "method": methods,
        "graph": {"min_samples": 5},
        "reduce": [None, "spectral"],
        "seeds": [0, 1, 2],
    }
    made = store.sweep(sweep.run(JobContext.local(request, kind="sweep"), settings)["sweep"])
    rows = made.table()
    points = [(each["method"], each["k"], each["reduce"]) for each in rows]
    assert sorted(each for each in points if each[0] == "kmeans" and each[2] is None) == [
        ("kmeans", 2, None),
        ("kmeans", 3, None),
    ]
    assert ("leiden", 5, None) in points or ("leiden", 4, None) in points
    assert ("hdbscan", 4, None) in points
    assert len(points) == 8
    # Nothing of HDBSCAN is random: its one run has no deviation over seeds.
    seeds = {each["params"]["method"]: each["params"]["seeds"] for each in made.points() if "method" in each["params"]}
    assert seeds == {"leiden": [0, 1, 2], "hdbscan": [0]}
    dense = next(each for each in made.points() if each["params"].get("method") == "hdbscan")
    assert dense["scored"][embeddings]["mean"]["noise"]["rows"] > 10


@pytest.mark.parametrize("resumed", [False, True])
def test_a_point_without_groups_keeps_its_error_and_costs_no_other(
    make_set: MakeSet, planted: Planted, store: Store, settings: Settings, resumed: bool
) -> None:
    vectors, labels = planted(120)
    embeddings = make_set("mine", vectors, labels)
    request = {
        "embeddings": embeddings,
        "clusters": [2, 3, 4],
        "method": ["hdbscan", "kmeans"],
        "graph": {"min_cluster_size": 100},
    }
    context = JobContext.local(request, kind="sweep")
    made = store.sweep(sweep.run(context, settings)["sweep"])
    if resumed:
        kept = made.layout.point(0).read_bytes()
        made.layout.done.unlink()
        made.layout.point(1).unlink()
        sweep.run(context, settings)
        assert made.layout.point(0).read_bytes() == kept
    rows = made.table()
    assert [(each["point"], each["method"], each["k"], each["error_code"]) for each in rows] == [
        (0, "hdbscan", None, "clusters_invalid"),
        (1, "kmeans", 2, None),
        (2, "kmeans", 3, None),
        (3, "kmeans", 4, None),
    ]
    assert "`graph.min_cluster_size` below 100" in rows[0]["error_message"]
    assert rows[0]["ari"] is None
    assert rows[1]["ari"] is not None
    assert set(made.plots()) == {"clusters", "ari-accuracy"}
    assert b"clusters_invalid" in as_csv(rows)
    assert as_parquet(rows)
    assert made.complete
    assert verify_any(store.layout, made.id).problems == []


def test_a_sweep_of_which_no_point_has_groups_fails_with_the_first_error(
    make_set: MakeSet, planted: Planted, store: Store, settings: Settings
) -> None:
    vectors, labels = planted(120)
    request = {
        "embeddings": make_set("mine", vectors, labels),
        "method": ["hdbscan"],
        "pca": {"components": [8, None]},
        "graph": {"min_cluster_size": 100},
    }
    context = JobContext.local(request, kind="sweep")
    for _ in range(2):
        with pytest.raises(ClustersInvalid, match="min_cluster_size") as failed:
            sweep.run(context, settings)
        assert failed.value.members["field"] == "method"
    [unfinished] = [store.sweep(each) for each in store.sweep_ids()]
    assert (unfinished.complete, len(unfinished.table())) == (False, 2)
