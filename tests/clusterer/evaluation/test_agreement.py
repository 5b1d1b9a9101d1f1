"""Agreement of clusters with nearest rows."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.evaluation import agreement
from clusterer.evaluation.agreement import Neighbourhood


def groups(sizes: list[int]) -> tuple[ArrayRows, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    own = np.repeat(np.arange(len(sizes)), sizes)
    corners = np.random.default_rng(0).normal(size=(len(sizes), 8))
    rows = corners[own] + 0.05 * np.random.default_rng(1).normal(size=(len(own), 8))
    return ArrayRows(rows.astype(np.float32)), own


def test_true_groups_agree_whatever_their_sizes_and_cut_ones_do_not() -> None:
    rows, own = groups([300, 60, 20])
    around = Neighbourhood.of(rows)
    assert around.agreement(own, 3) == 1.0
    cut = np.where(own == 0, np.arange(len(own)) % 2, own + 1)
    assert around.agreement(cut, 4) < 0.5
    by_chance = np.random.default_rng(2).integers(3, size=len(own))
    assert abs(around.agreement(by_chance, 3)) < 0.1
    assert around.agreement(np.zeros_like(own), 3) == 0.0


def test_nearest_rows_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(agreement, "BLOCK_ROWS", 7)
    rows, _ = groups([40, 30, 10])
    around = Neighbourhood.of(rows)
    sample = rows.take(around.rows)
    distances = np.linalg.norm(sample[:, None] - sample[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, : agreement.NEAREST]
    assert len(around.rows) == 50
    assert [set(each) for each in around.nearest.tolist()] == [set(each) for each in expected.tolist()]


def test_two_rows_are_each_other_s_nearest() -> None:
    around = Neighbourhood.of(ArrayRows(np.eye(2, dtype=np.float32)))
    assert around.nearest.tolist() == [[1], [0]]
    assert around.agreement(np.array([0, 1]), 2) == -1.0
