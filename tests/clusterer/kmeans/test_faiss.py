"""The faiss engines: GPUs by faiss's own switch, and what faiss-super rests on."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from clusterer.data.rows import ArrayRows
from clusterer.kmeans import faiss as faiss_engine
from clusterer.kmeans import select_engine
from clusterer.kmeans.faiss_super import FEWEST_COLUMNS, SuperAssigner, thresholds
from shoal.errors import EngineUnavailable

from tests.clusterer.kmeans.data import features, squared


@pytest.mark.gpu
@pytest.mark.skipif(not faiss_engine.gpu_count(), reason="faiss sees no GPU")
def test_gpus_find_the_nearest_centroids() -> None:
    x = features(3000, 130)
    engine = select_engine("faiss")
    assert "GPU" in engine.reason
    labels, found = engine.searcher(x[:50].copy()).nearest(x, 2)
    best = np.sort(squared(x, x[:50]), axis=1)[:, :2]
    assert np.allclose(found, best, rtol=1e-3, atol=1e-3)
    assert (labels[:, 0] == squared(x, x[:50]).argmin(axis=1)).mean() > 0.999


def test_every_device_gets_all_centroids_and_a_share_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machinery by which faiss splits rows among GPUs, on two copies of the index in memory."""
    copied: list[Any] = []

    def replicate(index: Any) -> Any:
        copied.append(index)
        copies: Any = faiss.IndexReplicas(index.d)
        for _ in range(2):
            copied.append(faiss.clone_index(index))  # faiss keeps no reference to them
            copies.add_replica(copied[-1])
        return copies

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", replicate, raising=False)
    engine = select_engine("faiss")
    assert engine.reason == "requested; on 2 GPUs"
    x = features(500, 33)
    labels, _ = engine.searcher(x[:20].copy()).nearest(x)
    assert np.array_equal(labels[:, 0], squared(x, x[:20]).argmin(axis=1))
    assert copied[0].ntotal == 20


def test_a_faiss_without_gpu_support_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "get_num_gpus", raising=False)
    assert faiss_engine.gpu_count() == 0
    assert select_engine("faiss").reason == "requested"


def test_an_older_faiss_has_no_super_engine_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "super_kmeans_assign_iteration")
    with pytest.raises(EngineUnavailable, match=r"came with 1\.15\. Use `auto` or `faiss`"):
        select_engine("faiss-super")


def test_rotated_dimensions_exceed_the_thresholds_as_seldom_as_they_say() -> None:
    d, vectors = 64, 100_000
    deviates = np.random.default_rng(0).normal(size=(vectors, d))
    shares = np.cumsum(deviates**2, axis=1) / np.sum(deviates**2, axis=1, keepdims=True)
    exceeded = (shares > thresholds(d)[1:]).mean(axis=0)
    assert exceeded.max() < 1.2 / d
    assert exceeded[15] > 0.1 / d


def test_most_pairs_are_ruled_out_at_the_first_look_and_narrow_rows_are_assigned_exactly() -> None:
    x = features(3000, 256)
    engine = select_engine("faiss-super")
    assigner = engine.assigner(ArrayRows(x))
    assert isinstance(assigner, SuperAssigner)
    assigner.assign(x[:100].copy())
    looks: list[float] = []
    prune = assigner._prune

    def watched(*arguments: Any) -> Any:
        found = prune(*arguments)
        looks.append(found[2])
        return found

    assigner._prune = watched  # type: ignore[method-assign, assignment]
    assigner.assign(x[:100].copy())
    assert looks[-1] > 0.5
    assert not isinstance(engine.assigner(ArrayRows(x[:, : FEWEST_COLUMNS - 1])), SuperAssigner)
