"""Metrics that need no labels, against scikit-learn; the search for the number of clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.evaluation import unsupervised as internal
from clusterer.evaluation.unsupervised import internal_metrics, pairwise_stability
from clusterer.jobs.choose import JUDGED, Choice, choose_clusters
from clusterer.kmeans import select_engine
from clusterer.neighbours import nearest_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shoal.errors import ClustersInvalid
from shoal.store.clustering import Clustering
from sklearn import metrics as reference
from sklearn.datasets import load_digits

Planted = Callable[..., tuple[Any, list[str]]]


def labelled(n: int, k: int, seed: int, offset: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n).astype(np.int32)
    return (rng.normal(size=(n, 5)) + labels[:, None] * 0.7 + offset).astype(np.float32), labels


@settings(max_examples=25)
@given(st.integers(8, 90), st.integers(2, 9), st.integers(0, 2**31), st.sampled_from([0.0, 50.0]))
def test_metrics_equal_scikit_learns_on_every_row(n: int, k: int, seed: int, offset: float) -> None:
    x, labels = labelled(n, k, seed, offset)
    # Two clusters stay empty.
    found = internal_metrics(ArrayRows(x), {7: labels}, k + 2)[7]
    groups = len(np.unique(labels))
    if not 2 <= groups < n:
        assert found["silhouette"] is None
        return
    exact = x.astype(np.float64)
    assert found["silhouette_rows"] == n
    assert found["silhouette_error"] == 0.0
    assert found["silhouette"] == pytest.approx(reference.silhouette_score(exact, labels), abs=1e-6)
    assert found["davies_bouldin"] == pytest.approx(reference.davies_bouldin_score(exact, labels), rel=1e-6)
    assert found["calinski_harabasz"] == pytest.approx(reference.calinski_harabasz_score(exact, labels), rel=1e-6)


def test_a_sampled_silhouette_is_within_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = labelled(3000, 4, 0)
    monkeypatch.setattr(internal, "MULTIPLY_ADDS", 3000 * 5 * 300)
    found = internal_metrics(ArrayRows(x), {0: labels}, 4)[0]
    assert found["silhouette_rows"] == 300
    assert 0 < found["silhouette_error"] < 0.05
    exact = internal_metrics(ArrayRows(x), {0: labels}, 4, sample_seed=1)[0]
    assert abs(found["silhouette"] - exact["silhouette"]) < 4 * (found["silhouette_error"] + exact["silhouette_error"])


@pytest.mark.parametrize("labels", [np.zeros(6, np.int32), np.arange(6, dtype=np.int32)])
def test_one_cluster_and_one_row_a_cluster_have_no_figure(labels: NDArray[np.int32]) -> None:
    found = internal_metrics(ArrayRows(np.eye(6, dtype=np.float32)), {0: labels}, 6)[0]
    assert found["silhouette"] is found["davies_bouldin"] is found["calinski_harabasz"] is None


def test_stability_is_the_agreement_of_each_two_seeds() -> None:
    a, b = np.array([0, 0, 1, 1], np.int32), np.array([1, 1, 0, 0], np.int32)
    c = np.array([0, 1, 0, 1], np.int32)
    found = pairwise_stability({3: a, 5: b, 8: c}, 2)
    assert found is not None
    assert [(pair["seeds"], pair["ari"]) for pair in found["pairs"]] == [([3, 5], 1.0), ([3, 8], -0.5), ([5, 8], -0.5)]
    assert found["ari_mean"] == pytest.approx(0.0)
    assert pairwise_stability({3: a}, 2) is None


def chosen(rows: NDArray[np.float32], most: int) -> Choice:
    held = ArrayRows(rows)
    return choose_clusters(held, nearest_rows(held, JUDGED), 2, most, engine=select_engine("auto"))


@pytest.mark.parametrize("groups", [3, 5])
def test_the_number_of_planted_groups_is_found_and_explained(planted: Planted, groups: int) -> None:
    vectors, _ = planted(300, groups=groups)
    found = chosen(vectors, 14)
    assert found.k == groups
    record = found.record()
    assert str(groups) in record["why"]
    best = max(record["candidates"], key=lambda each: each["neighbours_kept"])
    assert best["k"] == groups
    assert best["stability"] == 1.0
    assert {2, 14} <= {each["k"] for each in record["candidates"]}


def test_groups_that_one_run_of_k_means_would_merge_are_found_too() -> None:
    rng = np.random.default_rng(1001)
    middles = 2 * rng.normal(size=(10, 32))
    x = middles[rng.integers(0, 10, 600)] + 0.8 * rng.normal(size=(600, 32))
    assert chosen(x.astype(np.float32), 30).k == 10


def test_overlapping_classes_are_told_apart() -> None:
    """The elbow of the inertia times the stability, a rule that needs no neighbours, finds 2 groups here."""
    rows = load_digits().data.astype(np.float32)
    assert 9 <= chosen(rows / np.linalg.norm(rows, axis=1, keepdims=True), 40).k <= 14


def test_a_job_without_labels_finds_its_clusters_and_judges_them(
    planted: Planted, make_set: Callable[..., str], run_job: Callable[..., Clustering]
) -> None:
    embeddings = make_set("bare", planted(200)[0])
    found = run_job(embeddings, clusters="auto", clusters_range=[2, 8], seeds=[0, 1])
    assert found.k == 4
    assert found.spec["chosen"]["k"] == 4
    [scored] = found.metrics()["scored"].values()
    assert scored["mean"]["silhouette"] > 0.7
    assert scored["mean"]["davies_bouldin"] < 1
    assert scored["mean"]["calinski_harabasz"] > 100
    assert scored["stability"]["ari_mean"] == 1.0
    assert scored["best_clusters"][0]["tightness"] <= scored["worst_clusters"][0]["tightness"]
    with pytest.raises(ClustersInvalid, match="have 200 rows"):
        run_job(embeddings, clusters="auto", clusters_range=[2, 300])
