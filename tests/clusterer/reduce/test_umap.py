"""Places in a few dimensions by the forces between nearest rows."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array
from clusterer.kmeans import NumpyEngine, fit_kmeans
from clusterer.neighbours import Nearest, nearest_rows
from clusterer.reduce import umap as layout
from clusterer.reduce import umap_coordinates
from clusterer.reduce.umap import fuzzy_graph
from sklearn.metrics import adjusted_rand_score


def elongated(n: int = 800) -> tuple[Float32Array, list[int]]:
    """Groups that are long along one direction, which k-means cuts across."""
    rng = np.random.default_rng(1)
    of = np.arange(n) % 5
    rows = 0.35 * rng.normal(size=(5, 12))[of] + 0.05 * rng.normal(size=(n, 12))
    rows[:, 0] += 2 * rng.uniform(-1, 1, n)
    rows[:, 1] += 3.0
    return rows.astype(np.float32), of.tolist()


def agreement(rows: Float32Array, of: list[int]) -> float:
    labels = fit_kmeans(ArrayRows(rows), 5, engine=NumpyEngine()).best.fit.labels
    return float(adjusted_rand_score(of, labels))


def test_groups_that_k_means_cuts_lie_apart() -> None:
    x, of = elongated()
    places = umap_coordinates(nearest_rows(ArrayRows(x), 15), 4, seed=0, threads=2)
    assert places.shape == (800, 4)
    assert agreement(places, of) > 0.95
    assert agreement(x, of) < 0.6


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "AT_ONCE", 100)
    nearest = nearest_rows(ArrayRows(elongated()[0]), 15)
    one, two, other = (
        umap_coordinates(nearest, 3, seed=seed, threads=threads).tobytes() for seed, threads in ((0, 1), (0, 2), (1, 2))
    )
    assert one == two
    assert other != one


def test_weights_are_symmetric_and_largest_for_the_nearest_row() -> None:
    nearest = nearest_rows(ArrayRows(elongated()[0]), 15)
    graph = fuzzy_graph(nearest)
    assert abs(graph - graph.T).max() == 0
    assert graph.max() == 1.0
    assert graph.min() >= 0.0
    assert graph[np.arange(800), nearest.rows[:, 0]].min() > 0.9999


def test_equal_rows_and_two_rows_have_finite_places() -> None:
    same = Nearest(np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32))
    two = Nearest(np.array([[1], [0]]), np.full((2, 1), 0.5, np.float32))
    for nearest in (same, two):
        assert np.isfinite(umap_coordinates(nearest, 5, seed=0, threads=1)).all()
