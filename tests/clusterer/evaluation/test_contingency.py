"""Counting rows by cluster and class, and maps from clusters to classes."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.evaluation import contingency as tables
from clusterer.evaluation.contingency import UNLABELLED, UNMAPPED, LabelRule, accuracy, contingency, learn_map
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment


def test_rows_without_a_label_are_left_out() -> None:
    table = contingency([0, 0, 1, 2], [1, UNLABELLED, 0, UNLABELLED], 3, 2)
    assert table.n == 2
    assert table.cluster_sizes.tolist() == [1, 1, 0]
    assert table.class_sizes.tolist() == [1, 1]


def test_counting_by_sorting_and_by_table_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clusters, classes = rng.integers(0, 7, 500), rng.integers(-1, 5, 500)
    small = contingency(clusters, classes, 7, 5)
    monkeypatch.setattr(tables, "DENSE_CELLS", 1)
    large = contingency(clusters, classes, 7, 5)
    assert np.array_equal(small.dense(), large.dense())
    assert np.array_equal(small.cluster, large.cluster)


def test_one_to_one_leaves_surplus_clusters_without_a_class_and_mixed_does_not() -> None:
    # Clusters 0 and 1 both hold class 0; cluster 2 holds class 1.
    table = contingency([0] * 5 + [1] * 3 + [2] * 4, [0] * 8 + [1] * 4, 3, 2)
    assert learn_map(table, LabelRule.HUNGARIAN).tolist() == [0, UNMAPPED, 1]
    assert learn_map(table, LabelRule.MAJORITY).tolist() == [0, 0, 1]
    assert learn_map(table, LabelRule.MIXED).tolist() == [0, 0, 1]
    assert accuracy(table, learn_map(table, LabelRule.HUNGARIAN)) == pytest.approx(9 / 12)


def test_empty_clusters_and_matches_without_a_row_stay_unmapped() -> None:
    table = contingency([0, 0, 1], [0, 0, 0], 3, 2)
    for rule in LabelRule:
        assert learn_map(table, rule)[2] == UNMAPPED
    assert learn_map(table, LabelRule.HUNGARIAN).tolist() == [0, UNMAPPED, UNMAPPED]


def test_majority_ties_go_to_the_first_class() -> None:
    table = contingency([0, 0, 0, 0], [2, 1, 1, 2], 1, 3)
    assert learn_map(table, LabelRule.MAJORITY).tolist() == [1]


def test_accuracy_of_nothing_is_none() -> None:
    assert accuracy(contingency([], [], 2, 2), np.zeros(2, dtype=np.int64)) is None


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_hungarian_is_scipys_optimum(k: int, c: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = contingency(rng.integers(0, k, n), rng.integers(0, c, n), k, c)
    dense = table.dense()
    best = dense[linear_sum_assignment(dense, maximize=True)].sum() / n
    assert accuracy(table, learn_map(table, LabelRule.HUNGARIAN)) == pytest.approx(best, abs=1e-12)
    majority = accuracy(table, learn_map(table, LabelRule.MAJORITY))
    assert majority == pytest.approx(dense.max(axis=1).sum() / n, abs=1e-12)
    mixed = accuracy(table, learn_map(table, LabelRule.MIXED))
    assert mixed is not None
    assert majority is not None
    assert best - 1e-12 <= mixed <= majority + 1e-12
