"""Extraction whose processes are killed, drained and cancelled: the real worker, the real child, nothing simulated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from extractor import pipeline
from PIL import Image
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Job
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

IMAGES = 240
SHARDS = 40
REQUEST = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 6, "shard_rows": 6}
LEASE_S = 3.0
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a folder of two classes, in which two files are no images."""
    for i in range(IMAGES):
        path = tmp_path / "data" / "set" / "ab"[i % 2] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in (7, 200):
            path.write_bytes(b"no image")
        else:
            noise = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    return tmp_path


@pytest.fixture
def start(root: Path, redis_server: str) -> Iterator[Start]:
    """Start an extraction worker; all are killed when the test ends."""
    workers: list[subprocess.Popen[bytes]] = []
    env = {
        "SHOAL_DATA": str(root / "data"),
        "SHOAL_STORE": str(root / "store"),
        "SHOAL_MODELS": str(root / "models"),
        "REDIS_URL": redis_server,
        "SHOAL_LEASE_S": str(LEASE_S),
        "SHOAL_BEAT_S": "0.5",
        "SHOAL_DECODE_WORKERS": "1",
        # raw_pixels needs no PyTorch, which a child that is started ahead would import.
        "SHOAL_AHEAD": "false",
    }

    def run() -> subprocess.Popen[bytes]:
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "extractor", "worker", "--backend", "torch"],
                env={**os.environ, **env},
                stdout=log,
                stderr=log,
            )
        )
        return workers[-1]

    with (root / "workers.log").open("wb") as log:
        yield run
    for worker in workers:
        worker.kill()
        worker.wait()


def committed(root: Path) -> int:
    """How many shards are committed; cheap, since it is asked many times a second."""
    return len(list((root / "store").glob("embeddings/*/commits/*.json")))


def written(root: Path) -> dict[str, int]:
    """The commits, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (root / "store").glob("embeddings/*/commits/*.json")}


def shards_begun(root: Path) -> set[int]:
    """Shards that an attempt writes, and that are not committed."""
    [folder] = (root / "store").glob("embeddings/*")
    begun = {path.name.partition("-")[0] for path in (folder / "work").iterdir() if path.name[:1].isdigit()}
    return {int(shard) for shard in begun if not (folder / "commits" / f"{shard}.json").exists()}


def saved(root: Path) -> list[Path]:
    """What is saved of unfinished shards."""
    return list((root / "store").glob("embeddings/*/parts/*/*.segment"))


def child_of(worker: subprocess.Popen[bytes]) -> psutil.Process:
    """The process that runs the worker's job."""
    (child,) = psutil.Process(worker.pid).children()
    return child


def descendants(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The child, and the decode processes below it."""
    return list(psutil.Process(worker.pid).children(recursive=True))


def told_to_end(process: psutil.Process) -> bool:
    """Whether a SIGTERM waits for a suspended process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)


def running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def whole(root: Path, job: Job) -> EmbeddingSet:
    """The job's embeddings: complete, verified, each image of the plan exactly once."""
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result is not None
    store = Store(root / "store")
    assert store.verify(job.result["embeddings"]).ok
    embeddings = store.embeddings(job.result["embeddings"])
    assert embeddings.complete
    embedded = embeddings.metadata(["image_path"]).column("image_path").to_pylist()
    failed = embeddings.errors().column("image_path").to_pylist()
    assert sorted(embedded + failed) == embeddings.listing().column("image_path").to_pylist()
    assert sorted(failed) == ["a/0200.png", "b/0007.png"]
    assert (job.result["rows"], job.result["failed"]) == (IMAGES - 2, 2)
    return embeddings


def test_a_job_outlives_its_killed_child_and_its_killed_worker(
    root: Path, queue: JobQueue, start: Start, wait_until: Callable[..., None]
) -> None:
    """Fails without: the commits of earlier attempts, whose shards are left out of the next one."""
    job, _ = queue.submit("extract:torch", REQUEST)
    first = start()
    wait_until(lambda: committed(root) >= 2, what="commits of the first attempt")
    child = child_of(first)
    child.suspend()  # so that what it has committed and begun can be counted
    wait_until(lambda: child.status() == psutil.STATUS_STOPPED, what="the child to stand still")
    before, begun = written(root), shards_begun(root)
    child.kill()
    after_child = committed(root)
    assert after_child < SHARDS
    assert len(begun) <= 1, "all that the next attempt does again"

    wait_until(lambda: committed(root) > after_child + 1, what="commits of the second attempt", deadline_s=120)
    family = descendants(first)
    first.kill()
    first.wait()
    after_worker = committed(root)
    assert after_worker < SHARDS
    wait_until(lambda: not any(running(each) for each in family), what="the worker's processes die with it")

    start()
    wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job", deadline_s=120)
    done = queue.get(job.id)
    embeddings = whole(root, done)
    assert done.attempt == 3
    assert len({commit.attempt for commit in embeddings.commits.values()}) == 3
    assert done.result is not None
    assert done.result["resumed_rows"] >= 6 * after_worker - 2
    assert before.items() <= written(root).items()
    assert "committed the shard first" not in (root / "workers.log").read_text(), "a shard was embedded twice"


def test_a_drained_worker_hands_the_job_back_uncounted(
    root: Path, queue: JobQueue, start: Start, wait_until: Callable[..., None]
) -> None:
    """Fails without: the attempt being taken off when a job is handed back."""
    job, _ = queue.submit("extract:torch", REQUEST)
    first = start()
    wait_until(lambda: committed(root) >= 2, what="commits")
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert queue.get(job.id).state is JobState.QUEUED
    start()
    wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job", deadline_s=120)
    done = queue.get(job.id)
    whole(root, done)
    assert done.attempt == 1


ONE_SHARD = {**REQUEST, "shard_rows": 10_000, "batch_size": 2}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_an_unfinished_shard_is_taken_up_where_it_was_saved(
    root: Path,
    queue: JobQueue,
    start: Start,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    end: signal.Signals,
) -> None:
    """Fails without: the reading of what was saved of a shard."""
    monkeypatch.setenv("SHOAL_SAVE_S", "0.001")
    job, _ = queue.submit("extract:torch", ONE_SHARD)
    first = start()
    wait_until(lambda: len(saved(root)) > 2, what="saved parts")
    child = child_of(first)
    child.suspend()  # or a fast machine ends the job before it is told to stop
    # A signal that comes before the process stands still is handled at once, and never seen waiting.
    wait_until(lambda: child.status() == psutil.STATUS_STOPPED, what="the child to stand still")
    if end is signal.SIGKILL:
        child.kill()
    else:
        first.send_signal(end)
        wait_until(lambda: told_to_end(child), what="the word to the child", deadline_s=10)
        child.resume()
        assert first.wait(60) == 0
    [embeddings_id] = Store(root / "store").embeddings_ids()
    kept = Store(root / "store").saved_images(embeddings_id)
    assert kept > 2
    if end is signal.SIGTERM:
        assert kept < IMAGES
        start()
    wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job", deadline_s=120)
    done = queue.get(job.id)
    embeddings = whole(root, done)
    assert done.result is not None
    assert kept - 2 <= done.result["resumed_rows"] < IMAGES - 2
    settings = Settings(data=root / "data", models=root / "models", store=root / "other", decode_workers=1)
    pipeline.run(JobContext.local(ONE_SHARD, kind="extract:torch"), settings)
    other = Store(root / "other").embeddings(embeddings.id)
    assert [record for commit in embeddings.commits.values() for record in commit.files] == [
        record for commit in other.commits.values() for record in commit.files
    ]


def test_a_cancelled_job_stops_within_seconds_and_keeps_its_shards(
    root: Path, queue: JobQueue, start: Start, wait_until: Callable[..., None]
) -> None:
    """Fails without: the wish to cancel in the answer to a renewal."""
    job, _ = queue.submit("extract:torch", REQUEST)
    worker = start()
    wait_until(lambda: committed(root) >= 1, what="a commit")
    family = descendants(worker)
    child = child_of(worker)
    child.suspend()  # or a fast machine ends the job before the worker has heard of its cancellation
    begun = time.monotonic()
    queue.cancel(job.id)
    wait_until(lambda: told_to_end(child), what="the word to the child", deadline_s=10)
    child.resume()
    wait_until(lambda: queue.get(job.id).state is JobState.CANCELLED, what="end of the job", deadline_s=30)
    wait_until(lambda: not any(running(each) for each in family), what="end of its processes", deadline_s=30)
    assert time.monotonic() - begun < 20
    assert 1 <= committed(root) < SHARDS
    again, _ = queue.submit("extract:torch", REQUEST)
    wait_until(lambda: queue.get(again.id).state.terminal, what="end of the second job", deadline_s=120)
    done = queue.get(again.id)
    whole(root, done)
    assert done.result is not None
    assert done.result["resumed_rows"] > 0


def test_two_jobs_for_the_same_images_share_one_set(
    root: Path, queue: JobQueue, start: Start, wait_until: Callable[..., None]
) -> None:
    jobs = [queue.submit("extract:torch", REQUEST)[0] for _ in range(2)]
    start()
    start()
    wait_until(lambda: all(queue.get(job.id).state.terminal for job in jobs), what="end of both", deadline_s=120)
    ends = [queue.get(job.id) for job in jobs]
    results: list[dict[str, Any]] = [end.result or {} for end in ends]
    for end in ends:
        whole(root, end)
    assert results[0]["embeddings"] == results[1]["embeddings"]
