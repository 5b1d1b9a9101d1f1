"""Embeddings with planted groups in a real store, and clustering jobs on them without a queue."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clusterer.kmeans.fast.kernel import Kernel
from clusterer.native import library
from clusterer.native.build import EMULATED_AMX, BuildFailed, compile_kernel
from clusterer.native.library import available
from numpy.typing import NDArray
from PIL import Image
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id
from shoal.store.clustering import Clustering

Vectors = NDArray[np.float32]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
Planted = Callable[..., tuple[Vectors, list[str]]]

CORNERS = np.random.default_rng(11).normal(size=(6, 16)) * 2


@pytest.fixture(scope="session")
def planted() -> Planted:
    """``planted(n=240, groups=4, spread=0.2, seed=0)``: ``(n, 16)`` rows around corners, and the corners' letters."""

    def make(n: int = 240, groups: int = 4, spread: float = 0.2, seed: int = 0) -> tuple[Vectors, list[str]]:
        rng = np.random.default_rng(seed)
        corner = np.arange(n) % groups
        vectors = CORNERS[corner] + spread * rng.normal(size=(n, 16))
        return vectors.astype(np.float32), [chr(ord("a") + each) for each in corner]

    return make


def thumbnail(text: str) -> bytes:
    """A small image that depends on ``text``."""
    colour = tuple(int(part) for part in np.frombuffer(text.encode().ljust(3), np.uint8)[-3:])
    out = io.BytesIO()
    Image.new("RGB", (24, 16), colour).save(out, "WEBP")
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def settings(store: Store, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SHOAL_STORE", str(store.root))
    return Settings()


def set_maker(store: Store) -> MakeSet:
    """``make_set(name, vectors, labels=None, thumbnails=False, finish=True, failed=0)``: an embeddings id.

    ``failed`` images of the first shard could not be read.
    """

    def make(
        name: str,
        vectors: Vectors,
        labels: Sequence[str | None] | None = None,
        *,
        thumbnails: bool = False,
        finish: bool = True,
        shard_rows: int = 100,
        failed: int = 0,
        transform: dict[str, object] | None = None,
        dtype: str = "float32",
    ) -> str:
        labels = labels or [None] * len(vectors)
        paths = [f"{name}/{row:05d}.png" for row in range(len(vectors))]
        unread = [f"{name}/unread-{each}.png" for each in range(failed)]
        listing = pa.table(
            {
                "image_id": [image_id(path) for path in unread + paths],
                "image_path": unread + paths,
                "label": pa.array([None] * failed + [*labels], pa.string()),
            }
        )
        plan = Plan(
            name=name,
            source=Source.of(listing, kind="images", path=name),
            model=ModelRecord(name="raw_pixels", backend="torch", architecture="raw_pixels", embedding="pixels"),
            dim=vectors.shape[1],
            dtype=dtype,
            shard_rows=shard_rows,
            thumbnails=thumbnails,
            transform=transform or {},
        )
        embeddings = store.create_embeddings(plan, listing)
        for shard in range(plan.shards if finish else 1):
            start, stop = (max(each - failed, 0) for each in plan.shard_range(shard))
            rows = [RowMetadata(image_id(paths[row]), paths[row], labels[row]) for row in range(start, stop)]
            images = [thumbnail(paths[row]) for row in range(start, stop)] if thumbnails else None
            with store.shard_writer(embeddings.id, shard, attempt=1, owner="test") as writer:
                for path in unread if shard == 0 else ():
                    writer.append_error(image_id(path), path, "unreadable_image", "no image")
                writer.append(vectors[start:stop], rows, thumbnails=images)
                writer.commit()
        if finish:
            store.finish_embeddings(embeddings.id)
        return embeddings.id

    return make


def job_runner(store: Store, settings: Settings) -> RunJob:
    """``run_job(embeddings, **fields of the request)``: the clustering that the job publishes."""
    from clusterer import pipeline

    def run(embeddings: Any, **fields: Any) -> Clustering:
        context = JobContext.local({"embeddings": embeddings, **fields}, kind="cluster")
        return store.clustering(pipeline.run(context, settings)["clustering"])

    return run


@pytest.fixture
def make_set(store: Store) -> MakeSet:
    return set_maker(store)


@pytest.fixture
def run_job(store: Store, settings: Settings) -> RunJob:
    return job_runner(store, settings)


@pytest.fixture(scope="session")
def clustered(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Clustering:
    """Four planted groups with labels and thumbnails, scored on themselves and on a second set; not to be changed."""
    store = Store(tmp_path_factory.mktemp("clustered") / "store")
    make_set, run_job = set_maker(store), job_runner(store, Settings(store=store.root))
    train = make_set("train", *planted(spread=0.8), thumbnails=True)
    val = make_set("val", *planted(40, seed=9))
    return run_job({"train": train, "score": [train, val]}, clusters=4, pca={"components": 6}, seed=0)


@pytest.fixture
def clusterer_worker(store: Store, redis_server: str, queue: JobQueue) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker on the test's store and (empty) queue; it drains when the test ends."""
    environment = {**os.environ, "REDIS_URL": redis_server, "SHOAL_STORE": str(store.root)}
    worker = subprocess.Popen([sys.executable, "-m", "clusterer", "worker"], env=environment)
    yield worker
    worker.terminate()
    worker.wait(timeout=60)


@pytest.fixture(scope="session")
def emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The AMX kernel with its tile instructions spelt out, where the processor has all else that it needs."""
    if "avx512" not in available():
        pytest.skip("this processor lacks AVX-512 VNNI")
    path = tmp_path_factory.mktemp("kernel") / "emulated.so"
    try:
        compile_kernel(EMULATED_AMX, path)
    except BuildFailed as failure:
        pytest.skip(f"nothing compiles here: {failure}")
    return Kernel("amx", library.open_library(path), 2)
