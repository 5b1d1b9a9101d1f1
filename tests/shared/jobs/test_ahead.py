"""The child that a worker starts before its next job has come."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from shoal.jobs.childprocess import ChildProcess, NextChild, code_stamp
from shoal.jobs.protocol import ChildJob, Event, Failed, Succeeded
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.jobs.worker import Worker
from shoal.schemas import Job
from shoal.settings import Settings

from tests.conftest import WORKER_OPTIONS, MakeJobFile, RunWorker, StartWorker, WaitUntil

PROGRAM = """
import os, select, sys, time
from pathlib import Path
from shoal.jobs.child import run_child
folder = Path({folder!r})

def note(name):
    (folder / f"{{name}}-{{os.getpid()}}").touch()

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)

def ahead():
    note("ahead")
    {ahead}
    note("ready")

def handle(context):
    note("job")
    {handle}
    return {{"size": len(context.request.get("text", ""))}}

sys.exit(run_child(handle, ahead))
"""

Notes = Callable[[str], list[int]]
Command = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """``command(ahead="pass", handle="pass")``: starts a child with these lines in its two functions."""

    def make(ahead: str = "pass", handle: str = "pass") -> list[str]:
        return [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path), ahead=ahead, handle=handle)]

    return make


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """``notes("ready")``: the processes that came this far."""
    return lambda name: [int(file.name.partition("-")[2]) for file in tmp_path.glob(f"{name}-*")]


@pytest.fixture
def start(command: Command) -> Iterator[Callable[..., ChildProcess]]:
    """As `command`, with the child started ahead."""
    children: list[ChildProcess] = []

    def make(**lines: str) -> ChildProcess:
        children.append(ChildProcess(command(**lines), ahead=True))
        return children[-1]

    yield make
    for child in children:
        child.end()


@pytest.fixture
def next_child(command: Command) -> Iterator[Callable[..., NextChild]]:
    """``next_child(stamp, longest_wait_s=..., command=...)``."""
    made: list[NextChild] = []

    def make(stamp: Callable[[], object] = lambda: None, ahead: str = "pass", **options: float) -> NextChild:
        made.append(NextChild(command(ahead=ahead), stamp, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def run_command(redis_server: str, queue: JobQueue) -> Iterator[Callable[..., Worker]]:
    """``run_command(command, **options)``: a worker in a thread whose children are started with ``command``."""
    running: list[tuple[Worker, threading.Thread]] = []

    def run(words: list[str], *, ahead_at_start: bool = True) -> Worker:
        settings = Settings.model_validate(WORKER_OPTIONS)
        worker = Worker(queue, ["work"], words, settings=settings, ahead_at_start=ahead_at_start)
        thread = threading.Thread(target=worker.run)
        running.append((worker, thread))
        thread.start()
        return worker

    yield run
    for worker, thread in running:
        worker.stop()
        worker.stop()
        thread.join()


@pytest.fixture
def ended(queue: JobQueue, wait_until: WaitUntil) -> Callable[[str], Job]:
    """Wait for the end of a job and return it."""

    def wait(job_id: str) -> Job:
        wait_until(lambda: queue.get(job_id).state.terminal, what=f"end of job {job_id}")
        return queue.get(job_id)

    return wait


def job(**request: object) -> ChildJob:
    return ChildJob("id", "work", 1, "owner", request)


def outcome_of(child: ChildProcess, wait_until: WaitUntil) -> tuple[int, list[Event]]:
    wait_until(child.exited, what="end of the child")
    return child.end()


def test_five_megabytes_are_handed_to_a_child_that_does_not_read_yet(
    start: Callable[..., ChildProcess], notes: Notes, tmp_path: Path, wait_until: WaitUntil
) -> None:
    child = start(ahead="wait_for('gate')")
    wait_until(lambda: notes("ahead"))
    child.hand_over(job(text="x" * 5_000_000))
    assert not notes("ready")
    (tmp_path / "gate").touch()
    assert outcome_of(child, wait_until) == (0, [Succeeded({"size": 5_000_000})])
    assert child.took_job
    assert notes("job") == notes("ahead") == [child.pid]


def test_a_child_that_has_its_job_from_the_start_imports_nothing_ahead(
    start: Callable[..., ChildProcess], notes: Notes, wait_until: WaitUntil
) -> None:
    child = start()
    child.hand_over(job())
    assert outcome_of(child, wait_until)[0] == 0
    assert notes("job")
    assert not notes("ahead")


def test_a_child_for_which_no_job_comes_ends_quietly(
    start: Callable[..., ChildProcess], notes: Notes, wait_until: WaitUntil, capfd: pytest.CaptureFixture[str]
) -> None:
    child = start()
    wait_until(lambda: notes("ready"))
    os.close(child._go)
    child._go = -1
    assert outcome_of(child, wait_until) == (0, [])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", ["ahead", "ready"])
def test_sigterm_ends_a_child_without_a_job_at_once(
    start: Callable[..., ChildProcess], notes: Notes, wait_until: WaitUntil, place: str
) -> None:
    child = start(ahead="wait_for('gate')" if place == "ahead" else "pass")
    wait_until(lambda: notes(place))
    child.terminate()
    assert outcome_of(child, wait_until) == (-signal.SIGTERM, [])


def test_a_child_that_died_before_it_read_its_job_did_not_take_it(
    start: Callable[..., ChildProcess], notes: Notes, wait_until: WaitUntil
) -> None:
    child = start(ahead="wait_for('gate')")
    wait_until(lambda: notes("ahead"))
    child.hand_over(job())
    child.kill()
    outcome_of(child, wait_until)
    assert not child.took_job


def test_an_error_of_the_imports_ahead_is_the_error_of_the_job_that_came_meanwhile(
    start: Callable[..., ChildProcess], notes: Notes, tmp_path: Path, wait_until: WaitUntil
) -> None:
    child = start(ahead="wait_for('gate'); import no_such_library")
    wait_until(lambda: notes("ahead"))
    child.hand_over(job())
    (tmp_path / "gate").touch()
    status, events = outcome_of(child, wait_until)
    assert status == 1
    assert isinstance(events[0], Failed)
    assert "ModuleNotFoundError: No module named 'no_such_library'" in str(events[0].problem["detail"])


def test_the_child_that_waits_is_taken_once(next_child: Callable[..., NextChild]) -> None:
    ahead = next_child()
    ahead.keep()
    pid = ahead.pid
    ahead.keep()
    assert ahead.pid == pid
    child = ahead.take()
    assert child is not None
    assert child.pid == pid
    assert ahead.take() is None
    child.end()


def test_a_child_of_other_code_is_not_given_a_job(
    next_child: Callable[..., NextChild], is_alive: Callable[[int], bool]
) -> None:
    code = ["old"]
    ahead = next_child(lambda: code[0])
    ahead.keep()
    pid = ahead.pid
    code[0] = "new"
    assert ahead.take() is None
    assert not is_alive(pid or 0)
    ahead.keep()
    child = ahead.take()
    assert child is not None
    child.end()


def test_an_idle_worker_replaces_a_child_of_other_code(
    next_child: Callable[..., NextChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.jobs.childprocess.LOOK_PERIOD_S", 0.0)
    code = ["old"]
    ahead = next_child(lambda: code[0])
    ahead.keep()
    pid = ahead.pid
    code[0] = "new"
    ahead.keep()
    assert ahead.pid not in (None, pid)


def test_a_child_that_has_waited_too_long_is_replaced(next_child: Callable[..., NextChild]) -> None:
    ahead = next_child(longest_wait_s=0.0)
    ahead.keep()
    pid = ahead.pid
    assert ahead.take() is None
    ahead.keep()
    assert ahead.pid not in (None, pid)


def test_a_child_started_in_another_environment_is_not_given_a_job(
    next_child: Callable[..., NextChild], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = next_child()
    ahead.keep()
    monkeypatch.setenv("SHOAL_DEVICE", "cpu")
    assert ahead.take() is None


def test_a_child_that_dies_while_it_waits_is_not_started_again_at_once(
    next_child: Callable[..., NextChild], notes: Notes, wait_until: WaitUntil
) -> None:
    ahead = next_child(ahead="raise ImportError('broken')")
    ahead.keep()
    pid = ahead.pid
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert ahead.take() is None
    ahead.keep()
    assert ahead.pid is None
    assert notes("ahead") == [pid]


def test_no_child_is_started_while_it_rests(next_child: Callable[..., NextChild]) -> None:
    ahead = next_child()
    ahead.rest(3600.0)
    ahead.keep()
    assert ahead.pid is None


@pytest.mark.parametrize("change", ["touch", "add", "remove", "subfolder"])
def test_stamp_changes_with_a_file_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    package = tmp_path / "copied"
    (package / "inner").mkdir(parents=True)
    files = [package / "__init__.py", package / "part.py", package / "inner/part.py"]
    for file in files:
        file.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    stamp = code_stamp(["copied"])
    before = stamp()
    (package / "__pycache__").mkdir()
    (package / "__pycache__/part.pyc").touch()
    assert stamp() == before
    if change == "touch":
        os.utime(files[1], ns=(1, 1))
    elif change == "add":
        (package / "new.py").touch()
    elif change == "remove":
        files[1].unlink()
    else:
        files[2].write_text("x = 22\n")
    assert stamp() != before


def test_job_runs_in_the_child_that_waited_and_each_job_in_another(
    queue: JobQueue,
    run_worker: RunWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shoal.jobs.worker.AFTER_JOB_S", 0.0)
    worker = run_worker()
    file = job_file()
    waited = []
    for turn in range(3):
        wait_until(lambda: worker._next_child.pid, what="a child that waits")
        waited.append(worker._next_child.pid)
        assert ended(queue.submit("work", file.request(value=turn))[0].id).state is JobState.SUCCEEDED
    assert file.pids() == waited
    assert len(set(waited)) == 3


def test_job_whose_waiting_child_was_killed_runs_in_its_first_attempt(
    queue: JobQueue, run_worker: RunWorker, job_file: MakeJobFile, wait_until: WaitUntil, ended: Callable[[str], Job]
) -> None:
    worker = run_worker()
    wait_until(lambda: worker._next_child.pid, what="a child that waits")
    os.kill(worker._next_child.pid or 0, signal.SIGKILL)
    job = ended(queue.submit("work", job_file().request())[0].id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def test_job_whose_child_dies_between_handing_over_and_reading_runs_in_its_first_attempt(
    queue: JobQueue,
    run_command: Callable[..., Worker],
    command: Command,
    notes: Notes,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
) -> None:
    run_command(command(ahead="select.select([int(os.environ['SHOAL_GO_FD'])], [], []); os.abort()"))
    wait_until(lambda: notes("ahead"))
    done = ended(queue.submit("work", {"text": "abc"})[0].id)
    assert (done.state, done.attempt, done.result) == (JobState.SUCCEEDED, 1, {"size": 3})
    assert len(notes("job")) == 1
    assert notes("job") != notes("ahead")


def test_job_says_what_is_wrong_with_its_imports_when_those_ahead_have_failed(
    queue: JobQueue,
    run_command: Callable[..., Worker],
    command: Command,
    notes: Notes,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
) -> None:
    broken = "import no_such_library"
    worker = run_command(command(ahead=broken, handle=broken))
    wait_until(lambda: notes("ahead") and worker._next_child.pid is None, what="end of the child that waited")
    job = ended(queue.submit("work", {})[0].id)
    assert "No module named 'no_such_library'" in job.error["detail"]


def test_no_child_is_started_ahead_before_the_first_job_where_that_is_asked_for(
    queue: JobQueue,
    run_command: Callable[..., Worker],
    command: Command,
    notes: Notes,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
) -> None:
    worker = run_command(command(), ahead_at_start=False)
    assert ended(queue.submit("work", {})[0].id).state is JobState.SUCCEEDED
    wait_until(lambda: notes("ready"), what="a child that waits after the first job")
    assert notes("ready") == [worker._next_child.pid]
    assert len(notes("job")) == 1


def test_stopped_worker_ends_the_child_that_waits(
    start_worker: StartWorker, wait_until: WaitUntil, is_alive: Callable[[int], bool]
) -> None:
    worker = start_worker()
    idle = _idle_child(worker.process.pid, wait_until)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert not is_alive(idle)


def test_child_that_waits_dies_with_a_worker_that_is_killed(
    start_worker: StartWorker, wait_until: WaitUntil, is_alive: Callable[[int], bool]
) -> None:
    worker = start_worker()
    idle = _idle_child(worker.process.pid, wait_until)
    worker.end()
    wait_until(lambda: not is_alive(idle), what="end of the child that waits")


def test_switched_off_no_child_waits(
    queue: JobQueue,
    start_worker: StartWorker,
    job_file: MakeJobFile,
    wait_until: WaitUntil,
    ended: Callable[[str], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOAL_AHEAD", "0")
    worker = start_worker()
    file = job_file()
    assert ended(queue.submit("work", file.request())[0].id).state is JobState.SUCCEEDED
    beats = queue.workers()["work"]
    wait_until(lambda: queue.workers()["work"] != beats, what="an idle worker's next heartbeat")
    assert psutil.Process(worker.process.pid).children() == []


def _idle_child(worker: int, wait_until: WaitUntil) -> int:
    wait_until(lambda: psutil.Process(worker).children(), what="a child that waits")
    return psutil.Process(worker).children()[0].pid
