"""What lies in memory under a limit."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.jobs.memory import Placement, Problem, default_limit, peak_bytes, place
from shoal import memory
from shoal.errors import MemoryLimitTooSmall

GIB = 2**30
IMAGENET = Problem(
    train_rows=1_281_167, held_rows=1_281_167, all_rows=1_281_167, dim_in=2048, dim=1024, k=1000, seeds=1
)


def test_rows_go_to_a_file_before_sketches_are_given_up() -> None:
    whole = IMAGENET.row_bytes + IMAGENET.sketch_bytes + IMAGENET.other_bytes
    assert place(IMAGENET, whole) == Placement(whole, True, IMAGENET.sketch_bytes)
    without_rows = whole - 1 - IMAGENET.other_bytes
    assert place(IMAGENET, whole - 1) == Placement(whole - 1, False, without_rows)
    bare = IMAGENET.other_bytes
    assert place(IMAGENET, bare) == Placement(bare, False, 0)


def test_imagenet_at_1024_components_keeps_its_sketches_in_four_gibibytes() -> None:
    found = place(IMAGENET, 4 * GIB)
    assert not found.rows_in_memory
    assert found.keep_bytes >= IMAGENET.sketch_bytes


def test_a_limit_that_cannot_be_kept_is_refused_with_what_is_needed() -> None:
    with pytest.raises(MemoryLimitTooSmall) as caught:
        place(replace(IMAGENET, dim_in=16_384), GIB)
    assert caught.value.members["needed"] > GIB
    assert caught.value.members["field"] == "memory_limit"


def test_a_refusal_names_the_stage_and_a_limit_that_works() -> None:
    """Every kind of job, each with the stage that is largest for it."""
    kinds = {
        "pca": replace(IMAGENET, dim_in=16_384, pca=True),
        "metrics": replace(IMAGENET, k=100_000, classes=20_000, dim=16, pca=False, dim_in=16),
        "kmeans": replace(IMAGENET, train_rows=10**6, all_rows=10**6, k=200_000, dim=2048, pca=False, balanced=True),
        "report": replace(IMAGENET, all_rows=50_000_000, sampled_rows=1000, fitted_rows=1000),
        "choose": replace(IMAGENET, train_rows=20_000, all_rows=20_000, k=10_000, dim=2048, search=True, pca=False),
        "probe": replace(IMAGENET, dim=16_384, dim_in=16_384, k=10, pca=False, probe=True, sweep=True),
    }
    for stage, problem in kinds.items():
        with pytest.raises(MemoryLimitTooSmall) as caught:
            place(problem, GIB // 4)
        needed = caught.value.members["needed"]
        assert caught.value.members["stage"] == stage
        smallest = re.search(r"Send `([0-9]+)MiB` or more", str(caught.value))
        assert smallest is not None
        assert int(smallest[1]) * 2**20 >= needed
        assert place(problem, int(smallest[1]) * 2**20).limit >= needed
        with pytest.raises(MemoryLimitTooSmall):
            place(problem, needed - 1)


def test_what_a_request_asks_for_is_counted() -> None:
    """Each of these takes memory of its own."""
    more: list[dict[str, Any]] = [
        {"k": 50_000},
        {"seeds": 100},
        {"classes": 100_000},
        {"dim_in": 8192},
        {"all_rows": 10**8},
        {"search": True, "k": 10_000},
        {"probe": True, "classes": 20_000},
        {"faiss": True},
        {"mini_batch": True},
    ]
    for fields in more:
        assert replace(IMAGENET, **fields).other_bytes > IMAGENET.other_bytes, fields
    assert replace(IMAGENET, sampled_rows=100_000).row_bytes == IMAGENET.row_bytes + 100_000 * 1024 * 4


def test_the_peak_is_that_of_this_process_alone() -> None:
    before = peak_bytes()
    held = np.ones(2 * before // 8)
    assert peak_bytes() >= held.nbytes
    small = "from clusterer.jobs.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", small], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes


def test_the_default_heeds_the_limit_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    assert default_limit() == GIB // 4
    (tmp_path / "memory.max").write_text("max\n")
    assert default_limit() > GIB // 4
