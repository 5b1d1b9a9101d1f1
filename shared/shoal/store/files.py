"""The store's files: each appears whole or not at all, and is compared with its size and checksum before it is read.

Each function that writes leaves either the old state or the new one behind, whenever the process or the machine stops.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import xxhash

from shoal.errors import StoreError, StoreFull, StoreReadOnly
from shoal.store.records import FileRecord

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_CHUNK = 1 << 22
SETTLED_S = 2.0
"""A file changed so recently may change again without a new time stamp: nobody remembers that it was right."""
MOST_REMEMBERED = 65_536

_Seen = tuple[int, int, int, int, int, str]
_seen: OrderedDict[_Seen, None] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into `StoreFull` and `StoreReadOnly`, other failures of I/O into `StoreError`.

    ``FileNotFoundError`` and ``FileExistsError`` pass, since they tell callers who won a race.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(
                f"No space is left to write {path.name} ({os.strerror(error.errno)}): free some below {path.parent} "
                "and submit the job again; it goes on from the last committed shard.",
                path=str(path),
            ) from error
        if error.errno in _READ_ONLY:
            raise StoreReadOnly(
                f"{path} cannot be written ({os.strerror(error.errno)}): the store is read-only for this user. Reading "
                "works; to write, give the user of this process write access to the folder, or set SHOAL_STORE to "
                "another one.",
                path=str(path),
            ) from error
        raise StoreError(f"{path} could not be written: {error}.", path=str(path)) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(file: BinaryIO) -> None:
    """Make the content of an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def _write_temporary(
    final: Path, write: Callable[[BinaryIO], object], folder: Path | None, *, durable: bool = True
) -> Path:
    """Write a durable file under a name of its own, in ``folder`` or hidden beside ``final``."""
    temporary = (folder or final.parent) / f".{final.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            write(file)
            if durable:
                fsync_file(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def publish_file(final: Path, write: Callable[[BinaryIO], object], *, temporary_folder: Path | None = None) -> bool:
    """Create ``final`` with all of its content, unless it exists.

    Parameters
    ----------
    final
        The file to create.
    write
        Writes the content to the binary file that it is given.
    temporary_folder
        Where the content is written first; must be on the same file system. Beside ``final`` by default.

    Returns
    -------
    bool
        True: ``final`` is there, durable, and ours. False: somebody else's was there first and stays as it is.

    Raises
    ------
    StoreFull, StoreError
        The content could not be written; nothing is left behind.
    """
    with storage_errors(final):
        temporary = _write_temporary(final, write, temporary_folder)
        try:
            return link_absent(temporary, final)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def link_absent(source: Path, final: Path) -> bool:
    """Give ``source`` the second name ``final`` unless that name is taken, durably.

    A hard link is the one call of POSIX that both publishes a whole file and fails when the name is taken.

    Raises
    ------
    StoreError
        The file system has no hard links.
    """
    try:
        os.link(source, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StoreError(
                f"The file system of {final.parent} has no hard links, which the store's commits need: put SHOAL_STORE "
                "on a local disk or on NFS.",
                path=str(final),
            ) from error
        raise
    fsync_folder(final.parent)
    return True


def replace_file(
    final: Path,
    write: Callable[[BinaryIO], object],
    *,
    temporary_folder: Path | None = None,
    durable: bool = True,
) -> None:
    """Create or replace ``final`` in one step, durably.

    Parameters
    ----------
    final, write, temporary_folder
        As of `publish_file`.
    durable
        False saves the time of waiting for the disk: a killed process still leaves the old or the new file, but a loss
        of power may leave an unreadable one.

    Raises
    ------
    StoreFull, StoreError
        The content could not be written; what was there stays.
    """
    with storage_errors(final):
        temporary = _write_temporary(final, write, temporary_folder, durable=durable)
        try:
            temporary.replace(final)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            fsync_folder(final.parent)


def fsync_tree(folder: Path) -> None:
    """Make every file and name below ``folder`` durable."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def publish_folder(temporary: Path, final: Path) -> bool:
    """Rename the prepared, not empty folder ``temporary`` to ``final``, unless ``final`` exists.

    Returns
    -------
    bool
        True: ``final`` is there, durable with all in it, and ours. False: somebody else's was there first; ours is
        removed.

    Raises
    ------
    StoreFull, StoreError
        The rename failed for another reason; ``temporary`` stays.
    """
    with storage_errors(final):
        fsync_tree(temporary)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.rename(final)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            return False
        fsync_folder(final.parent)
        return True


def remove_folder(folder: Path, trash: Path) -> bool:
    """Make ``folder`` disappear in one step, then remove its files.

    Parameters
    ----------
    folder
        The folder to remove.
    trash
        A folder on the same file system; what a killed process left in it is removed too.

    Returns
    -------
    bool
        False: there was no such folder.
    """
    with storage_errors(folder):
        trash.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(trash / f"{folder.name}.{secrets.token_hex(8)}")
        except FileNotFoundError:
            return False
        fsync_folder(folder.parent)
    for leftover in trash.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()
    return True


def hash_file(path: Path, *, sha256: bool = True) -> tuple[int, str, str | None]:
    """Size in bytes, XXH3-64 and SHA-256 (None unless asked for) of a file, in one pass."""
    fast, strong, size = xxhash.xxh3_64(), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            fast.update(chunk)
            if sha256:
                strong.update(chunk)
            size += len(chunk)
    return size, fast.hexdigest(), strong.hexdigest() if sha256 else None


def record_file(path: Path, name: str) -> FileRecord:
    """The record of a finished file that is to be known as ``name``."""
    size, fast, strong = hash_file(path)
    return FileRecord(path=name, bytes=size, xxh3_64=fast, sha256=strong or "")


def damage_of(path: Path, record: FileRecord, *, hashed: bool = True) -> str | None:
    """What is wrong with a file, in words that follow its name; None when its bytes are the recorded ones.

    A file that was right is not hashed again by this process as long as its inode, size and times stay.

    Parameters
    ----------
    hashed
        False compares the size alone.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    try:
        status = path.stat()
        if status.st_size != record.bytes:
            return f"has {status.st_size:,} bytes, but {record.bytes:,} were committed"
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, record.xxh3_64)
        if not hashed or _remembered(key):
            return None
        if hash_file(path, sha256=False)[:2] != (record.bytes, record.xxh3_64):
            return "does not have the checksum that was committed: it was damaged, changed or exchanged"
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S:
        _remember(key)
    return None


def _remembered(key: _Seen) -> bool:
    with _lock:
        if key not in _seen:
            return False
        _seen.move_to_end(key)
        return True


def _remember(key: _Seen) -> None:
    with _lock:
        _seen[key] = None
        while len(_seen) > MOST_REMEMBERED:
            _seen.popitem(last=False)
