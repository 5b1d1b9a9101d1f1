"""The rows of a set nearest to other rows: what comparing all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array, IntArray
from clusterer.neighbours import Among, Equals, Options, copies
from clusterer.neighbours.similarity import lengths, similarities
from clusterer.neighbours.work import PLAIN


def rows_of(n: int, d: int, seed: int) -> Float32Array:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def compared(row: Float32Array, x: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
    """The ``k`` nearest rows by all similarities."""
    same = np.repeat(row[None], len(x), axis=0)
    found = similarities(same, x, lengths(same), lengths(x))
    order = np.lexsort((np.arange(len(x)), -found))[:k]
    return order, found[order]


@pytest.mark.parametrize("kernel", [None, PLAIN])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(300, 60, 20, 5), (5000, 40, 300, 7), (3, 9, 8, 5)])
def test_the_nearest_rows_are_those_of_all_pairs(kernel: str | None, n: int, m: int, d: int, k: int) -> None:
    x = rows_of(n, d, 0)
    x[n // 2 : n // 2 + n // 10] = x[0]  # copies, and a row of zeros
    x[-1] = 0
    new = np.concatenate([rows_of(m, d, 1), x[:2], x[-1:]])
    found = Among(ArrayRows(x), k, Options(kernel=kernel)).nearest(new)
    for at, row in enumerate(new):
        rows, similarity = compared(row, x, k)
        assert np.array_equal(found.rows[at], rows)
        assert np.array_equal(found.similarity[at], similarity)


def test_sketches_that_do_not_fit_lie_in_a_file() -> None:
    x, new = rows_of(2000, 64, 0), rows_of(20, 64, 1)
    usual, tight = (Among(ArrayRows(x), 4, Options(memory_limit=limit)).nearest(new) for limit in (2**30, 1))
    assert np.array_equal(usual.rows, tight.rows)


def test_a_row_is_found_by_its_bits() -> None:
    x = rows_of(200, 8, 0)
    x[50] = x[3]
    x[9] = 0
    new = np.concatenate([x, np.nextafter(x[:20], np.float32(9)), -np.zeros((1, 8), np.float32)])
    expected = [*range(50), 3, *range(51, 200), *[-1] * 20, -1]
    assert Equals.among(ArrayRows(x)).find(new).tolist() == expected
    assert Equals.among(ArrayRows(x)).find(new[:0]).tolist() == []


def test_rows_of_the_same_digest_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "digests_of", lambda rows: np.zeros(rows.n, "V16"))
    x = rows_of(3, 8, 0)
    assert Equals.among(ArrayRows(x)).find(x).tolist() == [0, -1, -1]
