"""A whole installation on this machine, whose processes faults may hit."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import psutil
from shoal.jobs.queue import JobQueue
from shoal.process import free_port
from shoal.store import Store

from tests.conftest import RedisServer, wait_for

LEASE_S = 3.0
SILENCE_S = 6.0
OPTIONS = {
    "SHOAL_LEASE_S": str(LEASE_S),
    "SHOAL_BEAT_S": "0.5",
    "SHOAL_KILL_GRACE_S": "1",
    "SHOAL_CHILD_SILENCE_S": str(SILENCE_S),
    "SHOAL_SAVE_S": "0.2",
    "SHOAL_DECODE_WORKERS": "1",
    "SHOAL_JOB_NICE": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Installation:
    """The queue, both APIs, a model host, and two workers of each kind.

    Parameters
    ----------
    root
        Folder of the data, the store and the logs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.store = root / "data", Store(root / "store")
        self.server = RedisServer(Path(tempfile.mkdtemp(prefix="shoal-chaos-")))
        self.ports = {"extractor": free_port(), "clusterer": free_port()}
        self._env = {
            **os.environ,
            **OPTIONS,
            "SHOAL_DATA": str(self.data),
            "SHOAL_STORE": str(self.store.root),
            "SHOAL_MODELS": str(root / "models"),
            "SHOAL_ONLINE": str(self.server.folder / "online"),
            "REDIS_URL": self.server.url,
        }
        self._commands = {f"{name}-api": [name, "api", "--port", str(port)] for name, port in self.ports.items()}
        self._commands["model-host"] = ["extractor", "host", "--backend", "torch"]
        for number in (1, 2):
            self._commands[f"extractor-{number}"] = ["extractor", "worker", "--backend", "torch"]
            self._commands[f"clusterer-{number}"] = ["clusterer", "worker"]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def servers(self) -> list[str]:
        """Names of the processes that answer requests: the APIs and the model host."""
        return [each for each in self._commands if each.endswith(("-api", "-host"))]

    @property
    def workers(self) -> list[str]:
        """Names of the workers' processes."""
        return [each for each in self._commands if each not in self.servers]

    def start(self) -> None:
        """Start everything, and wait until both APIs answer."""
        for folder in (self.data, self.store.root, self.root / "models", self.root / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.server.start()
        self.revive()
        for name in self.ports:
            wait_for(lambda: self.answers(name), deadline_s=120, what=f"{name} API")  # noqa: B023, called at once

    def revive(self) -> None:
        """Start the processes that have ended, as a process manager does."""
        with self._lock:
            for name, command in self._commands.items():
                if name not in self._running or self._running[name].poll() is not None:
                    with (self.root / "logs" / f"{name}.log").open("ab") as log:
                        self._running[name] = subprocess.Popen(
                            [sys.executable, "-m", *command], env=self._env, stdout=log, stderr=log
                        )

    def url(self, service: str) -> str:
        """Address of a service's API."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def answers(self, service: str) -> bool:
        """Whether an API is up and reaches the queue."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url(service)}/readyz", timeout=5.0).status_code == httpx.codes.OK
        return False

    def process(self, name: str) -> psutil.Process | None:
        """A process, if it runs."""
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            found = psutil.Process(self._running[name].pid)
            return found if found.status() != psutil.STATUS_ZOMBIE else None
        return None

    def children(self, name: str) -> list[psutil.Process]:
        """The processes of a worker's job, and of the one that it has started ahead."""
        worker = self.process(name)
        if worker is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return worker.children()
        return []

    def queue(self) -> JobQueue:
        """A connection to the queue; to be closed."""
        return JobQueue.from_url(self.server.url, lease_s=LEASE_S)

    def wake(self) -> None:
        """Let every process that stands still go on."""
        for process in self.all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def all(self) -> list[psutil.Process]:
        """Every process on this machine that works on the store, whoever started it; not this one."""
        found, store = [], str(self.store.root)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                own = process.pid != os.getpid() and process.environ().get("SHOAL_STORE") == store
                if own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stop(self) -> None:
        """End the services in order; the queue stays."""
        self.wake()
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)

    def close(self) -> None:
        """Kill everything that is left."""
        for process in self.all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._running.values():
            started.wait()
        self.server.kill()
        shutil.rmtree(self.server.folder, ignore_errors=True)
