"""Analyses, bulk assignment and a clustering of reduced rows, whose processes are killed: the same bytes come out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from clusterer import pipeline
from clusterer.jobs.workspace import short_name
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id
from shoal.store.verify_results import verify_any

from tests.conftest import alive

SCRIPT = Path(__file__).with_name("job_attempt.py")
ROWS = 420
OF_THE_RUN = {"run.json", "files.json", "iterations.parquet"}
"""Files that say when and how long a job ran, or have the checksum of one that does."""
PREFIX = {"assign": "a", "cluster": "c", "duplicates": "d", "quality": "q"}


class Prepared(NamedTuple):
    """A store with embeddings and a clustering, and a request of each kind."""

    store: Store
    environment: dict[str, str]
    requests: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Rows around six corners, each with a copy that is nearly the same."""
    store = Store(tmp_path_factory.mktemp("killed") / "store")
    rng = np.random.default_rng(3)
    half = 2 * rng.normal(size=(6, 16))[np.arange(ROWS // 2) % 6] + 0.4 * rng.normal(size=(ROWS // 2, 16))
    vectors = np.concatenate([half, half + 0.01 * rng.normal(size=half.shape)]).astype(np.float32)
    paths = [f"{row:04d}.png" for row in range(ROWS)]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths})
    plan = Plan(
        name="killed",
        source=Source.of(listing, kind="images", path="x"),
        model=ModelRecord(name="m", backend="torch", architecture="a", embedding="pixels"),
        dim=16,
        dtype="float32",
        shard_rows=150,
        thumbnails=False,
    )
    created = store.create_embeddings(plan, listing)
    for shard in range(plan.shards):
        start, stop = plan.shard_range(shard)
        with store.shard_writer(created.id, shard, attempt=1, owner="test") as writer:
            images = [RowMetadata(image_id(path), path, "abcdef"[int(path[:4]) % 6]) for path in paths[start:stop]]
            writer.append(vectors[start:stop], images)
            writer.commit()
    store.finish_embeddings(created.id)
    request = {"embeddings": created.id, "clusters": 6, "seed": 0}
    clustering = pipeline.run(JobContext.local(request, kind="cluster"), Settings(store=store.root))["clustering"]
    return Prepared(
        store,
        {**os.environ, "SHOAL_STORE": str(store.root), "PYTHONPATH": str(SCRIPT.parents[2])},
        {
            "assign": {"clustering": clustering, "embeddings": created.id},
            "cluster": {**request, "reduce": "umap"},
            "duplicates": {"embeddings": created.id, "threshold": 0.999},
            "quality": {"embeddings": created.id, "neighbours": 5},
        },
    )


def result_folder(store: Store, kind: str, job_id: str) -> Path:
    """Where a job has published."""
    [found] = store.root.glob(f"*/{PREFIX[kind]}-{job_id}/spec.json")
    return found.parent


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of a result, but for those of the run."""
    files = (each for each in folder.iterdir() if each.is_file())
    return {each.name: each.read_bytes() for each in files if each.name not in OF_THE_RUN}


@pytest.fixture(scope="module")
def undisturbed(prepared: Prepared) -> dict[str, str]:
    """The id of a job of each kind that nothing happened to."""
    return dict(attempted(prepared, "undisturbed"))


def attempted(prepared: Prepared, how: str) -> dict[str, Any]:
    """What a command of the script prints."""
    command = [sys.executable, str(SCRIPT), how, json.dumps(prepared.requests)]
    run = subprocess.run(command, env=prepared.environment, stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    jobs: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])  # logs come before
    return jobs


def check_published(prepared: Prepared, kind: str, job_id: str, undisturbed: str) -> None:
    """What a job has published is sound, the same as undisturbed, and all that it left."""
    expected = contents(result_folder(prepared.store, kind, undisturbed))
    assert len(expected) >= 3
    assert contents(result_folder(prepared.store, kind, job_id)) == expected
    which = f"{PREFIX[kind]}-{job_id}"
    assert verify_any(prepared.store.layout, which).ok
    assert not prepared.store.layout.work(which).exists()


def test_working_files_that_a_power_cut_spoilt_are_made_again(prepared: Prepared, undisturbed: dict[str, str]) -> None:
    """Fails without: a work file that cannot be read counting as missing."""
    for name, (job_id, kept) in attempted(prepared, "spoilt").items():
        kind = name.split()[0]
        assert kept >= 2, name
        check_published(prepared, kind, job_id, undisturbed[kind])


NEAREST, COORDINATES = (
    f"{name}.npz" for name in (f"nearest-{short_name('', '15')}", f"coordinates-{short_name('', 'umap')}")
)
HALTS = {
    "cluster": (f"cluster.{NEAREST}", f"cluster.{COORDINATES}"),
    "assign": ("assign.part-00001.npz", "assign.published"),
    "duplicates": ("duplicates.pairs-000001.npy", "duplicates.pairs.npz"),
    "quality": ("quality.order-0.npy", "quality.nearest.npz"),
}
"""After which file a child is killed, and after which its worker is."""
LEASE_S = 1.5


class Workers:
    """Real workers, one after another, whose children stand still once they have kept a file named in a folder."""

    def __init__(self, halts: Path, environment: dict[str, str]) -> None:
        self.halts = halts
        self._command = [sys.executable, str(SCRIPT), "worker", str(halts)]
        self._environment = environment
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=self._environment)

    def standing(self) -> tuple[str, int] | None:
        """Where the child stands still, and its process; None while none does."""
        found = [(each.stem, int(each.suffix[1:])) for each in self.halts.iterdir() if each.suffix[1:].isdigit()]
        return next((each for each in found if alive(each[1])), None)

    def replace(self) -> None:
        """Kill the worker and start another."""
        self.end()
        self.process = self._start()

    def end(self) -> None:
        """Kill the worker; its child dies with it."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def workers(prepared: Prepared, tmp_path: Path, redis_server: str, queue: JobQueue) -> Iterator[Workers]:
    halts = tmp_path / "halts"
    halts.mkdir()
    for name in (each for names in HALTS.values() for each in names):
        (halts / name).touch()
    environment = {"REDIS_URL": redis_server, "SHOAL_LEASE_S": str(LEASE_S), "SHOAL_BEAT_S": "0.3"}
    running = Workers(halts, {**prepared.environment, **environment})
    yield running
    running.end()


def test_jobs_outlive_their_killed_children_and_their_killed_workers(
    prepared: Prepared,
    undisturbed: dict[str, str],
    queue: JobQueue,
    workers: Workers,
    wait_until: Callable[..., None],
) -> None:
    """Fails without: another attempt after a child that died."""
    jobs = {kind: queue.submit(kind, prepared.requests[kind])[0].id for kind in HALTS}
    for _ in range(2 * len(HALTS)):
        # A job whose child has died waits a little: which one runs next is the queue's choice.
        wait_until(workers.standing, what="a child to stand still")
        standing = workers.standing()
        assert standing is not None
        if standing[0] in {first for first, _ in HALTS.values()}:
            os.kill(standing[1], signal.SIGKILL)
        else:
            workers.replace()
        wait_until(lambda: workers.standing() != standing, what="end of the child")  # noqa: B023, called at once
    wait_until(lambda: all(queue.get(each).state.terminal for each in jobs.values()), what="end of the jobs")
    for kind, job_id in jobs.items():
        done = queue.get(job_id)
        assert (done.state, done.attempt) == (JobState.SUCCEEDED, 3), done.error
        check_published(prepared, kind, job_id, undisturbed[kind])
