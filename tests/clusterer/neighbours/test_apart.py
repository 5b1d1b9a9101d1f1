"""A search that other processes compute, in any order and number, finds the same bits and goes on where it ended."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.native.library import KernelUnavailable, available
from clusterer.neighbours import Options, apart, coarse, pairs_above, search, work
from clusterer.neighbours.kernel import open_join, open_like
from shoal.errors import NotFinite, StoreError, TooManyPairs

pytestmark = pytest.mark.usefixtures("many_centres")


class Processes:
    """Other processes, which answer the last pieces first."""

    apart = True
    threads = 1

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.asked: list[tuple[str, int]] = []

    def __call__(
        self, function: Callable[[int, Any], Any], given: Any, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        self.asked += [(function.__name__, number) for number in numbers]
        waiting = [(number, self._pool.submit(function, number, given)) for number in numbers]
        for number, answer in reversed(waiting):
            yield number, answer.result()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as made:
        yield made


@pytest.fixture
def many_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse clustering also of few rows."""
    monkeypatch.setattr(coarse, "ROWS_PER_CENTRE", 50)


def rows_of(n: int = 1500, dim: int = 300) -> ArrayRows:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(n // 40, dim))[rng.integers(0, n // 40, n)] + 0.3 * rng.normal(size=(n, dim))
    rows[7::50] = rows[3::50][: len(rows[7::50])] + 1e-3 * rng.normal(size=(len(rows[7::50]), dim))
    rows[11::90] = rows[11]
    return ArrayRows(rows.astype(np.float32))


def bytes_of(found: Iterator[Any]) -> list[bytes]:
    parts = list(found)
    return [np.concatenate([getattr(part, name) for part in parts]).tobytes() for name in ("i", "j", "similarity")]


@pytest.mark.parametrize("kernel", [None, work.PLAIN])
def test_other_processes_find_the_same_bits(pool: ProcessPoolExecutor, tmp_path: Path, kernel: str | None) -> None:
    rows, run = rows_of(), Processes(pool)
    for threshold in (0.3, 0.95):
        done: list[int] = []
        options = Options(folder=tmp_path / "work", block=40, kernel=kernel, run=run, on_rows=done.append)
        assert bytes_of(pairs_above(rows, threshold, options)) == bytes_of(pairs_above(rows, threshold))
        assert done == sorted(done)
        assert done[-1] == rows.n
    assert ("compared", 37) in run.asked
    assert (("sketched", 2) in run.asked) == (kernel is None and bool(available()))


def test_a_piece_may_be_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of()
    wanted = bytes_of(pairs_above(rows, 0.9))
    monkeypatch.setattr(search, "MOST_RANGES", 5)
    options = Options(folder=tmp_path / "here", block=40)
    assert bytes_of(pairs_above(rows, 0.9, options)) == wanted
    assert len(list((tmp_path / "here").glob("pairs-*.npy"))) == 5


def test_an_attempt_computes_what_is_missing_alone(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    rows, run = rows_of(), Processes(pool)
    options = Options(folder=tmp_path / "work", block=200, run=run)
    wanted = bytes_of(pairs_above(rows, 0.9, options))
    run.asked.clear()
    for lost in (3, 5):
        (tmp_path / "work" / f"pairs-{lost:06d}.npy").unlink()
    assert bytes_of(pairs_above(rows, 0.9, options)) == wanted
    assert run.asked == [("compared", 3), ("compared", 5)]
    (tmp_path / "work" / "pairs-000002.npy").unlink()
    assert bytes_of(pairs_above(rows, 0.9, Options(folder=tmp_path / "work", block=200))) == wanted


@pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
def test_without_its_order_an_attempt_starts_anew(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    rows, run = rows_of(), Processes(pool)
    options = Options(folder=tmp_path / "work", block=200, run=run)
    wanted = bytes_of(pairs_above(rows, 0.9, options))
    (tmp_path / "work" / "order-0.npy").write_bytes(b"damaged")
    run.asked.clear()
    assert bytes_of(pairs_above(rows, 0.9, options)) == wanted
    assert len(run.asked) == 1 + 1 + 8


@pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
def test_sketches_that_a_process_does_not_see_are_an_error(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    class Forgetful(Processes):
        def __call__(self, function: Any, given: Any, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
            if function is search.compared:
                (tmp_path / "work" / "sketches-000000.npy").unlink()
            return super().__call__(function, given, numbers)

    with pytest.raises(StoreError, match="see the store at one path"):
        list(pairs_above(rows_of(), 0.9, Options(folder=tmp_path / "work", run=Forgetful(pool))))


def test_what_is_refused_here_is_refused_there(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    rows, options = rows_of(), Options(folder=tmp_path / "work", block=200, run=Processes(pool))
    with pytest.raises(TooManyPairs, match="More than 10 pairs"):
        list(pairs_above(rows, 0.3, options, most=10))
    rows.array[1333, 3] = np.nan
    with pytest.raises(NotFinite, match="Row 1333"):
        list(pairs_above(rows, 0.5, options))
    nothing = ArrayRows(np.empty((0, 4), np.float32))
    assert list(pairs_above(nothing, 0.5, replace(options, folder=tmp_path / "none"))) == []


@pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
def test_a_kernel_is_opened_like_that_of_the_first_process() -> None:
    for variant in available():
        largest = open_join(variant).fast.largest
        assert open_like(largest, 3).fast.largest == largest
    with pytest.raises(KernelUnavailable, match="sketches up to 5"):
        open_like(5, 1)
    assert apart.piece_bytes(512) > 16 * 4096 * 512
