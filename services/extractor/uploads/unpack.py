"""A body as files: a tar, a zip, or a form of several files. Links, devices and encrypted entries are refused."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from shoal.errors import UnsupportedMediaType, UploadInvalid
from shoal.userfiles import shortened

from extractor.uploads.files import CHUNK, Files, Writer

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

TAR: Final = "application/x-tar"
ZIP: Final = "application/zip"
FORM: Final = "multipart/form-data"
KINDS: Final = {TAR: TAR, "application/tar": TAR, ZIP: ZIP, "application/x-zip-compressed": ZIP, FORM: FORM}
"""Media types of bodies."""
MAX_READ: Final = 1 << 24
"""The most bytes that a library may read in one go: long names, or the directory of a zip."""
_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BROKEN: tuple[type[Exception], ...] = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, FormParserError),
    *(EOFError, OverflowError, RuntimeError, ValueError),
)


def kind_of(content_type: str) -> str:
    """`TAR`, `ZIP` or `FORM`.

    Raises
    ------
    UnsupportedMediaType
        The body is something else.
    """
    kind = KINDS.get(content_type.partition(";")[0].strip().lower())
    if kind is None:
        raise UnsupportedMediaType(
            f"Send the images as `{TAR}`, `{ZIP}` or `{FORM}`, and say which in the header `Content-Type`."
        )
    if kind == FORM and not _boundary(content_type):
        raise UnsupportedMediaType("The header `Content-Type` of the form has no `boundary`.")
    return kind


def unpack(body: Path, content_type: str, files: Files) -> None:
    """Write the files of ``body``.

    Parameters
    ----------
    content_type
        The header of the request, which `kind_of` has accepted.

    Raises
    ------
    UploadInvalid
        The body is damaged, or holds something that is not unpacked.
    QuotaExceeded, StoreFull
    """
    kind = kind_of(content_type)
    with Bounded(body) as source, _readable(kind):
        if kind == TAR:
            _unpack_tar(source, files)
        elif kind == ZIP:
            _unpack_zip(source, files)
        else:
            _unpack_form(source, _boundary(content_type), files)


class Bounded(io.FileIO):
    """A file of which nobody reads a large piece at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes; all that is left if negative.

        Raises
        ------
        UploadInvalid
            That is more than `MAX_READ`.
        """
        wanted = MAX_READ + 1 if size is None or size < 0 else size
        found = super().read(min(wanted, MAX_READ + 1)) or b""
        if len(found) > MAX_READ:
            raise UploadInvalid("The archive's table of contents is too large. Send it in several parts.")
        return found

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, which an archive names.

        Raises
        ------
        ValueError
            There is no such place.
        """
        try:
            return super().seek(offset, whence)
        except OSError as error:
            raise ValueError("it names places that are not in it") from error


@contextmanager
def _readable(kind: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise UploadInvalid(f"The body is not a valid {kind}: {shortened(str(error)) or 'it is cut off'}.") from error


def _unpack_tar(source: Bounded, files: Files) -> None:
    with tarfile.open(fileobj=source, mode="r:", errors="strict") as archive:
        while (member := archive.next()) is not None:
            files.count()
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise UploadInvalid(
                    f"{shortened(member.name)!r} is a link, a device or a sparse file. Pack files only, such as by "
                    "`tar --dereference`."
                )
            content = archive.extractfile(member)
            if content is not None:
                with content:
                    files.copy(member.name, content, float(member.mtime))
        source.seek(archive.offset)
        if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is cut off, or damaged in the middle")


def _unpack_zip(source: Bounded, files: Files) -> None:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            files.count()
            if member.filename.endswith("/"):  # `is_dir` raises for an empty name.
                continue
            shown = shortened(member.filename)
            if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG}:
                raise UploadInvalid(f"{shown!r} is a link or a device. Pack files only.")
            if member.flag_bits & 1:
                raise UploadInvalid(f"{shown!r} is encrypted. Pack it without a password.")
            if member.compress_type not in _ZIP_METHODS:
                raise UploadInvalid(f"{shown!r} is compressed by another method than `deflate`. Pack it with that.")
            changed_at = time.mktime((*member.date_time, 0, 0, -1))
            with archive.open(member) as content:
                files.copy(member.orig_filename, content, changed_at)


def _unpack_form(source: Bounded, boundary: str, files: Files) -> None:
    form = _Form(files)
    with form.open_file:
        parser = MultipartParser(boundary.encode("latin-1", "replace"), form.callbacks())
        while chunk := source.read(CHUNK):
            parser.write(chunk)
        parser.finalize()
        if not form.ended:
            raise UploadInvalid("The form is cut off.")


class _Form:
    """What the parts of a form become, as the parser calls."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._name, self._value = b"", b""
        self._disposition = b""
        self._writer: Writer | None = None
        self.open_file = ExitStack()
        self.ended = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._collect("_name"),
            "on_header_value": self._collect("_value"),
            "on_header_end": self._header,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self.open_file.close,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._files.count()
        self._name = self._value = self._disposition = b""

    def _collect(self, attribute: str) -> Callable[[bytes, int, int], None]:
        def collect(data: bytes, start: int, end: int) -> None:
            setattr(self, attribute, getattr(self, attribute) + data[start:end])

        return collect

    def _header(self) -> None:
        if self._name.strip().lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"filename", b"")
        if not name:
            field = options.get(b"name", b"").decode("utf-8", "replace")
            raise UploadInvalid(
                f"The field {shortened(field)!r} of the form is not a file: send files with a `filename`, which may be "
                "a relative path."
            )
        self._writer = self.open_file.enter_context(self._files.adding(name.decode("utf-8", "surrogateescape")))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._writer is not None:
            self._writer.write(data[start:end])

    def _end(self) -> None:
        self.ended = True


def _boundary(content_type: str) -> str:
    header = Message()
    header["Content-Type"] = content_type
    return header.get_boundary() or ""
