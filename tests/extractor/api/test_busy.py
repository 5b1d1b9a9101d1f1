"""Forty slow requests with images leave what must be quick as it is; servers and load are processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from extractor.online import wire
from shoal.jobs.queue import JobQueue
from shoal.process import free_port

from tests.extractor.api.conftest import HostProcess
from tests.extractor.api.test_predictions import RED

LOAD = Path(__file__).parents[2] / "programs" / "load.py"
TRIES = 20
QUICK_S = 0.1
SLOW = 40


@pytest.fixture
def address(host: HostProcess, redis_server: str, queue: JobQueue, wait_until: Callable[..., None]) -> Iterator[str]:
    """Of the API, in a process of its own."""
    port = free_port()
    environment = {
        **os.environ,
        **{f"SHOAL_{name}": str(host.root / name.lower()) for name in ("DATA", "MODELS", "STORE", "ONLINE")},
        "REDIS_URL": redis_server,
        "SHOAL_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "extractor", "api", "--port", str(port)], env=environment)
    found = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{found}/healthz").is_success
        return False

    try:
        wait_until(answers)
        yield found
    finally:
        process.kill()
        process.wait()


def is_quick(address: str) -> None:
    """Health, readiness and jobs answer quickly, at least in one quiet moment: the machine has other things to do."""
    with httpx.Client(base_url=address, timeout=60) as http:
        for path in ("/healthz", "/readyz", "/jobs?limit=5", "/models/raw_pixels"):
            found = [slowest(http, path)]
            while min(found) >= QUICK_S and len(found) < TRIES:
                found.append(slowest(http, path))
            assert min(found) < QUICK_S, (path, found)


def slowest(http: httpx.Client, path: str, times: int = 3) -> float:
    """Seconds of the slowest of some requests."""
    found = 0.0
    for _ in range(times):
        start = time.perf_counter()
        http.get(path)
        found = max(found, time.perf_counter() - start)
    return found


def test_a_host_that_hangs_leaves_everything_else_quick(
    address: str, host: HostProcess, wait_until: Callable[..., None]
) -> None:
    assert host.process is not None
    socket_path = str(wire.socket_path(host.settings.online, "torch"))

    def waiting() -> int:
        """Connections to the host, which the kernel lists with its address; one of them listens."""
        lines = Path("/proc/net/unix").read_text().splitlines()
        return sum(line.endswith(f" {socket_path}") for line in lines) - 1

    load = [{"url": f"{address}/v1/embeddings", "body": {"model": "raw_pixels", "input": RED}, "count": SLOW}]
    host.process.send_signal(signal.SIGSTOP)
    sender = subprocess.Popen([sys.executable, str(LOAD), json.dumps(load)])
    try:
        wait_until(lambda: waiting() >= SLOW, what="all are waiting")
        is_quick(address)
    finally:
        sender.kill()
        sender.wait()
        host.process.send_signal(signal.SIGCONT)


def test_clients_that_send_slowly_leave_everything_else_quick(address: str) -> None:
    port = httpx.URL(address).port
    assert port is not None
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n".encode()
        for path, kind in (("/v1/embeddings", "application/json"), ("/predictions/raw_pixels", "image/png"))
    ]
    with ExitStack() as opened:
        for number in range(SLOW):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(heads[number % 2] + b"x" * 1000)
        is_quick(address)
