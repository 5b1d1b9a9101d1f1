"""HDBSCAN on nearest rows beside scikit-learn's, on all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array
from clusterer.graph import Near, dense_groups, joints, near_places
from clusterer.neighbours import nearest_rows
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score


def rings(n: int = 600) -> Float32Array:
    """Three circles about one axis, as directions."""
    rng = np.random.default_rng(0)
    of, angle = np.arange(n) % 3, rng.uniform(0, 2 * np.pi, n)
    rows = np.zeros((n, 6))
    rows[:, :3] = np.stack([(1 + of) * np.cos(angle), (1 + of) * np.sin(angle), np.full(n, 1.5)], axis=1)
    return (rows + 0.02 * rng.normal(size=rows.shape)).astype(np.float32)


def blobs(n: int = 600, spread: float = 0.35) -> Float32Array:
    """Round groups of unequal size, and rows all over the place."""
    rng = np.random.default_rng(1)
    of = rng.choice(4, n, p=[0.6, 0.25, 0.1, 0.05])
    rows = rng.normal(size=(4, 6))[of] + spread * rng.normal(size=(n, 6))
    rows[:60] = 2 * rng.normal(size=(60, 6))
    return rows.astype(np.float32)


def on_a_ray() -> Float32Array:
    """Three groups of places on one ray from the origin: as directions all would be the same."""
    rng = np.random.default_rng(2)
    return np.concatenate([at + 0.1 * rng.normal(size=(50, 2)) for at in (1.0, 5.0, 9.0)]).astype(np.float32)


def unit(rows: Float32Array) -> Float32Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("rows", "smallest", "samples"), [(rings(), 10, 5), (blobs(), 8, 8), (blobs(spread=0.2), 15, 4)]
)
def test_groups_and_noise_are_those_of_all_pairs(rows: Float32Array, smallest: int, samples: int) -> None:
    near = Near.of(nearest_rows(ArrayRows(rows), 15))
    found = dense_groups(ArrayRows(rows), near, smallest, samples, places=False)
    expected = HDBSCAN(min_cluster_size=smallest, min_samples=samples, copy=True).fit_predict(unit(rows))
    assert found.labels.max() == expected.max()
    assert adjusted_rand_score(found.labels, expected) > 0.96
    assert np.mean((found.labels < 0) == (expected < 0)) > 0.98


def test_with_all_rows_as_neighbours_the_result_is_exact() -> None:
    rows = blobs(200)
    near = Near.of(nearest_rows(ArrayRows(rows), 199))
    found = dense_groups(ArrayRows(rows), near, 8, 8, places=False)
    expected = HDBSCAN(min_cluster_size=8, min_samples=8, copy=True).fit_predict(unit(rows))
    assert adjusted_rand_score(found.labels, expected) == 1.0
    assert np.array_equal(found.labels < 0, expected < 0)


def test_places_are_compared_by_their_distance() -> None:
    places = on_a_ray()
    near = near_places(ArrayRows(places), 10)
    assert not (near.rows == np.arange(150)[:, None]).any()
    found = dense_groups(ArrayRows(places), near, 10, 5, places=True)
    assert found.parts == 3
    assert adjusted_rand_score(found.labels[found.labels >= 0], np.repeat([0, 1, 2], 50)[found.labels >= 0]) == 1.0


def test_joints_are_the_shortest_connections_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joints, "BLOCK", 32)
    rows = rings(210)
    near = Near.of(nearest_rows(ArrayRows(rows), 4))
    core = near.distance[:, -1]
    trees = [
        joints.joined_parts(ArrayRows(rows), near, core, places=False, threads=threads, on_part=lambda _: None)
        for threads in (1, 3)
    ]
    for one, other in zip(*trees, strict=True):
        assert np.array_equal(one, other)
    a, _, weights, parts = trees[0]
    assert parts > 1
    assert len(a) == 209
    points = unit(rows).astype(np.float64)
    away = np.linalg.norm(points[:, None] - points[None], axis=2)
    away = np.maximum(np.maximum(away, core[:, None]), core[None])
    # Prim on all pairs: the joints of a spanning tree between the same parts are as long together.
    longest = np.sort(weights)[-(parts - 1) :]
    assert np.isclose(longest.sum(), np.sort(_prim(away))[-(parts - 1) :].sum(), atol=1e-3)


def _prim(away: np.ndarray) -> np.ndarray:
    best, outside, found = away[0].copy(), np.ones(len(away), bool), []
    outside[0] = False
    while outside.any():
        nearest = int(np.argmin(np.where(outside, best, np.inf)))
        found.append(best[nearest])
        outside[nearest] = False
        best = np.minimum(best, away[nearest])
    return np.array(found)


def test_parts_beyond_those_that_are_measured_are_joined_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joints, "MOST_PARTS", 1)
    places = ArrayRows(on_a_ray())
    found = dense_groups(places, near_places(places, 10), 10, 5, places=True)
    assert found.parts == 3
    assert found.labels.max() == 2
    assert len(set(found.labels[found.labels >= 0][[0, -1]])) == 2
