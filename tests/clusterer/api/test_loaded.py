"""Which clusterings stay in memory."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest
from clusterer.api.loaded import LoadedClusterings, LoadedGroups
from clusterer.results.loaded import LoadedClustering
from shoal.errors import ClusteringNotFound, StoreCorrupt
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]


@pytest.fixture
def three(
    store: Store, planted: Planted, make_set: Callable[..., str], run_job: Callable[..., Clustering]
) -> list[str]:
    """Ids of three clusterings of the same size."""
    train = make_set("train", *planted())
    return [run_job(train, clusters=3, seeds=[seed]).id for seed in range(3)]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the clusterings in the order in which they were read."""
    read: list[str] = []
    original = LoadedClustering.load

    def load(store: Store, clustering_id: str) -> LoadedClustering:
        read.append(clustering_id)
        return original(store, clustering_id)

    monkeypatch.setattr(LoadedClustering, "load", load)
    return read


def test_the_last_used_ones_stay_within_the_limit(store: Store, three: list[str], loads: list[str]) -> None:
    one, two, last = three
    size = LoadedClustering.load(store, one).bytes
    loads.clear()

    async def use() -> None:
        kept = LoadedClusterings(store, 2 * size + size // 2)
        for each in (one, two, one, last, one, two):
            assert (await kept.get(each)).id == each
        assert kept.ids == [one, two]

    asyncio.run(use())
    assert loads == [one, two, last, two]


def test_what_grows_later_makes_others_leave(store: Store, three: list[str]) -> None:
    async def use() -> None:
        kept = LoadedGroups(store, 1)
        loaded = [await kept.get(each) for each in three]
        assert kept.ids == three
        for each in loaded:
            each.rows(each.clustering.scored[0])
        await kept.get(three[0])
        assert kept.ids == [three[0]]

    asyncio.run(use())


def test_one_larger_than_the_limit_stays_until_another_is_used(
    store: Store, three: list[str], loads: list[str]
) -> None:
    async def use() -> None:
        kept = LoadedClusterings(store, 0)
        for each in (three[0], three[0], three[1], three[0]):
            await kept.get(each)
        assert kept.ids == [three[0]]

    asyncio.run(use())
    assert loads == [three[0], three[1], three[0]]


def test_what_is_in_memory_takes_about_what_it_says(store: Store, three: list[str]) -> None:
    found = LoadedClustering.load(store, three[0])
    assert found.distances is not None
    assert found.bytes > found.distances.nbytes + found.target.centroids.nbytes


def test_requests_share_one_load_that_outlives_them(
    store: Store, three: list[str], loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    original = LoadedClustering.load

    def slow(store: Store, clustering_id: str) -> LoadedClustering:
        assert go_on.wait(60)
        return original(store, clustering_id)

    monkeypatch.setattr(LoadedClustering, "load", slow)

    async def use() -> None:
        kept = LoadedClusterings(store, 2**20)
        waiting = [asyncio.create_task(kept.get(three[0])) for _ in range(40)]
        while not kept.loading:
            await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        go_on.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in found[:2])
        assert {id(each) for each in found[2:]} == {id(await kept.get(three[0]))}
        assert kept.loading == 0

    asyncio.run(use())
    assert loads == [three[0]]


def test_damage_is_reported_each_time_and_not_kept(store: Store, three: list[str], loads: list[str]) -> None:
    path = store.layout.clustering(three[0]).centroids
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))

    async def use() -> None:
        kept = LoadedClusterings(store, 2**20)
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=r"centroids\.npy"):
                await kept.get(three[0])
        path.write_bytes(whole)
        assert (await kept.get(three[0])).id == three[0]

    asyncio.run(use())
    assert loads == [three[0]] * 3


@pytest.mark.parametrize("name", ["missing", "..", "", "a/b", "x" * 300, "nul\0"])
def test_an_id_that_is_none_is_not_found(store: Store, three: list[str], name: str) -> None:
    with pytest.raises(ClusteringNotFound):
        asyncio.run(LoadedClusterings(store, 2**20).get(name))


def test_a_deleted_one_leaves_the_memory(store: Store, three: list[str]) -> None:
    async def use() -> None:
        kept = LoadedClusterings(store, 2**20)
        await kept.get(three[0])
        shutil.rmtree(store.layout.clustering(three[0]).folder)
        with pytest.raises(ClusteringNotFound):
            await kept.get(three[0])
        assert kept.ids == []

    asyncio.run(use())
