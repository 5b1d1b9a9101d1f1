"""Download of one large file over HTTP: resumed, checked, and published only when it is complete."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from shoal.errors import WeightsInvalid

from extractor.models.fetch import Route, public_client
from extractor.models.weights import note_of, sha256

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes received and the bytes in total (None when unknown); may raise to stop."""
ATTEMPTS = 5
REFUSED = {401: "it asks for a login", 403: "it asks for a login or an accepted licence", 404: "it has no such file"}


class DownloadFailed(Exception):  # Callers turn it into a `ShoalError` that says what to do.
    """The file cannot be downloaded; the bytes received so far stay for the next attempt."""


@dataclass(frozen=True)
class Checksums:
    """The checksums that a publisher states, in hex; a prefix is enough, None when not stated."""

    sha256: str | None = None
    md5: str | None = None


def download(
    url: str | Route,
    target: Path,
    *,
    checksums: Checksums | None = None,
    on_progress: OnProgress | None = None,
    timeout_s: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Download `url` to `target`, continuing where an earlier attempt stopped; return the file's sha256 in hex.

    The bytes go into ``<target>.part``, which is renamed when length and checksum are right. The sha256 is written to
    ``<target>.sha256``, and a later download must agree with it.

    Parameters
    ----------
    timeout_s
        Longest pause between two chunks; a slow server that keeps sending is not interrupted.
    pause
        Sleeps the given seconds between two attempts.

    Raises
    ------
    DownloadFailed
        The server refuses, or five attempts in a row brought no byte.
    WeightsInvalid
        The complete file does not have the stated checksum. It is deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    report = on_progress or (lambda _done, _total: None)
    route = url if isinstance(url, Route) else Route(url)
    with exclusive(target, report):
        if target.is_file():
            return sha256(target)
        part = _Part(target)
        while True:
            _fetch(route, part, report, timeout_s, pause)
            fault = fault_of(part.path, target, checksums or Checksums())
            if fault is None:
                return part.publish()
            part.discard()
            if not part.joined:
                break
            part.joined = False  # A file assembled from several responses gets one more attempt from the start.
        raise WeightsInvalid(
            f"{route.url} did not send the published file: {fault}. The download was deleted.", url=route.url
        )


class _Part:
    """The incomplete file, with a note of the version that its bytes belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self.joined = False

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self, url: str) -> str | None:
        """ETag or date of the bytes received; None when a resumed download could mix two versions."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note.get("version") if isinstance(note, dict) and note.get("url") == url else None

    def remember(self, url: str, response: httpx.Response) -> None:
        etag = response.headers.get("etag", "")
        version = response.headers.get("last-modified") if etag.startswith("W/") or not etag else etag
        self._note.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def publish(self) -> str:
        digest = sha256(self.path)
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)
        note_of(self.target).write_text(f"{digest}  {self.target.name}\n", encoding="utf-8")
        return digest


def _fetch(route: Route, part: _Part, report: OnProgress, timeout_s: float, pause: Callable[[float], None]) -> None:
    """Retry until the file is complete; an attempt that brought bytes does not count."""
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0))
    tries, url = 0, route.url
    with public_client(route, timeout=timeout, headers={"Accept-Encoding": "identity"}) as client:
        while True:
            before = part.size
            try:
                return _receive(client, url, part, report)
            except httpx.TransportError as error:
                tries = 0 if part.size > before else tries + 1
                if tries >= ATTEMPTS:
                    raise DownloadFailed(f"{url} cannot be read: {type(error).__name__} {error}") from error
            except httpx.HTTPError as error:
                raise DownloadFailed(f"{url} cannot be read: {error}") from error
            pause(min(0.5 * 2**tries, 10.0))


def _receive(client: httpx.Client, url: str, part: _Part, report: OnProgress) -> None:
    have, version = part.size, part.version(url)
    headers = {"Range": f"bytes={have}-", "If-Range": version} if have and version else {}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in (416, 429) or response.status_code >= 500:
            if response.status_code == 416:
                part.discard()
            raise httpx.ReadError(f"the server answers {response.status_code}")
        if response.status_code not in (200, 206):
            why = REFUSED.get(response.status_code, f"it answers {response.status_code}")
            raise DownloadFailed(f"{url} was refused: {why}")
        resumed = response.status_code == 206 and _starts_at(response) == have
        if not resumed and response.status_code == 206:
            part.discard()
            raise httpx.ReadError("the server sent a different part than requested")
        done = have if resumed else 0
        length = response.headers.get("content-length")
        total = done + int(length) if length and length.isdigit() else None
        require_room(part.path.parent, (total or 0) - done)
        if resumed:
            part.joined = True
        else:
            part.path.unlink(missing_ok=True)
        part.remember(url, response)
        report(done, total)
        with part.path.open("ab") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                report(done, total)


def _starts_at(response: httpx.Response) -> int | None:
    start = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def require_room(folder: Path, needed: int) -> None:
    """Raise `DownloadFailed` when `folder` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(f"it needs {needed / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB left")


def fault_of(path: Path, target: Path, stated: Checksums) -> str | None:
    """Why the file at `path` must not become `target`; None when it agrees with all known checksums."""
    note = note_of(target)
    found = sha256(path)
    if stated.sha256 and not found.startswith(stated.sha256):
        return f"its sha256 is {found}, expected {stated.sha256}"
    if stated.md5:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        if not md5.startswith(stated.md5):
            return f"its md5 is {md5}, expected {stated.md5}"
    if not stated.sha256 and note.is_file() and not note.read_text(encoding="utf-8").startswith(found):
        return f"its sha256 is {found}, but {note.name} records another from the first download"
    return None


@contextmanager
def exclusive(target: Path, report: OnProgress) -> Iterator[None]:
    """Let one process at a time download `target`; the others wait and then find it."""
    lock = target.with_name(f".{target.name}.lock")
    with lock.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                report(0, None)
                time.sleep(0.2)
        yield  # The lock file stays: a waiting process would otherwise lock a deleted file that later ones do not see.
