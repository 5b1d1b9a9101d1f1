"""Files of the store: atomic writes, and comparison with recorded sizes and checksums.

Each write leaves either the old state or the new one behind, whenever the process or the machine stops.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
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

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_CHUNK = 1 << 22
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
"""Names of files whose content is being written; one stays behind when its process is killed."""
SETTLED_S = 2.0
"""A file that changed more recently may change again without a new time stamp: its check is not remembered."""
MAX_REMEMBERED = 65_536

_Checked = tuple[int, int, int, int, int, str]
_checked: OrderedDict[_Checked, None] = OrderedDict()
_lock = threading.Lock()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into `StoreFull`, `StoreReadOnly` or, for other causes, `StoreError`.

    ``FileNotFoundError`` and ``FileExistsError`` pass unchanged: callers use them to detect lost races.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in FULL:
            raise StoreFull(
                f"No space is left to write {path.name} ({os.strerror(error.errno)}). Free space in {path.parent}. "
                "Workers go on with their jobs then; one that has failed goes on when it is submitted again.",
                path=str(path),
            ) from error
        if error.errno in _READ_ONLY:
            raise StoreReadOnly(
                f"{path} cannot be written ({os.strerror(error.errno)}): the store is read-only for this user. "
                "Give this user write access to the folder, or set SHOAL_STORE to another folder.",
                path=str(path),
            ) from error
        raise StoreError(f"{path} cannot be written: {error}.", path=str(path)) from error


def fsync_folder(folder: Path) -> None:
    """Make the entries of ``folder`` durable.

    Raises
    ------
    StoreError
        They may not be.
    FileNotFoundError
        There is no such folder.
    """
    with storage_errors(folder):
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
    """Write a file under a unique hidden name, in ``folder`` or beside ``final``; returns its path."""
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
    """Create ``final`` with its whole content, unless it exists.

    Parameters
    ----------
    final
        The file to create.
    write
        Called with a binary file to write the content to.
    temporary_folder
        Where the content is written first, on the same file system; by default the folder of ``final``.

    Returns
    -------
    bool
        True: ``final`` was created and is durable. False: ``final`` existed and is unchanged.

    Raises
    ------
    StoreFull, StoreError
        The content cannot be written; no file is left behind.
    """
    with storage_errors(final):
        temporary = _write_temporary(final, write, temporary_folder)
        try:
            return link_absent(temporary, final)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def link_absent(source: Path, final: Path) -> bool:
    """Link ``source`` to ``final`` unless that name is taken; durable.

    A hard link is the only POSIX call that publishes a whole file and fails when the name is taken.

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
                f"The file system of {final.parent} has no hard links, which the store needs: set SHOAL_STORE to a "
                "folder on a local disk or on NFS.",
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
        See `publish_file`.
    durable
        False does not wait for the disk: a killed process still leaves the old or the new file, but a power failure
        may leave an unreadable one.

    Raises
    ------
    StoreFull, StoreError
        The content cannot be written; the old file stays.
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
    """Make every file and entry below ``folder`` durable."""
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def publish_folder(temporary: Path, final: Path) -> bool:
    """Rename the prepared, non-empty folder ``temporary`` to ``final``, unless ``final`` exists.

    Returns
    -------
    bool
        True: ``final`` was created and is durable with all its files. False: ``final`` existed; ``temporary`` is
        removed.

    Raises
    ------
    StoreFull, StoreError
        The rename fails for another reason; ``temporary`` stays.
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
    """Remove ``folder``: it disappears in one rename, then its files are deleted.

    Parameters
    ----------
    folder
        The folder to remove.
    trash
        A folder on the same file system to move it to; all other entries of ``trash`` are deleted too.

    Returns
    -------
    bool
        False if the folder does not exist.
    """
    with storage_errors(folder):
        trash.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(trash / f"{folder.name}.{secrets.token_hex(8)}")
        except FileNotFoundError:
            return False
    # Before the sync, which a full disk may refuse: this is what frees its space.
    for each in trash.iterdir():
        remove_quietly(each)
    fsync_folder(folder.parent)
    return True


def files_below(folder: Path) -> list[Path]:
    """The files in ``folder`` and below it, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def remove_quietly(path: Path) -> None:
    """Delete a file or a folder; what cannot be deleted stays."""
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def hash_file(path: Path, *, sha256: bool = True) -> tuple[int, str, str | None]:
    """Size in bytes, XXH3-64 and, if ``sha256``, SHA-256 of a file, in one pass."""
    fast, strong, size = xxhash.xxh3_64(), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            fast.update(chunk)
            if sha256:
                strong.update(chunk)
            size += len(chunk)
    return size, fast.hexdigest(), strong.hexdigest() if sha256 else None


def record_file(path: Path, name: str) -> FileRecord:
    """The record of a finished file under the name ``name``."""
    size, fast, strong = hash_file(path)
    return FileRecord(path=name, bytes=size, xxh3_64=fast, sha256=strong or "")


def damage_of(path: Path, record: FileRecord, *, hashed: bool = True) -> str | None:
    """Compare a file with its record; returns the end of a sentence that starts with its name, or None if it matches.

    A process hashes a matching file once, as long as its inode, size and times stay the same.

    Parameters
    ----------
    hashed
        False: compare only the size.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    """
    try:
        status = path.stat()
        if status.st_size != record.bytes:
            return f"has {status.st_size:,} bytes, but {record.bytes:,} were committed"
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, record.xxh3_64)
        if not hashed or _remembered(key):
            return None
        if hash_file(path, sha256=False)[:2] != (record.bytes, record.xxh3_64):
            return "does not have the committed checksum: it was damaged, changed or replaced"
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S:
        _remember(key)
    return None


def _remembered(key: _Checked) -> bool:
    with _lock:
        if key not in _checked:
            return False
        _checked.move_to_end(key)
        return True


def _remember(key: _Checked) -> None:
    with _lock:
        _checked[key] = None
        while len(_checked) > MAX_REMEMBERED:
            _checked.popitem(last=False)
