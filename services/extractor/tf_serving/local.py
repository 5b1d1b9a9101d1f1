"""A server for TensorFlow models on this machine: started when a job first needs it, kept up, ended with its worker.

Nothing here imports TensorFlow: the server is `serve-savedmodel` in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import structlog
from shoal.errors import Unavailable
from shoal.process import free_port, spawn, stop

log = structlog.get_logger(__name__)

START_S = 240.0
"""How long jobs wait for the server: importing TensorFlow alone takes a minute on a busy machine."""
STOP_S = 15.0
TICK_S = 0.2
SHORT_LIFE_S = 2.0
"""A server that exits sooner than this failed to start and is not restarted at once."""


class LocalServer:
    """``python -m extractor serve-savedmodel`` on a free port of the loopback interface.

    While it is in use, ``TF_SERVING_URL`` of this process, and so of the children that it starts, names the server.

    Parameters
    ----------
    models
        Folder of what `import-tf` writes.

    Raises
    ------
    Unavailable
        TensorFlow is not installed.
    """

    def __init__(self, models: Path) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            raise Unavailable("TensorFlow models need a server: set TF_SERVING_URL, or install `shoal[tf]`.")
        self._models = models
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._requested = threading.Event()
        self._stopping = threading.Event()
        self.port = free_port()

    def __enter__(self) -> LocalServer:
        os.environ["TF_SERVING_URL"] = f"127.0.0.1:{self.port}"
        os.environ.setdefault("TF_SERVING_GONE_S", str(START_S))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        os.environ.pop("TF_SERVING_URL", None)

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def ensure(self) -> None:
        """Start it unless it runs, and again whenever it ends. It answers after some seconds; clients wait for it."""
        if self._watcher is None or not self._watcher.is_alive():
            # The server dies with the thread that started it, so one thread starts all of them.
            self._watcher = threading.Thread(target=self._watch, name="tensorflow-server", daemon=True)
            self._watcher.start()
        self._requested.set()

    def stop(self) -> None:
        """Stop the server and its watcher thread."""
        self._stopping.set()
        self._requested.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        """Restart the server until stopped; after one that exits at once, wait for the next job."""
        while self._requested.wait() and not self._stopping.is_set():
            began = time.monotonic()
            process = self._process = self._start()
            status = self._ended(process)
            if status is None:
                return
            log.warning("the TensorFlow server ended", status=status)
            if time.monotonic() - began < SHORT_LIFE_S:
                self._requested.clear()

    def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """The exit status of a server that exited on its own; None after `stop`."""
        while not self._stopping.wait(TICK_S):
            if (status := process.poll()) is not None:
                return status
        stop(process, STOP_S)
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "extractor", "serve-savedmodel", str(self._models), "--port", str(self.port)]
        # In a session of its own, so that Ctrl-C reaches the worker first, whose job it still serves.
        process = spawn(command)
        log.info("TensorFlow server started", pid=process.pid, port=self.port)
        return process
