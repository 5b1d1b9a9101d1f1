"""``.npz``: named arrays. Stored ones are mapped into memory, compressed ones are streamed."""

from __future__ import annotations

import zipfile
from collections.abc import Generator
from functools import partial
from typing import Literal

import numpy as np

from shoal.importer.formats.base import Array, Content, Stream, Values, expected_bytes, unreadable
from shoal.importer.formats.zipped import offset_of, open_zip
from shoal.store.npy import NpyHeader, NpyInvalid, read_header, require_size
from shoal.userfiles import UserFile

_KIND = "an .npz archive"
_BLOCK_BYTES = 8 << 20


def read_npz(file: UserFile) -> Content:
    """The arrays of an ``.npz`` archive.

    Raises
    ------
    ImportInvalid
        The file is not an archive, or is damaged.
    """
    arrays: dict[str, Array] = {}
    with open_zip(file, _KIND) as (_, archive):
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                continue
            if name in arrays:
                raise file.invalid(f"has two arrays `{name}`: save it again with one of them.", key=name)
            arrays[name] = _array(file, archive, member, name)
    return Content(file, "array", arrays)


def _array(file: UserFile, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Array:
    try:
        with archive.open(member) as content:
            header = read_header(content)
        require_size(header, member.file_size - header.offset)
    except NpyInvalid as error:
        return Array(
            name, (), np.dtype(object), unreadable, problem=f"is not a complete array of plain values: {error}"
        )
    if member.compress_type == zipfile.ZIP_STORED:
        return Array(name, header.shape, header.dtype, _Mapped(file, member, header))
    if header.fortran_order and len(header.shape) > 1:
        problem = "is compressed in column order, so its rows cannot be read in turn. Save it with `np.savez`"
        return Array(name, header.shape, header.dtype, unreadable, problem=problem)
    empty = np.empty((0, *header.shape[1:]), header.dtype)
    stream = Stream(partial(_blocks, file, member.filename, header), empty)
    return Array(name, header.shape, header.dtype, stream, close=stream.close)


class _Mapped:
    """Maps a stored member when its first row is read, so that arrays which nobody wants are not checked."""

    def __init__(self, file: UserFile, member: zipfile.ZipInfo, header: NpyHeader) -> None:
        self._file, self._member, self._header = file, member, header
        self._values: Values | None = None

    def __call__(self, start: int, stop: int) -> Values:
        if self._values is None:
            self._values = self._map()
        return self._values[start:stop]

    def _map(self) -> Values:
        header = self._header
        if not header.bytes:  # Nothing can be mapped.
            return np.empty(header.shape, header.dtype)
        with open_zip(self._file, _KIND) as (opened, archive):
            offset = offset_of(opened, archive, self._member) + header.offset
            order: Literal["C", "F"] = "F" if header.fortran_order else "C"
            return np.memmap(opened, header.dtype, "r", offset, header.shape, order)


def _blocks(file: UserFile, member: str, header: NpyHeader) -> Generator[Values, None, None]:
    row = expected_bytes(header.shape[1:], header.dtype)
    step = max(1, _BLOCK_BYTES // max(row, 1))
    with open_zip(file, _KIND) as (_, archive), archive.open(member) as content:
        content.read(header.offset)
        for start in range(0, header.shape[0], step):
            rows = min(step, header.shape[0] - start)
            data = content.read(rows * row)
            if len(data) < rows * row:
                raise zipfile.BadZipFile(f"{member} ends in row {start + len(data) // max(row, 1)}")
            yield np.frombuffer(data, header.dtype).reshape(rows, *header.shape[1:])
        content.read(1)  # Compares the checksum.
