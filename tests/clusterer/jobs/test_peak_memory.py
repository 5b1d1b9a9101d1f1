"""Jobs stay below their memory limit: the peak of a fresh process, interpreter and libraries included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from clusterer.jobs import memory
from clusterer.jobs.grid import plan_points
from clusterer.jobs.memory import Problem
from clusterer.jobs.plan import make_plan
from shoal.schemas import ClusterRequest, SweepRequest
from shoal.store import Store

MIB = 2**20
LEAST = 256 * MIB
"""The smallest limit that a request may have."""
JOB = """
import json, sys
from importlib import import_module
from shoal.errors import MemoryLimitTooSmall
from shoal.jobs.child import JobContext
from shoal.settings import Settings

kind, request = sys.argv[1], json.loads(sys.argv[2])
run = import_module("clusterer.pipeline" if kind == "cluster" else f"clusterer.jobs.{kind}").run
try:
    run(JobContext.local(request, kind=kind), Settings())
except MemoryLimitTooSmall as error:
    sys.exit(f"needs {error.members['needed']}")
print([int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")


@dataclass(frozen=True)
class Shape:
    """A job: its rows, their classes, and what is asked of them."""

    rows: int
    dim: int
    classes: int
    fields: dict[str, Any]
    kmeans: dict[str, Any] = field(default_factory=dict)
    kind: str = "cluster"
    roomy: bool = False
    """Whether the limit has room for rows and sketches in memory; otherwise it is the smallest that works."""

    def request(self, embeddings: str) -> dict[str, Any]:
        asked = {"embeddings": embeddings, **self.fields}
        return asked if "method" in asked else {**asked, "kmeans": {"iterations": 2, "restarts": 1, **self.kmeans}}


SHAPES = {
    "few rows": Shape(500, 16, 4, {"clusters": 4}),
    "many clusters and seeds": Shape(14_000, 16, 0, {"clusters": 7000, "seeds": [0, 1, 2, 3, 4]}, {"init": "random"}),
    "many clusters and classes": Shape(12_000, 16, 2000, {"clusters": 6000, "seed": 0}, {"init": "random"}),
    "many dimensions": Shape(9000, 2048, 10, {"clusters": 20, "seed": 0, "pca": {"components": 64}}),
    "all components": Shape(3000, 1536, 10, {"clusters": 20, "seed": 0, "pca": {}}),
    "a sample, several restarts": Shape(
        30_000, 512, 10, {"clusters": 100, "seeds": [0, 1]}, {"max_points_per_centroid": 280, "restarts": 3}, roomy=True
    ),
    "faiss": Shape(9000, 512, 100, {"clusters": 1500, "seeds": [0, 1]}, {"engine": "faiss"}),
    "faiss-super": Shape(9000, 512, 100, {"clusters": 700, "seeds": [0, 1]}, {"engine": "faiss-super"}, roomy=True),
    "mini-batch": Shape(9000, 256, 10, {"clusters": 500, "seed": 0}, {"algorithm": "mini-batch"}),
    "balanced, spherical, levels": Shape(
        6000, 256, 10, {"clusters": 150, "seed": 0}, {"balanced": 1.5, "spherical": True, "levels": [50, 5]}
    ),
    "searched": Shape(2500, 64, 0, {"clusters": "auto", "clusters_range": [400, 408], "seed": 0}),
    "sweep": Shape(
        6000,
        768,
        200,
        {"over": [1.0, 5.0], "pca": {"components": [256]}, "linear_probe": True, "seeds": [0, 1]},
        {"max_points_per_centroid": 3},
        kind="sweep",
    ),
    "smooth": Shape(9000, 2048, 10, {"clusters": 20, "seed": 0, "reduce": {"method": "smooth", "steps": 2}}),
    "spectral": Shape(20_000, 32, 10, {"clusters": 20, "seed": 0, "reduce": {"method": "spectral", "components": 200}}),
    "umap": Shape(8000, 64, 10, {"clusters": 20, "seed": 0, "reduce": {"method": "umap", "neighbours": 100}}),
    "the number of clusters and the reduction": Shape(
        3000, 64, 0, {"clusters": "auto", "clusters_range": [20, 22], "reduce": "auto", "seed": 0}
    ),
    "leiden": Shape(20_000, 32, 10, {"method": "leiden", "seed": 0, "graph": {"neighbours": 60}}),
    "hdbscan": Shape(20_000, 32, 10, {"method": "hdbscan", "graph": {"neighbours": 60}}),
    "hdbscan of places": Shape(6000, 64, 10, {"method": "hdbscan", "reduce": "umap"}),
    "turtle, several runs": Shape(
        8000, 128, 10, {"method": "turtle", "clusters": 500, "seed": 0, "heads": {"steps": 2, "inner_steps": 2}}
    ),
    "temi": Shape(4000, 128, 10, {"method": "temi", "clusters": 2000, "seed": 0, "heads": {"steps": 2, "heads": 4}}),
}

SIZES = [(2000, 16), (60_000, 32), (12_000, 1024)]
"""Rows and dimensions of the sets that are analysed."""
ANALYSES: dict[str, dict[str, Any]] = {"duplicates": {"threshold": 0.99}}
QUICK = ("few rows", "many dimensions", "mini-batch", "sweep")
"""Shapes of every run; the others are long."""


def problem_of(shape: Shape, request: dict[str, Any], store: Store) -> Problem:
    if shape.kind == "cluster":
        return memory.problem_of([make_plan(store, ClusterRequest.model_validate(request), deadline=None)])
    wanted = SweepRequest.model_validate(request)
    plans = [point.plan for point in plan_points(store, wanted, deadline=None)]
    return memory.problem_of(plans, sweep=True, probe=wanted.linear_probe)


def ran(store: Store, kind: str, request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a job in a process of its own, whose last line is its peak."""
    environment = {**os.environ, "SHOAL_STORE": str(store.root)}
    command = [sys.executable, "-c", JOB, kind, json.dumps(request)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def shape_of(name: str) -> Any:
    return pytest.param(name, marks=() if name in QUICK else pytest.mark.faults_long)


@pytest.mark.parametrize("name", [shape_of(name) for name in SHAPES])
def test_the_peak_of_a_job_stays_below_its_limit(name: str, make_set: Callable[..., str], store: Store) -> None:
    """Fails without: the account of what a job holds beside its rows."""
    shape = SHAPES[name]
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(50, shape.dim)).astype(np.float32)
    vectors = centers[np.arange(shape.rows) % 50] + rng.normal(size=(shape.rows, shape.dim)).astype(np.float32)
    labels = [f"class {row % shape.classes}" for row in range(shape.rows)] if shape.classes else None
    request = shape.request(make_set("mine", vectors, labels, shard_rows=5000))
    problem = problem_of(shape, request, store)
    limit = problem.other_bytes + (problem.row_bytes + problem.sketch_bytes if shape.roomy else 0)
    done = ran(store, shape.kind, {**request, "memory_limit": max(limit, LEAST)})
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(done.stdout.splitlines()[-1])
    assert peak <= limit, f"{peak // MIB} MiB, the limit is {limit // MIB}"
    # A limit that were far above what is needed would send rows to disk, and refuse jobs, for nothing.
    assert peak >= 0.4 * limit, f"{peak // MIB} MiB, the limit is {limit // MIB}"


@pytest.mark.faults_long
@pytest.mark.parametrize("over", [1, 3])
@pytest.mark.parametrize(
    ("kind", "rows", "dim", "classes"),
    [
        *(
            pytest.param(kind, *size, 50, id=f"{kind}-{size[0]}-{size[1]}")
            for kind in ("duplicates", "assign", "quality")
            for size in SIZES
        ),
        # With so many columns that the rows alone exceed the limit.
        pytest.param("duplicates", 20_000, 2048, 50, id="duplicates-20000-2048"),
        # With a model of the classes, and with too many of them for one.
        *(("quality", 12_000, 16, classes) for classes in (2000, 6000)),
    ],
)
def test_the_peak_of_an_analysis_stays_below_its_limit(
    kind: str,
    rows: int,
    dim: int,
    classes: int,
    over: int,
    make_set: Callable[..., str],
    store: Store,
    run_job: Callable[..., Any],
) -> None:
    """Fails without: the files that hold rows and sketches where the limit has no room for them.

    The limit is the smallest that the job accepts by its own word, or has three times as much beside the process.
    """
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(rows // 2, dim)).astype(np.float32)
    vectors = np.concatenate([vectors, vectors + 0.01 * rng.normal(size=vectors.shape).astype(np.float32)])
    embeddings = make_set("mine", vectors, [f"class {row % classes}" for row in range(rows)], shard_rows=5000)
    fields = ANALYSES.get(kind, {})
    if kind == "assign":
        made = run_job(embeddings, clusters=500, seed=0, kmeans={"iterations": 2, "restarts": 1, "init": "random"})
        fields = {"clustering": made.id}
    request = {"embeddings": embeddings, **fields}
    limit = LEAST
    while (refused := ran(store, kind, {**request, "memory_limit": limit})).returncode:
        needed = int(refused.stderr.split()[-1])
        assert needed > limit
        limit = needed
    limit += (over - 1) * max(limit - memory.PROCESS_BYTES, 0)
    done = ran(store, kind, {**request, "memory_limit": limit})
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(done.stdout.splitlines()[-1])
    assert peak <= limit, f"{peak // MIB} MiB, the limit is {limit // MIB}"
