"""A web server that does what a test says: files of a folder, or an answer of its own for a path."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = Callable[[socket.socket], None]
"""Writes an answer to a connection."""


def answer(status: int, body: bytes = b"", length: int | None = None, **headers: str) -> Answer:
    """An answer with a body, whose declared length may be another."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return lambda connection: connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)


class ImageServer:
    """Attributes
    ----------
    url
        Its address.
    answers
        By path: each answer is given once, the last for ever.
    asked
        How often each path was.
    most
        How many requests there were at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, list[Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.most = 0
        self.released = threading.Event()
        self._now = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                with server._counted(path), suppress(OSError):
                    server.headers.append(dict(self.headers))
                    answers = server.answers.get(path)
                    if answers:
                        self.close_connection = True
                        (answers.pop(0) if len(answers) > 1 else answers[0])(self.connection)
                        return
                    file = server.folder / path.lstrip("/")
                    content = file.read_bytes() if file.is_file() else b""
                    part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                    self.send_response(404 if not file.is_file() else 206 if part else 200)
                    if part:
                        first, last = int(part[1]), min(int(part[2]), len(content) - 1)
                        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                        content = content[first : last + 1]
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    if self.command == "GET":
                        self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    @contextmanager
    def _counted(self, path: str) -> Iterator[None]:
        with self._lock:
            self.asked[path] += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    @contextmanager
    def running(self) -> Iterator[ImageServer]:
        """Serve meanwhile."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def drip(self, begin: bytes) -> Answer:
        """An answer that begins and then comes byte by byte for as long as the server runs."""

        def write(connection: socket.socket) -> None:
            connection.sendall(begin)
            while not self.released.wait(0.02):
                connection.sendall(b"x")

        return write
