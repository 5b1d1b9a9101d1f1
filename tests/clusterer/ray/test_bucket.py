"""Embeddings in a bucket, read by nodes that share no folder with the job's worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusterer.ray.session import Workers, connect
from clusterer.ray.tasks import run_tasks
from shoal.errors import StoreError
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from tests.clusterer.conftest import Planted, set_maker
from tests.clusterer.ray.conftest import RAY
from tests.clusterer.ray.test_partitions import CHUNKS, TWO, assert_same, clustered
from tests.s3 import client_of, empty_bucket

SMALL = {"clusters": 6, "pca": None, "seeds": [0], "kmeans": {"iterations": 3, "restarts": 1}}


@pytest.fixture
def remote_settings(
    ray_settings: Settings, bucket_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings whose embeddings are in a bucket, of which this machine keeps its own copies."""
    empty_bucket(client_of(bucket_server), "on-ray")
    for name, value in bucket_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    return ray_settings.model_copy(update={"embeddings_store": "s3://on-ray/shoal"})


def copies(folder: Path) -> set[str]:
    """Names of the vectors among the copies in a folder."""
    return {path.name.partition("-")[2] for path in (folder / "shoal/embeddings/copies").glob("*.npy")}


def test_a_clustering_of_a_bucket_is_that_of_a_folder(
    store: Store,
    ray_settings: Settings,
    remote_settings: Settings,
    planted: Planted,
    node_caches: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterer.jobs.map.MOST_LANDMARKS", 256)
    rows, labels = planted(CHUNKS, groups=6, spread=1.5)
    remote = Store.of(remote_settings)
    [folder, bucket] = [set_maker(each)("mine", rows, labels, shard_rows=7000) for each in (store, remote)]
    assert folder == bucket
    expected = clustered(store, ray_settings, folder, **SMALL)
    store.delete_embeddings(folder)
    found = clustered(remote, remote_settings, bucket, **SMALL, execution=TWO)
    assert_same(found, expected)
    assert found.run()["execution"]["engine"] == "ray"
    assert copies(node_caches) == {f"img_emb_0000{shard}.npy" for shard in range(6)}


def test_a_node_that_cannot_find_the_embeddings_says_where_it_looked(
    store: Store, ray_settings: Settings, planted: Planted
) -> None:
    embeddings = store.embeddings(set_maker(store)("mine", *planted(100)))
    store.delete_embeddings(embeddings.id)
    with connect(RAY, ray_settings) as session:
        workers = Workers(1, 1, 0, 2**27)
        with pytest.raises(StoreError, match="finds no embeddings at"):
            list(run_tasks(session, first_rows, [3], workers=workers, needs=[2**27], shared=[embeddings]))


def first_rows(count: int, embeddings: EmbeddingSet) -> list[list[float]]:
    """What a task reads of a set."""
    found: list[list[float]] = embeddings.take(np.arange(count)).tolist()
    return found
