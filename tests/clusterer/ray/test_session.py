"""What a job asks of a cluster, without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest
from clusterer.ray import folder
from clusterer.ray.folder import folder_of_process
from clusterer.ray.session import Session, Workers
from shoal.schemas.execution import Execution

GIB = 2**30


class Nodes:
    """What Ray says about the nodes of a cluster."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": each} for each in self._resources]


HEAD = {"memory": 1.0 * GIB}
SMALL, LARGE = {"CPU": 4.0, "memory": 3.0 * GIB}, {"CPU": 8.0, "memory": 12.0 * GIB}


@pytest.mark.parametrize(
    ("execution", "asked"),
    [
        ({}, Workers(2, 4, 0, 3 * GIB)),
        ({"workers": 4}, Workers(4, 2, 0, 3 * GIB // 2)),
        ({"workers": 1}, Workers(1, 4, 0, 3 * GIB)),
        ({"resources": {"memory": "8GiB", "cpus": 8}}, Workers(2, 8, 0, 8 * GIB)),
    ],
)
def test_a_worker_asks_for_no_more_than_a_node_has_unless_told_to(execution: dict[str, Any], asked: Workers) -> None:
    session = Session(cast(Any, Nodes(HEAD, SMALL, LARGE)), "head:6379", own=False)
    assert session.workers(Execution(engine="ray", **execution), 6 * GIB) == asked


def test_what_a_killed_process_leaves_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "TEMPORARY", str(tmp_path))
    left, fresh, other = (tmp_path / name for name in ("shoal-ray-left", "shoal-ray-fresh", "other"))
    for each in (left, fresh, other):
        (each / "session").mkdir(parents=True)
    with folder_of_process() as used:
        for each in (left, other, used):
            os.utime(each, (0, 0))
        with folder_of_process() as next_one:
            assert sorted(tmp_path.iterdir()) == sorted([fresh, other, used, next_one])
    assert sorted(tmp_path.iterdir()) == sorted([fresh, other])
