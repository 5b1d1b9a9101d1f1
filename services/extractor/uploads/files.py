"""Where the files of one body go: their names are checked, their number and their size are bounded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from shoal.deadline import Deadline
from shoal.errors import QuotaExceeded, UploadInvalid
from shoal.store.files import storage_errors
from shoal.store.uploads import as_invalid
from shoal.userfiles import shortened

MAX_MEMBERS: Final = 50_000
"""Entries of one archive, folders included."""
MAX_NAME: Final = 1024
"""Bytes of a path."""
MAX_COMPONENT: Final = 255
MAX_DEPTH: Final = 32
MAX_RATIO: Final = 100
FREE_BYTES: Final = 16 * 2**20
"""A body may unpack to so many bytes, and to `MAX_RATIO` times its own size more."""
CHUNK: Final = 1 << 20
LATEST: Final = 2**33
"""Unix time; a later time of change is not kept."""
_SKIPPED = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


class Source(Protocol):
    """What a file is copied from."""

    def read(self, size: int, /) -> bytes: ...


def clean_name(name: str) -> str | None:
    """A path of an archive or a form as it is stored below the upload; None for a hidden or a system's file.

    Raises
    ------
    UploadInvalid
        The path is not relative, leaves the upload, or cannot be a path here.
    """
    shown = shortened(name)
    if not name or "\0" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise UploadInvalid(f"The name {shown!r} is empty or has control characters. Rename the file.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise UploadInvalid(f"The name {shown!r} is not UTF-8. Rename the file.") from None
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or "\\" in name or ".." in parts or (parts and parts[0][1:2] == ":"):
        raise UploadInvalid(
            f"The name {shown!r} leads out of the upload: send paths relative to the folder, with `/` and without `..`."
        )
    if size > MAX_NAME or len(parts) > MAX_DEPTH or any(len(part.encode()) > MAX_COMPONENT for part in parts):
        raise UploadInvalid(
            f"The name {shown!r} is too long: a path has at most {MAX_NAME:,} bytes, {MAX_COMPONENT} for each name, "
            f"and {MAX_DEPTH} levels."
        )
    if not parts:
        raise UploadInvalid(f"The name {shown!r} names no file.")
    if any(part.startswith(".") or part.lower() in _SKIPPED for part in parts):
        return None
    return "/".join(parts)


@dataclass
class Files:
    """The files of one body, written below a folder.

    Attributes
    ----------
    folder
        Exists and is empty.
    packed
        Bytes of the body.
    room_bytes, room_files
        What the quota leaves.
    paths
        Of the files written so far, relative to ``folder``, each with its size.
    """

    folder: Path
    packed: int
    room_bytes: int
    room_files: int
    deadline: Deadline | None = None
    paths: dict[str, int] = field(default_factory=dict)
    _members: int = 0
    _bytes: int = 0

    @property
    def bytes(self) -> int:
        """Size of the files written so far."""
        return self._bytes

    def count(self) -> None:
        """Count one more entry of the archive.

        Raises
        ------
        UploadInvalid
            There are too many.
        """
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise UploadInvalid(f"The body has more than {MAX_MEMBERS:,} entries. Send it in several parts.")

    @contextmanager
    def adding(self, name: str, changed_at: float | None = None) -> Iterator[Writer]:
        """A writer for the file ``name``.

        Parameters
        ----------
        changed_at
            Unix time of its last change; None for now.

        Raises
        ------
        UploadInvalid, QuotaExceeded, StoreFull
        """
        path = clean_name(name)
        if path is None:
            yield Writer(self, None)
            return
        if path in self.paths:
            raise UploadInvalid(f"The file {shortened(path)!r} is in the body twice. Rename one of them.")
        if len(self.paths) >= self.room_files:
            raise QuotaExceeded("The uploads of this API key have reached the limit of files. Delete one of them.")
        target = self.folder / path
        with storage_errors(target):
            with as_invalid(path):
                target.parent.mkdir(parents=True, exist_ok=True)
                file = target.open("xb")
            with file:
                yield Writer(self, file)
                size = file.tell()
            if changed_at is not None and 0 <= changed_at < LATEST:
                os.utime(target, (changed_at, changed_at))
        self.paths[path] = size

    def copy(self, name: str, source: Source, changed_at: float | None = None) -> None:
        """Write what ``source`` holds as the file ``name``."""
        with self.adding(name, changed_at) as writer:
            while chunk := source.read(CHUNK):
                writer.write(chunk)

    def grow(self, size: int) -> None:
        """Count so many bytes more.

        Raises
        ------
        UploadInvalid
            The body unpacks to more than its size explains.
        QuotaExceeded
            The quota is used up.
        """
        if self.deadline is not None:
            self.deadline.check()
        self._bytes += size
        most = FREE_BYTES + MAX_RATIO * self.packed
        if self._bytes > most:
            raise UploadInvalid(
                f"The body unpacks to more than {most:,} bytes, more than {MAX_RATIO} times its size. Send the files "
                "themselves.",
                max_bytes=most,
            )
        if self._bytes > self.room_bytes:
            raise QuotaExceeded(
                "The uploads of this API key have reached their limit of bytes. Delete one of them.",
                room_bytes=self.room_bytes,
            )


@dataclass
class Writer:
    """Writes one file; without a file, drops what is written and counts it all the same."""

    _files: Files
    _file: BinaryIO | None

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._files.grow(len(data))
        if self._file is not None:
            self._file.write(data)
