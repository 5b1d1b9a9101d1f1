"""A real Ray cluster of two nodes on this machine, each with its own processes and object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from clusterer.ray.session import LOOPBACK
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from shoal.store import Store

from tests.s3 import s3_server

RAY = Execution(engine="ray")
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "node_ip_address": LOOPBACK, "include_dashboard": False}
NODE_MEMORY = 2**32
"""What Ray thinks a node has: a machine that runs tests may have less to spare than a worker asks for."""


class RayCluster:
    """A head and worker nodes, one core each, which end with this process at the latest."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**NODE, "memory": NODE_MEMORY})
        self.address: str = self._cluster.address

    def add_node(self, **options: Any) -> Any:
        """Add a node; to be given to `kill`."""
        return self._cluster.add_node(**{**NODE, "memory": NODE_MEMORY, **options})

    def kill(self, node: Any) -> None:
        """SIGKILL all processes of a node, as a power loss would."""
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._cluster.worker_nodes.discard(node)

    def kill_head(self) -> None:
        """SIGKILL all processes of the head."""
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


MakeCluster = Callable[[], RayCluster]


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[dict[str, str]]:
    """The environment in which an S3 server of this machine is found."""
    with s3_server() as environment:
        yield environment


@pytest.fixture(scope="session")
def node_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the nodes of `ray_cluster` keep copies of embeddings."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="session")
def ray_cluster(bucket_server: dict[str, str], node_caches: Path) -> Iterator[RayCluster]:
    """A head and one more node. A test that kills nodes adds its own."""
    with patch.dict(os.environ, {**bucket_server, "XDG_CACHE_HOME": str(node_caches)}):
        cluster = RayCluster()
        cluster.add_node()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def ray_settings(ray_cluster: RayCluster, store: Store, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a worker whose jobs run on `ray_cluster`."""
    monkeypatch.setenv("SHOAL_STORE", str(store.root))
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return Settings()
