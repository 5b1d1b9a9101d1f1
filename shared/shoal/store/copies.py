"""Local copies of objects, from which they are read and mapped into memory.

A copy has the content of one version of one object, under a name that no other version has, so it never goes stale. The
copies that were used least recently are removed when all together exceed a limit. Any process may do so at any time:
what is mapped stays readable until it is unmapped, and what is not open yet is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import StoreError, StoreFull
from shoal.store.files import FULL, remove_quietly
from shoal.store.objects import Found, Objects

TOUCH_S = 600.0
"""How exactly the last use of a copy is known: a new time makes a process compare its checksum again."""
DEAD_S = 86_400.0
"""What an attempt was writing, and has not written to for this long, belongs to a dead process."""


def default_folder() -> Path:
    """``shoal/embeddings`` below ``XDG_CACHE_HOME``, which is ``~/.cache`` by default."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "shoal" / "embeddings"


@dataclass(frozen=True)
class Copies:
    """The copies in a folder of this machine.

    Attributes
    ----------
    limit
        Bytes of all copies; the one fetched last stays, however large it is.
    """

    folder: Path
    limit: int

    @property
    def work(self) -> Path:
        """Folder of what attempts are writing."""
        return self.folder / "work"

    def path(self, objects: Objects, key: str, found: Found) -> Path:
        """Where the copy of a version of an object is, if there is one."""
        digest = hashlib.sha256(f"{objects.address(key)}\n{found.version}\n{found.bytes}".encode()).hexdigest()
        return self.folder / "copies" / f"{digest[:32]}-{key.rpartition('/')[2]}"

    def get(self, objects: Objects, key: str, found: Found) -> Path:
        """The copy of a version of an object, fetched unless it is here.

        Raises
        ------
        FileNotFoundError
            The object is gone, or is another version.
        StoreFull, StoreError
            It cannot be fetched, or not be written here.
        """
        path = self.path(objects, key, found)
        with suppress(FileNotFoundError):
            _touch(path)
            return path
        self._make(path.parent)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
        try:
            with _writing(path):
                objects.download(key, found.version, temporary)
                temporary.replace(path)
        except BaseException:
            remove_quietly(temporary)
            raise
        self._make_room(path)
        return path

    def drop(self, path: Path) -> None:
        """Remove a copy that is damaged."""
        remove_quietly(path)

    def staging(self, folder: Path) -> None:
        """Make a folder below `work`, and remove those of dead processes."""
        self._make(folder)
        for each in self.work.iterdir():
            with suppress(OSError):
                newest = max(entry.lstat().st_mtime for entry in (each, *each.rglob("*")))
                if time.time() - newest > DEAD_S:
                    remove_quietly(each)

    def _make(self, folder: Path) -> None:
        with _writing(folder):
            # Only this user may read what the bucket lets only some read.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(parents=True, exist_ok=True)

    def _make_room(self, newest: Path) -> None:
        """Remove the copies used least recently until the others fit; also what killed processes were fetching."""
        found = []
        with os.scandir(newest.parent) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((max(status.st_mtime, status.st_atime), status.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            if path != str(newest):
                remove_quietly(Path(path))
                total -= size


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the setting of the folder in the errors of writing to it."""
    try:
        yield
    except FileNotFoundError:  # The object's.
        raise
    except OSError as error:
        kind = StoreFull if error.errno in FULL else StoreError
        raise kind(
            f"{path} cannot be written ({error.strerror or error}). Set SHOAL_EMBEDDINGS_CACHE to a folder that this "
            "user may write to, and SHOAL_EMBEDDINGS_CACHE_SIZE to less than its disk has.",
            path=str(path),
        ) from error


def _touch(path: Path) -> None:
    """Note that a copy is used, unless it was lately."""
    status, now = path.stat(), time.time()
    if now - max(status.st_mtime, status.st_atime) > TOUCH_S:
        os.utime(path, (now, status.st_mtime))
