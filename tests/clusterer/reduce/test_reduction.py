"""New rows, reduced by the train rows nearest to them."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array, Rows, l2_normalize
from clusterer.neighbours import Among, Options, nearest_rows
from clusterer.reduce import Fitted, Reduction, SmoothedRows
from clusterer.reduce.smooth import least_similarities, mutual


def rows_of(n: int, seed: int) -> Float32Array:
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_new_row_is_averaged_with_train_rows_as_these_are_after_each_step(steps: int) -> None:
    x, new = ArrayRows(rows_of(120, 0)), rows_of(30, 1)
    nearest = nearest_rows(x, 6)
    least = least_similarities(nearest)
    neighbours = mutual(nearest, least)
    found = Among(x, 6).nearest(new)
    expected, train = l2_normalize(new).astype(np.float64), [ArrayRows(l2_normalize(x.array))]
    for _ in range(steps):
        after: Rows = SmoothedRows(train[-1], neighbours)
        values = train[-1].array
        for row in range(len(new)):
            both = [j for j, s in zip(found.rows[row], found.similarity[row], strict=True) if s >= least[j]]
            expected[row] += values[both].sum(axis=0)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        train.append(ArrayRows(after.take(np.arange(120))))
    fitted = Fitted("smooth", 6, steps, least, neighbours)
    reduced = Reduction.of(fitted, x, Options())(new)
    assert np.allclose(reduced, expected, atol=1e-5)
    one_by_one = np.concatenate([Reduction.of(fitted, x, Options())(row[None]) for row in new[:3]])
    assert one_by_one.tobytes() == reduced[:3].tobytes()


@pytest.mark.parametrize(("method", "unit"), [("spectral", True), ("umap", False)])
def test_a_new_row_lies_among_its_nearest_train_rows(method: str, unit: bool) -> None:
    x, new = ArrayRows(rows_of(120, 0)), rows_of(10, 1)
    coordinates = l2_normalize(np.random.default_rng(2).normal(size=(120, 3)).astype(np.float32))
    reduced = Reduction.of(Fitted(method, 4, 0, coordinates=coordinates), x, Options())(new)
    found = Among(x, 4).nearest(new)
    weights = np.maximum(found.similarity, 1e-6)[:, :, None]
    mean = (weights * coordinates[found.rows]).sum(axis=1) / weights.sum(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True) if unit else mean
    assert np.allclose(reduced, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["spectral", "umap"])
def test_a_new_row_of_zeros_is_drawn_to_no_train_row(method: str) -> None:
    coordinates = l2_normalize(np.random.default_rng(2).normal(size=(120, 3)).astype(np.float32))
    fitted = Fitted(method, 4, 0, coordinates=coordinates)
    new = np.zeros((1, 6), np.float32)
    assert not Reduction.of(fitted, ArrayRows(rows_of(120, 0)), Options())(new).any()
    with_zeros = np.concatenate([rows_of(119, 0), new])
    assert np.array_equal(Reduction.of(fitted, ArrayRows(with_zeros), Options())(new), coordinates[-1:])


def test_what_was_fitted_is_read_as_it_was_written() -> None:
    fitted = Fitted("smooth", 2, 2, np.ones(3, np.float32), np.zeros((3, 2), np.int32))
    again = Fitted.from_arrays(fitted.arrays())
    assert again.record() == fitted.record() == {"method": "smooth", "neighbours": 2, "steps": 2}
    assert np.array_equal(np.asarray(again.neighbours), np.asarray(fitted.neighbours))
    placed = Fitted.from_arrays(Fitted("umap", 3, 0, coordinates=np.ones((5, 2), np.float32)).arrays())
    assert placed.record() == {"method": "umap", "neighbours": 3, "components": 2}
    assert placed.rows == 5
