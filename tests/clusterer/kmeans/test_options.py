"""The kinds of k-means through whole jobs: spherical, balanced, with levels, mini-batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.data.transform import Transform
from clusterer.results.loaded import LoadedClustering
from clusterer.results.read import facts, result_of
from pydantic import ValidationError
from shoal.errors import InvalidRequest
from shoal.schemas import ClusterRequest, KMeansOptions, SweepRequest
from shoal.store import Store

Make = Callable[..., Any]


def test_balanced_sizes_hold_and_new_rows_follow_the_same_rule(
    store: Store, planted: Make, make_set: Make, run_job: Make
) -> None:
    vectors, labels = planted(300, spread=1.5)
    found = run_job(make_set("mine", vectors, labels), clusters=10, seed=0, kmeans={"balanced": 1.2})
    table = found.assignments()
    sizes = np.bincount(table.column("cluster").to_numpy(), minlength=10)
    assert sizes.max() <= 36
    assert result_of(found)["balance"] == {**facts(found)["balance"], "held": True, "largest": sizes.max()}
    answers = LoadedClustering.load(store, found.id).assign(vectors[:50])
    assert answers.labels.tolist() == table.column("cluster").to_pylist()[:50]
    assert answers.distance.tolist() == table.column("distance").to_pylist()[:50]
    assert answers.margin.tolist() == table.column("margin").to_pylist()[:50]


def test_spherical_rows_have_unit_length_after_the_projection(planted: Make, make_set: Make, run_job: Make) -> None:
    vectors, labels = planted(200)
    found = run_job(make_set("mine", vectors, labels), clusters=4, pca={"components": 5}, kmeans={"spherical": True})
    rows = Transform.from_arrays(found.transform_arrays())(vectors)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(found.centroids(), axis=1), 1, atol=1e-5)
    assert (rows @ found.centroids().T).argmax(axis=1).tolist() == found.assignments().column("cluster").to_pylist()


def test_levels_are_stored_listed_and_scored(planted: Make, make_set: Make, run_job: Make) -> None:
    vectors, labels = planted(240)
    found = run_job(make_set("mine", vectors, labels), clusters=12, kmeans={"levels": [4, 2]})
    table, levels = found.assignments(), facts(found)["levels"]
    assert [level["groups"] for level in levels] == [4, 2]
    clusters = table.column("cluster").to_numpy()
    for number, (parents, centroids) in enumerate(found.hierarchy(), start=1):
        clusters = parents[clusters]
        assert table.column(f"level_{number}").to_pylist() == clusters.tolist()
        assert levels[number - 1]["sizes"] == np.bincount(clusters, minlength=len(centroids)).tolist()
    assert levels[0]["ari"] > 0.9
    with pytest.raises(InvalidRequest, match="starts with 12 groups"):
        run_job(found.spec["train"], clusters=12, kmeans={"levels": [12]})


def test_mini_batch_is_recorded(planted: Make, make_set: Make, run_job: Make) -> None:
    options = {"algorithm": "mini-batch", "iterations": 3, "restarts": 1}
    found = run_job(make_set("mine", *planted()), clusters=4, seed=0, kmeans=options)
    assert facts(found)["algorithm"] == "mini-batch"
    assert found.iterations().num_rows == 3


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"algorithm": "mini-batch", "balanced": 1.2}, "supports neither `spherical` nor `balanced`"),
        ({"balanced": 1.2, "max_points_per_centroid": 5}, "needs all rows, not a sample"),
        ({"balanced": 1.0}, "greater than 1"),
        ({"levels": [4, 4]}, "must descend"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        KMeansOptions(**options)


def test_levels_need_a_number_of_clusters_and_no_sweep() -> None:
    with pytest.raises(ValidationError, match="not `auto`"):
        ClusterRequest(embeddings="e", clusters="auto", kmeans=KMeansOptions(levels=[3]))
    with pytest.raises(ValidationError, match=r"does not support `kmeans\.levels`"):
        SweepRequest(embeddings="e", clusters=[5], kmeans=KMeansOptions(levels=[3]))
