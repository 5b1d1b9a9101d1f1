"""Keeping requested paths inside a configured root."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from shoal.errors import PathNotFound, PathOutsideRoot


def confine(root: Path, relative: str, what: str) -> Path:
    """The path ``relative`` below ``root``, with every symlink resolved.

    Parameters
    ----------
    root
        The configured root folder.
    relative
        What the request asks for: a relative path with forward slashes. ``.`` is the root itself.
    what
        The request's field, for the error message.

    Raises
    ------
    PathOutsideRoot
        ``relative`` is absolute, holds ``..`` or a NUL, or a symlink on the way leaves the root.
    PathNotFound
        Nothing is there.
    """
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise PathOutsideRoot(
            f"`{what}` is {relative!r}: give a path relative to the configured root, without `..` or backslashes.",
            field=what,
        )
    base = root.resolve()
    try:
        path = (base / pure).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise PathNotFound(f"`{what}` is {relative!r}: nothing of that name is below the root.", field=what) from None
    except (OSError, RuntimeError) as error:
        raise PathNotFound(f"`{what}` is {relative!r}: it cannot be opened ({error}).", field=what) from error
    if not path.is_relative_to(base):
        raise PathOutsideRoot(f"`{what}` is {relative!r}: a symlink on the way leaves the configured root.", field=what)
    return path
