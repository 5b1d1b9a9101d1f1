"""What stays in memory between requests: the last used clusterings and embeddings, within a number of bytes each."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Annotated, Any, Generic, Protocol, TypeVar

from fastapi import Depends, Request
from shoal.errors import EmbeddingsNotFound
from shoal.store import Store
from shoal.store.clustering import clustering_not_found
from shoal.store.layout import is_id
from shoal.store.place import version
from shoal.web.pools import WORK

from clusterer.jobs.sets import open_complete
from clusterer.results.groups import Groups
from clusterer.results.images import SetImages
from clusterer.results.loaded import LoadedClustering
from clusterer.search.loaded import LoadedEmbeddings, sketch_bytes


class Loaded(Protocol):
    """What is kept."""

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        ...


L = TypeVar("L", bound=Loaded)
M = TypeVar("M", bound="LastUsed[Any]")


class LastUsed(ABC, Generic[L]):
    """Keeps what was used last in memory. All methods run on the event loop, so that they need no lock.

    What is kept never changes, so only its folder is looked at again: what was deleted is not found at once.

    Parameters
    ----------
    store
        Where it is read.
    limit
        Bytes that all may take. The last used one stays, however large it is.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Hashable, L]] = OrderedDict()
        self._loading: dict[tuple[str, Hashable], asyncio.Task[L]] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of what is in memory, the last used one last."""
        return list(self._kept)

    @property
    def loading(self) -> int:
        """How many are being read."""
        return len(self._loading)

    async def get(self, name: str) -> L:
        """What has an id, read if it is not in memory. Requests that come meanwhile wait for the same read.

        Raises
        ------
        NotFound, Conflict
            Nothing has that id, or it is not finished.
        StoreCorrupt
            A file of it is missing or damaged.
        """
        version = await WORK.run(self._version, name)
        if version is None:
            self._kept.pop(name, None)
            raise await WORK.run(self._absent, name)
        known = self._kept.get(name)
        if known is not None and known[0] == version:
            self._kept.move_to_end(name)
            # What is kept may have read more since.
            self._make_room()
            return known[1]
        key = name, version
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(*key))
            # When all who waited are gone, nobody else takes the error.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _load(self, name: str, version: Hashable) -> L:
        try:
            loaded = await self._read(name)
        finally:
            del self._loading[name, version]
        self._kept[name] = version, loaded
        self._kept.move_to_end(name)
        self._make_room()
        return loaded

    def _make_room(self) -> None:
        while len(self._kept) > 1 and self._bytes() > self._limit:
            self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(each.bytes for _, each in self._kept.values())

    def _version(self, name: str) -> Hashable:
        return self._stored(name) if is_id(name) else None

    @abstractmethod
    async def _read(self, name: str) -> L:
        """Read what has an id."""

    @abstractmethod
    def _stored(self, name: str) -> Hashable:
        """The version of the folder or file that is there as long as what has the id; None if it is not."""

    @abstractmethod
    def _absent(self, name: str) -> Exception:
        """The error if it is not there."""


class LoadedClusterings(LastUsed[LoadedClustering]):
    """The clusterings used last."""

    async def _read(self, name: str) -> LoadedClustering:
        return await WORK.run(LoadedClustering.load, self._store, name)

    def _stored(self, name: str) -> Hashable:
        return version(self._store.layout.clustering(name).folder)

    def _absent(self, name: str) -> Exception:
        return clustering_not_found(name)


class LoadedEmbeddingSets(LastUsed[LoadedEmbeddings]):
    """The embeddings sets searched last. They are read one at a time, each once there is room for it."""

    def __init__(self, store: Store, limit: int) -> None:
        super().__init__(store, limit)
        self._reading = asyncio.Lock()

    async def _read(self, name: str) -> LoadedEmbeddings:
        async with self._reading:
            found = await WORK.run(open_complete, self._store, name)
            needed = min(sketch_bytes(found), self._limit)
            while self._kept and self._bytes() + needed > self._limit:
                self._kept.popitem(last=False)
            return await WORK.run(LoadedEmbeddings.of, found, self._limit)

    def _stored(self, name: str) -> Hashable:
        return manifest_version(self._store, name)

    def _absent(self, name: str) -> Exception:
        return absent_set(self._store, name)


class LoadedGroups(LastUsed[Groups]):
    """The clusterings whose groups were looked at last."""

    async def _read(self, name: str) -> Groups:
        return Groups(await WORK.run(self._store.clustering, name))

    def _stored(self, name: str) -> Hashable:
        return version(self._store.layout.clustering(name).folder)

    def _absent(self, name: str) -> Exception:
        return clustering_not_found(name)


class LoadedSets(LastUsed[SetImages]):
    """The sets whose images were looked at last."""

    async def _read(self, name: str) -> SetImages:
        return SetImages(await WORK.run(open_complete, self._store, name), self._limit // 2)

    def _stored(self, name: str) -> Hashable:
        return manifest_version(self._store, name)

    def _absent(self, name: str) -> Exception:
        return absent_set(self._store, name)


def last_used(kind: type[M], limit: str) -> Callable[[Request], Awaitable[M]]:
    """A dependency: the application's only object of a kind, made at its first use.

    Parameters
    ----------
    limit
        The setting that has its number of bytes.
    """

    async def found(request: Request) -> M:
        state = request.app.state
        if not hasattr(state, kind.__name__):
            setattr(state, kind.__name__, kind(state.store, getattr(state.settings, limit)))
        made: M = getattr(state, kind.__name__)
        return made

    return found


ClusteringsDep = Annotated[LoadedClusterings, Depends(last_used(LoadedClusterings, "assign_cache"))]
SearchedSetsDep = Annotated[LoadedEmbeddingSets, Depends(last_used(LoadedEmbeddingSets, "search_cache"))]
GroupsDep = Annotated[LoadedGroups, Depends(last_used(LoadedGroups, "pages_cache"))]
SetsDep = Annotated[LoadedSets, Depends(last_used(LoadedSets, "pages_cache"))]


def manifest_version(store: Store, name: str) -> Hashable:
    """The version of a set's manifest, which is written last and never again."""
    layout = store.layout.embeddings(name)
    return layout.version(layout.manifest)


def absent_set(store: Store, name: str) -> Exception:
    """The error for a set that is not there, or not complete."""
    try:
        open_complete(store, name)
    except Exception as error:
        return error
    return EmbeddingsNotFound(f"{name} was written or deleted just now. Send the request again.")
