"""Rows in a file read as rows in memory do, and take no memory of the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
from clusterer.data.filerows import FileRows, write_rows
from clusterer.data.rows import ArrayRows


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1000, 37)).astype(np.float32)


def test_blocks_and_picked_rows_are_those_that_were_written(tmp_path: Path, matrix: np.ndarray) -> None:
    heard: list[int] = []
    write_rows(tmp_path / "rows", ArrayRows(matrix), batch_rows=300, on_rows=heard.append)
    assert heard == [300, 600, 900, 1000]
    rows = FileRows.open(tmp_path / "rows", 1000, 37)
    assert (rows.n, rows.dim) == matrix.shape
    for size in (1, 7, 1000, 5000):
        for read in (rows.batches(size), rows.windows(size)):
            assert np.array_equal(np.vstack([block.copy() for _, block in read]), matrix)
    picked = np.array([999, 0, 500, 0])
    assert np.array_equal(rows.take(picked), matrix[picked])
    with pytest.raises(IndexError, match="row 1000 of 1000"):
        rows.take(np.array([1000]))


def test_a_file_of_another_size_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    write_rows(tmp_path / "rows", ArrayRows(matrix))
    with pytest.raises(OSError, match="1001 rows of 37"):
        FileRows.open(tmp_path / "rows", 1001, 37)


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path, matrix: np.ndarray) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "rows", ArrayRows(matrix), on_rows=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_over_a_large_file_stays_small(tmp_path: Path) -> None:
    n, dim, window = 40_000, 1024, 2_000
    rows = ArrayRows(np.ones((n, dim), dtype=np.float32))
    write_rows(tmp_path / "rows", rows)
    file_bytes, window_bytes = 4 * n * dim, 4 * window * dim
    mapped = FileRows.open(tmp_path / "rows", n, dim)
    process, largest = psutil.Process(), 0
    before = process.memory_info().rss
    for _, block in mapped.windows(window):
        assert block.sum() == block.size
        largest = max(largest, process.memory_info().rss - before)
    before_take = process.memory_info().rss
    taken = mapped.take(np.arange(0, n, 100))
    assert process.memory_info().rss - before_take < 4 * taken.nbytes
    assert largest < 4 * window_bytes < file_bytes / 4
