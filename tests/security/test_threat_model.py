"""Every test that the threat model names exists, and every row names one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs/threat-model.md").read_text().splitlines()
    if line.startswith("| ") and "---" not in line
][1:]


def test_each_threat_has_a_test_that_exists() -> None:
    assert len(ROWS) >= 30
    for row in ROWS:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            path = ROOT / (file if "/" in file else f"tests/security/{file}")
            assert f"def {test}(" in path.read_text(), f"{file}::{test}"
