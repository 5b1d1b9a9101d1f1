"""A real model host of PyTorch, which the tests of one file share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from extractor.online import wire
from shoal.settings import Settings


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
    def answers(self) -> bool:
        """Whether it listens; it answers what is sent from then on."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(wire.socket_path(self.settings.online, "torch")))
            return True
        return False


@pytest.fixture(scope="module")
def host(wait_until: Callable[..., None]) -> Iterator[HostProcess]:
    """A host that answers. A test that kills it starts it again."""
    root = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    for name in ("data", "models", "store"):
        (root / name).mkdir()
    found = HostProcess(root)
    try:
        found.start()
        wait_until(lambda: found.answers, what="the model host answers")
        yield found
    finally:
        found.kill()
        shutil.rmtree(root)
