"""The clusterer's application, on a real queue and a real store, and a clustering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clusterer.api.clusterings import build
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def clustering(planted: Planted, make_set: MakeSet, run_job: RunJob) -> Clustering:
    """Four planted groups with labels and thumbnails, scored on themselves and on a second set."""
    train = make_set("train", *planted(spread=0.8), thumbnails=True)
    val = make_set("val", *planted(40, seed=9))
    return run_job({"train": train, "score": [train, val]}, clusters=4, pca={"components": 6}, seed=0)
