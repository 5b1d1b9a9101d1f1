"""A real model host in a process of its own, models whose steps a test can hold, and clients of its socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from extractor.online import wire
from numpy.typing import NDArray
from PIL import Image
from shoal.process import spawn

PATIENCE_S = 240.0
"""PyTorch is imported meanwhile, perhaps by several hosts on a busy machine."""
HELD = '''
"""A model whose steps a test holds: it loads while there is no file `hold_load`, and runs while there is no `hold_run`.

An embedding is the colour of its image. A red image makes it NaN; a green one makes the model fail.
"""

import os
import time
from pathlib import Path

FOLDER = Path(os.environ["HELD_FOLDER"])


def note(line):
    with (FOLDER / "journal").open("a") as journal:
        journal.write(line + "\\n")


def wait(name):
    while (FOLDER / name).exists():
        time.sleep(0.01)


class Held:
    takes_pixels = True

    def initialize(self, context):
        note("load")
        wait("hold_load")
        self.probed = False

    def preprocess(self, data):
        return data

    def inference(self, data):
        if not self.probed:
            self.probed = True
            return data[:, 0, 0].astype("float32")
        note(f"run {len(data)}")
        wait("hold_run")
        colours = data[:, 0, 0].astype("float32")
        if (colours == (0, 255, 0)).all(axis=1).any():
            raise ValueError("green")
        colours[(colours == (255, 0, 0)).all(axis=1)] = float("nan")
        return colours

    def postprocess(self, data):
        return data


class Other(Held):
    pass


class Late(Held):
    pass


class Later(Held):
    pass
'''
CLASSES = ("Held", "Other", "Late", "Later")
HELD_MODEL, OTHER_MODEL, LATE_MODEL, LATER_MODEL = (f"handler:held_model:{name}" for name in CLASSES)
SITE = """
import os, sys, time
from pathlib import Path

if "host" in sys.orig_argv and not os.environ.get("IMPORT_LIBRARIES"):
    # A held model needs no PyTorch.
    from extractor.backends import loading

    loading.import_libraries = lambda backend, settings: None

if os.environ.get("HELD_FOLDER"):
    from extractor.images import child

    folder, real = Path(os.environ["HELD_FOLDER"]), child.decode_image

    def decode(data, **options):
        if data.endswith(b"slow"):
            with (folder / "journal").open("a") as journal:
                journal.write(f"decode {os.getpid()}\\n")
            while (folder / "hold_decode").exists():
                time.sleep(0.01)
        return real(data, **options)

    child.decode_image = decode
"""


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> bytes:
    """A PNG of one colour."""
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def photo(seed: int) -> bytes:
    """A smooth picture that no other seed gives."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def grey(value: int) -> bytes:
    """A picture whose embedding by the held model is three times ``value``."""
    return picture((value, value, value))


class HostProcess:
    """A host, and requests to it."""

    def __init__(self, root: Path, env: dict[str, str], backend: str = "torch") -> None:
        self.root = root
        self.socket = wire.socket_path(root / "online", backend)
        self.log = root / "host.log"
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "extractor", "host", "--backend", backend]
            self.process = spawn(command, death_signal=signal.SIGKILL, stderr=log, env={**os.environ, **env})
        transport = httpx.HTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None))
        self.http = httpx.Client(transport=transport, base_url="http://host", timeout=PATIENCE_S)
        self._threads = ThreadPoolExecutor(64)
        self._before: dict[str, float] = {}

    def answers(self) -> bool:
        """Whether it is there."""
        if self.process.poll() is not None:
            pytest.fail(f"the host ended with {self.process.returncode}: {self.log.read_text()}")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)):
                return False
        return self.http.get("/healthz").status_code == 200

    def ask(
        self,
        images: Sequence[bytes],
        model: object = HELD_MODEL,
        timeout_s: float = PATIENCE_S,
        kind: wire.Inputs = "images",
    ) -> httpx.Response:
        """Send images, or texts, and wait for the answer."""
        headers = {
            wire.MODEL: json.dumps(model),
            wire.LENGTHS: ",".join(str(len(image)) for image in images),
            wire.TIMEOUT_MS: str(round(1000 * timeout_s)),
            wire.INPUTS: kind,
        }
        return self.http.post("/embed", content=b"".join(images), headers=headers)

    def begin(self, images: Sequence[bytes], model: object = HELD_MODEL, **options: Any) -> Future[httpx.Response]:
        """As `ask`, without waiting."""
        return self._threads.submit(self.ask, images, model, **options)

    def vectors(self, images: Sequence[bytes], model: object = HELD_MODEL) -> NDArray[np.float32]:
        """The embeddings of ``images``."""
        return vectors_of(self.ask(images, model))

    def models(self) -> dict[str, dict[str, Any]]:
        """The models that it has, by name."""
        return {row["name"]: row for row in self.http.get("/models").json()["models"]}

    def metric(self, name: str, **labels: str) -> float:
        """How much a metric has grown since the test began: the sum of its series with these labels."""
        total = 0.0
        for series, value in self._series().items():
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += value - self._before.get(series, 0.0)
        return total

    def _series(self) -> dict[str, float]:
        lines = self.http.get("/metrics").text.splitlines()
        found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in found}

    def forget(self) -> None:
        """Begin to count anew."""
        self._before = self._series()
        (self.root / "journal").unlink(missing_ok=True)

    def hold(self, what: str) -> None:
        """Hold every `load`, `run` or `decode` from now on."""
        (self.root / f"hold_{what}").touch()

    def let_go(self, what: str) -> None:
        """Let them go on."""
        (self.root / f"hold_{what}").unlink()

    def journal(self, start: str) -> list[str]:
        """What the held models wrote down."""
        path = self.root / "journal"
        return [line for line in path.read_text().splitlines() if line.startswith(start)] if path.exists() else []

    def end(self) -> None:
        """Kill it if it still runs."""
        for held in self.root.glob("hold_*"):
            held.unlink()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def vectors_of(answer: httpx.Response) -> NDArray[np.float32]:
    """The array of an answer."""
    assert answer.status_code == 200, answer.text
    vectors: NDArray[np.float32] = np.load(BytesIO(answer.content))
    return vectors


StartHost = Callable[..., HostProcess]
WaitUntil = Callable[..., None]


@pytest.fixture
def start_host(wait_until: WaitUntil) -> Iterator[StartHost]:
    """``start_host(SHOAL_ONLINE_MAX_QUEUE="3", …)``: a host that answers; ``root``: another one's folders."""
    with host_starter(wait_until) as start:
        yield start


@pytest.fixture(scope="module")
def shared_host(wait_until: WaitUntil) -> Iterator[HostProcess]:
    """A host with the default settings, which has loaded `HELD_MODEL`."""
    with host_starter(wait_until) as start:
        host = start()
        host.vectors([grey(0)])
        yield host


@pytest.fixture
def host(shared_host: HostProcess, wait_until: WaitUntil) -> Iterator[HostProcess]:
    """The same host at rest, whose metrics and journal begin anew."""
    shared_host.forget()
    yield shared_host
    for held in shared_host.root.glob("hold_*"):
        held.unlink()
    wait_until(lambda: not any(row["requests"] for row in shared_host.models().values()))


@contextmanager
def host_starter(wait_until: WaitUntil) -> Iterator[StartHost]:
    hosts: list[HostProcess] = []
    folders: list[Path] = []

    def start(*, root: Path | None = None, backend: str = "torch", wait: bool = True, **env: str) -> HostProcess:
        if root is None:
            # A unix socket's path may have 107 bytes; pytest's own folders are longer on some machines.
            root = Path(tempfile.mkdtemp(prefix="shoal-host-"))
            folders.append(root)
            _prepare(root)
        hosts.append(HostProcess(root, {**_environment(root), **env}, backend))
        if wait:
            wait_until(hosts[-1].answers)
        return hosts[-1]

    try:
        yield start
    finally:
        for host in hosts:
            host.end()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(root: Path) -> None:
    for name in ("data", "models", "store"):
        (root / name).mkdir()
    (root / "held_model.py").write_text(HELD)
    (root / "sitecustomize.py").write_text(SITE)


def _environment(root: Path) -> dict[str, str]:
    return {
        "HELD_FOLDER": str(root),
        "PYTHONPATH": str(root),
        "SHOAL_DATA": str(root / "data"),
        "SHOAL_MODELS": str(root / "models"),
        "SHOAL_STORE": str(root / "store"),
        "SHOAL_ONLINE": str(root / "online"),
        "SHOAL_HANDLERS": ",".join(f"held_model:{name}" for name in CLASSES),
        "SHOAL_DEVICE": "cpu",
        "SHOAL_OFFLINE": "1",
        "SHOAL_DECODE_WORKERS": "1",
    }
