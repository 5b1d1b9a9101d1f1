"""The files of an embeddings set where a folder holds them: what readers and writers do with them.

`shoal.store.remote` does the same where a bucket holds them. Every path is one below the set's folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from shoal.store.files import (
    damage_of,
    files_below,
    fsync_folder,
    publish_file,
    remove_quietly,
    replace_file,
    storage_errors,
)
from shoal.store.records import FileRecord

Self_ = TypeVar("Self_", bound="FolderPlace")


class FolderPlace:
    """A folder with the files of one set.

    Attributes
    ----------
    folder
        ``<root>/embeddings/<id>``.
    verified_by_storage
        Whether what was written stays as it was: sizes are enough then when a set is opened to be continued.
    """

    verified_by_storage = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def address(self) -> str:
        """The folder, for people."""
        return str(self.folder)

    def name_of(self, path: Path) -> str:
        """``path`` relative to the folder, with forward slashes."""
        return path.relative_to(self.folder).as_posix()

    def is_there(self) -> bool:
        """Whether there is such a set, damaged or not."""
        return self.folder.is_dir()

    def refresh(self, folder: Path) -> None:
        """See what other processes have written below ``folder`` meanwhile."""

    @contextmanager
    def fresh(self: Self_) -> Iterator[Self_]:
        """The same set, every byte of it read where it is stored."""
        yield self

    def has(self, path: Path) -> bool:
        """Whether a file is there now."""
        return path.exists()

    def local(self, path: Path) -> Path:
        """A file of this machine with the content of ``path``; it may go away before it is opened.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        return path

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        return self.local(path).read_bytes()

    def prefetch(self, paths: Iterable[Path]) -> None:
        """Prepare reading many small files."""

    def damage(self, path: Path, record: FileRecord, *, hashed: bool = True) -> str | None:
        """See `shoal.store.files.damage_of`."""
        return damage_of(path, record, hashed=hashed)

    def names(self, folder: Path) -> list[str]:
        """Names of what is in ``folder``.

        Raises
        ------
        FileNotFoundError
            There is no such folder.
        """
        return os.listdir(folder)  # noqa: PTH208 - only the names

    def files_below(self, folder: Path) -> list[Path]:
        """The files in ``folder`` and below it, sorted; none where there is no such folder."""
        return files_below(folder)

    def version(self, path: Path) -> Hashable:
        """See the function `version`."""
        return version(path)

    def changed(self, path: Path) -> float:
        """See the function `changed`."""
        return changed(path)

    def size(self, path: Path) -> int:
        """See the function `size`."""
        return size(path)

    def make_folder(self, folder: Path) -> None:
        """Make a folder, durably, in one that exists; it may be there.

        Raises
        ------
        FileNotFoundError
            The set was deleted.
        """
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)

    def make_staging(self, folder: Path) -> None:
        """Make the folder in which an attempt writes its files on this machine; it may be there.

        Raises
        ------
        FileNotFoundError
            The set was deleted.
        """
        folder.mkdir(exist_ok=True)

    def stage(self, folder: Path, names: Iterable[str]) -> None:
        """Make an attempt's files ``names`` in ``folder`` durable, before a commit names them."""
        fsync_folder(folder)
        fsync_folder(folder.parent)

    def publish(self, path: Path, content: bytes, scratch: Path | None = None) -> bool:
        """Create a file, unless it exists; see `shoal.store.files.publish_file`."""
        return publish_file(path, lambda file: file.write(content), temporary_folder=scratch)

    def replace(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Create or replace a file; see `shoal.store.files.replace_file`."""
        replace_file(path, write)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, which must be free."""
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, in place of the one that is there; `sync` makes it durable. Then `remove` its old folder.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        with storage_errors(target):
            target.parent.mkdir(exist_ok=True)
            source.replace(target)

    def sync(self, folders: Iterable[Path]) -> None:
        """Make the entries of folders durable."""
        for folder in set(folders):
            fsync_folder(folder)

    def remove(self, path: Path) -> None:
        """Delete a file or a folder; what cannot be deleted stays."""
        remove_quietly(path)

    def move_to_trash(self, path: Path, trash: Path) -> None:
        """Move a file into a folder of the trash; durable."""
        target = trash / self.name_of(path).replace("/", "_")
        while path.exists():
            # Another process may empty the trash at the same time.
            trash.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                path.rename(target)
                fsync_folder(path.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Allow one repair of the set at a time, where the file system supports locks on folders."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def version(path: Path) -> Hashable:
    """Differs between a file or folder and one that was made again under its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def changed(path: Path) -> float:
    """When anything in ``path`` was written last, in seconds since 1970; 0 where nothing is."""
    newest = 0.0
    for each in _tree(path):
        with suppress(OSError):
            newest = max(newest, each.lstat().st_mtime)
    return newest


def size(path: Path) -> int:
    """Bytes of all that is in ``path``."""
    total = 0
    for each in _tree(path):
        with suppress(OSError):
            total += each.lstat().st_size
    return total


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")
