"""A small embeddings set to try the store on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shoal.store import EmbeddingSet, ModelRecord, Plan, RowMetadata, Source, Store, image_id

MODEL = ModelRecord(name="toy", backend="torch", architecture="toy", embedding="pooled")


@dataclass
class Toy:
    """A plan over ``count`` images whose vectors are known."""

    store: Store
    plan: Plan
    listing: pa.Table
    vectors: np.ndarray
    fails: frozenset[int]

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def kept(self) -> np.ndarray:
        """The vectors of the images that do not fail."""
        return self.vectors[[i for i in range(len(self.vectors)) if i not in self.fails]]

    @property
    def folder(self) -> Path:
        return self.store.layout.embeddings(self.id).folder

    def create(self) -> EmbeddingSet:
        return self.store.create_embeddings(self.plan, self.listing)

    def metadata(self, rows: Sequence[int]) -> list[RowMetadata]:
        paths = self.listing.column("image_path").to_pylist()
        labels = self.listing.column("label").to_pylist()
        return [RowMetadata(image_id(paths[i]), paths[i], labels[i], "val", 8, 6, 100 + i, "0" * 64) for i in rows]

    def write(self, shard: int, *, owner: str = "test", scale: float = 1.0) -> bool:
        """One attempt at ``shard``; ``scale`` makes its vectors different from other attempts'."""
        start, stop = self.plan.shard_range(shard)
        rows = [i for i in range(start, stop) if i not in self.fails]
        with self.store.shard_writer(self.id, shard, attempt=1, owner=owner) as writer:
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                pictures = [b"RIFF%d" % i if i % 2 else None for i in half]
                writer.append(self.vectors[half] * scale, self.metadata(half), pictures)
            for record in self.metadata(sorted(set(range(start, stop)) - set(rows))):
                writer.append_error(record.image_id, record.image_path, "image_truncated", "cut off")
            return writer.commit()

    def write_all(self) -> EmbeddingSet:
        found = self.create()
        for shard in found.missing_shards():
            self.write(shard)
        self.store.finish_embeddings(self.id)
        return self.store.embeddings(self.id)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill nothing, and thousands of fsyncs take minutes on a slow disk. tests/faults keeps them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def make_toy(tmp_path: Path) -> Callable[..., Toy]:
    """``make_toy(count=25, dim=4, shard_rows=10, fails=(), dtype="float32", labels=True, root=None)``."""

    def make(
        count: int = 25,
        dim: int = 4,
        shard_rows: int = 10,
        fails: Sequence[int] = (),
        *,
        dtype: Any = "float32",
        labels: bool = True,
        root: Path | None = None,
    ) -> Toy:
        paths = [f"class{i % 3}/{i:04}.png" for i in range(count)]
        listing = pa.table(
            {
                "image_id": pa.array([image_id(p) for p in paths], pa.string()),
                "image_path": pa.array(paths, pa.string()),
                "label": pa.array([p.split("/")[0] if labels else None for p in paths], pa.string()),
            }
        )
        plan = Plan(
            name="toy",
            source=Source.of(listing, kind="images", path="toy", labels="folder"),
            model=MODEL,
            dim=dim,
            dtype=dtype,
            shard_rows=shard_rows,
            thumbnails=True,
            libraries={"numpy": np.__version__},
        )
        vectors = np.random.default_rng(0).normal(size=(count, dim)).astype(dtype)
        return Toy(Store(root or tmp_path / "store"), plan, listing, vectors, frozenset(fails))

    return make
