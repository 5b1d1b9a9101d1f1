"""Imported embeddings are clustered and scored like any others, whatever the format of their file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from shoal.importer import import_sets
from shoal.store import Store

from tests.clusterer.conftest import Planted, RunJob

OPTIONS: dict[str, Any] = {"clusters": 4, "pca": None, "seed": 0}


def _hdf5(path: Path, vectors: Any, labels: list[str]) -> None:
    with h5py.File(path, "w") as file:
        file["embeddings"], file["labels"] = vectors, labels


def _safetensors(path: Path, vectors: Any, labels: list[str]) -> None:
    save_file({"embeddings": vectors, "labels": np.array([ord(label) for label in labels])}, path)


WRITERS: dict[str, Callable[[Path, Any, list[str]], object]] = {
    "npz": lambda path, vectors, labels: np.savez(path, embeddings=vectors, labels=labels),
    "pt": lambda path, vectors, labels: torch.save({"embeddings": torch.from_numpy(vectors), "labels": labels}, path),
    "safetensors": _safetensors,
    "h5": _hdf5,
    "parquet": lambda path, vectors, labels: pq.write_table(
        pa.table({"embedding": list(vectors), "label": labels}), path
    ),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_an_imported_file_is_clustered(
    suffix: str, planted: Planted, store: Store, run_job: RunJob, tmp_path: Path
) -> None:
    file = tmp_path / f"x.{suffix}"
    WRITERS[suffix](file, *planted())
    [embeddings] = import_sets(store, file, name="mine").values()
    assert run_job(embeddings, **OPTIONS).metrics()["scored"][embeddings]["mean"]["ari"] == 1.0


def test_the_papers_file_is_fitted_on_train_and_scored_on_val_and_obj(
    planted: Planted, store: Store, run_job: RunJob, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {}
    for seed, (each, rows) in enumerate((("train", 240), ("val", 80), ("obj", 40))):
        vectors, labels = planted(rows, seed=seed)
        arrays[f"{each}_embs"], arrays[f"{each}_labs"] = vectors, np.array([ord(label) for label in labels])
    np.savez(tmp_path / "resnet50_infomin.npz", **arrays)
    made = import_sets(store, tmp_path / "resnet50_infomin.npz", name="infomin")
    found = run_job({"train": made["train"], "score": [made["val"], made["obj"]]}, **OPTIONS)
    scored = found.metrics()["scored"]
    assert set(scored) == {made["val"], made["obj"]}
    assert [scored[made[each]]["mean"]["ari"] for each in ("val", "obj")] == [1.0, 1.0]
    assert [scored[made[each]]["mean"]["accuracy"]["hungarian"]["train"] for each in ("val", "obj")] == [1.0, 1.0]
