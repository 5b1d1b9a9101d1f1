"""Keeping requested paths inside a configured root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from shoal.errors import PathNotFound, PathOutsideRoot
from shoal.userfiles import require_below, require_regular


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
