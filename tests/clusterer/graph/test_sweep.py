"""Groups without a number as points of a sweep, beside k-means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.jobs import sweep
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

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
