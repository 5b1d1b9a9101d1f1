"""k-means: first centroids and the iteration. What every engine must do is in kmeans/test_contract.py."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.kmeans import FitOptions, NumpyEngine, State, fit_kmeans, lloyd, sample_rows, select_engine
from clusterer.kmeans.engine import nearest, squared_distances
from clusterer.kmeans.seeding import greedy_plus_plus, method, rejection_plus_plus, seed_centroids
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

Points = NDArray[np.float32]
Labels = NDArray[np.int64]


def blobs(
    n: int = 600, k: int = 6, d: int = 8, spread: float = 0.05, seed: int = 0
) -> tuple[Points, NDArray[np.int64]]:
    """Points around ``k`` corners, and the corner of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    corners = rng.normal(size=(k, d))
    return (corners[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


def test_the_inertia_never_rises_and_every_iteration_is_recorded() -> None:
    x, _ = blobs(1000, spread=1.0)
    seen: list[tuple[int, State]] = []
    fit = fit_kmeans(
        ArrayRows(x),
        20,
        engine=NumpyEngine(),
        options=FitOptions(restarts=2),
        on_state=lambda *event: seen.append(event),
    )
    for run in fit.runs:
        inertias = [entry.inertia for entry in run.fit.history]
        assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(inertias))
        assert run.fit.inertia <= inertias[-1]
        assert run.fit.history[0].moved == 1000
    assert [(restart, len(state.history)) for restart, state in seen] == [
        (run.restart, done) for run in fit.runs for done in range(len(run.fit.history) + 1)
    ]


def test_the_best_restart_is_the_one_of_lowest_inertia() -> None:
    x, _ = blobs(spread=0.3)
    fit = fit_kmeans(ArrayRows(x), 6, engine=NumpyEngine(), options=FitOptions(init="random", restarts=6))
    assert fit.best.fit.inertia == min(run.fit.inertia for run in fit.runs)
    assert len({round(run.fit.inertia, 3) for run in fit.runs}) > 1


def test_the_iteration_limit_holds_and_the_inertia_is_that_of_the_last_centroids() -> None:
    x, _ = blobs(1000, spread=1.0)
    fit = fit_kmeans(ArrayRows(x), 20, engine=NumpyEngine(), options=FitOptions(iterations=2)).best.fit
    assert len(fit.history) == 2
    assert not fit.converged
    assert fit.inertia == pytest.approx(squared_distances(x, fit.centroids).min(axis=1).sum(), rel=1e-9)


def test_empty_clusters_move_to_the_farthest_rows() -> None:
    x, labels = blobs(300, 4, 2, spread=0.01)
    start = np.full((4, 2), 50.0, dtype=np.float32)
    start[0] = x.mean(axis=0)
    fit = lloyd(ArrayRows(x), NumpyEngine().assigner(ArrayRows(x)), State(start), iterations=50)
    assert fit.history[0].empty == 3
    assert fit.history[-1].empty == 0
    assert len(np.unique(fit.labels)) == 4
    assert adjusted_rand_score(labels, fit.labels) > 0.5


def test_fewer_distinct_rows_than_clusters_end_with_empty_clusters_not_in_a_loop() -> None:
    x = np.repeat(blobs(3, 3)[0], 20, axis=0)
    for engine in (NumpyEngine(), select_engine("faiss")):
        fit = fit_kmeans(ArrayRows(x), 5, engine=engine, options=FitOptions(iterations=200)).best.fit
        assert fit.inertia == pytest.approx(0.0, abs=1e-3)
        assert len(fit.history) < 200
        chosen = rejection_plus_plus(ArrayRows(x), 5, np.random.default_rng(0), engine)
        assert len(set(chosen.tolist())) == 5
        assert len(np.unique(x[chosen], axis=0)) == 3


def test_as_many_clusters_as_rows_is_each_row_alone() -> None:
    x, _ = blobs(12)
    fit = fit_kmeans(ArrayRows(x), 12, engine=select_engine("auto")).best.fit
    assert sorted(fit.labels.tolist()) == list(range(12))
    assert fit.inertia == pytest.approx(0.0, abs=1e-4)


def test_more_clusters_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and the number of rows, 12"):
        fit_kmeans(ArrayRows(blobs(12)[0]), 13, engine=NumpyEngine())


def test_rejection_draws_follow_the_distribution_of_k_means_plus_plus() -> None:
    # Three points on a line at 0, 1 and 3, the first two draws: P(i, j) = 1/3 * d_ij^2 / sum_m d_im^2.
    x = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    squared = squared_distances(x, x)
    expected = squared / squared.sum(axis=1, keepdims=True) / 3
    counts = np.zeros((3, 3))
    for seed in range(3000):
        first, second = rejection_plus_plus(ArrayRows(x), 2, np.random.default_rng(seed), NumpyEngine())
        counts[first, second] += 1
    assert np.abs(counts / 3000 - expected).max() < 0.03


def test_draws_from_old_distances_follow_the_same_distribution() -> None:
    # Five draws on six points: the fifth comes from distances that two rows chosen since have made too large.
    x = np.array([[0.0], [1.0], [2.0], [4.0], [4.5], [9.0]], dtype=np.float32)
    squared = squared_distances(x, x)

    def last_of_five(seed: int) -> tuple[int, int]:
        at_once = rejection_plus_plus(ArrayRows(x), 5, np.random.default_rng(seed), NumpyEngine())
        rng = np.random.default_rng([seed, 1])
        one_by_one = [int(rng.integers(6))]
        while len(one_by_one) < 5:
            weight = squared[one_by_one].min(axis=0)
            one_by_one.append(int(rng.choice(6, p=weight / weight.sum())))
        return int(at_once[-1]), one_by_one[-1]

    pairs = np.array([last_of_five(seed) for seed in range(4000)])
    at_once, one_by_one = (np.bincount(column, minlength=6) / 4000 for column in pairs.T)
    assert np.abs(at_once - one_by_one).max() < 0.04


def test_rejection_seeding_is_as_good_as_drawing_one_by_one() -> None:
    x, _ = blobs(3000, 50, 16, spread=0.3)
    rows, k = ArrayRows(x), 200

    def potential(chosen: NDArray[np.int64]) -> float:
        assert len(set(chosen.tolist())) == k
        return float(squared_distances(x, x[chosen]).min(axis=1).sum())

    one_by_one = np.mean([potential(greedy_plus_plus(rows, k, 1, np.random.default_rng(s))) for s in range(8)])
    engine = select_engine("faiss")
    at_once = np.mean([potential(rejection_plus_plus(rows, k, np.random.default_rng(s), engine)) for s in range(8)])
    assert at_once == pytest.approx(one_by_one, rel=0.05)
    greedy = np.mean([potential(greedy_plus_plus(rows, k, 7, np.random.default_rng(s))) for s in range(4)])
    assert greedy < one_by_one


@pytest.mark.parametrize(("init", "words"), [("random", "random rows"), ("k-means++", "k-means++, best of 4 draws")])
def test_seeding_says_what_it_did_and_takes_distinct_rows(init: str, words: str) -> None:
    x, _ = blobs(100)
    seeding = seed_centroids(ArrayRows(x), 10, init=init, rng=np.random.default_rng(0), engine=NumpyEngine())
    assert words in method(ArrayRows(x), 10, init)
    assert len(set(seeding.rows.tolist())) == 10
    assert np.array_equal(seeding.centroids, x[seeding.rows])


def test_a_sample_is_taken_only_on_request_and_depends_on_the_seed() -> None:
    rows = ArrayRows(blobs(100)[0])
    assert sample_rows(rows, None, 0) is rows
    assert sample_rows(rows, 100, 0) is rows
    first, again, other = (next(sample_rows(rows, 30, seed).batches())[1] for seed in (0, 0, 1))
    assert first.shape == (30, 8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nearest_in_plain_numpy_takes_the_first_of_equals() -> None:
    labels, squared = nearest(np.zeros((1, 2), np.float32), np.array([[1, 0], [1, 0], [3, 0]], np.float32), 3)
    assert labels.tolist() == [[0, 1, 2]]
    assert np.allclose(squared, [[1.0, 1.0, 9.0]])
