"""The whole system on this machine, started as a user starts it."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from shoal import Client
from shoal.process import free_port

CLASSES = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
PER_CLASS = 12
START_S = 180.0
WEB_PORT = free_port()
ALLOWED = {
    "SHOAL_CALLBACK_HOSTS": "127.0.0.1:9000",
    "SHOAL_CALLBACK_SECRET": "whsec_c2hvYWwgd2ViaG9va3Mgc2VjcmV0IDEy",
    "SHOAL_SOURCES_ALLOW": f"http://127.0.0.1:{WEB_PORT}",
}
"""Lets the cookbook name a callback, where nobody has to listen, and photos of a server at `WEB_PORT`."""
http = httpx.Client(timeout=120)
"""Patient: a test machine may be busy, and no test is about the time of an answer."""
atexit.register(http.close)


@dataclass(frozen=True)
class Running:
    """A running `shoal up`."""

    process: subprocess.Popen[bytes]
    root: Path
    extractor: str
    clusterer: str

    @property
    def env(self) -> dict[str, str]:
        """Environment of a command line that talks to it."""
        urls = {"SHOAL_EXTRACTOR_URL": self.extractor, "SHOAL_CLUSTERER_URL": self.clusterer}
        return {**os.environ, **urls, "SHOAL_STORE": str(self.root / "store")}

    def cli(self, *words: str) -> str:
        """What `shoal words…` prints; fails with its stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "shoal.cli", *words], env=self.env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def paint(folder: Path, per_class: int = PER_CLASS) -> None:
    """Images of three colours with noise, a folder each."""
    rng = np.random.default_rng(0)
    for label, colour in CLASSES.items():
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (48, 64, 3)), 0, 255).astype(np.uint8)
            # Noise takes no less room with more effort.
            Image.fromarray(pixels).save(folder / label / f"{number:03}.png", compress_level=1)


def start(root: Path, ports: tuple[int, ...] = (), **more: str) -> Running:
    """Start `shoal up` on the data below ``root``, on free ports, with ``more`` in its environment."""
    ports = ports or (free_port(), free_port())
    words = ["up", "--data", f"{root}/data", "--models", f"{root}/models", "--store", f"{root}/store"]
    words += ["--extractor-port", str(ports[0]), "--clusterer-port", str(ports[1])]
    env = {**{key: value for key, value in os.environ.items() if key != "REDIS_URL"}, **more}
    with (root / "up.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "shoal.cli", *words], env=env, stdout=log, stderr=log)
    return Running(process, root, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")


def is_ready(stack: Running) -> bool:
    """Whether both services are ready; fails when `shoal up` has ended."""
    if stack.process.poll() is not None:
        pytest.fail(f"shoal up ended: {(stack.root / 'up.log').read_text()}")
    try:
        return all(http.get(f"{url}/readyz").status_code == 200 for url in (stack.extractor, stack.clusterer))
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]) -> Iterator[Running]:
    """One running system for all tests of this folder."""
    root = tmp_path_factory.mktemp("stack")
    paint(root / "data" / "colours")
    running = start(root, (), **ALLOWED)
    try:
        wait_until(lambda: is_ready(running), deadline_s=START_S, what="readiness")
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


@pytest.fixture
def client(stack: Running) -> Iterator[Client]:
    """A client of the running system."""
    with Client(stack.extractor, stack.clusterer) as client:
        yield client
