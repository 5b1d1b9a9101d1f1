"""The table of docs/SCALE.md says what the model of a job's memory says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from clusterer.jobs import memory
from clusterer.jobs.memory import Problem

DOCUMENT = Path(__file__).parents[3] / "docs/SCALE.md"
ROW = re.compile(r"^\| (\d+) (million|billion) \|" + r" ([\d,.]+) \|" * 6 + "$", re.MULTILINE)
UNITS = {"million": 10**6, "billion": 10**9}
GIB = 2**30
LINES = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))


def test_the_table_has_sizes_up_to_a_billion() -> None:
    assert len(LINES) == 8


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}-{line[1]}-{line[4]}")
def test_the_table_of_sizes_is_the_model_s(line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_cores", lambda: 16)
    rows = int(line[0]) * UNITS[line[1]]
    dim, k, workers = (int(each.replace(",", "")) for each in line[2:5])
    whole = Problem(train_rows=rows, held_rows=rows, all_rows=rows, dim_in=dim, dim=dim, k=k, seeds=1, pca=False)
    part, driver = whole.share(workers), replace(whole, held_rows=0)
    in_files = part.sketch_bytes + part.other_bytes
    found = [in_files + part.row_bytes, in_files, driver.other_bytes]
    assert [f"{each / GIB:.1f}" for each in found] == list(line[5:])
