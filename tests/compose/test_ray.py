"""The profile `ray`: a clustering on a head and two nodes, none of which anybody else can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

LITE0 = "tf_efficientnet_lite0"
NODES = 2
CONNECTED = """
import json, os, sys
from shoal.schemas.execution import Execution
from shoal.settings import Settings
from clusterer.ray.session import connect
"""
ALIVE = f"""{CONNECTED}
with connect(Execution(engine="ray"), Settings()) as session:
    print("found", len(session.nodes()))
"""
STRANGER = "import ray; ray.init(address='ray-head:6379')"


@pytest.fixture(scope="module")
def cluster(stack: Any) -> Iterator[Any]:
    """The stack with a cluster, driven by the worker that has Ray; afterwards with neither."""
    stack.profiles.append("ray")
    stack.env["SHOAL_CLUSTERER_WORKER"] = "ray"
    services = ("ray-head", "ray-worker", "clusterer-worker")
    try:
        stack.compose("build", *services)
        stack.compose("up", "-d", "--scale", f"ray-worker={NODES}", *services)
        stack.wait(lambda: f"found {NODES}" in _driven(stack, ALIVE), 300, f"{NODES} nodes of the cluster")
        yield stack
    finally:
        stack.compose("rm", "-s", "-f", "-v", "ray-worker", "ray-head", check=False)
        stack.profiles.remove("ray")
        del stack.env["SHOAL_CLUSTERER_WORKER"]
        stack.compose("up", "-d", "clusterer-worker")
        stack.wait_ready()


def _driven(stack: Any, script: str) -> str:
    """What a script prints that drives the cluster from the worker's container."""
    return str(stack.compose("exec", "-T", "clusterer-worker", "python", "-c", script, check=False))


def test_a_clustering_on_the_cluster_is_that_of_one_machine(cluster: Any) -> None:
    extractor, clusterer = cluster.http()
    job = cluster.ended(extractor, cluster.post(extractor, "/extract", {"images": {"path": "many"}, "model": LITE0}))
    assert job["state"] == "succeeded", job
    body = {"embeddings": job["result"]["embeddings"], "clusters": 3, "seeds": [0], "pca": {"components": 16}}
    found = {}
    for engine in ("local", "ray"):
        asked = {**body, "execution": {"engine": engine}}
        job = cluster.ended(clusterer, cluster.post(clusterer, "/cluster", asked))
        assert job["state"] == "succeeded", (engine, job["error"])
        found[engine] = job["result"]["clustering"]
    folder = f"/store/clusterings/{found['ray']}"
    run = json.loads(cluster.compose("exec", "-T", "clusterer-worker", "cat", f"{folder}/run.json"))
    assert (run["execution"]["engine"], run["execution"]["workers"]) == ("ray", NODES)
    assert run["execution"]["address"] == "ray-head:6379"
    both = [clusterer.get(f"/clusterings/{each}/assignments?format=jsonl").text for each in found.values()]
    assert both[0] == both[1]


def test_tasks_run_on_every_node_and_read_the_store(cluster: Any) -> None:
    script = f"""{CONNECTED}
def where():
    import clusterer
    with open(f"/store/of-{{os.uname().nodename}}", "w") as file:
        file.write("written")
    return os.uname().nodename

nodes = set()
with connect(Execution(engine="ray"), Settings()) as session:
    task = session.ray.remote(where).options(num_cpus=1, scheduling_strategy="SPREAD")
    while len(nodes) < {NODES}:
        nodes |= set(session.ray.get([task.remote() for _ in range(8)]))
assert nodes == {{name[3:] for name in os.listdir("/store") if name.startswith("of-")}}
for name in nodes:
    os.unlink(f"/store/of-{{name}}")
print(json.dumps(sorted(nodes)))
"""
    containers = {name[:12] for name in cluster.compose("ps", "-q", "ray-worker").split()}
    assert set(json.loads(_driven(cluster, script).splitlines()[-1])) == containers
    assert len(containers) == NODES


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_without_its_token_nobody_uses_the_cluster(cluster: Any, mode: str) -> None:
    """Neither who sends none nor who sends another one."""
    options = ("-e", f"RAY_AUTH_MODE={mode}", "-e", "RAY_AUTH_TOKEN_PATH=/etc/hostname")
    said = cluster.compose(
        "exec", "-T", *options, "clusterer-worker", "sh", "-c", f'timeout 120 python -c "{STRANGER}" 2>&1', check=False
    )
    assert "Failed to connect to Ray cluster" in said


def test_a_lost_node_comes_back_and_a_lost_head_too(cluster: Any) -> None:
    node = cluster.compose("ps", "-q", "ray-worker").split()[0]
    cluster.docker("kill", node)
    cluster.wait(lambda: f"found {NODES - 1}" in _driven(cluster, ALIVE), 120, "a node less")
    cluster.docker("start", node)
    cluster.wait(lambda: f"found {NODES}" in _driven(cluster, ALIVE), 120, "the node again")
    cluster.docker("kill", cluster.container("ray-head"))
    cluster.docker("start", cluster.container("ray-head"))
    cluster.wait(lambda: f"found {NODES}" in _driven(cluster, ALIVE), 300, "all nodes at the new head")
