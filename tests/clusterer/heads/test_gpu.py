"""Heads that are trained on a GPU; without one they are skipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clusterer.data.rows import ArrayRows
from clusterer.heads.temi import Temi, TemiOptions
from clusterer.heads.training import Schedule, Trainer, open_device, train
from clusterer.heads.turtle import Turtle, TurtleOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROWS, GROUPS, STEPS, BATCH = 400, 4, 120, 100


@pytest.fixture
def rows() -> ArrayRows:
    corners = np.random.default_rng(0).normal(size=(GROUPS, 12))
    noise = np.random.default_rng(1).normal(size=(ROWS, 12))
    return ArrayRows((corners[np.arange(ROWS) % GROUPS] + 0.1 * noise).astype(np.float32))


def trainer(method: str, rows: ArrayRows) -> Trainer:
    device = open_device("cuda")
    if method == "turtle":
        return Turtle(rows, GROUPS, [12], TurtleOptions(learning_rate=0.01), batch_rows=BATCH, seed=0, device=device)
    others = np.arange(ROWS)[:, None] + GROUPS * np.arange(1, 6)[None]
    options = TemiOptions(learning_rate=0.002, heads=2)
    return Temi(rows, GROUPS, others % ROWS, options, steps=STEPS, batch_rows=BATCH, seed=0, device=device)


@pytest.mark.parametrize("method", ["turtle", "temi"])
def test_groups_are_found_and_a_run_goes_on_where_it_was_kept(method: str, rows: ArrayRows) -> None:
    states: list[bytes] = []
    schedule = Schedule(STEPS, BATCH, early_stop=False)
    found = train(
        trainer(method, rows),
        rows,
        schedule,
        on_step=lambda *_: None,
        keep=lambda state, done, *, last: states.append(state()) if done == STEPS // 2 else None,
    )
    assert found.device.startswith("cuda")
    labels = found.head.probabilities(rows.take(np.arange(ROWS))).argmax(axis=1)
    assert {len(set(labels[group::GROUPS])) for group in range(GROUPS)} == {1}
    assert len(set(labels)) == GROUPS
    again = train(trainer(method, rows), rows, schedule, on_step=lambda *_: None, kept=states[0])
    assert again.resumed_at == STEPS // 2
    assert again.loss == pytest.approx(found.loss, rel=1e-3)
