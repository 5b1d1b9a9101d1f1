"""Groups of duplicates by single and complete link, against the definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from clusterer.cleaning.links import Groups, complete_link, single_link
from clusterer.neighbours import Pairs
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform


def pairs_of(similarity: np.ndarray, threshold: float) -> Pairs:
    first, second = np.triu_indices(len(similarity), 1)
    there = similarity[first, second] >= threshold
    return Pairs(first[there], second[there], similarity[first, second][there].astype(np.float32))


def members(groups: Groups) -> set[tuple[int, ...]]:
    return {tuple(part.tolist()) for part in np.split(groups.rows, groups.starts[1:-1])} if len(groups) else set()


@pytest.mark.parametrize("method", ["single", "complete"])
@given(st.integers(2, 14), st.integers(0, 10_000), st.floats(0.2, 0.9))
def test_groups_are_those_of_scipy(method: str, n: int, seed: int, threshold: float) -> None:
    drawn = np.random.default_rng(seed).permutation(n * (n - 1) // 2) + 1
    distances = drawn / (drawn.max() + 1)  # All different: with ties, several agglomerations are right.
    similarity = 1 - squareform(distances)
    found = members((single_link if method == "single" else complete_link)(pairs_of(similarity, threshold)))
    linked = hierarchy.single(distances) if method == "single" else hierarchy.complete(distances)
    labels = hierarchy.fcluster(linked, 1 - threshold, criterion="distance")
    expected = {tuple(np.flatnonzero(labels == each).tolist()) for each in set(labels)}
    assert found == {each for each in expected if len(each) > 1}


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_complete_link_with_ties_is_complete_and_depends_on_no_order(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = squareform(rng.choice([0.5, 0.9, 0.95, 1.0], n * (n - 1) // 2))
    pairs = pairs_of(similarity, 0.9)
    groups = complete_link(pairs)
    for group in members(groups):
        assert all(similarity[a, b] >= 0.9 for a, b in combinations(group, 2))
    shuffled = rng.permutation(len(pairs))
    again = complete_link(pairs.chosen(shuffled))
    assert members(again) == members(groups)
    assert np.array_equal(again.least, groups.least)


def test_the_least_similarity_is_unknown_where_a_pair_is_missing() -> None:
    pairs = Pairs(np.array([0, 1, 5]), np.array([1, 2, 9]), np.array([0.99, 0.96, 0.97], np.float32))
    groups = single_link(pairs)
    assert members(groups) == {(0, 1, 2), (5, 9)}
    assert np.isnan(groups.least[0])
    assert groups.least[1] == np.float32(0.97)
    assert groups.of_pairs(pairs).tolist() == [0, 0, 1]
    whole = complete_link(pairs)
    assert members(whole) == {(0, 1), (5, 9)}
    assert whole.of_pairs(pairs).tolist() == [0, -1, 1]


def test_no_pairs_make_no_groups() -> None:
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for link in (single_link, complete_link):
        assert len(link(none)) == 0
        assert link(none).of_pairs(none).tolist() == []
