"""Rows as they are read, normalised and projected; PCA against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from clusterer.data.pca import BlasSums, KernelSums, Sums, accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows, MappedRows, StoredRows, in_memory, l2_normalize
from clusterer.data.transform import Transform
from clusterer.native.library import available, load_library
from numpy.typing import NDArray
from shoal.errors import DimensionMismatch, InvalidRequest, NotFinite
from sklearn.decomposition import PCA


class Shards:
    """An embedding set of the store, as far as `StoredRows` looks at it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, (self.rows, self.dim) = array, array.shape

    def iter_batches(
        self, batch_rows: int = 4, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        stop = self.rows if stop is None else stop
        for first in range(start, stop, batch_rows):
            yield first, self.array[first : min(first + batch_rows, stop)]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.array[rows]


def features(n: int = 300, d: int = 20, offset: float = 0.0) -> NDArray[np.float32]:
    """Correlated columns with a decaying spectrum."""
    rng = np.random.default_rng(7)
    return (rng.normal(size=(n, d)) * 0.8 ** np.arange(d) @ rng.normal(size=(d, d)) + offset).astype(np.float32)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("n", "d", "components"), [(300, 20, None), (300, 20, 5), (12, 30, 11), (500, 1, 1)])
def test_pca_agrees_with_scikit_learns_full_svd(n: int, d: int, components: int | None, whiten: bool) -> None:
    x = features(n, d).astype(np.float64)
    theirs = PCA(n_components=components, svd_solver="full", whiten=whiten).fit(x)
    rows = ArrayRows(x)
    ours = fit_pca(accumulate_moments(rows, batch_rows=64), components, whiten=whiten)
    assert np.allclose(ours.mean, theirs.mean_, atol=1e-6)
    assert np.allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-6)
    assert np.allclose(ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-6)
    assert np.allclose(ours.components, theirs.components_, atol=1e-5)
    transform = Transform.of(d, normalize=False, pca=ours)
    assert np.allclose(transform(x.astype(np.float32)), theirs.transform(x), atol=2e-3)


def test_pca_far_from_the_origin_loses_no_digits() -> None:
    near, far = features(), features(offset=3000.0)
    exact = PCA(svd_solver="full").fit(far.astype(np.float64)).explained_variance_
    found = fit_pca(accumulate_moments(ArrayRows(far), batch_rows=50)).explained_variance
    assert np.allclose(found, exact, rtol=1e-9)
    assert np.allclose(found[0], np.linalg.svd(near - near.mean(0), compute_uv=False)[0] ** 2 / 299, rtol=1e-3)


def sums_of(name: str, threads: int = 2) -> Callable[[NDArray[np.float64]], Sums]:
    """Makes sums of BLAS, or of one of the compiled libraries."""
    if name == "blas":
        return BlasSums
    return lambda shift: KernelSums(load_library(name)[1], shift, threads)


@pytest.mark.parametrize("name", ["blas", *available()])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (300, 23), (257, 24), (40, 25), (700, 97), (513, 260)])
def test_moments_of_any_shape_are_those_of_float64(name: str, n: int, d: int) -> None:
    x = features(n, d, offset=30.0)
    found = accumulate_moments(ArrayRows(x), batch_rows=400, sums_about=sums_of(name))
    exact = np.cov(x.astype(np.float64), rowvar=False).reshape(d, d)
    assert np.allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-14)
    assert np.allclose(found.covariance, exact, rtol=1e-12, atol=1e-12 * np.abs(exact).max())
    assert np.array_equal(found.covariance, found.covariance.T)


@pytest.mark.parametrize("name", available())
def test_moments_do_not_depend_on_the_number_of_threads(name: str) -> None:
    rows = ArrayRows(features(1500, 300))
    one, three = (accumulate_moments(rows, sums_about=sums_of(name, threads)) for threads in (1, 3))
    assert np.array_equal(one.mean, three.mean)
    assert np.array_equal(one.covariance, three.covariance)


@pytest.mark.parametrize("name", available())
def test_moments_are_summed_from_float16_as_from_the_same_values_in_float32(name: str) -> None:
    x = features(300, 50).astype(np.float16)
    sums = [sums_of(name)(np.ones(50)) for _ in range(2)]
    for each, dtype in zip(sums, (np.float16, np.float32), strict=True):
        each.add(x.astype(dtype))
    assert np.array_equal(sums[0].total, sums[1].total)
    assert np.array_equal(sums[0].second(), sums[1].second())


def test_truncating_a_fit_is_fitting_fewer_components() -> None:
    moments = accumulate_moments(ArrayRows(features()))
    assert np.allclose(fit_pca(moments).truncate(4).components, fit_pca(moments, 4).components, atol=1e-9)


@pytest.mark.parametrize("components", [0, 13])
def test_more_components_than_the_data_have_are_refused_with_the_limit(components: int) -> None:
    with pytest.raises(InvalidRequest, match="at most 12 components") as caught:
        fit_pca(accumulate_moments(ArrayRows(features(12, 30))), components)
    assert caught.value.members["limit"] == 12


def test_whitening_does_not_blow_up_a_direction_without_variance() -> None:
    x = features(50, 4)
    x[:, 3] = x[:, 2]
    pca = fit_pca(accumulate_moments(ArrayRows(x)), whiten=True)
    projected = Transform.of(4, normalize=False, pca=pca)(x)
    assert np.allclose(projected[:, :3].std(axis=0, ddof=1), 1.0, atol=1e-3)
    assert np.allclose(projected[:, 3], 0.0)


def test_normalising_survives_zeros_and_extremes() -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0], [3e38, 3e38], [1e-40, 0.0]], dtype=np.float32)
    root = 2**-0.5
    assert np.allclose(l2_normalize(x), np.array([[0.6, 0.8], [0, 0], [root, root], [1, 0]]), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_row(bad: float) -> None:
    x = features(20, 3)
    x[13, 1] = bad
    rows = StoredRows(Shards(x), "mine-1")
    with pytest.raises(NotFinite, match="Row 13 of embeddings 'mine-1'") as caught:
        in_memory(rows, batch_rows=4)
    assert caught.value.members == {"embeddings": "mine-1", "row": 13}


def test_huge_finite_values_pass() -> None:
    assert in_memory(StoredRows(Shards(np.full((3, 2), 3e38, np.float32)), "mine-1")).array.max() > 2e38


def test_views_stream_and_gather_alike() -> None:
    x = features(30, 4).astype(np.float16)
    view = MappedRows(StoredRows(Shards(x), "mine-1"), l2_normalize, 4)
    whole = in_memory(view, batch_rows=7)
    assert whole.array.dtype == np.float32
    assert np.allclose(whole.array, l2_normalize(x.astype(np.float32)))
    some = np.array([3, 29, 3])
    assert np.array_equal(view.take(some), whole.take(some))


def test_a_transform_comes_back_from_its_arrays_exactly() -> None:
    x = features()
    pca = fit_pca(accumulate_moments(ArrayRows(x)), 6, whiten=True)
    before = Transform.of(20, normalize=True, pca=pca)
    after = Transform.from_arrays(before.arrays())
    assert np.array_equal(before(x), after(x))
    plain = Transform.from_arrays(Transform(20, normalize=False).arrays())
    assert plain(x) is x


def test_rows_of_another_model_are_refused() -> None:
    with pytest.raises(DimensionMismatch, match="'other' has 3 dimensions"):
        Transform(20, normalize=True).view(ArrayRows(features(5, 3)), "'other'")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_row_within_the_largest_value_has_a_finite_projection(scale: float) -> None:
    rng = np.random.default_rng(0)
    transform = Transform(8, False, rng.normal(size=8), rng.normal(size=(3, 8)), np.full(3, scale))
    largest = transform.largest_value
    signs = np.sign(rng.normal(size=(200, 8)))
    assert np.isfinite(transform(np.asarray(largest * signs, np.float32))).all()
    assert largest > 1e-3 * min(1, 1 / scale) * np.finfo(np.float32).max
    assert Transform(8, normalize=True).largest_value == math.inf
