"""Functions over items as tasks of a Ray cluster."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.ray import session as joining
from clusterer.ray import tasks
from clusterer.ray.session import Workers, connect
from clusterer.ray.tasks import run_tasks
from shoal.errors import EngineUnavailable, PathNotFound, RayUnavailable
from shoal.host import available_cores
from shoal.jobs.child import Cancelled
from shoal.process import free_port
from shoal.settings import Settings

from tests.clusterer.ray.conftest import RAY

ONE = Workers(2, 1, 0, 2**28)


def scaled(item: int, factor: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"sum": float(factor.sum()) * item, "writeable": factor.flags.writeable, "cores": available_cores()}


def endless(item: int, folder: str) -> None:
    Path(folder, "began").touch()
    signal.pause()


def of_another_version(item: int) -> None:
    tasks._call("0.0", 1, scaled, item)


def failing(item: int) -> None:
    raise PathNotFound(f"item {item}", field="here")


def test_results_come_with_the_index_of_their_item(ray_settings: Settings) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with connect(RAY, ray_settings) as session:
        assert signal.getsignal(signal.SIGTERM) is before
        found = dict(run_tasks(session, scaled, [1, 2, 3], shared=[np.ones(1_000_000)], workers=ONE))
    assert {index: each["sum"] for index, each in found.items()} == {0: 1e6, 1: 2e6, 2: 3e6}
    assert not any(each["writeable"] for each in found.values())
    assert {each["cores"] for each in found.values()} == {1}


def test_what_a_task_raises_is_raised_and_what_runs_is_stopped(ray_settings: Settings, tmp_path: Path) -> None:
    with connect(RAY, ray_settings) as session:
        with pytest.raises(PathNotFound, match="item 7") as caught:
            list(run_tasks(session, failing, [7], workers=ONE))
        assert caught.value.members == {"field": "here"}

        def stop() -> None:
            if (tmp_path / "began").exists():
                raise Cancelled

        with pytest.raises(Cancelled):
            list(run_tasks(session, endless, [0], shared=[str(tmp_path)], workers=ONE, on_wait=stop))
        again = dict(run_tasks(session, scaled, [1, 2], shared=[np.ones(1)], workers=ONE))
        assert sorted(again) == [0, 1]
        with pytest.raises(EngineUnavailable, match="Install the same version"):
            list(run_tasks(session, of_another_version, [0], workers=ONE))


def test_a_cluster_without_room_is_said_to_be_too_small(
    ray_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "PATIENCE_S", 0.0)
    monkeypatch.setattr(joining, "LOOK_S", 0.0)
    with connect(RAY, ray_settings) as session, pytest.raises(RayUnavailable, match=r"64 CPUs .* have 1 CPUs"):
        list(run_tasks(session, failing, [0], workers=Workers(1, 64, 0, 2**28)))


def test_a_cluster_that_does_not_answer_is_an_error_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(RayUnavailable, match="Connection refused") as caught, connect(RAY, Settings()):
        pass
    assert caught.value.retryable


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(EngineUnavailable, match=r"shoal\[ray\]"), connect(RAY, Settings()):
        pass


def test_other_versions_of_ray_or_python_are_said() -> None:
    log = "...\nRuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n"
    error = joining.not_joined("head:6379", log)
    assert isinstance(error, EngineUnavailable)
    assert "Ray: 2.40.0" in error.detail
