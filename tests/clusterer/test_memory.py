"""What lies in memory under a limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from clusterer import memory
from clusterer.memory import Placement, Problem, default_limit, place
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


def test_the_default_heeds_the_limit_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    assert default_limit() == GIB // 4
    (tmp_path / "memory.max").write_text("max\n")
    assert default_limit() > GIB // 4
