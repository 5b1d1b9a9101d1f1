"""Workers and children that are killed or stopped in the middle of a job."""

from __future__ import annotations

import os
import signal

import pytest
from shoal.jobs.states import JobState


@pytest.fixture
def running(queue, job_file, wait_until):
    """Submit a job that waits for its gate; call it once a worker is there."""
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))

    def started(times: int = 1) -> None:
        wait_until(lambda: len(file.lines("start")) == times, what=f"start number {times}")

    return job.id, file, started


def ended(queue, job_id, wait_until):
    wait_until(lambda: queue.get(job_id).state.terminal, what="end of the job")
    return queue.get(job_id)


def test_killed_child_is_replaced(queue, run_worker, running, wait_until):
    job_id, file, started = running
    run_worker()
    started(1)
    os.kill(file.pids()[0], signal.SIGKILL)
    started(2)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("end")) == 1


def test_job_of_a_killed_worker_is_finished_by_another(queue, start_worker, run_worker, running, wait_until, is_alive):
    job_id, file, started = running
    first = start_worker()
    started(1)
    run_worker()
    first.end()
    wait_until(lambda: not is_alive(file.pids()[0]), what="the child dies with its worker")
    started(2)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("end")) == 1


def test_stopped_worker_is_fenced_when_it_continues(queue, start_worker, run_worker, running, wait_until, is_alive):
    job_id, file, started = running
    zombie = start_worker()
    started(1)
    zombie.send(signal.SIGSTOP)
    run_worker()
    started(2)
    first, second = file.pids()
    zombie.send(signal.SIGCONT)
    wait_until(lambda: not is_alive(first), what="the fenced worker kills its child")
    assert is_alive(second)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("start")) == 2


def test_job_that_takes_its_workers_down_fails_after_exactly_three(
    queue, start_worker, run_worker, running, wait_until
):
    job_id, file, started = running
    for attempt in (1, 2, 3):
        worker = start_worker()
        started(attempt)
        worker.end()
    run_worker()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "worker_died", 3)
    assert len(file.lines("start")) == 3


def test_worker_killed_while_its_job_is_cancelled_leaves_it_cancelled(
    queue, start_worker, run_worker, running, wait_until
):
    job_id, _, started = running
    worker = start_worker()
    started(1)
    worker.end()
    queue.cancel(job_id)
    run_worker()
    assert ended(queue, job_id, wait_until).state is JobState.CANCELLED
