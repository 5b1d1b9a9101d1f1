"""Workers and children that are killed or stopped in the middle of a job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Job

from tests.conftest import WORKER_OPTIONS, JobFile, MakeJobFile, RunWorker, StartWorker, WaitUntil

LEASE_S = 3.0

Running = tuple[str, JobFile, Callable[..., None]]


@pytest.fixture
def running(queue: JobQueue, job_file: MakeJobFile, wait_until: WaitUntil) -> Running:
    """Submit a job that waits for its gate; call it once a worker is there."""
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))

    def started(times: int = 1) -> None:
        wait_until(lambda: len(file.lines("start")) == times, what=f"start number {times}")

    return job.id, file, started


def ended(queue: JobQueue, job_id: str, wait_until: WaitUntil) -> Job:
    wait_until(lambda: queue.get(job_id).state.terminal, what="end of the job")
    return queue.get(job_id)


def test_killed_child_is_replaced(
    queue: JobQueue, run_worker: RunWorker, running: Running, wait_until: WaitUntil
) -> None:
    job_id, file, started = running
    run_worker(lease_s=LEASE_S)
    started(1)
    os.kill(file.pids()[0], signal.SIGKILL)
    started(2)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("end")) == 1


def test_job_of_a_killed_worker_is_finished_by_another(
    queue: JobQueue,
    start_worker: StartWorker,
    run_worker: RunWorker,
    running: Running,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    job_id, file, started = running
    first = start_worker(lease_s=LEASE_S)
    started(1)
    run_worker(lease_s=LEASE_S)
    first.end()
    wait_until(lambda: not is_alive(file.pids()[0]), what="the child dies with its worker")
    started(2)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("end")) == 1


def test_a_killed_workers_job_is_claimed_again_when_its_lease_is_over(
    queue: JobQueue, start_worker: StartWorker, run_worker: RunWorker, running: Running
) -> None:
    """Prints how long it took after the lease (`pytest -s`). Fails without: the reaping of leases that are over."""
    _, file, started = running
    first = start_worker(lease_s=LEASE_S)
    started(1)
    run_worker(lease_s=LEASE_S)
    first.end()
    killed = time.monotonic()
    started(2)
    took = time.monotonic() - killed
    file.let_go()
    assert took > LEASE_S - 2 * WORKER_OPTIONS["beat_s"], "nobody takes a job whose lease is not over"
    print(f"{took:.2f} s after its worker was killed, with a lease of {LEASE_S:.0f} s")  # noqa: T201


def test_child_that_hears_nothing_dies_with_its_worker(
    queue: JobQueue,
    start_worker: StartWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    file = job_file()
    queue.submit("work", file.request("deaf"))
    worker = start_worker(lease_s=LEASE_S)
    wait_until(lambda: file.lines("deaf"), what="start of the job")
    worker.end()
    wait_until(lambda: not is_alive(file.pids()[0]), what="end of the child")


def test_stopped_worker_is_fenced_when_it_continues(
    queue: JobQueue,
    start_worker: StartWorker,
    run_worker: RunWorker,
    running: Running,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the owner and the attempt that each report of a worker must name."""
    job_id, file, started = running
    zombie = start_worker(lease_s=LEASE_S)
    started(1)
    zombie.send(signal.SIGSTOP)
    run_worker(lease_s=LEASE_S)
    started(2)
    first, second = file.pids()
    zombie.send(signal.SIGCONT)
    wait_until(lambda: not is_alive(first), what="the fenced worker kills its child")
    assert is_alive(second)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("start")) == 2


def test_job_that_takes_its_workers_down_fails_in_the_end(
    queue: JobQueue, start_worker: StartWorker, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"), max_attempts=2)
    for starts in (1, 2):
        worker = start_worker(lease_s=LEASE_S)
        wait_until(lambda n=starts: len(file.lines("start")) == n, what=f"start number {starts}")
        worker.end()
    run_worker(lease_s=LEASE_S)
    job = ended(queue, job.id, wait_until)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "worker_died", 2)
    assert len(file.lines("start")) == 2


def test_worker_killed_while_its_job_is_cancelled_leaves_it_cancelled(
    queue: JobQueue, start_worker: StartWorker, run_worker: RunWorker, running: Running, wait_until: WaitUntil
) -> None:
    job_id, _, started = running
    worker = start_worker(lease_s=LEASE_S)
    started(1)
    worker.end()
    queue.cancel(job_id)
    run_worker(lease_s=LEASE_S)
    assert ended(queue, job_id, wait_until).state is JobState.CANCELLED
