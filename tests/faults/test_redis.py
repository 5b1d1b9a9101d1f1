"""The queue's server is killed, or hangs, in the middle of a job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest
import redis
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState

from tests.conftest import JobFile, MakeJobFile, RedisServer, StartWorker, WaitUntil, WorkerProcess

LEASE_S = 3.0

Scene = tuple[str, JobFile, list[WorkerProcess]]


@pytest.fixture
def scene(
    own_redis: RedisServer, own_queue: JobQueue, start_worker: StartWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> Scene:
    """Two workers, one of which runs a job that waits for its gate."""
    file = job_file()
    job, _ = own_queue.submit("work", file.request("wait"))
    workers = [start_worker(url=own_redis.url, lease_s=LEASE_S) for _ in range(2)]
    wait_until(lambda: file.lines("start"), what="start of the job")
    return job.id, file, workers


def run_on_for(seconds: float, workers: list[WorkerProcess], file: JobFile) -> None:
    """Everybody stays alive for that long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert all(worker.process.poll() is None for worker in workers)
        os.kill(file.pids()[0], 0)
        time.sleep(0.1)


def owner_of(scene: Scene) -> WorkerProcess:
    """The worker that runs the job."""
    _, file, workers = scene
    [owner] = [each for each in workers if each.process.pid == psutil.Process(file.pids()[0]).ppid()]
    return owner


def look_for_lost_leases(server: RedisServer, wait_until: WaitUntil) -> None:
    """Wait until a worker has done so."""
    client = redis.Redis.from_url(server.url)
    before = client.hget("shoal:reaper", "at")
    wait_until(lambda: client.hget("shoal:reaper", "at") != before, what="a look for leases that are over")
    client.close()


def assert_one_run(queue: JobQueue, job_id: str, file: JobFile, wait_until: WaitUntil) -> None:
    file.let_go()
    wait_until(lambda: queue.get(job_id).state.terminal, what="end of the job")
    job = queue.get(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert len(file.lines("start")) == 1
    assert len(file.lines("end")) == 1


OUTAGES_S = [2 * LEASE_S, *(pytest.param(each, marks=pytest.mark.faults_long) for each in (1.0, 15.0, 60.0))]


@pytest.mark.parametrize("outage_s", OUTAGES_S)
def test_restarted_server_makes_no_job_run_twice(
    own_redis: RedisServer, own_queue: JobQueue, scene: Scene, wait_until: WaitUntil, outage_s: float
) -> None:
    """The worker without a job is the first to come back. Fails without: all leases starting again after an outage."""
    job_id, file, workers = scene
    own_redis.kill()
    run_on_for(outage_s, workers, file)
    owner_of(scene).send(signal.SIGSTOP)
    own_redis.start()
    look_for_lost_leases(own_redis, wait_until)
    owner_of(scene).send(signal.SIGCONT)
    run_on_for(1.5 * LEASE_S, workers, file)
    assert_one_run(own_queue, job_id, file, wait_until)


@pytest.mark.parametrize("outage_s", OUTAGES_S)
def test_hanging_server_makes_no_job_run_twice(
    own_redis: RedisServer, own_queue: JobQueue, scene: Scene, wait_until: WaitUntil, outage_s: float
) -> None:
    """The worker with the job has not asked for anything. Fails without: all leases starting again after an outage."""
    job_id, file, workers = scene
    owner_of(scene).send(signal.SIGSTOP)
    own_redis.pause()
    run_on_for(outage_s, workers, file)
    own_redis.resume()
    look_for_lost_leases(own_redis, wait_until)
    owner_of(scene).send(signal.SIGCONT)
    run_on_for(1.5 * LEASE_S, workers, file)
    assert_one_run(own_queue, job_id, file, wait_until)


def test_result_of_an_outage_is_delivered_after_it(
    own_redis: RedisServer, own_queue: JobQueue, scene: Scene, wait_until: WaitUntil, is_alive: Callable[[int], bool]
) -> None:
    """Fails without: the report of an end being repeated until the queue has it."""
    job_id, file, _ = scene
    own_redis.kill()
    file.let_go()
    wait_until(lambda: not is_alive(file.pids()[0]), what="end of the child")
    own_redis.start()
    assert_one_run(own_queue, job_id, file, wait_until)


def test_everything_submitted_and_ended_survives_a_crash(own_redis: RedisServer, own_queue: JobQueue) -> None:
    waiting, _ = own_queue.submit("work", {"x": 1}, idempotency_key="k")
    other, _ = own_queue.submit("other", {})
    own_queue.succeed(own_queue.claim(["other"], "worker"), {"y": 2})
    before = own_queue.list()
    own_redis.kill()
    own_redis.start()
    assert JobQueue.from_url(own_redis.url).list() == before
    assert own_queue.get(other.id).result == {"y": 2}
    assert own_queue.submit("work", {"x": 1}, idempotency_key="k") == (waiting, False)


def test_worker_started_before_its_server_waits_for_it(
    own_redis: RedisServer, own_queue: JobQueue, start_worker: StartWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """Fails without: going on with the job while the queue is unreachable."""
    job, _ = own_queue.submit("work", job_file().request())
    own_redis.kill()
    worker = start_worker(url=own_redis.url)
    with pytest.raises(Exception, match="timed out"):
        worker.process.wait(2.0)
    own_redis.start()
    wait_until(lambda: own_queue.get(job.id).state is JobState.SUCCEEDED, what="end of the job")
