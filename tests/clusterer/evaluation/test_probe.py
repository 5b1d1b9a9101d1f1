"""The linear probe."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.evaluation.probe import LinearProbe
from shoal.errors import InvalidRequest


def test_a_linear_probe_tells_planted_groups_apart_and_noise_not() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 600)
    rows = (np.eye(4)[classes] + 0.2 * rng.normal(size=(600, 4))).astype(np.float32)
    probe = LinearProbe(ArrayRows(rows[:400]), classes[:400], 4)
    assert probe.held_out_accuracy > 0.95
    assert (probe.accuracy(ArrayRows(rows[400:]), classes[400:]) or 0) > 0.95
    assert LinearProbe(ArrayRows(rows), rng.integers(0, 4, 600), 4).held_out_accuracy < 0.4
    assert probe.accuracy(ArrayRows(rows), np.full(600, -1)) is None


def test_rows_whose_products_overflow_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32) * np.float32(1e30)
    with pytest.raises(InvalidRequest, match="Send `normalize` true"):
        LinearProbe(ArrayRows(rows), np.arange(40) % 2, 2)
