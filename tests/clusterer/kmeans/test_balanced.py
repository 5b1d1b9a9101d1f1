"""Balanced, spherical and mini-batch k-means."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, l2_normalize
from clusterer.kmeans import Engine, FitOptions, NumpyEngine, State, fit_kmeans, select_engine
from clusterer.kmeans.assigned import assign, pad, priced, prices_of
from clusterer.kmeans.balanced import fit_balanced
from clusterer.kmeans.lloyd import UNCONSTRAINED
from sklearn.cluster import MiniBatchKMeans

from tests.clusterer.kmeans.data import Points, features, squared

ENGINES = ("numpy", "faiss", "faiss-super", "auto")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return NumpyEngine() if request.param == "numpy" else select_engine(request.param)


@pytest.mark.parametrize("ratio", [1.5, 1.05])
def test_no_cluster_is_larger_than_allowed(engine: Engine, ratio: float) -> None:
    x = features(900, 20)
    plain = fit_kmeans(ArrayRows(x), 15, engine=engine).best.fit
    assert np.bincount(plain.labels).max() > 1.5 * 60
    fit = fit_kmeans(ArrayRows(x), 15, engine=engine, options=FitOptions(balanced=ratio)).best.fit
    sizes = np.bincount(fit.labels, minlength=15)
    assert sizes.max() <= 60 * ratio
    assert fit.balance is not None
    assert fit.balance.held
    assert (fit.balance.allowed, fit.balance.largest) == (int(60 * ratio), sizes.max())
    assert fit.inertia < 1.1 * plain.inertia
    exact = squared(x, fit.centroids)
    assert fit.inertia == pytest.approx(exact[np.arange(900), fit.labels].sum(), rel=1e-5)


def test_rows_go_where_distance_plus_price_is_least(engine: Engine) -> None:
    x = features(900, 20)
    fit = fit_kmeans(ArrayRows(x), 15, engine=engine, options=FitOptions(balanced=1.1)).best.fit
    assert fit.balance is not None
    prices = fit.balance.prices
    assert prices.min() >= 0
    assert prices.max() > 0
    costs = squared(x, fit.centroids) + prices
    chosen = costs[np.arange(len(x)), fit.labels]
    assert np.allclose(chosen, costs.min(axis=1), rtol=1e-5)
    again = assign(ArrayRows(x), {0: fit.centroids}, engine, prices={0: prices})[0]
    assert np.bincount(again.labels, minlength=15).max() <= fit.balance.allowed
    near = np.sqrt(squared(x, fit.centroids)[np.arange(len(x)), again.labels])
    assert np.allclose(again.distance, near, rtol=1e-5, atol=1e-5)
    ordered = np.sqrt(np.sort(costs, axis=1))
    assert np.allclose(again.margin, ordered[:, 1] - ordered[:, 0], atol=1e-4)


def test_a_bound_that_holds_anyway_changes_nothing(engine: Engine) -> None:
    x = features(500, 20)
    fit = fit_kmeans(ArrayRows(x), 8, engine=engine, options=FitOptions(balanced=8.0)).best.fit
    assert fit.balance is not None
    assert not fit.balance.prices.any()
    assert fit.balance.rounds == 0


def test_copies_of_one_row_cannot_be_parted_and_the_result_says_so() -> None:
    x = np.concatenate([np.repeat(features(1, 12), 60, axis=0), features(40, 12, seed=3)])
    fit = fit_kmeans(ArrayRows(x), 5, engine=NumpyEngine(), options=FitOptions(balanced=1.2, iterations=5)).best.fit
    assert fit.balance is not None
    assert not fit.balance.held
    assert fit.balance.largest >= 60


def test_a_balanced_run_resumed_after_any_iteration_ends_with_the_same_bits() -> None:
    x = features(600, 20)
    states: list[State] = []
    options = {"engine": NumpyEngine(), "ratio": 1.1, "constraint": UNCONSTRAINED, "iterations": 8, "tolerance": 0.0}
    whole = fit_balanced(ArrayRows(x), State(x[:9].copy()), on_iteration=states.append, **options)  # type: ignore[arg-type]
    for state in states[::3]:
        resumed = fit_balanced(ArrayRows(x), state, **options)  # type: ignore[arg-type]
        assert np.array_equal(resumed.centroids, whole.centroids)
        assert np.array_equal(resumed.labels, whole.labels)
        assert resumed.balance is not None
        assert whole.balance is not None
        assert np.array_equal(resumed.balance.prices, whole.balance.prices)


def test_prices_are_one_more_dimension_and_come_back_unchanged() -> None:
    x = features(30, 6)
    prices = prices_of(priced(x[:4], np.array([0.0, 1.7, 1e-9, 3e5])))
    assert np.array_equal(prices_of(priced(x[:4], prices)), prices)
    assert np.allclose(squared(pad(x), priced(x[:4], prices)), squared(x, x[:4]) + prices, rtol=1e-6)


def test_spherical_centroids_have_unit_length_and_rows_go_to_the_largest_cosine(engine: Engine) -> None:
    x = l2_normalize(features(700, 40) - 0.2)
    fit = fit_kmeans(ArrayRows(x), 12, engine=engine, options=FitOptions(spherical=True)).best.fit
    assert np.allclose(np.linalg.norm(fit.centroids, axis=1), 1.0, atol=1e-6)
    cosines = x.astype(np.float64) @ fit.centroids.T.astype(np.float64)
    assert np.allclose(cosines[np.arange(len(x)), fit.labels], cosines.max(axis=1), atol=1e-6)
    plain = fit_kmeans(ArrayRows(x), 12, engine=engine).best.fit

    def mean_cosine(centroids: Points) -> float:
        return float((x @ l2_normalize(centroids).T).max(axis=1).mean())

    assert mean_cosine(fit.centroids) > mean_cosine(plain.centroids) - 1e-3
    both = fit_kmeans(ArrayRows(x), 12, engine=engine, options=FitOptions(spherical=True, balanced=1.2)).best.fit
    assert np.allclose(np.linalg.norm(both.centroids, axis=1), 1.0, atol=1e-6)
    assert np.bincount(both.labels).max() <= 1.2 * 700 / 12


def test_mini_batches_are_scikit_learns_seeded_and_worse_than_lloyd() -> None:
    x = features(5000, 20)
    rows = ArrayRows(x)
    seen: list[int] = []
    first, again = (
        fit_kmeans(
            rows,
            30,
            engine=NumpyEngine(),
            options=FitOptions(algorithm="mini-batch", iterations=3),
            on_state=lambda _, state: seen.append(len(state.history)),
        ).best.fit
        for _ in range(2)
    )
    assert np.array_equal(first.centroids, again.centroids)
    assert seen == [0, 1, 2, 3] * 2
    lloyds = fit_kmeans(rows, 30, engine=NumpyEngine()).best.fit
    assert first.inertia > lloyds.inertia
    start = fit_kmeans(rows, 30, engine=NumpyEngine(), options=FitOptions(iterations=1)).best.fit
    assert first.inertia < start.history[0].inertia
    theirs = MiniBatchKMeans(30, init=first.centroids, n_init=1, max_iter=1, random_state=0).fit(x)
    assert first.inertia == pytest.approx(theirs.inertia_, rel=0.1)
    with pytest.raises(ValueError, match="neither spherical nor balanced"):
        fit_kmeans(rows, 30, engine=NumpyEngine(), options=FitOptions(algorithm="mini-batch", balanced=1.2))
