"""The search for duplicates on a Ray cluster finds the same bits as in process, and goes on where it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, Float32Array, IntArray
from clusterer.jobs import duplicates
from clusterer.neighbours import Options, coarse, pairs_above
from clusterer.neighbours.sketched import SketchedBounds
from clusterer.ray.pieces import ClusterRunner
from clusterer.ray.session import Workers, connect
from shoal.errors import MemoryLimitTooSmall
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import Progress
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES, Analysis

from tests.clusterer.conftest import MakeSet
from tests.clusterer.ray.conftest import RAY, RayCluster

N, DIM, BLOCK = 1500, 300, 100


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges of sketches, more pieces, and a coarse clustering of few rows."""
    monkeypatch.setattr(SketchedBounds, "BLOCK", BLOCK)
    monkeypatch.setattr(coarse, "ROWS_PER_CENTRE", 50)


def vectors() -> Float32Array:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(N // 40, DIM))[rng.integers(0, N // 40, N)] + 0.6 * rng.normal(size=(N, DIM))
    rows[7::50] = rows[3::50] + 1e-2 * rng.normal(size=(N // 50, DIM))
    rows[11::90] = rows[11]
    return rows.astype(np.float32)


@pytest.fixture
def planted(make_set: MakeSet) -> str:
    """Embeddings with near copies and equal rows."""
    return make_set("planted", vectors(), shard_rows=400)


def run(request: dict[str, Any], store: Store, settings: Settings) -> Analysis:
    context = JobContext.local({"threshold": 0.9, **request}, kind="duplicates")
    return store.analysis(DUPLICATES, duplicates.run(context, settings)["duplicates"])


def tables(found: Analysis) -> dict[str, Any]:
    return {name: found.table(name).to_pylist() for name in DUPLICATES.tables}


def test_the_result_is_that_of_the_local_engine(planted: str, store: Store, ray_settings: Settings) -> None:
    here = run({"embeddings": planted}, store, ray_settings)
    assert len(tables(here)["pairs"]) > N // 50
    there = run({"embeddings": planted, "execution": {"engine": "ray", "workers": 2}}, store, ray_settings)
    assert tables(there) == tables(here)
    assert here.run()["execution"] == {"engine": "local"}
    asked = {"workers": 2, "cpus": 1, "gpus": 0}
    assert there.run()["execution"] == {"engine": "ray", "address": ray_settings.ray_address, **asked}


def test_a_cancelled_job_stops_and_its_next_attempt_goes_on(planted: str, store: Store, ray_settings: Settings) -> None:
    request = {"embeddings": planted, "execution": {"engine": "ray", "workers": 1}, "threshold": 0.9}
    seen: list[float] = []

    def cancel(progress: Progress) -> None:
        if progress.stage == "compare":
            seen.append(progress.done)
            context.stop()

    context = JobContext.local(request, kind="duplicates", on_progress=cancel)
    with pytest.raises(Cancelled):
        duplicates.run(context, ray_settings)
    (folder,) = (store.layout.work(f"d-{context.id}").rglob("search"),)
    (search,) = folder
    kept = {each.name: each.stat().st_mtime_ns for each in search.glob("*.npy")}
    assert any(name.startswith("pairs-") for name in kept)
    assert any(name.startswith("sketches-") for name in kept)
    again: list[dict[str, int]] = []
    context = again_of(context, lambda: again.append({each.name: each.stat().st_mtime_ns for each in search.glob("*")}))
    found = store.analysis(DUPLICATES, duplicates.run(context, ray_settings)["duplicates"])
    assert kept.items() <= again[-1].items(), "nothing that was kept is computed again"
    assert tables(found) == tables(run({"embeddings": planted}, store, ray_settings))


def again_of(context: JobContext, look: Any) -> JobContext:
    """Another attempt at a job, which looks at its folder while it compares rows."""

    def on_progress(progress: Progress) -> None:
        if progress.stage == "compare":
            look()

    found = JobContext.local(context.request, kind="duplicates", on_progress=on_progress, attempt=2)
    found.id = context.id
    return found


def test_workers_with_too_little_memory_are_refused(planted: str, store: Store, ray_settings: Settings) -> None:
    execution = {"engine": "ray", "resources": {"memory": "256MiB"}}
    with pytest.raises(MemoryLimitTooSmall, match="Each worker may use 256 MiB"):
        run({"embeddings": planted, "execution": execution}, store, ray_settings)


@dataclass(frozen=True)
class Doomed(ArrayRows):
    """Rows whose reader waits for its end on one node, and for that reader on others, while rows are compared.

    ``folder`` is that of the search, ``driver`` the process that never waits.
    """

    folder: Path
    node: str
    driver: int

    def take(self, rows: IntArray) -> Float32Array:
        if os.getpid() != self.driver and self.comparing():
            import ray

            began = self.folder.parent / "began"
            if ray.get_runtime_context().get_node_id() == self.node:
                began.touch()
                while True:
                    time.sleep(1)
            while not began.exists():
                time.sleep(0.01)
        return super().take(rows)

    def comparing(self) -> bool:
        return any(self.folder.glob("sketches-*.npy"))


def test_pieces_of_a_lost_node_are_computed_on_others(
    ray_cluster: RayCluster, ray_settings: Settings, tmp_path: Path
) -> None:
    """Fails without: the pieces of a lost node being computed on others."""
    rows = vectors()
    wanted = pairs_of(pairs_above(ArrayRows(rows), 0.9))
    node = ray_cluster.add_node()
    killed: list[object] = []

    def on_wait() -> None:
        if not killed and (tmp_path / "began").exists():
            ray_cluster.kill(node)
            killed.append(node)

    with connect(RAY, ray_settings) as session:
        doomed = Doomed(rows, tmp_path / "work", node.node_id, os.getpid())
        options = Options(folder=doomed.folder, run=ClusterRunner(session, Workers(3, 1, 0, 2**28), on_wait))
        assert pairs_of(pairs_above(doomed, 0.9, options)) == wanted
    assert killed, "a piece was under way on the node"


def pairs_of(found: Iterator[Any]) -> list[bytes]:
    parts = list(found)
    return [np.concatenate([getattr(part, name) for part in parts]).tobytes() for name in ("i", "j", "similarity")]
