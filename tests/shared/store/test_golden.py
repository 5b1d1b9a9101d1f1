"""The format itself: files written by version 1 stay readable, and today's writer still writes such files.

``golden/`` is never written again. A change that breaks these tests changes the format: see FORMAT.md, "Compatibility".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shoal.store import EmbeddingSet, ModelRecord, Plan, RowMetadata, Source, Store, image_id

GOLDEN = Path(__file__).with_name("golden")
ID = "toy-9a06910a2f2d"
PATHS = ["fox/1.png", "fox/2.png", "Löwe/3.png", "4.png", "owl/5.png"]
LABELS = ["fox", "fox", "Löwe", None, "owl"]
VECTORS = np.array([[0, 0.5, -1], [2, -0.25, 8], [1.5, 0, 0], [-3, 4, 1]], np.float32)


def write_golden(root: Path) -> EmbeddingSet:
    """Five images in three shards: one without failures, one with, one in which all failed."""
    store = Store(root)
    listing = pa.table(
        {
            "image_id": [image_id(path) for path in PATHS],
            "image_path": PATHS,
            "label": LABELS,
            "split": ["train"] * 5,
            "stamp": ["1-1", "2-2", "3-3", None, "5-5"],
        }
    )
    plan = Plan(
        name="toy",
        source=Source.of(listing, kind="images", path="animals", labels="folder", split="train"),
        model=ModelRecord(
            name="tiny", backend="torch", architecture="tiny", weights_sha256="ab" * 32, embedding="pooled", seed=7
        ),
        transform={"size": 32, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
        dim=3,
        dtype="float16",
        shard_rows=2,
        thumbnails=True,
        libraries={"numpy": "2.0.0"},
    )
    store.create_embeddings(plan, listing)
    for shard in range(plan.shards):
        with store.shard_writer(plan.id, shard, attempt=1, owner="golden") as writer:
            for i in range(*plan.shard_range(shard)):
                if i == 4:
                    writer.append_error(image_id(PATHS[i]), PATHS[i], "image_truncated", "The file ends early.")
                else:
                    row = RowMetadata(image_id(PATHS[i]), PATHS[i], LABELS[i], "train", 40 + i, 30, 900 + i, "cd" * 32)
                    writer.append(VECTORS[i : i + 1], [row], [b"RIFF\x00WEBP" if i == 1 else None])
            writer.commit()
    store.finish_embeddings(plan.id)
    return store.embeddings(plan.id)


@pytest.fixture
def golden() -> EmbeddingSet:
    return Store(GOLDEN).embeddings(ID)


def test_the_golden_set_reads_as_it_was_written(golden: EmbeddingSet) -> None:
    assert (golden.rows, golden.failed, golden.complete, golden.dtype) == (4, 1, True, np.dtype(np.float16))
    np.testing.assert_array_equal(golden.take(np.arange(4)), VECTORS)
    assert golden.labels() == LABELS[:4]
    assert golden.metadata(["image_path", "width"]).to_pydict() == {
        "row": [0, 1, 2, 3],
        "image_path": PATHS[:4],
        "width": [40, 41, 42, 43],
    }
    assert golden.errors().to_pylist() == [
        {
            "image_id": image_id(PATHS[4]),
            "image_path": PATHS[4],
            "code": "image_truncated",
            "message": "The file ends early.",
        }
    ]
    assert golden.thumbnails([0, 1, 2, 3]) == {1: b"RIFF\x00WEBP"}
    assert golden.listing().column("stamp").to_pylist() == ["1-1", "2-2", "3-3", None, "5-5"]
    assert golden.plan.id == ID
    assert golden.commits[2].failed == 1


def test_the_golden_set_verifies() -> None:
    report = Store(GOLDEN).verify(ID)
    assert report.ok, report.problems
    assert report.complete


def test_todays_writer_writes_the_golden_files(tmp_path: Path, golden: EmbeddingSet) -> None:
    written = write_golden(tmp_path).layout.folder
    theirs = golden.layout.folder
    names = {path.relative_to(theirs).as_posix() for path in theirs.rglob("*") if path.is_file()}
    assert {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()} == names
    for name in names:
        new, old = written / name, theirs / name
        if name == "plan.json" or name.endswith(".npy"):
            assert new.read_bytes() == old.read_bytes(), name
        elif name.endswith(".parquet"):
            assert pq.read_schema(new).equals(pq.read_schema(old)), name
            assert pq.read_table(new).equals(pq.read_table(old)), name
        else:
            assert _shape(json.loads(new.read_text())) == _shape(json.loads(old.read_text())), name


_VARIES = {"token", "committed_at", "finished_at", "seal", "bytes", "xxh3_64", "sha256"}


def _shape(document: Any) -> Any:
    """A document without what differs from run to run and from one Parquet library to the next."""
    if isinstance(document, dict):
        return {key: type(value).__name__ if key in _VARIES else _shape(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_shape(value) for value in document]
    return document
