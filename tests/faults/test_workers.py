"""Workers and children that are killed or stopped in the middle of a job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import redis
from shoal.jobs.queue import JobQueue
from shoal.jobs.redis_scripts import micros
from shoal.jobs.states import JobState
from shoal.schemas import Job

from tests.conftest import WORKER_OPTIONS, JobFile, MakeJobFile, RunWorker, StartWorker, WaitUntil, WorkerProcess

LEASE_S = 3.0
SOON_S = 2.0
"""Within so long after the end of a lease the job has its next owner: `docs/RELIABILITY.md`, "How soon"."""

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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_killed_child_is_replaced(
    queue: JobQueue, run_worker: RunWorker, running: Running, wait_until: WaitUntil, number: signal.Signals
) -> None:
    """As the kernel kills it when memory is used up, or as it crashes.

    Fails without: another attempt after a child that died.
    """
    job_id, file, started = running
    run_worker(lease_s=LEASE_S)
    started(1)
    os.kill(file.pids()[0], number)
    started(2)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("end")) == 1


def test_a_job_that_asks_for_more_memory_than_it_gets_fails_at_once_with_what_to_lower(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """The same request would ask for as much again."""
    file = job_file()
    job, _ = queue.submit("work", file.request("hoard"))
    run_worker(lease_s=LEASE_S)
    job = ended(queue, job.id, wait_until)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "out_of_memory", 1)
    assert "`memory_limit`" in job.error["detail"]
    after, _ = queue.submit("work", file.request())
    assert ended(queue, after.id, wait_until).state is JobState.SUCCEEDED


def test_job_of_a_killed_worker_is_finished_by_another(
    queue: JobQueue,
    start_worker: StartWorker,
    run_worker: RunWorker,
    running: Running,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the reaping of leases that are over."""
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


@pytest.fixture
def written(redis_client: redis.Redis) -> Iterator[Callable[[], list[list[str]]]]:
    """``written()``: the words of all commands since the start that the server has run, those of scripts included."""
    lines: list[list[str]] = []
    watching = threading.Event()

    def watch() -> None:
        with redis_client.monitor() as monitor:  # type: ignore[no-untyped-call]
            watching.set()
            for each in monitor.listen():
                lines.append(str(each["command"]).split())
                if lines[-1][-1] == "watched":
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    watching.wait()

    def stop() -> list[list[str]]:
        redis_client.echo("watched")
        thread.join()
        return lines

    yield stop
    if thread.is_alive():
        stop()


def test_a_killed_workers_job_is_claimed_again_when_its_lease_is_over(
    start_worker: StartWorker, run_worker: RunWorker, running: Running, written: Callable[[], list[list[str]]]
) -> None:
    """By the queue's clock; prints how soon (`pytest -s`). Fails without: the reaping of leases that are over."""
    job_id, file, started = running
    first = start_worker(lease_s=LEASE_S)
    started(1)
    run_worker(lease_s=LEASE_S)
    first.end()
    started(2)
    file.let_go()

    lines = written()
    owners = [at for at, each in enumerate(lines) if each[:3] == ["HSET", f"shoal:job:{job_id}", "owner"]]
    leases = [
        (at, int(each[2])) for at, each in enumerate(lines) if each[:2] == ["ZADD", "shoal:leases"] and job_id in each
    ]
    assert len(owners) == 2
    over = max(ends for at, ends in leases if at < owners[1])
    claimed = next(ends for at, ends in leases if at > owners[1]) - micros(LEASE_S)
    looks = [int(each[-1]) for each in lines if each[:2] == ["HSET", "shoal:reaper"]]
    # What kept the idle worker from looking, on a machine that is busy, is no delay of the queue.
    kept = max(later - sooner for sooner, later in pairwise(looks) if over - micros(LEASE_S) < later)
    allowed = micros(SOON_S) + max(0, kept - micros(WORKER_OPTIONS["beat_s"]))
    assert 0 <= claimed - over < allowed
    print(f"{(claimed - over) / 1e6:.2f} s after a lease of {LEASE_S:.0f} s was over")  # noqa: T201


def test_child_that_hears_nothing_dies_with_its_worker(
    queue: JobQueue,
    start_worker: StartWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the death signal that a child asks the kernel for."""
    file = job_file()
    queue.submit("work", file.request("deaf"))
    worker = start_worker(lease_s=LEASE_S)
    wait_until(lambda: file.lines("deaf"), what="start of the job")
    worker.end()
    wait_until(lambda: not is_alive(file.pids()[0]), what="end of the child")


def taken_over(
    running: Running, start_worker: StartWorker, start_other: Callable[..., object]
) -> tuple[WorkerProcess, int, int]:
    """A worker that stands still past its lease, its child, and that of the other worker that has its job now."""
    _, file, started = running
    zombie = start_worker(lease_s=LEASE_S)
    started(1)
    zombie.send(signal.SIGSTOP)
    start_other(lease_s=LEASE_S)
    started(2)
    first, second = file.pids()
    return zombie, first, second


def test_stopped_worker_is_fenced_when_it_continues(
    queue: JobQueue,
    start_worker: StartWorker,
    run_worker: RunWorker,
    running: Running,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the owner and the attempt that each report of a worker must name."""
    job_id, file, _ = running
    zombie, first, second = taken_over(running, start_worker, run_worker)
    zombie.send(signal.SIGCONT)
    wait_until(lambda: not is_alive(first), what="the fenced worker kills its child")
    assert is_alive(second)
    file.let_go()
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert len(file.lines("start")) == 2


def test_the_end_that_a_stopped_worker_reports_late_is_refused(
    queue: JobQueue,
    start_worker: StartWorker,
    running: Running,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the owner and the attempt that each report of a worker must name."""
    job_id, file, _ = running
    zombie, first, second = taken_over(running, start_worker, start_worker)
    os.kill(second, signal.SIGSTOP)
    file.let_go()
    wait_until(lambda: not is_alive(first), what="end of the stopped worker's child")
    zombie.send(signal.SIGCONT)
    # It takes this one when it has told the queue how the other ended.
    after, _ = queue.submit("work", job_file("after").request())
    ended(queue, after.id, wait_until)
    job = queue.get(job_id)
    assert (job.state, job.attempt) == (JobState.RUNNING, 2)
    os.kill(second, signal.SIGCONT)
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)


def test_job_that_takes_its_workers_down_fails_in_the_end(
    queue: JobQueue, start_worker: StartWorker, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    """Fails without: the reaping of leases that are over."""
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
    """Fails without: the look at the wish to cancel before a job is queued again."""
    job_id, file, started = running
    worker = start_worker(lease_s=LEASE_S)
    started(1)
    worker.end()
    queue.cancel(job_id)
    run_worker(lease_s=LEASE_S)
    job = ended(queue, job_id, wait_until)
    assert (job.state, job.attempt, len(file.lines("start"))) == (JobState.CANCELLED, 1, 1)
