"""Heads as points of a sweep, beside k-means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from clusterer.jobs import sweep
from shoal.errors import InvalidRequest
from shoal.jobs.child import JobContext
from shoal.schemas import SweepRequest
from shoal.settings import Settings
from shoal.store import Store

MakeSet = Callable[..., str]


def test_methods_are_an_axis_with_figures_that_need_no_labels(
    make_set: MakeSet, store: Store, settings: Settings
) -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    embeddings = make_set("mine", vectors, ["a", "b"] * 60)
    request = {
        "embeddings": embeddings,
        "clusters": [2, 3],
        "method": ["kmeans", "turtle", "temi"],
        "heads": {"steps": 10, "heads": 2, "neighbours": 5, "inner_steps": 3},
        "seed": 0,
    }
    made = store.sweep(sweep.run(JobContext.local(request, kind="sweep"), settings)["sweep"])
    rows = made.table()
    assert {(each["k"], each["method"]) for each in rows} == {
        (k, method) for k in (2, 3) for method in ("kmeans", "turtle", "temi")
    }
    for each in rows:
        known = each["method"] != "kmeans"
        assert (each["loss"] is not None) is known
        assert (each["probe_accuracy"] is not None) is known


def test_options_of_heads_need_a_head() -> None:
    with pytest.raises(ValueError, match="`heads` needs `method`"):
        SweepRequest.model_validate({"embeddings": "a", "clusters": 2, "heads": {"steps": 3}})


def test_heads_on_a_ray_cluster_are_refused(make_set: MakeSet, settings: Settings) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    request = {"embeddings": make_set("mine", vectors), "clusters": 2, "method": ["kmeans", "turtle"]}
    context = JobContext.local({**request, "execution": {"engine": "ray"}}, kind="sweep")
    with pytest.raises(InvalidRequest, match="`method` is `turtle`"):
        sweep.run(context, settings)
