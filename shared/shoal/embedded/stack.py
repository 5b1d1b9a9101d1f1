"""`shoal up`: starts the processes of a store in order, watches over them, stops them in order."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from shoal.embedded import runfile
from shoal.embedded.process import Process
from shoal.embedded.queue import wait_for_server
from shoal.embedded.server import Server
from shoal.errors import StackError
from shoal.host import require_linux
from shoal.jobs.kinds import HostKind, WorkerKind, host_kinds, worker_kinds
from shoal.process import free_port
from shoal.settings import MIN_FREE_BYTES

START_S = 120.0
TICK_S = 0.25
LASTING_CHECKS = ("store", "disk")
"""Checks of `/readyz` that do not recover by waiting."""
FOREIGN_TO_ONE_USER = (
    "SHOAL_AUTH",
    "SHOAL_PUBLISHED_HOST",
    "SHOAL_METRICS_PORT",
    "SHOAL_METRICS_TOKEN_FILE",
    "SHOAL_ONLINE",
)
"""Settings for services that others reach: exported in a shell, they would lock users out of their own commands."""


PACKAGES = {"torch": "torch", "tf": "tensorflow"}
"""What a worker cannot start without, by the extra that installs it. Without faiss there is an engine of our own."""
MEASURED = ("worker", "host")
"""Processes with metrics of their own, by the last word of their names."""
STOP_ORDER = ("worker", "api", "host", "valkey")
"""The last words of processes' names: workers hand their jobs back, then APIs answer what they have accepted."""


def _absent() -> list[WorkerKind]:
    """The workers that cannot run on this machine."""
    return [worker for worker in worker_kinds() if not _installed(worker.extra)]


def _absent_kinds() -> set[str]:
    """The jobs that no worker of this machine runs."""
    absent = _absent()
    present = {kind for worker in worker_kinds() if worker not in absent for kind in worker.kinds}
    return {kind for worker in absent for kind in worker.kinds} - present


def _hosts() -> list[HostKind]:
    """The model hosts that can run on this machine."""
    return [
        host
        for host in host_kinds()
        if _installed(host.extra) or (host.elsewhere is not None and os.environ.get(host.elsewhere))
    ]


def _installed(extra: str) -> bool:
    return extra not in PACKAGES or importlib.util.find_spec(PACKAGES[extra]) is not None


@dataclass
class Stack:
    """The whole of Shoal on one machine.

    Parameters
    ----------
    data, models, store
        The three root folders; `store` also keeps the queue's data and the logs, in `.queue` and `.logs`, so that
        jobs and what they wrote are found together again.
    extractor_port, clusterer_port
        0 takes free ones.
    redis_url
        An existing server; None starts the embedded one.
    command
        The command that starts it; messages to others name it while it runs.
    single_user
        Of a command that starts it for itself alone: always with a queue of its own, and without the settings of
        services that others reach.
    queue_data
        Folder of the embedded server's data where that is not the store's common one, `.queue`.
    hosts
        Whether to start model hosts, which answer images sent within a request. Their ends never end the start: jobs
        need none.
    extra_env
        Variables of the processes beside those of this one's environment.
    before_workers
        Called with the queue's URL when the queue is up and no worker runs yet.
    stopping
        Asked while it starts: True ends the start with a ``KeyboardInterrupt``.
    """

    data: Path
    models: Path
    store: Path
    extractor_port: int = 8001
    clusterer_port: int = 8002
    redis_url: str | None = None
    host: str = "127.0.0.1"
    command: str = "shoal up"
    single_user: bool = False
    queue_data: Path | None = None
    hosts: bool = False
    extra_env: Mapping[str, str] = field(default_factory=dict)
    before_workers: Callable[[str], None] | None = None
    stopping: Callable[[], bool] = lambda: False
    processes: list[Process] = field(default_factory=list)
    _server: Server | None = None
    _embedded: bool = False
    _reason: str = ""

    def __post_init__(self) -> None:
        if self.single_user:
            self.redis_url = None
        self._embedded = self.redis_url is None

    def start(self) -> None:
        """Start everything and wait until both APIs are ready.

        Raises
        ------
        StackError
            A process ended or nothing was ready in time; the message says why.
        Unavailable
            Another process runs on the store.
        HostUnsupported
            This is not Linux.
        """
        require_linux()
        self.data.mkdir(parents=True, exist_ok=True)
        for folder in (self.models, self.store):
            _make_own(folder)
        self._refuse_full_disk()
        self._server = Server(self.store, self.command, self.queue_data)
        self._server.lock()
        try:
            self.extractor_port = self.extractor_port or free_port()
            self.clusterer_port = self.clusterer_port or free_port()
            self._refuse_taken_ports()
            if self._embedded:
                self._start_valkey()
            runfile.write(self.store, self._running())
            if self.before_workers is not None and self.redis_url is not None:
                self.before_workers(self.redis_url)
            for name, command in self._commands():
                self._spawn(name, command)
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop workers first, so that they hand their jobs back, then the APIs, the model hosts, and the queue."""
        try:
            for rank in STOP_ORDER:
                group = [process for process in self.processes if process.name.split("-")[-1] == rank]
                for process in group:
                    process.terminate()
                for process in group:
                    process.wait()
        finally:
            # Interrupted while it waited: nothing is left running all the same.
            for process in self.processes:
                process.kill()
            self.processes.clear()
            if self._server is not None:
                self._server.close()
            if self._embedded:
                self.redis_url = None

    def supervise(self, on_restart: Callable[[Process, float], None], stopping: Callable[[], bool]) -> None:
        """Restart processes that exit, until ``stopping()``; the pause grows with each failed start.

        ``on_restart`` is called with the process and the seconds until it is started again.
        """
        while not stopping():
            for process in self.processes:
                if process.alive or stopping():
                    continue
                if not process.planned:
                    on_restart(process, process.ended())
                if process.due:
                    process.restarts += 1
                    process.start(self.env)
            time.sleep(TICK_S)

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
        """The environment of every process: nothing exported outside sends one to another queue or store."""
        dropped = {"SHOAL_REDIS_PASSWORD_FILE"} if self._embedded else set()
        if self.single_user:
            dropped.update(FOREIGN_TO_ONE_USER)
        return {
            **{name: value for name, value in os.environ.items() if name.upper() not in dropped},
            **self.extra_env,
            "SHOAL_DATA": str(self.data.resolve()),
            "SHOAL_MODELS": str(self.models.resolve()),
            "SHOAL_STORE": str(self.store.resolve()),
            "SHOAL_EXTRACTOR_URL": self.extractor_url,
            "SHOAL_CLUSTERER_URL": self.clusterer_url,
            "REDIS_URL": self.redis_url or "",
            "SHOAL_ABSENT_KINDS": ",".join(sorted(_absent_kinds())),
            **({"SHOAL_ONLINE": str(self._server.online)} if self.hosts and self._server else {}),
            "PYTHONUNBUFFERED": "1",
        }

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        listen = ["--host", self.host, "--port"]
        yield "extractor-api", ["extractor", "api", *listen, str(self.extractor_port)]
        yield "clusterer-api", ["clusterer", "api", *listen, str(self.clusterer_port)]
        for worker in worker_kinds():
            if worker not in _absent():
                yield worker.name, list(worker.command)
        for host in _hosts() if self.hosts else ():
            yield host.name, list(host.command)

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        # Workers are asked to end when `shoal up` dies, so that a job stops at a safe point; APIs and hosts have
        # nothing to hand back, and would keep their ports and sockets from a `shoal up` that is started at once.
        rank = name.split("-")[-1]
        number = signal.SIGTERM if rank == "worker" else signal.SIGKILL
        log = self.store / ".logs" / f"{name}.log"
        env = self._metrics_port() if rank in MEASURED else {}
        process = Process(
            name, [sys.executable, "-m", *command], log, death_signal=number, env=env, at_once=rank == "host"
        )
        self.processes.append(process)
        process.start(self.env)

    def _metrics_port(self) -> dict[str, str]:
        """A port for the next worker or host: SHOAL_METRICS_PORT for the first, the one above for the second, ..."""
        first = self.env.get("SHOAL_METRICS_PORT", "0")
        before = sum(process.name.endswith(MEASURED) for process in self.processes)
        return {"SHOAL_METRICS_PORT": str(int(first) + before)} if first.isdecimal() and int(first) else {}

    def _start_valkey(self) -> None:
        if self._server is None:
            raise RuntimeError("the store's lock is not held")
        process, url = self._server.start()
        self.processes.append(process)
        wait_for_server(process, url)
        self.redis_url = url

    def _running(self) -> runfile.RunningStack:
        if self._server is None:
            raise RuntimeError("the store's lock is not held")
        return replace(
            self._server.running,
            queue=self.redis_url if self._embedded else None,
            extractor=self.extractor_url,
            clusterer=self.clusterer_url,
            data=str(self.data.resolve()),
            models=str(self.models.resolve()),
        )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        # Not through a proxy: the services are on this machine.
        with httpx.Client(trust_env=False, timeout=10.0) as http:
            for name, url in (("extractor", self.extractor_url), ("clusterer", self.clusterer_url)):
                while not self._is_ready(http, name, url):
                    if self.stopping():
                        raise KeyboardInterrupt
                    self._refuse_dead()
                    if time.monotonic() > deadline:
                        reason = self._reason or "it does not answer"
                        raise StackError(
                            f"The {name} was not ready within {START_S:.0f} s: {reason}. "
                            f"The logs are in {self.store / '.logs'}."
                        )
                    time.sleep(0.1)

    def _is_ready(self, http: httpx.Client, name: str, url: str) -> bool:
        self._refuse_dead()
        try:
            answer = http.get(f"{url}/readyz")
            checks = answer.json().get("checks", {})
        except (httpx.HTTPError, ValueError, AttributeError):
            return False
        wrong = {check: text for check, text in checks.items() if text != "ok"}
        self._reason = "; ".join(wrong.values())
        for check in LASTING_CHECKS:
            if check in wrong:
                raise StackError(f"The {name} cannot start: {wrong[check]} (the store is {self.store}).")
        return answer.status_code == 200

    def _refuse_dead(self) -> None:
        dead = next((each for each in self.processes if not each.alive and not each.name.endswith("host")), None)
        if dead is None:
            return
        self._refuse_full_disk()
        error = dead.last_error()
        if error.get("code") == "no_keys":
            raise StackError(f"{error['detail']} The key goes to the store's own queue: add `--store {self.store}`.")
        if error:
            raise StackError(f"{dead.name} exited at startup: {error['detail']} Its log is {dead.log}.")
        raise StackError(f"{dead.name} exited at startup. Its log {dead.log} ends:\n{dead.log_tail()}")

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.store).free
        if free < MIN_FREE_BYTES:
            raise StackError(
                f"The disk of the store {self.store} has {free >> 20} MiB free; {MIN_FREE_BYTES >> 20} MiB are needed. "
                "Free some space (`shoal gc` lists what can be removed), then start again."
            )

    def _refuse_taken_ports(self) -> None:
        for port in (self.extractor_port, self.clusterer_port):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError:
                    raise StackError(
                        f"Port {port} is in use: choose another with --extractor-port or --clusterer-port."
                    ) from None


def _make_own(folder: Path) -> None:
    """Create a folder that Git ignores."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    (folder / ".gitignore").write_text("*\n")
