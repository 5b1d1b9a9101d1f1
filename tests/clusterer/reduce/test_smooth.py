"""Rows averaged with their mutual neighbours."""

from __future__ import annotations

import numpy as np
from clusterer.data.rows import ArrayRows, l2_normalize
from clusterer.neighbours import nearest_rows
from clusterer.reduce import SmoothedRows
from clusterer.reduce.smooth import least_similarities, mutual


def test_a_row_is_averaged_with_rows_that_have_it_among_their_nearest() -> None:
    x = l2_normalize(np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32))
    nearest = nearest_rows(ArrayRows(x), 5)
    neighbours = mutual(nearest, least_similarities(nearest))
    smoothed = SmoothedRows(ArrayRows(x), neighbours).take(np.arange(80))
    alone = 0
    for row in range(80):
        both = [other for other in nearest.rows[row] if row in nearest.rows[other]]
        mean = x[[row, *both]].astype(np.float64).sum(axis=0)
        assert np.allclose(smoothed[row], mean / np.linalg.norm(mean), atol=1e-6)
        alone += not both
    assert alone < 40
    assert any((each < 0).any() and (each >= 0).any() for each in neighbours)


def test_blocks_of_any_size_have_the_same_bits() -> None:
    x = l2_normalize(np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32))
    nearest = nearest_rows(ArrayRows(x), 5)
    smoothed = SmoothedRows(ArrayRows(x), mutual(nearest, least_similarities(nearest)))
    whole = np.concatenate([block for _, block in smoothed.batches()])
    parts = np.concatenate([block for _, block in smoothed.batches(7, start=0, stop=80)])
    assert whole.tobytes() == parts.tobytes()


def test_a_row_of_zeros_is_averaged_with_none() -> None:
    x = np.zeros((5, 4), np.float32)
    x[:2] = np.eye(2, 4)
    nearest = nearest_rows(ArrayRows(x), 3)
    neighbours = mutual(nearest, least_similarities(nearest))
    assert (neighbours == -1).all()
