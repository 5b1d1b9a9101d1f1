"""Places in a few dimensions by the forces between nearest rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array, Float64Array, IntArray
from clusterer.kmeans import NumpyEngine, fit_kmeans
from clusterer.neighbours import Nearest, nearest_rows
from clusterer.reduce import umap as layout
from clusterer.reduce import umap_coordinates
from clusterer.reduce.umap import Layout, fuzzy_graph
from scipy.optimize import approx_fprime, brentq
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


def test_weights_are_those_of_either_row_and_add_up_before_that() -> None:
    rng = np.random.default_rng(2)
    rows = np.array([rng.permutation(np.delete(np.arange(30), row))[:6] for row in range(30)])
    near = Nearest(rows, np.sort(rng.uniform(0.1, 0.9, (30, 6)).astype(np.float32), axis=1)[:, ::-1])
    one = np.zeros((30, 30))
    for row, (others, similarity) in enumerate(zip(rows, near.similarity.astype(float), strict=True)):
        beyond = similarity[0] - similarity
        scale = brentq(lambda s, beyond=beyond: np.exp(-beyond / s).sum() - np.log2(7), 1e-6, 1e3)
        one[row, others] = np.exp(-beyond / scale)
    assert np.allclose(fuzzy_graph(near).toarray(), one + one.T - one * one.T, atol=1e-5)


def test_forces_are_the_slopes_of_what_edges_and_random_points_say() -> None:
    """The logarithms of ``1 / (1 + a d^2b)`` of neighbours, and of what is left of it to 1 of points that push."""
    rng = np.random.default_rng(3)
    near = Nearest(np.array([[1, 2], [0, 3], [0, 1], [2, 0], [3, 1]]), np.full((5, 2), 0.5, np.float32))
    near.similarity[:, 0] += np.linspace(0, 0.3, 5, dtype=np.float32)
    graph, places = fuzzy_graph(near), rng.normal(size=(5, 2)).astype(np.float32)
    pushing = np.array([[4, 3, 3, 0, 2], [2, 4, 1, 1, 0], [3, 0, 4, 4, 1]])
    weights = graph.toarray().astype(float)

    def said(row: int, at: Float64Array) -> float:
        """What moves a point: each edge is counted from both of its ends, its push by `REPULSION`."""
        squared = np.square(at - places).sum(axis=1)
        close = 1 / (1 + layout.A * squared**layout.B)
        others, by = weights[row] > 0, pushing[:, row]
        pull = 2 * (weights[row, others] * np.log(close[others])).sum()
        return float(pull + weights[row].sum() * layout.REPULSION / 3 * np.log(1 - close[by]).sum())

    rate = np.float32(1e-3)  # So small that no force is cut.
    moved = Layout(graph).moved(slice(0, 5), places, pushing, rate)
    for row in range(5):
        slope = np.asarray(approx_fprime(places[row].astype(float), partial(said, row), 1e-6), np.float64)
        cut = min(1.0, layout.LONGEST / float(np.linalg.norm(slope)))
        assert np.allclose((moved[row] - places[row]) / rate, cut * slope, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("left_out", "value"), [("NOISE", 0.0), ("REPULSION", 0.0)])
def test_the_seed_draws_the_first_places_and_who_pushes(
    left_out: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, left_out, value)
    monkeypatch.setattr(layout, "EPOCHS", 3)
    graph = fuzzy_graph(nearest_rows(ArrayRows(elongated(60)[0]), 5))
    initial = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    first, again, other = (layout._laid_out(graph, initial, seed, 1, lambda _: None) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_points_move_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class Noted(Layout):
        def moved(self, part: slice, places: Float32Array, pushing: IntArray, rate: np.float32) -> Float32Array:
            rates.append(float(rate))
            return super().moved(part, places, pushing, rate)

    monkeypatch.setattr(layout, "Layout", Noted)
    umap_coordinates(nearest_rows(ArrayRows(elongated(60)[0]), 5), 2, seed=0, threads=1)
    assert rates == pytest.approx(layout.DAMPING * np.linspace(1, 0, layout.EPOCHS, endpoint=False), abs=1e-6)


def test_a_row_without_a_neighbour_is_pulled_by_none() -> None:
    x = elongated(60)[0]
    x[[7, 30]] = 0
    nearest = nearest_rows(ArrayRows(x), 5)
    graph = fuzzy_graph(nearest)
    for row in (7, 30):
        assert graph[[row]].nonzero()[1].tolist() == [row]
    assert np.isfinite(umap_coordinates(nearest, 3, seed=0, threads=1)).all()


def test_equal_rows_and_two_rows_have_finite_places() -> None:
    same = Nearest(np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32))
    two = Nearest(np.array([[1], [0]]), np.full((2, 1), 0.5, np.float32))
    for nearest in (same, two):
        assert np.isfinite(umap_coordinates(nearest, 5, seed=0, threads=1)).all()
