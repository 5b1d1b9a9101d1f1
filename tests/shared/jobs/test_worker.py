"""What a worker does with jobs, seen from the queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shoal import disk
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.jobs.worker import Worker
from shoal.schemas import Job
from shoal.settings import Settings

from tests.conftest import PROGRAMS, WORKER_OPTIONS, MakeJobFile, RunWorker, StartWorker, WaitUntil


@pytest.fixture
def ended(queue: JobQueue, wait_until: Callable[..., None]) -> Callable[[str], Job]:
    """Wait for the end of a job and return it."""

    def wait(job_id: str) -> Job:
        wait_until(lambda: queue.get(job_id).state.terminal, what=f"end of job {job_id}")
        return queue.get(job_id)

    return wait


def test_jobs_are_run_each_once_by_several_workers(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    for _ in range(3):
        run_worker()
    files = [job_file(f"job{n}") for n in range(12)]
    ids = [queue.submit("work", file.request(value=n))[0].id for n, file in enumerate(files)]
    jobs = [ended(job_id) for job_id in ids]
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * len(ids)
    assert [job.result for job in jobs] == [{"value": n, "attempt": 1} for n in range(len(ids))]
    assert [len(file.lines("start")) for file in files] == [1] * len(ids)


def test_progress_and_final_progress_reach_the_queue(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil, ended: Callable[[str], Job]
) -> None:
    run_worker()
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))
    wait_until(lambda: queue.get(job.id).progress)
    assert queue.get(job.id).progress.stage == "wait"
    file.let_go()
    assert ended(job.id).state is JobState.SUCCEEDED


def test_failure_that_may_pass_is_tried_three_times(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    run_worker()
    file = job_file()
    job = ended(queue.submit("work", file.request("fail", error="transient"))[0].id)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "transient_failure", 3)
    assert len(file.lines("start")) == 3


def test_jobs_wait_while_the_stores_disk_is_full(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    ended: Callable[[str], Job],
    wait_until: WaitUntil,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails without: the look at the disk before a job is claimed."""
    looks: list[Path] = []
    monkeypatch.setattr(disk, "shortage", lambda folder: looks.append(folder) or "only 3 MiB are free")
    job, _ = queue.submit("work", job_file().request())
    run_worker(store=tmp_path)
    wait_until(lambda: len(looks) > 2, what="looks at the disk")
    assert queue.get(job.id).state is JobState.QUEUED
    monkeypatch.setattr(disk, "shortage", lambda folder: None)
    assert (ended(job.id).state, queue.get(job.id).attempt) == (JobState.SUCCEEDED, 1)


def test_failure_that_cannot_pass_is_tried_once(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    run_worker()
    file = job_file()
    job = ended(queue.submit("work", file.request("fail", error="known"))[0].id)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "weights_missing", 1)
    assert (job.error["detail"], job.error["file"]) == ("no weights", "a.pth")
    assert len(file.lines("start")) == 1


def test_job_that_kills_its_process_fails_after_exactly_three_attempts(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    run_worker()
    file = job_file()
    job = ended(queue.submit("work", file.request("crash"))[0].id)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "worker_died", 3)
    assert job.error["signal"] == "SIGSEGV"
    assert "killed by SIGSEGV in attempt 3 of 3" in job.error["detail"]
    assert len(file.lines("start")) == 3


def test_child_that_leaves_without_a_result_is_named(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    run_worker()
    job = ended(queue.submit("work", job_file().request("leave"), max_attempts=1)[0].id)
    assert (job.error["code"], job.error["exit_status"]) == ("worker_died", 3)


def test_next_attempt_starts_from_the_checkpoint(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, ended: Callable[[str], Job]
) -> None:
    run_worker()
    file = job_file()
    job = ended(queue.submit("work", file.request("resume"))[0].id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert file.lines("resumed") == [["resumed", "at", "7"]]


def test_silent_child_is_killed_and_the_attempt_counts(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    ended: Callable[[str], Job],
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the look at when the child last said something."""
    run_worker(child_silence_s=1.0)
    file = job_file()
    job = ended(queue.submit("work", file.request("silent"), max_attempts=2)[0].id)
    assert (job.state, job.error["code"], job.attempt) == (JobState.FAILED, "child_silent", 2)
    assert not any(is_alive(pid) for pid in file.pids())


def test_cancelled_job_stops_at_its_next_safe_point(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the wish to cancel in the answer to a renewal."""
    run_worker(kill_grace_s=50.0)
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))
    wait_until(lambda: file.lines("start"))
    queue.cancel(job.id)
    assert ended(job.id).state is JobState.CANCELLED
    assert not is_alive(file.pids()[0])


def test_cancelled_job_that_ignores_sigterm_is_killed_within_ten_seconds(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    is_alive: Callable[[int], bool],
) -> None:
    run_worker(lease_s=30.0, beat_s=5.0, kill_grace_s=2.0)
    file = job_file()
    job, _ = queue.submit("work", file.request("deaf"))
    wait_until(lambda: file.lines("deaf"))
    began = time.monotonic()
    queue.cancel(job.id)
    assert ended(job.id).state is JobState.CANCELLED
    assert time.monotonic() - began < 10
    assert not is_alive(file.pids()[0])


def test_a_job_that_has_published_when_it_is_cancelled_has_succeeded(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil, ended: Callable[[str], Job]
) -> None:
    """Fails without: a result counting for more than the wish to cancel."""
    run_worker(kill_grace_s=50.0)
    file = job_file()
    job, _ = queue.submit("work", file.request("late", value=7))
    wait_until(lambda: file.lines("done"))
    queue.cancel(job.id)
    wait_until(lambda: file.lines("told"))
    file.let_go()
    done = ended(job.id)
    assert (done.state, done.result, done.cancel_requested) == (JobState.SUCCEEDED, {"value": 7, "attempt": 1}, True)


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_helper_processes_never_survive_their_job(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    is_alive: Callable[[int], bool],
    end: str,
) -> None:
    run_worker()
    file = job_file()
    job, _ = queue.submit("work", file.request("spawn"))
    wait_until(lambda: file.lines("helper"))
    helper = file.pids("helper")[0]
    assert is_alive(helper)
    if end == "finish":
        file.let_go()
    else:
        queue.cancel(job.id)
    ended(job.id)
    wait_until(lambda: not is_alive(helper))


def test_drained_worker_hands_its_job_back_uncounted_and_exits(
    queue: JobQueue,
    start_worker: StartWorker,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    is_alive: Callable[[int], bool],
) -> None:
    """Fails without: the attempt being taken off when a job is handed back."""
    worker = start_worker()
    file = job_file()
    job, _ = queue.submit("work", file.request("wait"))
    wait_until(lambda: file.lines("start"))
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    waiting = queue.get(job.id)
    assert (waiting.state, waiting.attempt) == (JobState.QUEUED, 0)
    assert not is_alive(file.pids()[0])
    assert queue.workers() == {}
    run_worker()
    file.let_go()
    assert (ended(job.id).state, ended(job.id).attempt) == (JobState.SUCCEEDED, 1)


def test_draining_worker_keeps_the_lease_until_it_hands_back(
    queue: JobQueue, start_worker: StartWorker, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil
) -> None:
    worker = start_worker(lease_s=1.0, drain_s=3.0)
    file = job_file()
    job, _ = queue.submit("work", file.request("deaf"))
    wait_until(lambda: file.lines("deaf"))
    run_worker(lease_s=1.0)
    worker.send(signal.SIGTERM)
    versions = set()
    while worker.process.poll() is None:
        current = queue.get(job.id)
        if current.state is JobState.RUNNING:
            versions.add(current.attempt)
        time.sleep(0.05)
    assert versions == {1}
    assert worker.wait() == 0


def test_second_signal_kills_the_child_at_once(
    queue: JobQueue,
    start_worker: StartWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    is_alive: Callable[[int], bool],
) -> None:
    worker = start_worker(drain_s=500.0)
    file = job_file()
    job, _ = queue.submit("work", file.request("deaf"))
    wait_until(lambda: file.lines("deaf"))
    worker.send(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(0.5)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert not is_alive(file.pids()[0])
    assert queue.get(job.id).state is JobState.QUEUED


PARENT = """
import os, sys, time
from pathlib import Path
from shoal.embedded import Process
process = Process("worker", [sys.executable, *sys.argv[2:]], Path(sys.argv[1]))
process.start(os.environ)
print(process.popen.pid, flush=True)
time.sleep(600)
"""


def test_death_signals_of_several_threads_of_a_killed_parent_are_one(
    queue: JobQueue, redis_server: str, job_file: MakeJobFile, wait_until: WaitUntil, tmp_path: Path
) -> None:
    options = {"url": redis_server, "name": "worker", **WORKER_OPTIONS, "drain_s": 500.0}
    words = [str(tmp_path / "log"), str(PROGRAMS / "worker.py"), json.dumps(options)]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *words], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    file = job_file()
    job, _ = queue.submit("work", file.request("linger"))
    wait_until(lambda: file.lines("start"))
    parent.kill()
    parent.communicate()
    wait_until(lambda: "ending the child" in (tmp_path / "log").read_text())
    os.kill(worker, signal.SIGTERM)  # as the kernel does when a second thread of the parent ends
    wait_until(lambda: queue.get(job.id).state is JobState.QUEUED)
    assert file.lines("drained")


def test_idle_worker_is_known_and_stops_at_once(
    queue: JobQueue, start_worker: StartWorker, wait_until: WaitUntil
) -> None:
    worker = start_worker()
    wait_until(lambda: set(queue.workers()) == {"work"})
    worker.send(signal.SIGINT)
    assert worker.wait() == 0
    assert queue.workers() == {}


def test_command_that_cannot_be_started_fails_the_job(queue: JobQueue, ended: Callable[[str], Job]) -> None:
    job, _ = queue.submit("work", {}, max_attempts=1)
    worker = Worker(queue, ["work"], ["/no/such/program"], settings=Settings())
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert ended(job.id).error["code"] == "worker_died"
    finally:
        worker.stop()
        thread.join()


def test_worker_imports_no_numerical_library() -> None:
    check = (
        "import sys, shoal.jobs.worker\n"
        "heavy = {'numpy', 'torch', 'tensorflow', 'faiss', 'sklearn', 'scipy', 'pandas', 'pyarrow', 'PIL'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
