"""The pairs and the nearest rows are those of brute force, bit by bit, whatever the data, the bounds and the blocks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.neighbours import Options, nearest_rows, pairs_above, pairs_between
from clusterer.neighbours.found import merged, sorted_pairs
from clusterer.neighbours.similarity import lengths, products
from shoal.errors import DimensionMismatch, NotFinite, TooManyPairs

SMALL = Options(block=64)


def brute(left: Any, right: Any) -> Any:
    """All similarities by their definition: ``(n, m) float32``."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    own = np.sqrt(summed(left, left))[:, None] * np.sqrt(summed(right, right))
    found = np.array([summed(x[None], right) for x in left]) / np.where(own > 0, own, 1)
    return np.clip(found, -1, 1).astype(np.float32)


def summed(x: Any, y: Any) -> Any:
    """Sums of products in 32 lanes, row by row."""
    lanes = np.zeros((len(y), 32))
    for j in range(y.shape[1]):
        lanes[:, j % 32] += x[:, j] * y[:, j]
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


def rows_of(kind: str, dim: int, n: int = 230) -> Any:
    rng = np.random.default_rng(dim)
    grouped = rng.normal(size=(9, dim))[rng.integers(0, 9, n)] + 0.3 * rng.normal(size=(n, dim))
    made: dict[str, Callable[[], Any]] = {
        "grouped": lambda: grouped,
        "positive": lambda: np.maximum(rng.normal(size=(n, dim)) + 1, 0),
        "copies": lambda: grouped[rng.integers(0, 5, n)],
        "equal": lambda: np.tile(grouped[:1], (n, 1)),
        "near": lambda: grouped[:1] + 1e-6 * rng.normal(size=(n, dim)),
        "scaled": lambda: grouped[rng.integers(0, 50, n)] * 2.0 ** rng.integers(-3, 4, (n, 1)),
        "zeros": lambda: grouped * (rng.integers(0, 3, (n, 1)) > 0),
        "nothing": lambda: np.zeros((n, dim)),
        "tiny": lambda: grouped * 1e-42,
        "huge": lambda: grouped * 1e37,
        "spiky": lambda: grouped * (rng.random((n, dim)) < 2 / dim),
        "half": lambda: grouped.astype(np.float16),
    }
    found = made[kind]()
    return found if kind == "half" else found.astype(np.float32)


KINDS = [
    "grouped", "positive", "copies", "equal", "near", "scaled", "zeros", "nothing", "tiny", "huge", "spiky", "half",
]  # fmt: skip


def expected_nearest(similarity: Any, k: int) -> tuple[Any, Any]:
    n = len(similarity)
    rows = np.empty((n, min(k, n - 1)), np.int64)
    for i in range(n):
        order = np.lexsort((np.arange(n), -similarity[i]))
        rows[i] = order[order != i][:k]
    return rows, np.take_along_axis(similarity, rows, axis=1)


def all_pairs(blocks: Any) -> list[tuple[int, int, float]]:
    return [
        each
        for block in blocks
        for each in zip(block.i.tolist(), block.j.tolist(), block.similarity.tolist(), strict=True)
    ]


def expected_pairs(similarity: Any, threshold: float, *, ordered: bool = True) -> list[tuple[int, int, float]]:
    i, j = np.nonzero(similarity >= np.float32(threshold))
    return [
        (a, b, float(similarity[a, b])) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b or not ordered
    ]


@pytest.mark.parametrize("dim", [1, 3, 64, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_brute_force(kind: str, dim: int) -> None:
    rows = rows_of(kind, dim)
    similarity = brute(rows, rows)
    for k in (1, 10, 400):
        found = nearest_rows(ArrayRows(rows), k, SMALL)
        wanted = expected_nearest(similarity, k)
        assert found.rows.tobytes() == wanted[0].tobytes()
        assert found.similarity.tobytes() == wanted[1].tobytes()
    for threshold in (-1.0, 0.0, 0.9, float(similarity[0, 1]), 1.0):
        found_pairs = all_pairs(pairs_above(ArrayRows(rows), threshold, SMALL))
        assert found_pairs == expected_pairs(similarity, threshold)


def test_few_rows_and_none() -> None:
    for n in (0, 1):
        rows = ArrayRows(np.ones((n, 4), np.float32))
        assert nearest_rows(rows, 3).rows.shape == (n, 0)
        assert all_pairs(pairs_above(rows, 0.5)) == []
    two = ArrayRows(np.ones((2, 4), np.float32))
    assert nearest_rows(two, 3).rows.tolist() == [[1], [0]]
    assert all_pairs(pairs_above(two, 1.0)) == [(0, 1, 1.0)]


@pytest.mark.parametrize("kind", ["grouped", "copies", "zeros", "half"])
def test_pairs_between_two_sets(kind: str) -> None:
    left, right = rows_of(kind, 40, 150), rows_of(kind, 40, 90)[::-1]
    similarity = brute(left, right)
    for threshold in (-1.0, 0.0, 0.95, 1.0):
        found = all_pairs(pairs_between(ArrayRows(left), ArrayRows(right), threshold, SMALL))
        assert found == expected_pairs(similarity, threshold, ordered=False)
    with pytest.raises(DimensionMismatch, match="40 and 3 columns"):
        pairs_between(ArrayRows(left), ArrayRows(right[:, :3]), 0.5)


def test_a_threshold_is_compared_as_float32() -> None:
    rows = rows_of("grouped", 16)
    exact = float(brute(rows[:2], rows[:2])[0, 1])
    both = ArrayRows(rows[:2])
    assert all_pairs(pairs_above(both, exact)) == [(0, 1, exact)]
    assert all_pairs(pairs_above(both, float(np.nextafter(np.float32(exact), np.float32(2))))) == []


def test_too_many_pairs_are_refused() -> None:
    rows = ArrayRows(rows_of("equal", 8))
    with pytest.raises(TooManyPairs, match="More than 100 pairs"):
        list(pairs_above(rows, 0.9, SMALL, most=100))


def test_not_a_number_is_refused() -> None:
    rows = rows_of("grouped", 8)
    rows[17, 3] = np.nan
    with pytest.raises(NotFinite, match="Row 17"):
        nearest_rows(ArrayRows(rows), 3)


def test_equal_rows_have_similarity_1_and_it_is_symmetric() -> None:
    rows = rows_of("grouped", 100)
    assert (brute(rows, rows).diagonal() == 1).all()
    assert (products(rows[:50], rows[50:100]) == products(rows[50:100], rows[:50])).all()
    assert lengths(rows).tolist() == np.sqrt(summed(*[rows.astype(np.float64)] * 2)).tolist()


class Killed(Exception):
    """In place of the end of the process."""


def interrupted_after(calls: int) -> Callable[[int], None]:
    left = iter(range(calls))

    def on_rows(_: int) -> None:
        if next(left, None) is None:
            raise Killed

    return on_rows


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_the_next_attempt_goes_on_and_finds_the_same(tmp_path: Path, killed_after: int) -> None:
    rows = ArrayRows(rows_of("grouped", 24))
    options = replace(SMALL, folder=tmp_path / "work", save_every_s=0.0)
    stopped = replace(options, on_rows=interrupted_after(killed_after))
    with pytest.raises(Killed):
        nearest_rows(rows, 5, stopped)
    done: list[int] = []
    found = nearest_rows(rows, 5, replace(options, on_rows=done.append))
    assert len(done) == 4 - killed_after - 1
    wanted = nearest_rows(rows, 5)
    assert (found.rows.tobytes(), found.similarity.tobytes()) == (wanted.rows.tobytes(), wanted.similarity.tobytes())
    stopped = replace(options, on_rows=interrupted_after(killed_after))
    with pytest.raises(Killed):
        list(pairs_above(rows, 0.5, stopped))
    done.clear()
    pairs = all_pairs(pairs_above(rows, 0.5, replace(options, on_rows=done.append)))
    assert len(done) == 4 - killed_after - 1
    assert pairs == all_pairs(pairs_above(rows, 0.5))
    (tmp_path / "work" / "pairs-000001.npy").write_bytes(b"damaged")
    assert all_pairs(pairs_above(rows, 0.5, options)) == pairs


KILLED = """
import sys
import numpy as np
from pathlib import Path
from clusterer.data.rows import ArrayRows
from clusterer.neighbours import Options, nearest_rows, pairs_above

def on_rows(done):
    print(done, flush=True)
    sys.stdin.readline()

rows = ArrayRows(np.load(sys.argv[1]))
options = Options(folder=Path(sys.argv[2]), block=64, save_every_s=0.0, on_rows=on_rows)
nearest_rows(rows, 5, options) if sys.argv[3] == "nearest" else list(pairs_above(rows, 0.5, options))
"""


@pytest.mark.parametrize("search", ["nearest", "pairs"])
def test_a_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path: Path, search: str) -> None:
    rows = rows_of("grouped", 24)
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "rows.npy"), str(tmp_path / "work"), search]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        print(file=process.stdin, flush=True)
        assert int(process.stdout.readline()) > 0
        process.kill()
    done: list[int] = []
    options = replace(SMALL, folder=tmp_path / "work", save_every_s=0.0, on_rows=done.append)
    if search == "nearest":
        found, wanted = nearest_rows(ArrayRows(rows), 5, options), nearest_rows(ArrayRows(rows), 5)
        assert (found.rows.tobytes(), found.similarity.tobytes()) == (
            wanted.rows.tobytes(),
            wanted.similarity.tobytes(),
        )
    else:
        assert all_pairs(pairs_above(ArrayRows(rows), 0.5, options)) == all_pairs(pairs_above(ArrayRows(rows), 0.5))
    assert len(done) == 2


def test_progress_ends_with_all_rows() -> None:
    done: list[int] = []
    nearest_rows(ArrayRows(rows_of("grouped", 24)), 5, replace(SMALL, on_rows=done.append))
    assert done == sorted(done)
    assert done[-1] == 230


def test_runs_are_merged_in_blocks_that_keep_a_row_together() -> None:
    rng = np.random.default_rng(0)
    every = [(i, j) for i in range(30) for j in range(i + 1, 30) if rng.random() < 0.5]
    parts = rng.integers(0, 4, len(every))
    runs = []
    for part in range(5):
        mine = np.array([each for each, at in zip(every, parts, strict=True) if at == part], np.int64).reshape(-1, 2)
        runs.append(sorted_pairs(mine[:, 0], mine[:, 1], np.zeros(len(mine), np.float32)))
    blocks = list(merged(runs, 30, at_once=20))
    assert [(i, j) for i, j, _ in all_pairs(blocks)] == every
    assert len(blocks) > 5
    assert all(a.i[-1] < b.i[0] for a, b in pairwise(blocks))
