"""Names for clusters from a list of words."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.evaluation import zero_shot
from clusterer.evaluation.zero_shot import name_clusters, typical_rows


def test_the_rows_nearest_to_each_centroid_are_typical() -> None:
    clusters = np.array([2, 0, 2, 0, 2, 5])
    distances = np.array([0.3, 0.2, 0.1, 0.1, 0.2, 9.0], np.float32)
    rows, of = typical_rows(clusters, distances, 2)
    assert rows.tolist() == [1, 2, 3, 4, 5]
    assert of.tolist() == [0, 2, 0, 2, 5]
    assert typical_rows(clusters[:0], distances[:0], 2)[0].tolist() == []


def test_a_cluster_gets_the_words_of_most_similar_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "BLOCK_ROWS", 2)
    vectors = np.array([[5, 0, 0], [1, 0.1, 0], [0, 2, 0], [0, 0, 0], [0.5, 1, 0]], np.float32)
    words = np.eye(3, dtype=np.float32)
    rows, clusters = np.arange(5), np.array([4, 4, 7, 7, 7])
    *parts, found = name_clusters(lambda at: vectors[at], rows, clusters, words, most=2)
    assert parts == [[], [], []]
    first, second = found
    assert (first.cluster, first.images, first.words, first.votes) == (4, 2, [0, 1], [1.0, 0.0])
    assert first.similarities[0] == pytest.approx((1 + 1 / np.hypot(1, 0.1)) / 2, abs=1e-4)
    # The row of zeros says nothing.
    assert (second.cluster, second.images, second.words) == (7, 2, [1, 0])
    assert second.votes == [1.0, 0.0]


def test_clusters_of_zeros_alone_have_no_name() -> None:
    *_, found = name_clusters(
        lambda at: np.zeros((len(at), 3), np.float32), np.arange(3), np.zeros(3, int), np.eye(3, dtype=np.float32), 1
    )
    assert found == []
