"""The network to the queue is slow, cut, or silent: jobs go on, leases tell the truth, the APIs say so in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.process import free_port

from tests.conftest import JobFile, MakeJobFile, RedisServer, StartWorker, WaitUntil
from tests.faults.proxy import Proxy

LEASE_S = 3.0
ANSWER_S = 30.0
"""An API waits 10 seconds for its queue; this is for a slow machine."""


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[Proxy]:
    """A network to the test's own server."""
    made = Proxy(own_redis.socket)
    yield made
    made.close()


def started(file: JobFile, wait_until: WaitUntil, times: int = 1) -> None:
    wait_until(lambda: len(file.lines("start")) == times, what=f"start number {times}")


def for_a_while(seconds: float, wait_until: WaitUntil) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end)


def assert_ran(queue: JobQueue, job_id: str, file: JobFile, wait_until: WaitUntil, *, attempts: int) -> None:
    """The job ends, in that many attempts, of which one came to its end."""
    file.let_go()
    wait_until(lambda: queue.get(job_id).state.terminal, what="end of the job")
    job = queue.get(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, attempts)
    assert (len(file.lines("start")), len(file.lines("end"))) == (attempts, 1)


def test_a_slow_network_makes_no_job_run_twice(
    proxy: Proxy, own_queue: JobQueue, start_worker: StartWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """Fails without: the renewal of a lease several times before it is over."""
    file = job_file()
    proxy.delay_s = 0.2
    job, _ = own_queue.submit("work", file.request("wait"))
    for _ in range(2):
        start_worker(url=proxy.url, lease_s=LEASE_S)
    started(file, wait_until)
    for_a_while(2 * LEASE_S, wait_until)
    assert_ran(own_queue, job.id, file, wait_until, attempts=1)


def test_cut_connections_make_no_job_run_twice(
    proxy: Proxy, own_queue: JobQueue, start_worker: StartWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """Fails without: going on with the job while the queue is unreachable."""
    file = job_file()
    job, _ = own_queue.submit("work", file.request("wait"))
    workers = [start_worker(url=proxy.url, lease_s=LEASE_S) for _ in range(2)]
    started(file, wait_until)
    for _ in range(20):
        proxy.cut()
        for_a_while(0.1, wait_until)
    proxy.cut(refuse=True)
    for_a_while(LEASE_S / 3, wait_until)
    proxy.flow()
    for_a_while(LEASE_S, wait_until)
    assert [each.process.poll() for each in workers] == [None, None]
    assert_ran(own_queue, job.id, file, wait_until, attempts=1)


def test_a_worker_that_the_network_forgot_loses_its_lease_and_is_fenced(
    proxy: Proxy,
    own_redis: RedisServer,
    own_queue: JobQueue,
    start_worker: StartWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the owner and the attempt that each report of a worker must name."""
    file = job_file()
    job, _ = own_queue.submit("work", file.request("wait"))
    lost = start_worker(url=proxy.url, lease_s=LEASE_S)
    started(file, wait_until)
    proxy.silence()
    start_worker(url=own_redis.url, lease_s=LEASE_S)
    started(file, wait_until, 2)
    first, second = file.pids()
    proxy.flow()
    wait_until(lambda: not is_alive(first), what="the former owner ends its child")
    assert is_alive(second)
    assert lost.process.poll() is None
    assert_ran(own_queue, job.id, file, wait_until, attempts=2)


@pytest.fixture
def api(tmp_path: Path, proxy: Proxy, wait_until: WaitUntil) -> Iterator[str]:
    """The extractor's API behind the network, and an image."""
    (tmp_path / "data" / "set").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / "set" / "a.png")
    folders = {"SHOAL_DATA": str(tmp_path / "data"), "SHOAL_STORE": str(tmp_path / "store")}
    port = free_port()
    command = [sys.executable, "-m", "extractor", "api", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, **folders, "REDIS_URL": proxy.url})
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(up, what="the API")
        yield url
    finally:
        process.kill()
        process.wait()


def post(url: str) -> httpx.Response:
    body = {"images": {"path": "set"}, "model": "raw_pixels"}
    return httpx.post(f"{url}/extract", json=body, headers={"Idempotency-Key": "one"}, timeout=ANSWER_S)


def test_an_api_whose_queue_is_silent_says_so_in_time_and_makes_one_job_of_what_arrives_late(
    proxy: Proxy, own_queue: JobQueue, api: str, wait_until: WaitUntil
) -> None:
    """Fails without: the limit of time for an answer of the queue."""
    assert httpx.get(f"{api}/jobs", timeout=ANSWER_S).status_code == httpx.codes.OK
    proxy.silence()
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(post, api), pool.submit(httpx.get, f"{api}/jobs", timeout=ANSWER_S)]
        answers = [each.result() for each in asked]
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(503, "queue_unavailable")] * 2
    assert httpx.get(f"{api}/healthz", timeout=ANSWER_S).is_success
    proxy.flow()
    answer = post(api)
    assert answer.is_success, answer.text
    assert [job.id for job in own_queue.list().jobs] == [answer.json()["id"]]


def test_an_api_that_is_cut_off_says_so_and_goes_on_once_it_is_not(
    proxy: Proxy, own_queue: JobQueue, api: str, wait_until: WaitUntil
) -> None:
    """Fails without: a lost connection meaning that the queue is unavailable."""
    proxy.cut(refuse=True)
    answer = post(api)
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
    proxy.flow()
    answer = post(api)
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    assert [job.id for job in own_queue.list().jobs] == [answer.json()["id"]]
