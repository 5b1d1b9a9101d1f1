"""Several workers on one extraction, of which some are killed: real workers, real children, nothing simulated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from shoal.jobs.queue import JobQueue
from shoal.jobs.sharing import worker_of
from shoal.jobs.states import JobState
from shoal.schemas import Job
from shoal.store import EmbeddingSet, Store
from shoal.store.layout import EmbeddingsLayout
from shoal.store.segments import saved_images

IMAGES, SHARD = 150, 5
KIND = "extract:torch"
REQUEST = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 5, "shard_rows": SHARD, "thumbnails": False}
NETWORK = {"architecture": "test_resnet", "weights": "random", "transform": {"size": 64}}


class Stack:
    """A folder of images, and the workers that embed them."""

    def __init__(self, root: Path, url: str, queue: JobQueue, wait_until: Callable[..., None]) -> None:
        self.root, self.queue, self.wait_until = root, queue, wait_until
        self.workers: list[subprocess.Popen[bytes]] = []
        self.logs = root / "workers.log"
        self._env = {
            "SHOAL_DATA": str(root / "data"),
            "SHOAL_STORE": str(root / "store"),
            "SHOAL_MODELS": str(root / "models"),
            "REDIS_URL": url,
            "SHOAL_LEASE_S": "3",
            "SHOAL_BEAT_S": "0.5",
            "SHOAL_DECODE_WORKERS": "1",
            # raw_pixels needs no PyTorch, which a child that is started ahead would import.
            "SHOAL_AHEAD": "false",
        }
        folder = root / "data" / "set"
        folder.mkdir(parents=True)
        for i in range(IMAGES):
            noise = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{i:04d}.png")

    def start(self) -> subprocess.Popen[bytes]:
        """One more worker."""
        command = [sys.executable, "-m", "extractor", "worker", "--backend", "torch"]
        with self.logs.open("ab") as log:
            self.workers.append(subprocess.Popen(command, env={**os.environ, **self._env}, stdout=log, stderr=log))
        return self.workers[-1]

    def held(self, job: Job) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        """A worker that has begun the job, and its child, which stands still."""
        worker = self.start()
        return worker, self.stopped(worker, lambda: len(self.owners()) >= 2, job)

    def helped(self, job: Job) -> tuple[subprocess.Popen[bytes], psutil.Process]:
        """A worker that helps with the job and has committed a shard, and its child, which stands still."""
        worker = self.start()
        return worker, self.stopped(worker, lambda: self.names() >= {name_of(worker)}, job)

    def stopped(self, worker: subprocess.Popen[bytes], when: Callable[[], object], job: Job) -> psutil.Process:
        """The worker's child, as soon as the condition holds: it stands still, or a fast machine ends the job."""
        self.wait_until(when, what="commits")
        (child,) = psutil.Process(worker.pid).children()
        child.suspend()
        self.wait_until(lambda: child.status() == psutil.STATUS_STOPPED, what="the child to stand still")
        assert self.queue.get(job.id).state is JobState.RUNNING
        return child

    def owners(self) -> dict[int, str]:
        """The owner of each committed shard."""
        store = Store(self.root / "store")
        return {
            shard: commit.owner
            for each in store.embeddings_ids()
            for shard, commit in store.embeddings(each).commits.items()
        }

    def names(self) -> set[str]:
        """Workers that have committed a shard."""
        return {worker_of(owner).rpartition("-")[2] for owner in self.owners().values()}

    def end(self, job: Job, deadline_s: float = 90) -> Job:
        """The job when it has ended."""
        self.wait_until(lambda: self.queue.get(job.id).state.terminal, what="end of the job", deadline_s=deadline_s)
        return self.queue.get(job.id)

    def whole(self, job: Job) -> tuple[EmbeddingSet, dict[str, Any]]:
        """The embeddings of the ended job, each image exactly once, and its result."""
        done = self.end(job)
        assert done.state is JobState.SUCCEEDED, done.error
        assert done.result is not None
        store = Store(self.root / "store")
        assert store.verify(done.result["embeddings"]).ok
        embeddings = store.embeddings(done.result["embeddings"])
        assert embeddings.complete
        embedded = embeddings.metadata(["image_path"]).column("image_path").to_pylist()
        assert embedded == embeddings.listing().column("image_path").to_pylist()
        assert (done.result["rows"], done.result["failed"]) == (IMAGES, 0)
        return embeddings, done.result


def name_of(worker: subprocess.Popen[bytes]) -> str:
    """The part of a worker's name that is its own."""
    return str(worker.pid)


def told_to_end(process: psutil.Process) -> bool:
    """Whether a SIGTERM waits for a suspended process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def stack(tmp_path: Path, redis_server: str, queue: JobQueue, wait_until: Callable[..., None]) -> Iterator[Stack]:
    """Workers with leases of 3 seconds, killed after the test."""
    made = Stack(tmp_path, redis_server, queue, wait_until)
    yield made
    for worker in made.workers:
        worker.kill()
        worker.wait()


def test_two_workers_embed_each_shard_of_a_job_once(stack: Stack) -> None:
    """Fails without: the unit that a worker must take before it begins a shard."""
    job, _ = stack.queue.submit(KIND, {**REQUEST, "model": NETWORK, "engine": "eager"})
    first, child = stack.held(job)
    second = stack.start()
    stack.wait_until(lambda: name_of(second) in stack.names(), what="a shard of the second worker")
    assert stack.queue.get(job.id).workers == 2
    child.resume()
    embeddings, result = stack.whole(job)
    assert result["workers"] == 2
    assert stack.names() == {name_of(first), name_of(second)}
    assert set(stack.owners()) == set(range(IMAGES // SHARD))
    assert "committed the shard first" not in stack.logs.read_text()

    alone = {**REQUEST, "model": NETWORK, "engine": "eager", "name": "alone", "workers": 1, "reuse": None}
    again, result = stack.whole(stack.queue.submit(KIND, alone)[0])
    assert result["workers"] == 1
    rows = np.arange(IMAGES)
    np.testing.assert_array_equal(again.take(rows), embeddings.take(rows))


def test_a_killed_helper_loses_nothing(stack: Stack) -> None:
    """Fails without: the look at who still renews, before a shard counts as taken."""
    job, _ = stack.queue.submit(KIND, REQUEST)
    _, child = stack.held(job)
    helper, _ = stack.helped(job)
    kept = len(stack.owners())
    helper.kill()
    helper.wait()
    child.resume()
    _, result = stack.whole(job)
    assert (result["workers"], stack.queue.get(job.id).attempt) == (2, 1)
    assert 3 <= kept < IMAGES // SHARD


def test_what_a_killed_helper_had_saved_of_a_shard_is_used(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without: the reading of what was saved of a shard."""
    monkeypatch.setenv("SHOAL_SAVE_S", "0.001")
    job, _ = stack.queue.submit(KIND, {**REQUEST, "model": NETWORK, "engine": "eager", "shard_rows": IMAGES // 2})
    saved = stack.root / "store" / "embeddings"
    child = stack.stopped(stack.start(), lambda: list(saved.glob("*/parts/00000/*.segment")), job)
    helper = stack.start()
    stack.stopped(helper, lambda: len(list(saved.glob("*/parts/00001/*.segment"))) >= 2, job)
    helper.kill()
    helper.wait()
    [folder] = saved.iterdir()
    kept = saved_images(EmbeddingsLayout(folder), 1)
    assert 0 < kept < IMAGES // 2
    child.resume()
    _, result = stack.whole(job)
    assert (result["workers"], result["resumed_rows"]) == (1, kept)


def test_the_helper_of_a_killed_worker_takes_the_job_over(stack: Stack) -> None:
    job, _ = stack.queue.submit(KIND, REQUEST)
    first, _ = stack.held(job)
    _, child = stack.helped(job)
    first.kill()
    first.wait()
    stack.wait_until(lambda: told_to_end(child), what="the helper to claim the job", deadline_s=30)
    assert stack.queue.get(job.id).attempt == 2
    child.resume()
    stack.whole(job)
    assert "committed the shard first" not in stack.logs.read_text()


def test_a_waiting_job_goes_first_and_a_cancelled_one_ends_everywhere(stack: Stack) -> None:
    job, _ = stack.queue.submit(KIND, REQUEST)
    _, child = stack.held(job)
    helper, helping = stack.helped(job)
    waiting, _ = stack.queue.submit(KIND, {**REQUEST, "name": "other", "images": {"path": "set", "limit": 10}})
    stack.wait_until(lambda: told_to_end(helping), what="the end of the help", deadline_s=30)
    helping.resume()
    assert stack.end(waiting).state is JobState.SUCCEEDED
    assert stack.queue.get(job.id).state is JobState.RUNNING

    stack.wait_until(lambda: stack.queue.get(job.id).workers == 2, what="more help", deadline_s=30)
    stack.wait_until(lambda: psutil.Process(helper.pid).children(), what="the helper's child")
    family = [child, *psutil.Process(helper.pid).children()]
    stack.queue.cancel(job.id)
    stack.wait_until(lambda: told_to_end(child), what="the word to the child", deadline_s=30)
    child.resume()
    assert stack.end(job).state is JobState.CANCELLED
    stack.wait_until(lambda: not any(each.is_running() for each in family), what="the end of both", deadline_s=30)
