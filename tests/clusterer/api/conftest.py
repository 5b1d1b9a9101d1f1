"""The clusterer's application, on a real queue and a real store, and a clustering."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from clusterer.api.clusterings import build
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def clustering(clustered: Clustering, store: Store) -> Clustering:
    """A copy of `clustered`, with its embeddings, in the test's own store."""
    shutil.copytree(clustered.layout.folder.parents[1], store.root, dirs_exist_ok=True)
    return store.clustering(clustered.id)
