"""Faults around the queue: many workers at once, lost data, a full disk, an API that dies, clocks that are wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from shoal.errors import JobNotFound, QueueUnavailable
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.process import free_port
from shoal.store import Store

from tests.conftest import PROGRAMS, WORKER_OPTIONS, MakeJobFile, RedisServer, WaitUntil
from tests.faults.test_sharing import IMAGES, KIND, REQUEST, SHARD, Stack

JOBS, WORKERS = 200, 20
CLOCK_LEASE_S = 1.5
LIBFAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def test_of_many_workers_each_job_goes_to_one(queue: JobQueue, redis_server: str) -> None:
    """Fails without: the claim, which takes a job out of the line."""
    jobs = [queue.submit("work", {"number": number})[0].id for number in range(JOBS)]
    begin = threading.Barrier(WORKERS)
    claimed: list[tuple[str, str]] = []

    def work(name: str) -> None:
        own = JobQueue.from_url(redis_server)
        begin.wait()
        while (claim := own.claim(["work"], name)) is not None:
            claimed.append((claim.job.id, name))
            assert own.succeed(claim, {"by": name})
        own.close()

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(WORKERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert Counter(job for job, _ in claimed) == Counter(jobs)
    assert len({name for _, name in claimed}) > 1, "they raced"
    for job, name in claimed:
        done = queue.get(job)
        assert (done.state, done.attempt, done.result) == (JobState.SUCCEEDED, 1, {"by": name})


@pytest.fixture
def stack(tmp_path: Path, own_redis: RedisServer, own_queue: JobQueue, wait_until: WaitUntil) -> Iterator[Stack]:
    """Workers on a queue that the test may lose; killed after the test."""
    made = Stack(tmp_path, own_redis.url, own_queue, wait_until)
    yield made
    for worker in made.workers:
        worker.kill()
        worker.wait()


def test_after_the_queues_data_is_lost_the_same_request_goes_on(
    stack: Stack, own_redis: RedisServer, own_queue: JobQueue, wait_until: WaitUntil
) -> None:
    """Fails without: the end of a child whose worker has lost its lease."""
    job, _ = own_queue.submit(KIND, REQUEST)
    _, child = stack.held(job)
    kept = commits(stack)
    assert 2 <= len(kept) < IMAGES // SHARD
    own_redis.kill()
    shutil.rmtree(own_redis.folder / "appendonlydir")
    own_redis.start()
    # It stands still: it does not end by itself.
    wait_until(lambda: not child.is_running(), what="end of the job that the queue no longer knows")
    with pytest.raises(JobNotFound):
        own_queue.get(job.id)
    again, created = own_queue.submit(KIND, REQUEST)
    assert created
    embeddings, result = stack.whole(again)
    assert kept.items() <= embeddings.commits.items()
    assert result["resumed_rows"] >= sum(commit.rows for commit in kept.values())


def commits(stack: Stack) -> dict[int, Any]:
    """The committed shards."""
    store = Store(stack.root / "store")
    return {
        shard: commit for each in store.embeddings_ids() for shard, commit in store.embeddings(each).commits.items()
    }


def test_a_queue_on_a_full_disk_refuses_jobs_and_goes_on_once_there_is_space(
    tiny_disk: Path, wait_until: WaitUntil
) -> None:
    """Fails without: the errors of a server that cannot write meaning that the queue is unavailable."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="shoal-redis-")), data=tiny_disk)
    try:
        server.start()
        queue = JobQueue.from_url(server.url)
        taken: list[str] = []

        def refuses() -> bool:
            try:
                taken.append(queue.submit("work", {"number": len(taken), "filler": "x" * 4096})[0].id)
            except QueueUnavailable:
                return True
            return False

        ballast = tiny_disk / "ballast"
        ballast.write_bytes(b"x" * 300_000)
        wait_until(refuses, what="a full disk to be refused")
        assert queue.get(taken[0]).state is JobState.QUEUED
        ballast.unlink()
        wait_until(lambda: not refuses(), what="jobs to be taken again")
        queue.close()
        server.kill()
        server.start()
        queue = JobQueue.from_url(server.url)
        assert {queue.get(job).state for job in taken[:-1]} == {JobState.QUEUED}
        queue.close()
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def test_a_post_repeated_to_an_api_that_died_in_it_makes_one_job(
    tmp_path: Path, own_redis: RedisServer, own_queue: JobQueue, wait_until: WaitUntil
) -> None:
    """Fails without: the key, which the script that makes the job keeps."""
    port, store = free_port(), tmp_path / "store"
    (tmp_path / "data" / "set").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[2] / "docs" / "pictures" / "wall-1280-light.webp", tmp_path / "data" / "set")
    env = {**os.environ, "SHOAL_DATA": str(tmp_path / "data"), "SHOAL_STORE": str(store), "REDIS_URL": own_redis.url}

    def post() -> httpx.Response:
        body = {"images": {"path": "set"}, "model": "raw_pixels"}
        return httpx.post(f"http://127.0.0.1:{port}/extract", json=body, headers={"Idempotency-Key": "one"}, timeout=60)

    def up() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    dying = subprocess.Popen([sys.executable, str(PROGRAMS / "dying_api.py"), str(port)], env=env)
    wait_until(up, what="the API")
    with pytest.raises(httpx.HTTPError):
        post()
    assert dying.wait(30) == -9
    api = subprocess.Popen([sys.executable, "-m", "extractor", "api", "--port", str(port)], env=env)
    try:
        wait_until(up, what="the API")
        answer = post()
        assert answer.status_code == httpx.codes.ACCEPTED
        assert [job.id for job in own_queue.list().jobs] == [answer.json()["id"]]
    finally:
        api.terminate()
        api.wait(30)


@pytest.mark.skipif(not LIBFAKETIME, reason="needs libfaketime, of Debian's package faketime")
@pytest.mark.parametrize("offset", ["-1h", "+1h"])
def test_a_worker_whose_clock_is_an_hour_off_holds_its_job_until_it_dies(
    offset: str, queue: JobQueue, redis_server: str, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """Fails without: the server's own clock, by which each script measures leases."""
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))
    options = json.dumps({"url": redis_server, "name": "off", **WORKER_OPTIONS, "lease_s": CLOCK_LEASE_S})
    false_clock = {"LD_PRELOAD": str(LIBFAKETIME[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    command = [sys.executable, str(PROGRAMS / "worker.py"), options]
    workers = [subprocess.Popen(command, env={**os.environ, **false_clock})]
    try:
        wait_until(lambda: file.lines("start"), what="start of the job")
        workers.append(subprocess.Popen([*command[:2], json.dumps({**json.loads(options), "name": "right"})]))
        short, _ = queue.submit("work", job_file("short").request())
        wait_until(lambda: queue.get(short.id).state.terminal, what="a job of the other worker")
        end = time.monotonic() + 2 * CLOCK_LEASE_S
        wait_until(lambda: time.monotonic() > end, what="two leases")
        assert len(file.lines("start")) == 1
        workers[0].kill()
        wait_until(lambda: len(file.lines("start")) == 2, what="the other worker to take the job")
        file.let_go()
        wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job")
    finally:
        for each in workers:
            each.kill()
            each.wait()
    done = queue.get(job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    assert (done.finished_at - done.created_at).total_seconds() < 600
