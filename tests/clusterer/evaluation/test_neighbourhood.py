"""How well clusters keep nearest rows together."""

from __future__ import annotations

import numpy as np
import pytest
from clusterer.evaluation.neighbourhood import neighbours_kept


def test_it_is_the_share_that_is_kept_less_that_of_chance() -> None:
    near = np.array([[1], [0], [3], [2], [3], [0]])
    labels = np.array([0, 0, 1, 1, 1, 1], np.int32)
    chance = (2 * 1 + 4 * 3) / (6 * 5)
    assert neighbours_kept(near, labels, 2) == pytest.approx(5 / 6 - chance)


def test_neighbours_by_chance_and_one_cluster_say_nothing() -> None:
    everyone = np.array([[each for each in range(6) if each != row] for row in range(6)])
    assert neighbours_kept(everyone, np.array([0, 0, 0, 0, 1, 1], np.int32), 2) == pytest.approx(0.0)
    assert neighbours_kept(everyone, np.zeros(6, np.int32), 3) == pytest.approx(0.0)


def test_the_groups_that_are_there_keep_more_than_halves_or_unions_of_them() -> None:
    rows = np.arange(40)
    group = rows // 10
    near = np.stack([group * 10 + (rows + step) % 10 for step in range(1, 7)], axis=1)
    kept = {k: neighbours_kept(near, (rows * k // 40).astype(np.int32), k) for k in (2, 4, 8)}
    assert max(kept, key=kept.__getitem__) == 4
