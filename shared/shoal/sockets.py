"""Where unix sockets go: their paths are short, and not every file system has them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import StackError

MAX_SOCKET_PATH = 103
"""Bytes that the path of a unix socket may have: 107 on Linux, 103 on macOS."""
PREFIX = "shoal-"


def socket_folder(preferred: Path, name: str) -> Path:
    """A folder in which a process can listen on the unix socket ``name``.

    Returns
    -------
    Path
        ``preferred``, made absolute, if it can hold the socket. Otherwise a new folder that only this user can enter,
        in the temporary folder or, where that cannot hold one either, in /tmp or the user's runtime folder. Remove it
        with `remove_socket_folder`.

    Raises
    ------
    StackError
        No folder can hold it.
    """
    preferred = preferred.resolve()
    if _fits(preferred / name) and _has_sockets(preferred):
        return preferred
    tried = list(dict.fromkeys(_temporary_folders()))
    for parent in tried:
        made = None
        with contextlib.suppress(OSError):
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if made is None:
            continue
        if _fits(made / name) and _has_sockets(made):
            return made
        made.rmdir()
    raise StackError(
        f"No folder can hold the unix socket `{name}`, whose whole path may have {MAX_SOCKET_PATH} bytes. Tried: "
        f"{', '.join(map(str, (preferred, *tried)))}. Set TMPDIR to a folder with a short path on a local disk."
    )


def remove_socket_folder(folder: Path, *names: str) -> None:
    """Remove a folder that `socket_folder` made, with the files of these names, and nothing that is not one."""
    with contextlib.suppress(OSError):
        facts = folder.lstat()
        if folder.name.startswith(PREFIX) and stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            for name in names:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _temporary_folders() -> Iterator[Path]:
    yield Path(tempfile.gettempdir()).resolve()
    yield Path("/tmp")
    # Last, since it goes when the user logs out.
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime)


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH


def _has_sockets(folder: Path) -> bool:
    """Some network and container file systems have no sockets."""
    probe = folder / f".{os.getpid()}"
    if not _fits(probe):
        return True
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.bind(str(probe))
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    return True
