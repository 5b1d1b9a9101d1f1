"""The unix socket that a model host listens on, for this user alone."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from shoal.errors import SocketUnusable

LONGEST_PATH = 107
"""Bytes of a unix socket's path, as the kernel limits it."""
BACKLOG = 2048


class Listener:
    """A listening socket at ``path``, which no second process can take while this one lives.

    A lock on the file ``<path>.lock`` says whether the owner of an existing socket lives; the kernel drops it with the
    process. The socket of a dead one is removed.

    Parameters
    ----------
    path
        Where the socket appears, with mode 0600, in a folder with mode 0700.

    Raises
    ------
    SocketUnusable
        The path is too long, the folder is not this user's, another process has the socket, or something else is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (length := len(os.fsencode(path))) > LONGEST_PATH:
            raise SocketUnusable(
                f"The path {path} has {length} bytes; a socket's may have {LONGEST_PATH}. Set SHOAL_ONLINE to a "
                "folder with a shorter path."
            )
        try:
            _own_folder(path.parent)
            self._lock = _lock(path)
        except OSError as error:
            raise SocketUnusable(f"{path} cannot be created: {error}. Set SHOAL_ONLINE to another folder.") from error
        try:
            self.socket = _listen(path)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the socket, then let others have it."""
        self.socket.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        os.close(self._lock)


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise SocketUnusable(f"{folder} is not a folder. Set SHOAL_ONLINE to one.")
    if status.st_uid != os.geteuid():
        raise SocketUnusable(
            f"The folder {folder} belongs to user {status.st_uid}, not to user {os.geteuid()}, who runs the model "
            "host: others could replace its socket. Set SHOAL_ONLINE to a folder of this user."
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        # Never a folder that others use, such as /tmp.
        if any(path.suffix not in {".sock", ".lock"} for path in folder.iterdir()):
            raise SocketUnusable(
                f"The folder {folder} has mode {stat.S_IMODE(status.st_mode):04o} and holds other files. Set "
                "SHOAL_ONLINE to a folder of its own."
            )
        folder.chmod(0o700)


def _lock(path: Path) -> int:
    """Descriptor of the locked file, with this process's id in it."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise SocketUnusable(
            f"Process {owner or '?'} already listens on {path}. Stop it first, or set SHOAL_ONLINE to another folder."
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _listen(path: Path) -> socket.socket:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketUnusable(
                f"{path} exists and is not a socket. Remove it, or set SHOAL_ONLINE to another folder."
            )
        path.unlink()
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    try:
        # The folder's mode keeps others out until the socket has its own.
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketUnusable(f"{path} cannot be created: {error}. Set SHOAL_ONLINE to another folder.") from error
    return listener
