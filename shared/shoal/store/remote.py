"""Embeddings sets in a bucket: the files of `shoal.store.place` as objects, read through local copies.

The keys are the paths of FORMAT.md, and the commit protocol is the same: what a folder links or renames into place, a
bucket gets by a conditional PUT or a copy. A set exists as long as its plan.json does, which is written last when a set
is created and removed first when it is deleted.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from shoal.aws import endpoint
from shoal.errors import StoreError, StoreUnavailable
from shoal.settings import Settings
from shoal.store.copies import Copies, default_folder
from shoal.store.files import damage_of
from shoal.store.layout import EmbeddingsLayout, is_id
from shoal.store.objects import CONNECTIONS, Found, Objects
from shoal.store.records import SHARD_DIGITS, FileRecord

SETS, TRASH = "embeddings/", ".trash/"


@lru_cache(maxsize=8)
def _objects(url: str, server: str | None) -> Objects:
    return Objects(url)


@dataclass(frozen=True)
class RemoteSets:
    """The embeddings sets below a prefix of a bucket. It may be sent to another process or machine.

    Attributes
    ----------
    url
        ``s3://bucket/prefix``.
    cache
        Folder of local copies; None for the default of each machine.
    limit
        Bytes of the copies.
    """

    url: str
    cache: Path | None
    limit: int

    @classmethod
    def of(cls, settings: Settings) -> RemoteSets | None:
        """The bucket of a process; None if its embeddings are below the store's root."""
        if settings.embeddings_store is None:
            return None
        return cls(settings.embeddings_store, settings.embeddings_cache, settings.embeddings_cache_size)

    @property
    def objects(self) -> Objects:
        """The objects of the bucket, over connections that this process shares."""
        return _objects(self.url, endpoint())

    @property
    def copies(self) -> Copies:
        """The copies on this machine."""
        return Copies(self.cache or default_folder(), self.limit)

    def layout(self, embeddings_id: str, digits: int) -> RemoteLayout:
        """The files of one set."""
        return RemoteLayout(self, embeddings_id, digits)

    def ids(self) -> list[str]:
        """Ids of all sets, sorted. What a deletion has left is none."""
        names = [name for name in self.objects.folders(SETS) if is_id(name)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            plans = pool.map(self.objects.find, [f"{SETS}{name}/plan.json" for name in names])
            return sorted(name for name, plan in zip(names, plans, strict=True) if plan is not None)

    def delete(self, embeddings_id: str) -> bool:
        """Delete a set: it is gone with its plan, then its other objects go. False if there is none."""
        prefix = f"{SETS}{embeddings_id}/"
        keys = self.objects.listed(prefix)
        there = f"{prefix}plan.json" in keys
        if there:
            self.objects.remove([f"{prefix}plan.json"])
        # The commits last: without its commit, nobody would know a shard's files for those of another attempt.
        self.objects.remove(sorted(keys, key=lambda key: (key.startswith(f"{prefix}commits/"), key)))
        return there

    def leftovers(self) -> dict[str, tuple[int, float]]:
        """Bytes and time of the last change of what deletions and repairs left, by prefix."""
        known = set(self.ids())
        found: dict[str, tuple[int, float]] = {}
        for parent, names in ((SETS, set(self.objects.folders(SETS)) - known), (TRASH, self.objects.folders(TRASH))):
            for name in sorted(names):
                there = self.objects.listed(f"{parent}{name}/").values()
                changed = max((each.changed for each in there), default=0.0)
                found[f"{parent}{name}/"] = sum(each.bytes for each in there), changed
        return found

    def remove_leftover(self, prefix: str) -> None:
        """Delete one of `leftovers`, unless it has become a set."""
        if self.objects.find(f"{prefix}plan.json") is None or prefix.startswith(TRASH):
            self.objects.remove(self.objects.listed(prefix))


class RemoteLayout(EmbeddingsLayout):
    """The files of one set in a bucket, as they were when they were first asked for or last refreshed.

    `folder` is where attempts of this machine write their files before they send them; nobody reads there.

    Parameters
    ----------
    remote
        The bucket.
    embeddings_id, digits
        See `EmbeddingsLayout`.
    """

    verified_by_storage = True

    def __init__(self, remote: RemoteSets, embeddings_id: str, digits: int = SHARD_DIGITS) -> None:
        super().__init__(remote.copies.work / embeddings_id, digits)
        self._remote = remote
        self._objects, self._copies = remote.objects, remote.copies
        self._prefix = f"{SETS}{embeddings_id}/"
        self._listed: dict[str, Found] | None = None
        self._listing = threading.Lock()

    def __reduce__(self) -> tuple[type[RemoteLayout], tuple[RemoteSets, str, int]]:
        """Another process lists the objects itself, and has its own connections."""
        return type(self), (self._remote, self.folder.name, self.digits)

    @property
    def address(self) -> str:
        return self._objects.address(self._prefix.rstrip("/"))

    def with_digits(self, digits: int) -> RemoteLayout:
        same = RemoteLayout(self._remote, self.folder.name, digits)
        same._copies, same._listed = self._copies, self._listed
        return same

    def is_there(self) -> bool:
        return self._objects.find(self._key(self.plan)) is not None

    def refresh(self, folder: Path) -> None:
        key = self._key(folder)
        found = {name: each for name, each in self._objects.listed(key).items() if _is_below(name, key)}
        self._note(key, found)

    @contextmanager
    def fresh(self) -> Iterator[RemoteLayout]:
        self._copies.staging(self._copies.work)
        with tempfile.TemporaryDirectory(dir=self._copies.work, prefix="fresh-", ignore_cleanup_errors=True) as folder:
            same = self.with_digits(self.digits)
            # No file of a shard may go while another is read.
            limit = max(self._copies.limit, 8 * max((each.bytes for each in self._there.values()), default=0))
            same._copies, same._listed = Copies(Path(folder), limit), None
            yield same

    def has(self, path: Path) -> bool:
        return self._key(path) in self._there or next(self._below(path), None) is not None

    def local(self, path: Path) -> Path:
        key = self._key(path)
        for _ in range(2):
            found = self._there.get(key)
            if found is None:
                break
            try:
                return self._copies.get(self._objects, key, found)
            except FileNotFoundError:  # Moved, replaced or deleted since it was listed.
                self.refresh(path)
        raise FileNotFoundError(2, "No such object", self._objects.address(key))

    def read(self, path: Path) -> bytes:
        for _ in range(3):
            with suppress(FileNotFoundError):
                return self.local(path).read_bytes()
            if not self.has(path):
                break
        raise FileNotFoundError(2, "No such object", self._objects.address(self._key(path)))

    def prefetch(self, paths: Iterable[Path]) -> None:
        def fetch(path: Path) -> None:
            with suppress(FileNotFoundError):
                self.local(path)

        there = self._there
        absent = [
            path
            for path in paths
            if (found := there.get(self._key(path))) is not None
            and not self._copies.path(self._objects, self._key(path), found).exists()
        ]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(fetch, absent))

    def damage(self, path: Path, record: FileRecord, *, hashed: bool = True) -> str | None:
        found = self._there.get(self._key(path))
        if found is None:
            raise FileNotFoundError(2, "No such object", self._objects.address(self._key(path)))
        if found.bytes != record.bytes:
            return f"has {found.bytes:,} bytes, but {record.bytes:,} were committed"
        if not hashed:
            return None
        copy = self.local(path)
        if damage_of(copy, record) is None:
            return None
        self._copies.drop(copy)  # The copy may be damaged, and the object not.
        return damage_of(self.local(path), record)

    def names(self, folder: Path) -> list[str]:
        start = self._key(folder) + "/"
        names = {key.removeprefix(start).partition("/")[0] for key in self._below(folder)}
        if not names and not self.has(self.plan):
            raise FileNotFoundError(2, "No such object", self._objects.address(self._key(self.plan)))
        return sorted(names)

    def files_below(self, folder: Path) -> list[Path]:
        return [self.folder / key.removeprefix(self._prefix) for key in sorted(self._below(folder))]

    def version(self, path: Path) -> str | None:
        found = self._objects.find(self._key(path))
        return None if found is None else found.version

    def changed(self, path: Path) -> float:
        return max((self._there[key].changed for key in self._below(path)), default=0.0)

    def size(self, path: Path) -> int:
        return sum(self._there[key].bytes for key in self._below(path))

    def make_folder(self, folder: Path) -> None:
        """A bucket has no folders."""

    def make_staging(self, folder: Path) -> None:
        self._copies.staging(folder)

    def stage(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            key = self._key(folder / name)
            self._note(key, {key: self._objects.upload(key, folder / name)})

    def publish(self, path: Path, content: bytes, scratch: Path | None = None) -> bool:
        key = self._key(path)
        first = path in (self.plan, self.listing)
        if not first and not self.is_there():
            raise FileNotFoundError(2, "The set was deleted", self.address)
        created = self._objects.create(key, content)
        if created is None:
            self.refresh(path)
            return False
        if path == self.plan:
            self._objects.require_conditions(key, content)
        self._note(key, {key: created})
        return True

    def replace(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        sink = BytesIO()
        write(sink)
        key = self._key(path)
        self._note(key, {key: self._objects.put(key, sink.getvalue())})

    def link(self, source: Path, target: Path) -> None:
        key, known = self._key(target), self._there.get(self._key(source))
        try:
            version = self._objects.copy(self._key(source), key)
        except FileNotFoundError:
            self.refresh(target)
            raise
        if known is None:
            self.refresh(target)
        else:
            self._note(key, {key: Found(known.bytes, version, time.time())})

    def rename(self, source: Path, target: Path) -> None:
        """Copy; what is renamed is in a folder that is removed next, with all that is in it."""
        self.link(source, target)

    def sync(self, folders: Iterable[Path]) -> None:
        """What a server has answered is durable."""

    def remove(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(StoreError, StoreUnavailable):
            self._delete(path)

    def move_to_trash(self, path: Path, trash: Path) -> None:
        if not self.has(path):
            return
        with suppress(FileNotFoundError):  # Moved or deleted by another process.
            self._objects.copy(self._key(path), f"{TRASH}{trash.name}/{self.name_of(path)}")
        self._delete(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing: two repairs at once remove the same damaged shards."""
        yield

    @property
    def _there(self) -> dict[str, Found]:
        if self._listed is None:
            self._listed = self._objects.listed(self._prefix)
        return self._listed

    def _delete(self, path: Path) -> None:
        if keys := list(self._below(path)):
            self._objects.remove(keys)
            self._note(self._key(path), {})

    def _note(self, place: str, found: dict[str, Found]) -> None:
        """Note what is at a key and below it now."""
        there = self._there
        with self._listing:
            there = self._listed if self._listed is not None else there
            self._listed = {**{key: each for key, each in there.items() if not _is_below(key, place)}, **found}

    def _key(self, path: Path) -> str:
        name = self.name_of(path)
        return self._prefix.rstrip("/") if name == "." else self._prefix + name

    def _below(self, path: Path) -> Iterator[str]:
        """Keys of the objects at ``path`` and below it."""
        key = self._key(path)
        return (each for each in self._there if _is_below(each, key))


def _is_below(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}/")
