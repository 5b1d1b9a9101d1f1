"""A publisher of models on this machine: a bucket with Google's JSON API, archives, redirects, and bad days."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

GOOGLE = "storage.googleapis.com"
PAGE = 2
"""Objects on a page of a listing: few, so that every listing has several pages."""


@dataclass
class Publisher:
    """What is published, by path below the mirror, and how the server behaves.

    Attributes
    ----------
    objects
        ``<host>/<path>`` and its content.
    redirects
        ``<host>/<path>`` and the URL that it leads to.
    break_once
        Paths whose next answer stops in the middle.
    asked
        Path and Range header of every request for content.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    break_once: set[str] = field(default_factory=set)
    lie: dict[str, str] = field(default_factory=dict)
    """By path: the md5 that the listing states in place of the true one."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def put_folder(self, prefix: str, folder: Path) -> None:
        """Publish every file below `folder`, and the empty object that stands for the folder."""
        self.objects[prefix] = b""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.objects[prefix + path.relative_to(folder).as_posix()] = path.read_bytes()

    def page(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        """A page of the listing of a bucket."""
        root = f"{GOOGLE}/{bucket}/"
        names = sorted(k.removeprefix(root) for k in self.objects if k.startswith(root + query["prefix"][0]))
        start = int(query.get("pageToken", ["0"])[0])
        items = [self.item(root, name) for name in names[start : start + PAGE]]
        more = {"nextPageToken": str(start + PAGE)} if start + PAGE < len(names) else {}
        return json.dumps({"kind": "storage#objects", **({"items": items} if items else {}), **more}).encode()

    def item(self, root: str, name: str) -> dict[str, str]:
        content = self.objects[root + name]
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        return {"name": name, "size": str(len(content)), "md5Hash": self.lie.get(root + name, digest), "crc32c": "AAAA"}


def _handler(site: Publisher) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path).lstrip("/")
            api = f"{GOOGLE}/storage/v1/b/"
            if path.startswith(api):
                self.answer(200, site.page(path.removeprefix(api).partition("/")[0], parse_qs(parts.query)))
                return
            site.asked.append((path, self.headers.get("Range")))
            if path in site.redirects:
                self.answer(302, b"", Location=site.redirects[path])
            elif path not in site.objects:
                self.answer(404, b"no such object")
            else:
                self.content(path, site.objects[path])

        def content(self, path: str, body: bytes) -> None:
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            start = 0
            if self.headers.get("If-Range") == tag and (asked := self.headers.get("Range")):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            half = len(body[start:]) // 2 if path in site.break_once else None
            site.break_once.discard(path)
            extra = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
            self.answer(206 if start else 200, body[start:], half, ETag=tag, **extra)

        def answer(self, status: int, body: bytes, stop: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body[:stop])

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


@contextmanager
def published() -> Iterator[Publisher]:
    """A publisher that runs until the end of the block; `url` is what SHOAL_MIRROR has to be."""
    site = Publisher()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
