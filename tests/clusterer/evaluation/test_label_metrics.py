"""Every metric against scikit-learn, on labelings of all shapes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from clusterer.evaluation import label_metrics
from clusterer.evaluation.contingency import LabelRule, accuracy, contingency, learn_map
from clusterer.evaluation.label_metrics import agreement, chance, score_set, size_imbalance, summarize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference
from sklearn.metrics.cluster import expected_mutual_information

Labels = NDArray[np.int64]
NAMES = ("ari", "ami", "nmi_arithmetic", "v_measure", "homogeneity", "completeness", "fowlkes_mallows", "purity")


@st.composite
def labelings(draw: st.DrawFn) -> tuple[Labels, Labels, int, int]:
    """Clusters and classes of n rows, some of the k clusters and c classes absent."""
    n = draw(st.integers(1, 120))
    k, c = draw(st.integers(1, 150)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    classes = rng.integers(0, c, n)
    noise = draw(st.floats(0, 1))
    clusters = np.where(rng.random(n) < noise, rng.integers(0, k, n), classes % k)
    return clusters, classes, k, c


def sklearn_metrics(clusters: Labels, classes: Labels) -> dict[str, float]:
    with warnings.catch_warnings():
        # "The number of unique classes is greater than 50% of the number of samples": that is the point here.
        warnings.simplefilter("ignore", UserWarning)
        homogeneity, completeness, v_measure = reference.homogeneity_completeness_v_measure(classes, clusters)
        table = reference.cluster.contingency_matrix(classes, clusters)
        return {
            "ari": reference.adjusted_rand_score(classes, clusters),
            "ami": reference.adjusted_mutual_info_score(classes, clusters),
            "nmi_arithmetic": reference.normalized_mutual_info_score(classes, clusters),
            "v_measure": v_measure,
            "homogeneity": homogeneity,
            "completeness": completeness,
            "fowlkes_mallows": reference.fowlkes_mallows_score(classes, clusters),
            "purity": table.max(axis=0).sum() / table.sum(),
        }


@settings(max_examples=150)
@given(labelings())
@example((np.zeros(9, dtype=np.int64), np.arange(9) % 3, 1, 3))
@example((np.arange(9), np.arange(9) % 3, 9, 3))
@example((np.zeros(9, dtype=np.int64), np.zeros(9, dtype=np.int64), 4, 2))
@example((np.arange(9), np.zeros(9, dtype=np.int64), 9, 1))
@example((np.array([0]), np.array([0]), 1, 1))
def test_metrics_equal_scikit_learns(labeling: tuple[Labels, Labels, int, int]) -> None:
    clusters, classes, k, c = labeling
    ours = agreement(contingency(clusters, classes, k, c))
    theirs = sklearn_metrics(clusters, classes)
    for name in NAMES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9), name


@settings(max_examples=40)
@given(labelings(), st.integers(2, 9), st.integers(0, 20))
def test_ids_need_be_neither_dense_nor_start_at_zero(
    labeling: tuple[Labels, Labels, int, int], step: int, first: int
) -> None:
    clusters, classes, k, c = labeling
    sparse = contingency(clusters * step + first, classes * step + first, k * step + first, c * step + first + 3)
    ours, theirs = agreement(sparse), sklearn_metrics(clusters, classes)
    for name in NAMES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9), name
    dense = contingency(clusters, classes, k, c)
    for rule in LabelRule:
        expected = accuracy(dense, learn_map(dense, rule))
        assert accuracy(sparse, learn_map(sparse, rule)) == pytest.approx(expected, abs=1e-12), rule


def test_the_same_partition_under_other_names_is_perfect_even_when_all_rows_are_apart() -> None:
    rng = np.random.default_rng(0)
    names = rng.permutation(50)
    ours = agreement(contingency(names, np.arange(50), 50, 50))
    assert ours["ami"] == ours["ari"] == ours["purity"] == 1.0


@settings(max_examples=80)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 2**31))
def test_expected_mutual_information_equals_scikit_learns(sizes: list[int], groups: int, seed: int) -> None:
    a = np.array(sizes)
    b = np.bincount(np.random.default_rng(seed).integers(0, groups, a.sum()), minlength=groups)
    classes, clusters = np.repeat(np.arange(len(a)), a), np.repeat(np.arange(groups), b)
    table = reference.cluster.contingency_matrix(classes, clusters, sparse=True)
    expected = expected_mutual_information(table, int(a.sum()))
    assert label_metrics.expected_mutual_information(a, b) == pytest.approx(expected, abs=1e-11)


def test_expected_mutual_information_of_large_groups_does_not_underflow() -> None:
    # The smallest possible overlap of two halves of a million rows has probability e^-690000.
    half = np.array([500_000, 500_000])
    # A two by two table has one degree of freedom: twice n times the information is chi-squared distributed.
    assert label_metrics.expected_mutual_information(half, half) == pytest.approx(1 / 2e6, rel=1e-4)


def test_expected_mutual_information_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = np.bincount(rng.integers(0, 30, 2000)), np.bincount(rng.integers(0, 40, 2000))
    whole = label_metrics.expected_mutual_information(a, b)
    monkeypatch.setattr(label_metrics, "PAIRS_AT_ONCE", 16)
    assert label_metrics.expected_mutual_information(a, b) == pytest.approx(whole, rel=1e-13)


@settings(max_examples=40)
@given(labelings(), st.integers(0, 2**31))
def test_renumbering_clusters_changes_nothing(labeling: tuple[Labels, Labels, int, int], seed: int) -> None:
    clusters, classes, k, c = labeling
    renumbered = np.random.default_rng(seed).permutation(k)[clusters]
    before, after = (score(each, classes, k=k, c=c) for each in (clusters, renumbered))
    assert_close(before, after)


@pytest.mark.parametrize(("k", "c"), [(10, 10), (100, 10), (5, 50)])
def test_random_clusters_have_no_adjusted_agreement(k: int, c: int) -> None:
    rng = np.random.default_rng(1)
    found = score(rng.integers(0, k, 20_000), rng.integers(0, c, 20_000), k=k, c=c)
    assert abs(found["ami"]) < 0.01
    assert abs(found["ari"]) < 0.01
    # What NMI and the flattering accuracies show then is chance, and the chance level says so.
    assert found["nmi_arithmetic"] == pytest.approx(found["chance"]["nmi"], abs=0.003)
    assert found["accuracy"]["hungarian"]["scored"] == pytest.approx(found["chance"]["accuracy"], abs=0.01)
    assert found["accuracy"]["majority"]["scored"] == pytest.approx(found["chance"]["accuracy_majority"], abs=0.01)


def test_hand_computed_scores_of_a_small_set() -> None:
    # Train: cluster 0 is class 0, cluster 1 is class 1, cluster 2 is class 1 too. Scored: cluster 2 is class 0.
    train = contingency([0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1], 4, 3)
    clusters, classes = np.array([0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 1, -1, 0, 0, 0, 2])
    found = score(clusters, classes, k=4, c=3, train=train)
    assert found["n"] == 8
    assert found["n_labelled"] == 7
    assert found["n_unlabelled"] == 1
    assert found["classes"] == 3
    assert found["accuracy"]["majority"] == {"train": pytest.approx(3 / 7), "scored": pytest.approx(6 / 7)}
    # One to one on the scored rows: cluster 2 takes class 0 (3 rows), cluster 1 class 1 (1 row), cluster 0 nothing.
    assert found["accuracy"]["hungarian"] == {"train": pytest.approx(3 / 7), "scored": pytest.approx(4 / 7)}
    assert found["accuracy"]["mixed"]["scored"] == pytest.approx(6 / 7)
    assert found["accuracy_one_to_one"] == found["accuracy"]["hungarian"]["train"]
    assert found["purity"] == pytest.approx(6 / 7)
    assert found["empty_clusters"] == 1
    assert found["size_imbalance"] == 2.0


def test_without_labels_only_what_needs_none_is_there() -> None:
    found = score(np.array([0, 1, 1]), np.full(3, -1), k=2, c=0)
    assert found["inertia"] == 5.0
    assert found["empty_clusters"] == 0
    assert found["chance"] is None
    assert found["accuracy_one_to_one"] is None
    assert all(found[name] is None for name in NAMES)


def test_without_train_labels_the_train_map_is_absent() -> None:
    found = score(np.array([0, 1, 1]), np.array([0, 1, 1]), k=2, c=2, train=None)
    assert found["accuracy"]["hungarian"] == {"train": None, "scored": 1.0}


def test_chance_depends_on_its_seed_alone() -> None:
    rng = np.random.default_rng(0)
    clusters, classes = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    assert chance(clusters, classes, k=5, c=5, seed=1) == chance(clusters, classes, k=5, c=5, seed=1)
    assert chance(clusters, classes, k=5, c=5, seed=1) != chance(clusters, classes, k=5, c=5, seed=2)


def test_size_imbalance_is_the_largest_over_the_mean() -> None:
    assert size_imbalance(np.array([2, 2, 2])) == 1.0
    assert size_imbalance(np.array([9, 0, 0])) == 3.0
    assert size_imbalance(np.array([0, 0])) is None


def test_summary_over_seeds_is_nested_and_keeps_nulls() -> None:
    mean, std = summarize([{"a": 1.0, "b": {"c": None}}, {"a": 3.0, "b": {"c": 2.0}}])
    assert mean == {"a": 2.0, "b": {"c": None}}
    assert std["a"] == pytest.approx(np.sqrt(2))
    assert summarize([{"a": 1.0}]) == ({"a": 1.0}, {"a": None})


def score(clusters: Labels, classes: Labels, *, k: int, c: int, **options: Any) -> dict[str, Any]:
    return score_set(clusters, classes, k=k, c=c, inertia=5.0, **{"train": None, **options})


def assert_close(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        for name in left.keys() - {"chance"}:
            assert_close(left[name], right[name])
    elif left is None:
        assert right is None
    else:
        assert left == pytest.approx(right, abs=1e-12)
