"""An extraction into a bucket whose worker is killed between two shards, continued elsewhere, and clustered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline as clustering
from extractor import pipeline
from PIL import Image
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.settings import Settings
from shoal.store import Store

from tests.s3 import client_of, empty_bucket, s3_server

IMAGES, SHARD = 90, 6
REQUEST = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 6, "shard_rows": SHARD}
URL = "s3://killed/shoal"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, which this process and those that it starts find."""
    with s3_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = client_of(environment)
        empty_bucket(client, "killed")
        yield client


@pytest.fixture
def start(tmp_path: Path, redis_server: str) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start an extraction worker with its own copies of what is in the bucket."""
    workers: list[subprocess.Popen[bytes]] = []
    env = {
        "SHOAL_DATA": str(tmp_path / "data"),
        "SHOAL_STORE": str(tmp_path / "store"),
        "SHOAL_MODELS": str(tmp_path / "models"),
        "SHOAL_EMBEDDINGS_STORE": URL,
        "REDIS_URL": redis_server,
        "SHOAL_LEASE_S": "3",
        "SHOAL_BEAT_S": "0.5",
        "SHOAL_DECODE_WORKERS": "1",
        # raw_pixels needs no PyTorch, which a child that is started ahead would import.
        "SHOAL_AHEAD": "false",
    }

    def run(cache: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "extractor", "worker", "--backend", "torch"]
        own = {"SHOAL_EMBEDDINGS_CACHE": str(tmp_path / cache)}
        workers.append(subprocess.Popen(command, env={**os.environ, **env, **own}))
        return workers[-1]

    yield run
    for worker in workers:
        worker.kill()
        worker.wait()


def test_a_job_goes_on_after_the_shards_of_a_killed_worker(
    tmp_path: Path,
    bucket: Any,
    queue: JobQueue,
    start: Callable[[str], subprocess.Popen[bytes]],
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails without: the commits of earlier attempts, whose shards are left out of the next one."""
    for i in range(IMAGES):
        path = tmp_path / "data/set" / "ab"[i % 2] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)

    def committed() -> list[str]:
        found = bucket.list_objects_v2(Bucket="killed").get("Contents", [])
        return [each["Key"] for each in found if "/commits/" in each["Key"]]

    job, _ = queue.submit("extract:torch", REQUEST)
    first = start("first")
    wait_until(lambda: len(committed()) >= 2, what="commits of the first worker")
    first.kill()
    first.wait()
    kept = len(committed())
    assert kept < IMAGES // SHARD
    start("second")
    wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job", deadline_s=120)
    done = queue.get(job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert done.result is not None
    assert done.result["resumed_rows"] >= SHARD * kept

    settings = Settings(
        data=tmp_path / "data",
        models=tmp_path / "models",
        store=tmp_path / "results",
        embeddings_store=URL,
        embeddings_cache=tmp_path / "third",
        decode_workers=1,
    )
    embeddings_id = done.result["embeddings"]
    store = Store.of(settings)
    assert store.verify(embeddings_id).ok
    folder = settings.model_copy(update={"embeddings_store": None})
    pipeline.run(JobContext.local(REQUEST, kind="extract:torch"), folder)
    same = [each.embeddings(embeddings_id) for each in (store, Store.of(folder))]
    files = [[record for commit in each.commits.values() for record in commit.files] for each in same]
    assert files[0] == files[1]
    assert {commit.attempt for commit in same[0].commits.values()} == {1, 2}

    request = {"embeddings": embeddings_id, "clusters": 2, "pca": None, "memory_limit": "1GiB"}
    made = [
        store.clustering(clustering.run(JobContext.local(request, kind="cluster"), each)["clustering"])
        for each in (settings, folder)
    ]
    assert made[0].assignments().equals(made[1].assignments())
    assert not (tmp_path / "store/embeddings").exists()
