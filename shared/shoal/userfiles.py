"""Opening the files that a request or a command names: confined to a root, regular files only, within limits.

A pipe never blocks, a device is never read, and every read has a limit on the bytes and on the length of a line.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from shoal.deadline import Deadline
from shoal.errors import FileUnusable, PathNotFound, PathOutsideRoot, ShoalError

MAX_BYTES = 64 << 20
"""Default limit, in bytes, for a file that is read whole."""
MAX_LINE = 1 << 20
"""Default limit, in characters, for a line."""
HEAD_BYTES = 1 << 16
"""How many bytes the format and the encoding of a file are detected from."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark it starts with.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class UserFile:
    """A file named by a user.

    Attributes
    ----------
    path
        The file.
    name
        Its name in messages; the path if empty. A request's file keeps the name that the request uses, so that
        messages reveal no path of the machine.
    error
        The type of error that is raised when the file cannot be used.
    members
        Members of that error, such as the request's field.
    root
        The folder that must contain the opened file, with symlinks resolved; None: any place.
    """

    path: Path
    name: str = ""
    error: type[ShoalError] = FileUnusable
    members: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None

    def __str__(self) -> str:
        return self.name or str(self.path)

    def invalid(self, what: str, **members: Any) -> ShoalError:
        """An error of type `error` whose message is the file's name and ``what``."""
        return self.error(f"{self} {what}", **{**self.members, **members})

    @contextmanager
    def open(self, max_bytes: int | None = MAX_BYTES) -> Iterator[BinaryIO]:
        """Open the file for reading.

        Parameters
        ----------
        max_bytes
            The largest size to open. None: no limit, for readers that stream.

        Raises
        ------
        ShoalError
            ``error``: the file is missing, not a regular file, too large or not readable.
        PathOutsideRoot
            A symlink leads out of ``root``.
        """
        try:
            # Checked before it is opened: opening a device can have side effects.
            require_regular(self.path.stat())
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self.invalid(f"cannot be read: {_reason(error)}.") from error
        with os.fdopen(descriptor, "rb") as file:
            if self.root is not None:
                require_below(self.root, descriptor)
            try:
                status = os.fstat(descriptor)
                require_regular(status)
            except OSError as error:
                raise self.invalid(f"cannot be read: {_reason(error)}.") from error
            if max_bytes is not None and status.st_size > max_bytes:
                raise self._too_large(max_bytes, status.st_size)
            yield file

    def read_bytes(self, max_bytes: int = MAX_BYTES) -> bytes:
        """The whole file."""
        with self.open(max_bytes) as file:
            content = self._read(file, max_bytes + 1)
        if len(content) > max_bytes:  # The file grows, or its size is unknown.
            raise self._too_large(max_bytes, len(content))
        return content

    def read_text(self, max_bytes: int = MAX_BYTES) -> str:
        """The whole file as text, with or without a byte order mark."""
        content = self.read_bytes(max_bytes)
        try:
            return content.decode(text_encoding(content[:HEAD_BYTES]))
        except UnicodeError as error:
            raise self.invalid(f"cannot be read: it is not UTF-8 text ({error}). Save it as UTF-8.") from error

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """The first ``size`` bytes; the file may have any size."""
        with self.open(None) as file:
            return self._read(file, size)

    @contextmanager
    def lines(
        self, max_bytes: int | None = MAX_BYTES, max_line: int = MAX_LINE, *, deadline: Deadline | None
    ) -> Iterator[Iterator[str]]:
        """Iterate over the lines of a text file, line ends included, with or without a byte order mark.

        Parameters
        ----------
        deadline
            Checked at every line; None: no limit.

        Raises
        ------
        ShoalError
            ``error``: see `open`; while reading, also for a line longer than ``max_line`` characters and for text
            that is not UTF-8.
        """
        with self.open(max_bytes) as file:
            encoding = text_encoding(self._read(file, HEAD_BYTES))
            file.seek(0)
            with io.TextIOWrapper(file, encoding, newline="") as text:
                yield self._lines(text, max_line, deadline)

    def _lines(self, text: io.TextIOWrapper, max_line: int, deadline: Deadline | None) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            if deadline is not None:
                deadline.check()
            try:
                line = text.readline(max_line + 1)
            except UnicodeError as error:
                raise self.invalid(
                    f"cannot be read: it is not UTF-8 text ({error}, in or shortly after line {number}). "
                    "Save it as UTF-8.",
                    line=number,
                ) from error
            except OSError as error:
                raise self.invalid(f"cannot be read: {_reason(error)}.") from error
            if not line:
                return
            if len(line) > max_line:
                raise self.invalid(
                    f"has more than {max_line:,} characters in line {number}; expected text with one entry per line.",
                    line=number,
                )
            yield line

    def _read(self, file: BinaryIO, size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise self.invalid(f"cannot be read: {_reason(error)}.") from error

    def _too_large(self, max_bytes: int, size: int) -> ShoalError:
        return self.invalid(f"is too large: it has {size:,} bytes, and the limit is {max_bytes:,}.", bytes=size)


def below(root: Path, path: str) -> str:
    """Normalise ``path``: relative to ``root`` if it lies below it, without redundant ``.`` and ``/``.

    All spellings of one path give the same result, so that equal requests make equal plans.
    """
    pure = PurePosixPath(path)
    for base in (root.absolute(), root.resolve()):
        if pure.is_absolute() and pure.is_relative_to(base):
            return str(pure.relative_to(base))
    return str(pure)


def confine(root: Path, relative: str, what: str) -> Path:
    """Resolve the path ``relative`` below ``root``, symlinks included.

    Parameters
    ----------
    root
        The configured root folder.
    relative
        The requested path, with forward slashes: a relative path, or an absolute one below ``root``. ``.`` is the
        root itself.
    what
        The name of the request's field, for messages.

    Raises
    ------
    PathOutsideRoot
        ``relative`` is an absolute path elsewhere, holds ``..`` or a NUL, or a symlink on the way leaves the root.
    PathNotFound
        The path does not exist.
    """
    pure = PurePosixPath(relative)
    if ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise PathOutsideRoot(
            f"`{what}` is {relative!r}: use a path relative to the configured root, without `..` or backslashes.",
            field=what,
        )
    base = root.resolve()
    pure = PurePosixPath(below(root, relative))
    if pure.is_absolute():
        raise PathOutsideRoot(
            f"`{what}` is {relative!r}, which is not below the configured root. Use a path relative to the root, or "
            "start the service with another root.",
            field=what,
        )
    try:
        path = (base / pure).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise PathNotFound(f"`{what}` is {relative!r}: the path does not exist below the root.", field=what) from None
    except OSError as error:
        # The error's own text contains the root's path on this machine.
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise PathNotFound(f"`{what}` is {shortened(relative)!r}: it cannot be opened ({why}).", field=what) from error
    except (RuntimeError, ValueError) as error:
        raise PathNotFound(f"`{what}` is {shortened(relative)!r}: it is not a valid path.", field=what) from error
    if not path.is_relative_to(base):
        raise PathOutsideRoot(f"`{what}` is {relative!r}: a symlink leads out of the configured root.", field=what)
    return path


def shortened(text: str, longest: int = 100) -> str:
    """``text`` shortened for a message."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def as_text(text: str) -> str:
    """`text` as it can be stored: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def open_confined(root: Path, path: Path) -> Iterator[BinaryIO]:
    """Open the regular file ``path`` below ``root`` for reading.

    The location of the opened file is checked, not its path: a symlink swapped in after an earlier check is refused.
    A pipe or a device does not block.

    Parameters
    ----------
    root
        The folder, with symlinks resolved.

    Raises
    ------
    PathOutsideRoot
        The file is not below ``root``.
    OSError
        The file cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        require_below(root, descriptor)
        require_regular(os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def require_below(root: Path, descriptor: int) -> None:
    """Refuse an opened file that is not below ``root``.

    Raises
    ------
    PathOutsideRoot
        The file is not below ``root``.
    """
    real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - as text: the file may be deleted already
    if not real.is_relative_to(root):
        raise PathOutsideRoot("A symlink leads out of the configured root: copy the file into the root.")


def require_regular(status: os.stat_result) -> None:
    """Raise an `OSError` that names the kind of file, unless ``status`` is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for check, name in _KINDS if check(status.st_mode)), "something else")
        raise OSError(f"it is {kind}, not a regular file")


def text_encoding(head: bytes) -> str:
    """The encoding of a text file that starts with ``head``: by its byte order mark, else UTF-8.

    UTF-16 without a mark is recognised by its NUL bytes, which UTF-8 text does not contain.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    if head[1::2].count(0) > len(head) // 4:
        return "utf-16-le"
    if head[::2].count(0) > len(head) // 4:
        return "utf-16-be"
    return "utf-8"


def _reason(error: OSError | ValueError) -> str:
    # An error's own text contains the full path, which must not reach the sender of a request.
    return (isinstance(error, OSError) and error.strerror) or str(error)
