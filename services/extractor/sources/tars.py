"""Members of tar files: uncompressed ones, whose members are ranges of bytes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from shoal.errors import ArchiveUnsafe, SourceInvalid

from extractor.sources.archives import Member, damaged
from extractor.sources.source import FIELD, Format

LARGEST_HEADER = 16 << 20
"""A longer header, which is read into memory, is refused."""
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"\x28\xb5": "unzstd"}


class TarReader:
    """Lists tar files, and the tar files within one, as ImageNet's training images are packed."""

    format: Format = "tar"
    suffixes = frozenset({".tar"})

    def members(self, file: BinaryIO, name: str) -> Iterator[Member | None]:
        """The members of the archive ``name``; None for each that is no regular file."""
        size = os.fstat(file.fileno()).st_size
        yield from _members(_Window(file.fileno(), 0, size), name, "")


def _members(window: _Window, name: str, prefix: str) -> Iterator[Member | None]:
    compressed = _COMPRESSED.get(window.at(0, 2))
    if compressed:
        raise SourceInvalid(
            f"The archive {name!r} is compressed, so single images cannot be read: run `{compressed}` on it.",
            field=FIELD,
        )
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                yield from _found(window, name, prefix, info)
            end = tar.offset
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise damaged(name, str(error)) from error
    # tarfile takes a damaged header after the first one for the end.
    if end < window.size and window.at(end, _BLOCK).strip(b"\0"):
        raise damaged(name, f"the header at byte {end:,} is damaged")


def _found(window: _Window, name: str, prefix: str, info: tarfile.TarInfo) -> Iterator[Member | None]:
    if info.isdir():
        return
    if not info.isreg() or info.issparse():
        yield None
        return
    if info.size < 0 or info.offset_data + info.size > window.size:
        raise damaged(name, f"{info.name!r} ends after the archive does")
    path = prefix + info.name.removeprefix("./")
    if path.endswith(".tar") and not prefix:
        inner = _Window(window.descriptor, window.start + info.offset_data, info.size)
        yield from _members(inner, f"{name}/{path}", f"{path}/")
        return
    start = window.start + info.offset_data
    yield Member(path, f"{start} {info.size}", partial(_read, window.descriptor, start, info.size))


def _read(descriptor: int, start: int, size: int, most: int) -> bytes:
    return os.pread(descriptor, min(size, most), start)


class _Window(io.RawIOBase):
    """A range of bytes of a file, which reads no more than `LARGEST_HEADER` at once."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self.descriptor, self.start, self.size = descriptor, start, size
        self._position = 0

    def at(self, position: int, length: int) -> bytes:
        """Bytes from ``position``."""
        return os.pread(self.descriptor, max(0, min(length, self.size - position)), self.start + position)

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        if not 0 <= size <= LARGEST_HEADER:
            raise ArchiveUnsafe(f"The archive has a header of more than {LARGEST_HEADER:,} bytes.", field=FIELD)
        data = self.at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to ``position``."""
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("seek")
        self._position = position
        return position

    def tell(self) -> int:
        """The position."""
        return self._position
