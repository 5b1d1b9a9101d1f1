"""Members of zip files, by their directory."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO, cast

from shoal.errors import ArchiveUnsafe, ImageTooLarge, ImageUnreadable

from extractor.images.decode import MAX_FILE_BYTES
from extractor.images.located import DEFLATED, STORED
from extractor.sources.archives import MOST_MEMBERS, Member, damaged
from extractor.sources.source import FIELD, Format

LARGEST_DIRECTORY = 2 << 30
MOST_RATIO = 200
"""How many times its size an archive of more than `SUSPICIOUS_BYTES` may hold."""
SUSPICIOUS_BYTES = 1 << 30
_LOCAL_HEADER = 30
_ENCRYPTED = 1


class ZipReader:
    """Lists zip files."""

    format: Format = "zip"
    suffixes = frozenset({".zip"})

    def members(self, file: BinaryIO, name: str) -> Iterator[Member | None]:
        """The members of the archive ``name``, in the order of its directory."""
        try:
            found = zipfile.ZipFile(cast("BinaryIO", _Limited(file, name))).infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError, EOFError) as error:
            raise damaged(name, str(error)) from error
        _require_safe(found, name, os.fstat(file.fileno()).st_size)
        for info in found:
            if not info.is_dir():
                yield _member(file.fileno(), info)


def _member(descriptor: int, info: zipfile.ZipInfo) -> Member:
    where = f"{info.header_offset} {info.compress_size} {info.file_size} {info.compress_type} {info.CRC}"
    lost = None
    if info.compress_type not in (STORED, DEFLATED) or info.flag_bits & _ENCRYPTED:
        lost = ImageUnreadable.code
    elif info.file_size > MAX_FILE_BYTES:
        lost = ImageTooLarge.code
    return Member(info.filename.removeprefix("./"), where, partial(_read, descriptor, info), lost)


def _read(descriptor: int, info: zipfile.ZipInfo, most: int) -> bytes:
    header = os.pread(descriptor, _LOCAL_HEADER, info.header_offset)
    start = info.header_offset + _LOCAL_HEADER + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    data = os.pread(descriptor, min(info.compress_size, most + 64), start)
    if info.compress_type == STORED:
        return data[:most]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
    except zlib.error:
        return b""


def _require_safe(members: Sequence[zipfile.ZipInfo], name: str, size: int) -> None:
    """Refuse an archive of far more than its size, by ratio or by members that share bytes."""
    if len(members) > MOST_MEMBERS:
        raise _unsafe(name, f"has {len(members):,} members; the limit is {MOST_MEMBERS:,}")
    total = sum(info.file_size for info in members)
    if total > SUSPICIOUS_BYTES and total > MOST_RATIO * size:
        raise _unsafe(name, f"holds {total:,} bytes in {size:,}, more than {MOST_RATIO} times its size")
    end = 0
    for info in sorted(members, key=lambda each: each.header_offset):
        if info.header_offset < end:
            raise _unsafe(name, f"has members that overlap, such as {info.filename[:100]!r}")
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    if end > size:
        raise damaged(name, "a member ends after the archive does")


def _unsafe(name: str, why: str) -> ArchiveUnsafe:
    return ArchiveUnsafe(
        f"The archive {name!r} {why}: unpack it into a folder if you trust it.", field=FIELD, archive=name
    )


class _Limited:
    """A file that reads no more than `LARGEST_DIRECTORY` at once."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(min(size, LARGEST_DIRECTORY + 1) if size >= 0 else LARGEST_DIRECTORY + 1)
        if len(data) > LARGEST_DIRECTORY:
            raise _unsafe(self._name, f"has a directory of more than {LARGEST_DIRECTORY:,} bytes")
        return data

    def seekable(self) -> bool:
        """Always."""
        return True
