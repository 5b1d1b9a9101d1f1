"""Rows per second of `POST /clusterings/{id}/assign`, beside scikit-learn's `KMeans.predict` behind plain FastAPI.

Clusters random rows, starts the clusterer's API and the peer, one process each, and sends both the same rows by turns
over HTTP on loopback: as `.npy`, as an Arrow stream and as JSON, then one row at a time. The peer parses with numpy and
answers with clusters alone; ours adds distance, margin, outlier and label. Its clusters are compared with the peer's.

    python benchmarks/assign.py [--dim 1280] [--clusters 1000] [--components N] [--rows 4096] [--json-rows 512]
        [--repeats 9] [--json]
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import uvicorn
from _common import finish, parser
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from shoal.importer import import_embeddings
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

NPY, ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"
TRAIN_PER_CLUSTER = 10
SINGLES = 30


def main() -> int:
    """Measure, print a table, and end with 1 when the clusters differ."""
    arguments = parser(__doc__)
    for name, default in (
        ("dim", 1280), ("clusters", 1000), ("components", 0), ("rows", 4096), ("json-rows", 512), ("repeats", 9)
    ):  # fmt: skip
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--peer", nargs=2, metavar=("CENTROIDS", "PORT"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.peer:
        serve_peer(Path(options.peer[0]), int(options.peer[1]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    for name, each in result["medians"].items():
        print(f"{name:12} {each['rows_per_s']:>10,.0f} rows/s   {1000 * each['seconds']:>9,.1f} ms a request")
    print(f"clusters as the peer's: {result['agreement']:.4%}")
    finish(result, as_json=options.json)
    return 0 if result["agreement"] > 0.999 else 1


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Cluster, start both servers, and time requests to them by turns."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(options.clusters, options.dim))
    chosen = rng.integers(0, options.clusters, TRAIN_PER_CLUSTER * options.clusters)
    train = (middles[chosen] + rng.normal(size=(len(chosen), options.dim))).astype(np.float32)
    clustering, centroids = cluster(folder, train, options)
    np.save(folder / "centroids.npy", centroids)
    new = (
        middles[rng.integers(0, options.clusters, options.rows)] + rng.normal(size=(options.rows, options.dim))
    ).astype(np.float32)
    ours, peer = free_port(), free_port()
    command = [sys.executable, __file__, "--peer", str(folder / "centroids.npy"), str(peer)]
    environment = {**os.environ, "SHOAL_STORE": str(folder / "store"), "SHOAL_LOG_LEVEL": "error"}
    api = [sys.executable, "-m", "clusterer", "api", "--port", str(ours)]
    with running(api, ours, environment), running(command, peer, environment), httpx.Client(timeout=600) as http:
        routes = {
            "shoal": f"http://127.0.0.1:{ours}/clusterings/{clustering}/assign",
            "peer": f"http://127.0.0.1:{peer}/assign",
        }
        requests = requests_of(new, options.json_rows)
        answers = {name: send(http, routes[name], *requests["npy"][1:]) for name in routes}
        table = ipc.open_stream(answers["shoal"].content).read_all()
        clusters = table.column("cluster").to_numpy()
        agreement = float((clusters == np.load(io.BytesIO(answers["peer"].content))).mean())
        return {
            "dim": options.dim,
            "clusters": options.clusters,
            "components": options.components or None,
            "agreement": agreement,
            "medians": timed(http, routes, requests, options.repeats),
        }


def timed(
    http: httpx.Client, routes: dict[str, str], requests: dict[str, tuple[int, bytes, str]], repeats: int
) -> dict[str, dict[str, float]]:
    """Median seconds and rows per second of each request, sent to both servers by turns."""
    seconds: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for kind, (_, body, media) in requests.items():
            for name, url in routes.items():
                if name == "peer" and media == ARROW:
                    continue
                for _ in range(SINGLES if kind == "one row" else 1):
                    start = time.perf_counter()
                    send(http, url, body, media)
                    if turn:  # The first turn warms both up.
                        seconds.setdefault(f"{name} {kind}", []).append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "rows": requests[name.partition(" ")[2]][0],
            "seconds": round(median, 6),
            "rows_per_s": round(requests[name.partition(" ")[2]][0] / median, 1),
        }
        for name, median in medians.items()
    }


def requests_of(new: np.ndarray[Any, Any], json_rows: int) -> dict[str, tuple[int, bytes, str]]:
    """By name: rows, body and media type."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(new.ravel()), new.shape[1])
    sink = io.BytesIO()
    table = pa.table({"embedding": column})
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)
    text = httpx.Request("POST", "http://x", json={"embeddings": new[:json_rows].tolist()}).content
    return {
        "npy": (len(new), npy(new), NPY),
        "arrow": (len(new), sink.getvalue(), ARROW),
        "json": (json_rows, text, "application/json"),
        "one row": (1, npy(new[:1]), NPY),
    }


def npy(values: np.ndarray[Any, Any]) -> bytes:
    """An array as a file."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def send(http: httpx.Client, url: str, body: bytes, media: str) -> httpx.Response:
    """The answer of a server, which must be good."""
    return http.post(url, content=body, headers={"Content-Type": media}).raise_for_status()


def cluster(folder: Path, train: np.ndarray[Any, Any], options: argparse.Namespace) -> tuple[str, Any]:
    """A clustering in a new store: its id, and its centroids in the space of the embeddings' unit vectors."""
    from clusterer import pipeline

    np.save(folder / "train.npy", train)
    store = Store(folder / "store")
    found = import_embeddings(store, folder / "train.npy", name="train", labels=None, split=None)
    request = {
        "embeddings": found,
        "clusters": options.clusters,
        "seed": 0,
        "kmeans": {"iterations": 3, "restarts": 1},
        "normalize": False,
        "pca": {"components": options.components} if options.components else None,
    }
    result = pipeline.run(JobContext.local(request, kind="cluster"), Settings(store=store.root))
    clustering = store.clustering(str(result["clustering"]))
    centroids = clustering.centroids().astype(np.float64)
    if options.components:
        arrays = clustering.transform_arrays()
        centroids = centroids / arrays["scale"] @ arrays["components"] + arrays["mean"]
    return clustering.id, centroids.astype(np.float32)


def serve_peer(file: Path, port: int) -> None:
    """What one would write in ten minutes: FastAPI around scikit-learn."""
    from sklearn.cluster import KMeans

    centroids = np.load(file)
    model = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    model.cluster_centers_ = centroids
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> None: ...

    @app.post("/assign")
    async def assign(request: Request) -> Response:
        if request.headers["content-type"] == NPY:
            rows = np.load(io.BytesIO(await request.body()))
            return Response(npy(await run_in_threadpool(model.predict, rows)), media_type=NPY)
        rows = np.array((await request.json())["embeddings"], dtype=np.float32)
        found = await run_in_threadpool(model.predict, rows)
        return Response(str(found.tolist()).encode(), media_type="application/json")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    """A server process, while the block runs."""
    process = subprocess.Popen(command, env=environment)
    try:
        while process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/healthz").is_success:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
