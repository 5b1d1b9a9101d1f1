"""Which clusterings are in memory: the last used ones, within a number of bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from shoal.store import Store
from shoal.store.clustering import clustering_not_found
from shoal.store.layout import is_id
from shoal.web.pools import WORK

from clusterer.results.loaded import LoadedClustering

Version = tuple[int, int, int]
"""Device, inode and time of change of a clustering's folder: another one for one that was deleted and made again."""


class LoadedClusterings:
    """Keeps clusterings in memory. All methods run on the event loop, so that they need no lock.

    A clustering never changes, so only its folder is looked at again: a deleted one is not found at once.

    Parameters
    ----------
    store
        Where they are read.
    limit
        Bytes that they may take. The last used one stays, however large it is.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Version, LoadedClustering]] = OrderedDict()
        self._loading: dict[tuple[str, Version], asyncio.Task[LoadedClustering]] = {}

    @property
    def ids(self) -> list[str]:
        """Ids of the clusterings in memory, the last used one last."""
        return list(self._kept)

    @property
    def loading(self) -> int:
        """How many are being read."""
        return len(self._loading)

    async def get(self, clustering_id: str) -> LoadedClustering:
        """A clustering, read if it is not in memory. Requests that come meanwhile wait for the same read.

        Raises
        ------
        ClusteringNotFound
            No clustering has that id.
        StoreCorrupt
            A file of it is missing or damaged.
        """
        version = await WORK.run(self._version, clustering_id)
        if version is None:
            self._kept.pop(clustering_id, None)
            raise clustering_not_found(clustering_id)
        known = self._kept.get(clustering_id)
        if known is not None and known[0] == version:
            self._kept.move_to_end(clustering_id)
            return known[1]
        key = clustering_id, version
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(*key))
            # When all who waited are gone, nobody else takes the error.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _load(self, clustering_id: str, version: Version) -> LoadedClustering:
        try:
            loaded = await WORK.run(LoadedClustering.load, self._store, clustering_id)
        finally:
            del self._loading[clustering_id, version]
        self._kept[clustering_id] = version, loaded
        self._kept.move_to_end(clustering_id)
        while len(self._kept) > 1 and sum(each.bytes for _, each in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)
        return loaded

    def _version(self, clustering_id: str) -> Version | None:
        if not is_id(clustering_id):
            return None
        try:
            found = self._store.layout.clustering(clustering_id).folder.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns
