"""Zip archives that hold arrays: ``.npz``, and what ``torch.save`` writes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from shoal.userfiles import UserFile

_BLOCK = 1 << 20
_LOCAL_HEADER = 30
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""The errors of reading a damaged, truncated or encrypted archive."""


@contextmanager
def open_zip(file: UserFile, kind: str) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    """Open an archive and read its directory.

    Parameters
    ----------
    kind
        What the file should be, for messages: "an .npz archive".

    Raises
    ------
    ImportInvalid
        The file is not an archive, truncated or damaged; also while it is open.
    """
    with file.open(None) as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                yield opened, archive
        except ZIP_ERRORS as error:
            raise file.invalid(
                f"is not {kind}, or is damaged: {str(error) or type(error).__name__}. Save it again."
            ) from error


def offset_of(opened: BinaryIO, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin in the file; its checksum is compared first.

    Raises
    ------
    zipfile.BadZipFile
        The member is damaged.
    """
    with archive.open(member) as content:
        while content.read(_BLOCK):
            pass
    opened.seek(member.header_offset)
    header = opened.read(_LOCAL_HEADER)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER + name + extra
