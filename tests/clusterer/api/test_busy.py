"""What must be quick is quick beside slow and large requests; servers and load are processes of their own."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from shoal.jobs.queue import JobQueue
from shoal.process import free_port
from shoal.settings import Settings
from shoal.store import Store

from tests.clusterer.conftest import job_runner, set_maker

Planted = Callable[..., Any]
PROGRAMS = Path(__file__).parents[2] / "programs"
LOAD, SEND = PROGRAMS / "load.py", PROGRAMS / "send.py"
TRIES = 20
QUICK_S = 0.1
LAG_S = 0.05


@dataclass(frozen=True)
class Services:
    """Addresses of both APIs, and a clustering of 16-dimensional embeddings."""

    extractor: str
    clusterer: str
    embeddings: str
    clustering: str


StartServices = Callable[..., Services]


@pytest.fixture(scope="module")
def start_services(
    redis_server: str, tmp_path_factory: pytest.TempPathFactory, planted: Planted, wait_until: Callable[..., None]
) -> Iterator[StartServices]:
    """``start_services(extractor=None)``: both APIs; the clusterer's asks that address for embeddings of images."""
    root = tmp_path_factory.mktemp("busy")
    (root / "data/images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "data/images/a.png")
    store = Store(root / "store")
    embeddings = set_maker(store)("mine", *planted(20_000), shard_rows=10_000)
    clustering = job_runner(store, Settings(store=store.root))(embeddings, clusters=4, seed=0)
    environment = {
        **os.environ,
        "REDIS_URL": redis_server,
        "SHOAL_STORE": str(store.root),
        "SHOAL_DATA": str(root / "data"),
        "SHOAL_MAX_STREAMS_PER_CLIENT": "3",
        "SHOAL_LOG_LEVEL": "error",
    }

    with ExitStack() as running:

        def start(extractor: str | None = None) -> Services:
            ports = {"extractor": free_port(), "clusterer": free_port()}
            addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            url = extractor or addresses["extractor"]
            for name, port in ports.items():
                command = [sys.executable, "-m", name, "api", "--port", str(port)]
                process = subprocess.Popen(command, env={**environment, "SHOAL_EXTRACTOR_URL": url})
                running.callback(process.wait)
                running.callback(process.kill)
            for address in addresses.values():
                wait_until(lambda address=address: _answers(address))
            return Services(addresses["extractor"], addresses["clusterer"], embeddings, clustering.id)

        yield start


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Services:
    return start_services()


class SilentServer:
    """Takes connections and never answers.

    Attributes
    ----------
    address
        Its URL.
    connections
        All that it took.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                self.connections.append(self._listening.accept()[0])

    def close(self) -> None:
        """Close all connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for each in self.connections:
            each.close()


def _answers(address: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/healthz").is_success
    return False


def slowest(http: httpx.Client, path: str, times: int = 3) -> float:
    """Seconds of the slowest of some requests."""
    found = 0.0
    for _ in range(times):
        start = time.perf_counter()
        http.get(path)
        found = max(found, time.perf_counter() - start)
    return found


def least(measure: Callable[[], float], limit: float) -> list[float]:
    """What was measured until it was below a limit: this machine has other things to do, one quiet moment is enough."""
    found: list[float] = []
    while not found or (min(found) >= limit and len(found) < TRIES):
        found.append(measure())
    return found


def image(side: int = 8) -> str:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.usefixtures("queue")  # Empty: what an earlier test left in it is not listed.
def test_what_must_be_quick_is_quick_beside_forty_slow_requests(
    start_services: StartServices, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    with closing(SilentServer()) as silent:
        services = start_services(silent.address)
        clustering = f"{services.clusterer}/clusterings/{services.clustering}"
        vectors = np.random.default_rng(0).normal(size=(100_000, 16)).astype(np.float32)
        np.save(tmp_path / "vectors.npy", vectors)
        (tmp_path / "vectors.json").write_text(json.dumps({"embeddings": vectors[:5000].tolist()}))
        assign = {"url": f"{clustering}/assign", "count": 10}
        load: list[dict[str, Any]] = [
            {**assign, "body": {"images": [image()]}, "count": 40},
            {**assign, "file": str(tmp_path / "vectors.npy"), "type": "application/x-npy"},
            {**assign, "file": str(tmp_path / "vectors.json"), "type": "application/json"},
            {"url": f"{clustering}/assignments?format=jsonl", "count": 2},
            {"url": f"{services.extractor}/embeddings/{services.embeddings}/rows?format=csv", "count": 2},
        ]
        sender = subprocess.Popen([sys.executable, str(LOAD), json.dumps(load)])
        try:
            wait_until(lambda: len(silent.connections) >= 40, what="all images are waiting")
            for address in (services.extractor, services.clusterer):
                with httpx.Client(base_url=address, timeout=60) as http:
                    for path in ("/healthz", "/readyz", "/jobs?limit=5"):
                        found = least(partial(slowest, http, path), QUICK_S)
                        assert min(found) < QUICK_S, (path, found)
        finally:
            sender.kill()
            sender.wait()


def largest(services: Services) -> dict[str, tuple[str, Any]]:
    """By name, the address and the body of the largest valid requests of each route."""
    score = [services.embeddings, *(f"e{number:03d}-{'x' * 150}" for number in range(99))]
    row = np.random.default_rng(0).normal(size=(10_000, 16)).tolist()
    picture = image(1700)
    return {
        "cluster": (
            f"{services.clusterer}/cluster",
            {
                "embeddings": {"train": services.embeddings, "score": score},
                "clusters": 3,
                "seeds": list(range(100)),
            },
        ),
        "cluster with class maps": (
            f"{services.clusterer}/cluster",
            {
                "embeddings": {
                    "train": services.embeddings,
                    "score": [{"embeddings": each, "class_map": {"file": "m" * 4000}} for each in score[1:]],
                },
                "clusters": 3,
            },
        ),
        "sweep": (
            f"{services.clusterer}/sweep",
            {
                "embeddings": services.embeddings,
                "clusters": list(range(2, 202)),
                "pca": {"components": list(range(1, 11))},
            },
        ),
        "extract": (
            f"{services.extractor}/extract",
            {"images": {"path": "images"}, "model": "raw_pixels", "name": "n" * 100},
        ),
        "assign": (f"{services.clusterer}/clusterings/{services.clustering}/assign", {"embeddings": row}),
        "assign images": (
            f"{services.clusterer}/clusterings/{services.clustering}/assign",
            {"images": [picture] * 3},
        ),
        "embed": (f"{services.extractor}/v1/embeddings", {"model": "raw_pixels", "input": [picture] * 3}),
    }


@pytest.mark.usefixtures("queue")
def test_no_body_holds_up_the_others(services: Services, tmp_path: Path) -> None:
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    small.write_text("{}")
    for name, (url, body) in largest(services).items():
        # Few values in many bytes: as large as the route takes.
        large.write_text(json.dumps(body, indent=120 if name == "assign" else None))
        lags = least(partial(_more_lag, url, large, small), LAG_S)
        assert min(lags) < LAG_S, (name, lags)


def _more_lag(url: str, large: Path, small: Path) -> float:
    return _lag_beside(url, large) - _lag_beside(url, small)


def _lag_beside(url: str, file: Path) -> float:
    """The slowest health check while a process is started, sends a request and has its answer."""
    with httpx.Client(timeout=60) as http:
        health = f"http://{url.split('/')[2]}/healthz"
        http.get(health)
        sender = subprocess.Popen([sys.executable, "-S", str(SEND), url, str(file)], stdout=subprocess.PIPE, text=True)
        found = 0.0
        while sender.poll() is None:
            start = time.perf_counter()
            http.get(health)
            found = max(found, time.perf_counter() - start)
        # 503 is the answer without a model host, 404 and 422 those of sets and maps that are not there.
        assert sender.communicate()[0] in {"200", "202", "404", "422", "503"}
        return found


def test_a_client_has_only_so_many_event_streams(services: Services, queue: JobQueue) -> None:
    job, _ = queue.submit("cluster", {"embeddings": "a", "clusters": 2})
    url = f"{services.clusterer}/jobs/{job.id}/events"
    with ExitStack() as streams, httpx.Client(timeout=30) as http:
        opened = [streams.enter_context(http.stream("GET", url)) for _ in range(3)]
        assert [each.status_code for each in opened] == [200, 200, 200]
        refused = http.get(url)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
        assert refused.headers["retry-after"]
        assert http.get(f"{services.clusterer}/jobs/{job.id}").status_code == 200
        queue.cancel(job.id)
        for each in opened:
            each.read()
        assert http.get(url).status_code == 200, "streams that ended are counted no more"
