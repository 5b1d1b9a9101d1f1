"""A real model host of PyTorch, which the tests of one file share, and real servers of the API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from extractor.online import wire
from fastapi import FastAPI
from shoal.settings import Settings
from shoal.web.app import server_options

ServeApp = Callable[[FastAPI], str]


@dataclass
class HostProcess:
    """``python -m extractor host`` on folders of its own.

    Attributes
    ----------
    env
        Further variables of the process, for the next start.
    """

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        """Those of a service beside it."""
        folders = {name: self.root / name for name in ("data", "models", "store", "online")}
        return Settings(**folders, decode_workers=1, device="cpu", offline=True)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it."""
        named = {f"SHOAL_{name}": str(self.root / name.lower()) for name in ("DATA", "MODELS", "STORE", "ONLINE")}
        env = {**os.environ, **named, "SHOAL_OFFLINE": "1", "SHOAL_DEVICE": "cpu", **self.env}
        self.process = subprocess.Popen([sys.executable, "-m", "extractor", "host", "--backend", "torch"], env=env)

    def kill(self) -> None:
        """SIGKILL, as for a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process is not None and self.process.poll() is not None

    @property
    def answers(self) -> bool:
        """Whether it listens; it answers what is sent from then on."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(wire.socket_path(self.settings.online, "torch")))
            return True
        return False


@pytest.fixture
def serve_app(wait_until: Callable[..., None]) -> Iterator[ServeApp]:
    """``serve_app(app)``: the address of a server of ``app``, from its start to its end as in a process of its own."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: FastAPI) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        options = {**server_options(app.state.settings), "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.append((server, thread))
        thread.start()
        wait_until(lambda: server.started)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def host(wait_until: Callable[..., None]) -> Iterator[HostProcess]:
    """A host that answers. A test that kills it starts it again."""
    root = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    for name in ("data", "models", "store"):
        (root / name).mkdir()
    found = HostProcess(root)
    try:
        found.start()
        wait_until(lambda: found.answers or found.ended, what="the model host answers")
        assert not found.ended
        yield found
    finally:
        found.kill()
        shutil.rmtree(root)
