"""A server for TensorFlow models on this machine, started when the first job needs it and ended with its worker.

Nothing here imports TensorFlow: the server is `serve-savedmodel` in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import structlog
from shoal.errors import Unavailable

log = structlog.get_logger(__name__)

START_S = 240.0
"""How long jobs wait for the server: importing TensorFlow alone takes a minute on a busy machine."""
STOP_S = 15.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


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
        self.port = _free_port()

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
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ensure(self) -> None:
        """Start it unless it runs. It answers after some seconds; clients wait for it."""
        if self.pid is not None:
            return
        if self._process is not None:
            log.warning("the TensorFlow server ended; starting another", status=self._process.returncode)
        command = [sys.executable, "-m", "extractor", "serve-savedmodel", str(self._models), "--port", str(self.port)]
        # In a session of its own, so that Ctrl-C reaches the worker first, whose job it still serves.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
        )
        log.info("TensorFlow server started", pid=self._process.pid, port=self.port)

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
