"""The map: near rows lie near each other, the same bits by any number of threads, whatever the rows are."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import Float32Array, IntArray
from clusterer.map import Layout, Placer, choose_landmarks, lay_out
from clusterer.map import layout as laying
from clusterer.map.kernel import CompiledKernel, Kernel, Lists, Panels, PlainKernel
from clusterer.map.layout import neighbour_graph
from clusterer.native.library import available
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

KERNELS = [*available(), "plain"]


def kernel_of(name: str, threads: int = 2) -> Kernel:
    return PlainKernel() if name == "plain" else CompiledKernel(name, threads=threads)


def groups(n: int, count: int = 12, dim: int = 24, spread: float = 1.0) -> tuple[Float32Array, IntArray]:
    """Rows around corners, and the corner of each."""
    rng = np.random.default_rng(3)
    corners = 6 * rng.normal(size=(count, dim)) / np.sqrt(dim)
    of = rng.integers(count, size=n)
    return (corners[of] + spread * rng.normal(size=(n, dim)) / np.sqrt(dim)).astype(np.float32), of


def hit(places: Float32Array, of: IntArray, k: int = 10) -> float:
    """Share of the nearest on the map that are of a point's own group."""
    near = NearestNeighbors(n_neighbors=k).fit(places).kneighbors(return_distance=False)
    return float(np.mean(of[near] == of[:, None]))


@pytest.mark.parametrize("name", KERNELS)
def test_groups_stay_apart_and_neighbours_stay_near(name: str) -> None:
    rows, of = groups(400)
    places = lay_out(rows, kernel_of(name), seed=0).places
    assert hit(places, of) > 0.98
    assert trustworthiness(rows, places, n_neighbors=10) > 0.93
    assert places.dtype == np.float32
    assert np.ptp(places, axis=0).max() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
def test_threads_and_instructions_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laying, "STEPS", 60)
    rows, _ = groups(1300)
    landmarks, others = rows[:1200], rows[1200:]
    seen = set()
    for name in available():
        for threads in (1, 2, 5):
            kernel = CompiledKernel(name, threads=threads)
            layout = lay_out(landmarks, kernel, seed=0)
            placed = Placer(landmarks, layout, kernel).place(others, np.arange(len(others)))
            seen.add(layout.places.tobytes() + layout.spacing.tobytes() + placed.tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("name", KERNELS)
def test_forces_are_those_of_the_gradient(name: str) -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(37, 2)).astype(np.float32)
    graph = neighbour_graph(np.array([[(i + 1) % 37, (i + 5) % 37] for i in range(37)], np.int32))
    assert graph.weights.sum() == pytest.approx(1.0)
    found = kernel_of(name).forces(places, graph)
    apart = places[:, None].astype(np.float64) - places[None]
    q = 1 / (1 + (apart**2).sum(axis=2))
    p = np.zeros((37, 37))
    p[np.repeat(np.arange(37), np.diff(graph.starts)), graph.others] = graph.weights
    assert np.allclose(p, p.T)
    assert np.allclose(found.sums, q.sum(axis=1) - 1, rtol=1e-5)
    assert np.allclose(found.repulsion, (q[..., None] ** 2 * apart).sum(axis=1), atol=1e-4)
    assert np.allclose(found.attraction, ((p * q)[..., None] * apart).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dim", [1, 3, 40])
def test_nearest_landmarks_are_those_of_the_lists(name: str, dim: int) -> None:
    rng = np.random.default_rng(1)
    landmarks, rows = (rng.normal(size=(n, dim)).astype(np.float32) for n in (90, 70))
    cells = rng.integers(3, size=90).astype(np.int32)
    panels = Panels.of(landmarks, cells)
    parts = [np.arange(panels.cells[c], panels.cells[c + 1], dtype=np.int32) for c in (2, 0)]
    lists = Lists(np.array([0, *np.cumsum([len(part) for part in parts])], np.int64), np.concatenate(parts))
    of = rng.integers(2, size=70).astype(np.int32)
    itself = rng.integers(90, size=70).astype(np.int32)
    numbers, squared = kernel_of(name).nearest(rows, of, panels, lists, 4, itself)
    distances = ((rows[:, None].astype(np.float64) - landmarks[None]) ** 2).sum(axis=2)
    distances[cells[None] != np.where(of == 0, 2, 0)[:, None]] = np.inf
    distances[np.arange(70), itself] = np.inf
    assert np.array_equal(numbers, np.argsort(distances, axis=1)[:, :4])
    assert np.allclose(squared, np.sort(distances, axis=1)[:, :4], rtol=1e-4, atol=1e-5)


def test_too_few_landmarks_leave_places_empty() -> None:
    rows = np.zeros((2, 3), np.float32)
    panels = Panels.of(rows)
    for name in KERNELS:
        numbers, squared = kernel_of(name).nearest(
            rows, np.zeros(2, np.int32), panels, Lists.whole(panels), 3, np.arange(2, dtype=np.int32)
        )
        assert numbers.tolist() == [[1, -1, -1], [0, -1, -1]]
        assert squared.tolist() == [[0, np.inf, np.inf]] * 2


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    "rows",
    [
        *(np.eye(n, 5, dtype=np.float32) for n in (1, 2, 3, 17)),
        np.zeros((50, 4), np.float32),
        np.ones((50, 4), np.float32),
        np.arange(60, dtype=np.float32)[:, None],
        np.full((40, 3), 3e38, np.float32) * np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32),
        np.full((40, 3), 1e-38, np.float32),
        np.concatenate([np.random.default_rng(0).normal(size=(60, 3)), np.full((1, 3), 1e20)]).astype(np.float32),
    ],
    ids=["1 row", "2 rows", "3 rows", "17 rows", "zeros", "equal", "1 column", "huge", "tiny", "one far away"],
)
def test_any_rows_have_places(name: str, rows: Float32Array) -> None:
    layout = lay_out(rows, kernel_of(name), seed=0)
    placed = Placer(rows, layout, kernel_of(name)).place(rows, np.arange(len(rows)))
    for places in (layout.places, placed):
        assert places.shape == (len(rows), 2)
        assert np.isfinite(places).all()
    assert np.abs(layout.places).max() <= 1 + 1e-6


@pytest.mark.parametrize("name", KERNELS)
def test_rows_are_placed_among_landmarks_of_their_own_group(name: str) -> None:
    rows, of = groups(4000 if name != "plain" else 1500)
    first = 1400 if name != "plain" else 500
    layout = lay_out(rows[:first], kernel_of(name), seed=0)
    placed = Placer(rows[:first], layout, kernel_of(name)).place(rows[first:], np.arange(len(rows) - first))
    near = NearestNeighbors(n_neighbors=1).fit(layout.places).kneighbors(placed, return_distance=False)[:, 0]
    assert np.mean(of[:first][near] == of[first:]) > 0.97
    # Equal rows do not cover each other, and a landmark's copy lies beside it.
    copies = Placer(rows[:first], layout, kernel_of(name)).place(np.repeat(rows[:1], 30, axis=0), np.arange(30))
    assert len(np.unique(copies, axis=0)) == 30
    assert np.linalg.norm(copies - layout.places[0], axis=1).max() <= 0.51 * layout.spacing[0]


def test_a_row_between_two_groups_lies_in_one_of_them() -> None:
    places = np.array([[-1, 0], [-1, 0.01], [-1, 0.02], [1, 0], [1, 0.01]], np.float32)
    landmarks = np.array([[-1.0], [-1.1], [-1.2], [1.0], [1.1]], np.float32)
    placer = Placer(landmarks, Layout(places, np.full(5, 0.01, np.float32)), PlainKernel())
    assert (placer.place(np.zeros((1, 1), np.float32), np.arange(1))[:, 0] < -0.9).all()


def test_landmarks_are_spread_over_the_clusters_and_have_their_nearest_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(5, size=4000, p=[0.7, 0.2, 0.05, 0.0475, 0.0025]).astype(np.int32)
    distances = rng.random(4000).astype(np.float32)
    assert np.array_equal(choose_landmarks(labels, distances, 4000, 0), np.arange(4000))
    chosen = choose_landmarks(labels, distances, 400, 0)
    assert np.array_equal(chosen, choose_landmarks(labels, distances, 400, 0))
    assert not np.array_equal(chosen, choose_landmarks(labels, distances, 400, 1))
    assert 390 <= len(chosen) <= 400
    shares = np.bincount(labels[chosen], minlength=5) / len(chosen)
    assert np.allclose(shares, np.bincount(labels) / 4000, atol=0.01)
    for cluster in range(5):
        members = np.flatnonzero(labels == cluster)
        assert members[distances[members].argmin()] in chosen
