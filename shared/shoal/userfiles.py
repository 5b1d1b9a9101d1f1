"""Opening the files that a request or a command names, whatever lies there.

A pipe never blocks, a device is never read, and nothing is read without a limit on its bytes, and on the length of a
line where lines are read.
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

MOST_BYTES = 64 << 20
"""Bytes of a file that is read whole, unless its reader says otherwise."""
MOST_LINE = 1 << 20
"""Characters of a line."""
HEAD_BYTES = 1 << 16
"""Bytes that are enough to tell how a file is written."""

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
    """A file that somebody named.

    Attributes
    ----------
    path
        Where it lies.
    name
        What messages call it; the path where empty. A request's file is called as the request calls it, so that no
        path of the machine is given away.
    error
        What is raised when it cannot be used.
    members
        Members of that error, such as the request's field.
    root
        With symlinks resolved: where the opened file must lie, wherever its path pointed when that was checked.
    """

    path: Path
    name: str = ""
    error: type[ShoalError] = FileUnusable
    members: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None

    def __str__(self) -> str:
        return self.name or str(self.path)

    def invalid(self, what: str, **members: Any) -> ShoalError:
        """The error that says ``what`` is wrong with the file."""
        return self.error(f"{self} {what}", **{**self.members, **members})

    @contextmanager
    def open(self, most_bytes: int | None = MOST_BYTES) -> Iterator[BinaryIO]:
        """The file, open for reading.

        Parameters
        ----------
        most_bytes
            The largest size to open. None: any, for a reader that never holds all of it.

        Raises
        ------
        ShoalError
            ``error``: the file is missing, no regular file, too large or may not be read.
        PathOutsideRoot
            A symlink leads out of ``root``.
        """
        try:
            # Looked at before it is opened: to open a device can set something off.
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
            if most_bytes is not None and status.st_size > most_bytes:
                raise self._too_large(most_bytes, status.st_size)
            yield file

    def read_bytes(self, most_bytes: int = MOST_BYTES) -> bytes:
        """All of the file."""
        with self.open(most_bytes) as file:
            content = self._read(file, most_bytes + 1)
        if len(content) > most_bytes:  # It grows, or does not say how large it is.
            raise self._too_large(most_bytes, len(content))
        return content

    def read_text(self, most_bytes: int = MOST_BYTES) -> str:
        """All of the file as text, with or without a byte order mark."""
        content = self.read_bytes(most_bytes)
        try:
            return content.decode(text_encoding(content[:HEAD_BYTES]))
        except UnicodeError as error:
            raise self.invalid(f"cannot be read: it is no text in UTF-8 ({error}). Save it as UTF-8.") from error

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """The first bytes, at most ``size``, of a file of any size."""
        with self.open(None) as file:
            return self._read(file, size)

    @contextmanager
    def lines(
        self, most_bytes: int | None = MOST_BYTES, most_line: int = MOST_LINE, *, deadline: Deadline | None
    ) -> Iterator[Iterator[str]]:
        """The lines of a text file one after another, each with its end, with or without a byte order mark.

        Parameters
        ----------
        deadline
            Of the request that needs them, checked at every line; None for no limit.

        Raises
        ------
        ShoalError
            ``error``: as `open` says; while lines are read, also that one is longer than ``most_line`` characters or
            is no UTF-8.
        """
        with self.open(most_bytes) as file:
            encoding = text_encoding(self._read(file, HEAD_BYTES))
            file.seek(0)
            with io.TextIOWrapper(file, encoding, newline="") as text:
                yield self._lines(text, most_line, deadline)

    def _lines(self, text: io.TextIOWrapper, most_line: int, deadline: Deadline | None) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            if deadline is not None:
                deadline.check()
            try:
                line = text.readline(most_line + 1)
            except UnicodeError as error:
                raise self.invalid(
                    f"cannot be read: it is no text in UTF-8 ({error}, in line {number} or a little below). "
                    "Save it as UTF-8.",
                    line=number,
                ) from error
            except OSError as error:
                raise self.invalid(f"cannot be read: {_reason(error)}.") from error
            if not line:
                return
            if len(line) > most_line:
                raise self.invalid(
                    f"has more than {most_line:,} characters in line {number}: that is no text with one entry a line.",
                    line=number,
                )
            yield line

    def _read(self, file: BinaryIO, size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise self.invalid(f"cannot be read: {_reason(error)}.") from error

    def _too_large(self, most_bytes: int, size: int) -> ShoalError:
        return self.invalid(f"is too large: it has {size:,} bytes, and at most {most_bytes:,} are read.", bytes=size)


def below(root: Path, path: str) -> str:
    """``path`` relative to ``root`` where it is an absolute path below it, without needless dots and slashes.

    Equal for every way to write the same path, so that the same request makes the same plan.
    """
    pure = PurePosixPath(path)
    for base in (root.absolute(), root.resolve()):
        if pure.is_absolute() and pure.is_relative_to(base):
            return str(pure.relative_to(base))
    return str(pure)


def confine(root: Path, relative: str, what: str) -> Path:
    """The path ``relative`` below ``root``, with every symlink resolved.

    Parameters
    ----------
    root
        The configured root folder.
    relative
        What the request asks for, with forward slashes: a relative path, or an absolute one below ``root``. ``.`` is
        the root itself.
    what
        The request's field, for the error message.

    Raises
    ------
    PathOutsideRoot
        ``relative`` is an absolute path elsewhere, holds ``..`` or a NUL, or a symlink on the way leaves the root.
    PathNotFound
        Nothing is there.
    """
    pure = PurePosixPath(relative)
    if ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise PathOutsideRoot(
            f"`{what}` is {relative!r}: give a path relative to the configured root, without `..` or backslashes.",
            field=what,
        )
    base = root.resolve()
    pure = PurePosixPath(below(root, relative))
    if pure.is_absolute():
        raise PathOutsideRoot(
            f"`{what}` is {relative!r}, which is not below the configured root. Give a path relative to the root, or "
            "start the service with another root.",
            field=what,
        )
    try:
        path = (base / pure).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise PathNotFound(f"`{what}` is {relative!r}: nothing of that name is below the root.", field=what) from None
    except OSError as error:
        # The error's own text names the root's place on this machine.
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise PathNotFound(f"`{what}` is {shortened(relative)!r}: it cannot be opened ({why}).", field=what) from error
    except (RuntimeError, ValueError) as error:
        raise PathNotFound(f"`{what}` is {shortened(relative)!r}: that cannot be a path.", field=what) from error
    if not path.is_relative_to(base):
        raise PathOutsideRoot(f"`{what}` is {relative!r}: a symlink on the way leaves the configured root.", field=what)
    return path


def shortened(text: str, longest: int = 100) -> str:
    """`text` as a message can show it."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def as_text(text: str) -> str:
    """`text` as it can be stored: bytes of a file name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def open_confined(root: Path, path: Path) -> Iterator[BinaryIO]:
    """Open the regular file ``path`` for reading, which must lie below ``root``.

    What counts is where the opened file lies, not where its path pointed when it was checked: a symlink that is put
    in its place in between gains nothing. A pipe or a device does not block.

    Parameters
    ----------
    root
        With symlinks resolved.

    Raises
    ------
    PathOutsideRoot
        The file lies elsewhere.
    OSError
        It cannot be opened, or is no regular file.
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
    """Refuse an opened file that does not lie below ``root``.

    Raises
    ------
    PathOutsideRoot
        It lies elsewhere.
    """
    real = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - as text: it may be gone already
    if not real.is_relative_to(root):
        raise PathOutsideRoot("A symlink on the way leaves the configured root: put the file itself there.")


def require_regular(status: os.stat_result) -> None:
    """Raise an `OSError` that says what else it is, unless ``status`` is a regular file's."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for check, name in _KINDS if check(status.st_mode)), "something else")
        raise OSError(f"it is {kind}, not a regular file")


def text_encoding(head: bytes) -> str:
    """The encoding of a text file that starts with ``head``: by its byte order mark, else UTF-8.

    UTF-16 without a mark is told by its NULs, which text in UTF-8 does not have.
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
    # An error's own text has the whole path, which is no business of whoever sent the request.
    return (isinstance(error, OSError) and error.strerror) or str(error)
