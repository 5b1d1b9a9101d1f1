"""A receiver of webhooks, and the verification that docs/webhooks.md shows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from shoal.callbacks import CallbackRules
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.web.deliveries import Deliveries

LEASE_S = 10.0
SECRET = "whsec_" + "c2hvYWwgd2ViaG9va3Mgc2VjcmV0IDEy"

PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"


def verified(headers: Mapping[str, str], body: bytes, secret: str) -> dict[str, Any]:
    """The event, as the page's code finds it.

    Raises
    ------
    ValueError
        It was not sent by the owner of ``secret``, or long ago.
    """
    [code] = [
        each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def verified" in each
    ]
    names: dict[str, Any] = {}
    exec(code, names)
    found: dict[str, Any] = names["verified"](headers, body, secret)
    return found


@dataclass
class Receiver:
    """A real HTTP server: what came, and what it answers next."""

    port: int = 0
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    silent: threading.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?for=me"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if found.silent is not None:
                # A byte now and then: no timeout of a single read is met.
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not found.silent.wait(0.05):
                    self.wfile.write(b"x")
                return
            status, headers = found.answers.pop(0) if found.answers else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    if found.silent is not None:
        found.silent.set()
    http.shutdown()
    thread.join()
    http.server_close()


def rules(*hosts: str, secret: str = SECRET) -> CallbackRules:
    return CallbackRules.of(Settings(callback_hosts=frozenset(hosts), callback_secret=secret))


@dataclass
class Service:
    """An API's deliveries and its queue, which are begun anew at every restart, at a clock of the test's own."""

    redis: redis.Redis
    rules: CallbackRules
    ahead_s: float = 0.0

    def restart(self, after_s: float = 0.0) -> None:
        self.ahead_s += after_s

    @property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis, lease_s=LEASE_S, retention_s=1e6, clock_offset_s=self.ahead_s)

    @property
    def deliveries(self) -> Deliveries:
        return Deliveries(self.queue.callbacks, self.rules, CollectorRegistry())

    def deliver(self) -> int:
        """Make every attempt that is due; how many there were."""
        count = 0
        while self.deliveries.deliver_next():
            count += 1
        return count
