"""A short run of random faults; `make chaos` runs for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chaos.__main__ import run

SECONDS = 12.0


@pytest.mark.faults_long
def test_random_faults_lose_nothing_double_nothing_and_leave_nothing(tmp_path: Path) -> None:
    outcome = run(tmp_path, seed=1, seconds=SECONDS)
    assert outcome.judgement.violations == []
    assert outcome.faults.total() >= 3
    assert outcome.judgement.jobs["succeeded"] >= 3
