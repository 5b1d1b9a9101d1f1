"""ImageNet's size through the API: features in the store, one clustering job within a memory limit, its stages.

    python benchmarks/imagenet.py [--json] [--rows 1281167] [--dim 2048] [--clusters 1000] [--components 1024]
                                  [--iterations 25] [--memory-limit 4GiB] [--store DIR]

Writes synthetic features (`_features.Features`, float16, 1000 classes) into a store, starts `shoal up` on it, sends one
POST /cluster and follows the job. Takes 11 GB of disk at full size: 5.2 GB of features, which stay in DIR for another
run when it is named, and 5.2 GB of the job's own, which are gone when it ends. The peak is that of the job's process;
pages of mapped files that it looks at count in it, the system's page cache does not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import _common
import pyarrow as pa
from _features import BLOCK, Features
from shoal import Client
from shoal.embedded import Stack
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

SHARD_BLOCKS = 4


def embeddings_of(store: Store, features: Features) -> str:
    """The features as a finished embeddings set; what is there already stays."""
    paths = [f"{row:07d}.jpg" for row in range(features.rows)]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths})
    plan = Plan(
        name="imagenet-size",
        source=Source.of(listing, kind="import", path=repr(features)),
        model=ModelRecord(name="synthetic", backend="import", architecture="none", embedding="none"),
        dim=features.dim,
        dtype="float16",
        shard_rows=SHARD_BLOCKS * BLOCK,
        thumbnails=False,
    )
    made = store.create_embeddings(plan, listing)
    if not made.complete:
        write_shards(store, made.id, plan, features, paths)
    return made.id


def write_shards(store: Store, embeddings_id: str, plan: Plan, features: Features, paths: list[str]) -> None:
    """Every shard, from a whole number of blocks of features."""
    blocks = features.batches()
    for shard in range(plan.shards):
        first, _ = plan.shard_range(shard)
        with store.shard_writer(embeddings_id, shard, attempt=1, owner="benchmark") as writer:
            for classes, block in islice(blocks, SHARD_BLOCKS):
                here = paths[first : first + len(block)]
                rows = [
                    RowMetadata(image_id(path), path, f"class {each:04d}")
                    for path, each in zip(here, classes.tolist(), strict=True)
                ]
                writer.append(block.astype("float16"), rows)
                first += len(block)
            writer.commit()
        print(f"shard {shard + 1}/{plan.shards}", file=sys.stderr)
    store.finish_embeddings(embeddings_id)


@contextmanager
def services(store: Path, folder: Path, models: Path | None = None) -> Iterator[Client]:
    """What `shoal up` starts, on ``store``; with a host where there are models."""
    stack = Stack(folder, models or folder, store, extractor_port=0, clusterer_port=0, hosts=models is not None)
    stack.start()
    try:
        with Client(stack.extractor_url, stack.clusterer_url) as client:
            yield client
    finally:
        stack.stop()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole job."""
    features = Features(arguments.rows, arguments.dim)
    root = arguments.store or folder / "store"
    embeddings = embeddings_of(Store(root), features)
    with services(root, folder) as client:
        job = client.cluster(
            embeddings,
            clusters=arguments.clusters,
            pca={"components": arguments.components} if arguments.components else None,
            kmeans={"iterations": arguments.iterations, "engine": arguments.engine},
            seed=0,
            memory_limit=arguments.memory_limit,
        )
        started = time.perf_counter()
        job = client.wait(job)
        seconds = time.perf_counter() - started
        if job.result is None:
            raise SystemExit(f"the job failed: {job.error}")
        facts = client.clustering(job.result["clustering"])
    kept = (
        "n",
        "dim",
        "k",
        "engine",
        "engine_reason",
        "iterations",
        "memory",
        "timings_s",
        "peak_rss_bytes",
        "metrics",
    )
    return {"benchmark": "imagenet", "job_s": round(seconds, 1), **{name: facts[name] for name in kept}}


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['n']} x {result['dim']}, k = {result['k']}, {result['iterations']} iterations, {result['engine']}, "
        f"rows in {result['memory']['rows']}"
    )
    for stage, seconds in result["timings_s"].items():
        print(f"{stage:<14}{seconds:>9.1f} s")
    print(f"{'whole job':<14}{result['job_s']:>9.1f} s, peak RSS {result['peak_rss_bytes'] / 2**30:.2f} GiB")


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--components", type=int, default=1024, help="0: no PCA")
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--memory-limit", default="4GiB")
    parser.add_argument("--store", type=Path, help="where the features are or go, and stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    show(result)
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
