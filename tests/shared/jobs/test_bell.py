"""A worker that waits hears at once of a job that it can claim."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from shoal.jobs import worker as working
from shoal.jobs.bell import Bell
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState

from tests.conftest import MakeJobFile, RedisServer, RunWorker, WaitUntil

FOREVER_S = 3600.0


class Waiting:
    """A bell that is waited for in a thread."""

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self.read, self.write = os.pipe()
        self.thread = threading.Thread(target=bell.wait, args=(FOREVER_S, self.read))

    def end(self) -> None:
        os.write(self.write, b".")
        self.thread.join()
        self.bell.close()
        for end in (self.read, self.write):
            os.close(end)


@pytest.fixture
def listening(queue: JobQueue, redis_client: redis.Redis, wait_until: WaitUntil) -> Iterator[Waiting]:
    """A bell for jobs of kind `work`, about which the server knows."""
    waiting = Waiting(queue.bell(["work"]))
    waiting.thread.start()
    wait_until(lambda: redis_client.pubsub_numsub("shoal:bell:work")[0][1] == 1, what="the server knows the listener")
    yield waiting
    waiting.end()


def test_a_submitted_job_rings(queue: JobQueue, listening: Waiting, wait_until: WaitUntil) -> None:
    queue.submit("work", {})
    wait_until(lambda: not listening.thread.is_alive())


def test_a_job_that_is_handed_back_rings(queue: JobQueue, wait_until: WaitUntil, redis_client: redis.Redis) -> None:
    queue.submit("work", {})
    claim = queue.claim(["work"], "first")
    waiting = Waiting(queue.bell(["work"]))
    waiting.thread.start()
    wait_until(lambda: redis_client.pubsub_numsub("shoal:bell:work")[0][1] == 1)
    queue.hand_back(claim)
    wait_until(lambda: not waiting.thread.is_alive())
    waiting.end()


def test_a_job_of_another_kind_does_not_ring(queue: JobQueue, listening: Waiting) -> None:
    queue.submit("other", {})
    listening.thread.join(0.3)
    assert listening.thread.is_alive()


def test_a_message_that_came_before_the_wait_ends_it_at_once(
    queue: JobQueue, listening: Waiting, wait_until: WaitUntil
) -> None:
    queue.submit("work", {})
    wait_until(lambda: not listening.thread.is_alive())
    queue.submit("work", {})
    listening.bell.wait(FOREVER_S, listening.read)


def test_what_wakes_the_worker_ends_the_wait(listening: Waiting, wait_until: WaitUntil) -> None:
    os.write(listening.write, b".")
    wait_until(lambda: not listening.thread.is_alive())


def test_a_server_that_goes_ends_the_wait_and_is_listened_to_again(
    own_redis: RedisServer, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.jobs.bell.RETRY_S", 0.0)
    queue = JobQueue.from_url(own_redis.url)
    waiting = Waiting(queue.bell(["work"]))
    waiting.thread.start()
    client = redis.Redis.from_url(own_redis.url)
    wait_until(lambda: client.pubsub_numsub("shoal:bell:work")[0][1] == 1)
    own_redis.kill()
    wait_until(lambda: not waiting.thread.is_alive())
    own_redis.start()
    waiting.thread = threading.Thread(target=waiting.bell.wait, args=(FOREVER_S, waiting.read))
    waiting.thread.start()
    wait_until(lambda: client.pubsub_numsub("shoal:bell:work")[0][1] == 1)
    queue.submit("work", {})
    wait_until(lambda: not waiting.thread.is_alive())
    waiting.end()
    client.close()
    queue.close()


def test_a_worker_that_would_ask_once_an_hour_takes_a_job_at_once(
    queue: JobQueue,
    run_worker: RunWorker,
    redis_client: redis.Redis,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(working, "POLL_S", FOREVER_S)
    run_worker()
    wait_until(lambda: redis_client.pubsub_numsub("shoal:bell:work")[0][1] == 1)
    job, _ = queue.submit("work", job_file().request())
    wait_until(lambda: queue.get(job.id).state is JobState.SUCCEEDED)


def test_a_user_that_may_not_publish_submits_and_claims_all_the_same(
    redis_server: str, redis_client: redis.Redis, queue: JobQueue, wait_until: Callable[..., None]
) -> None:
    redis_client.acl_setuser("quiet", enabled=True, nopass=True, keys=["*"], commands=["+@all"], reset_channels=True)
    client = redis.Redis.from_url(redis_server, username="quiet", password="any")
    quiet = JobQueue(client)
    read, write = os.pipe()
    try:
        job, _ = quiet.submit("work", {})
        bell = quiet.bell(["work"])
        for _ in range(3):
            bell.wait(0.01, read)
        bell.close()
        claim = quiet.claim(["work"], "worker")
        assert claim is not None
        assert claim.job.id == job.id
    finally:
        redis_client.acl_deluser("quiet")
        client.close()
        for end in (read, write):
            os.close(end)
