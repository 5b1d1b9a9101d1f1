"""The fast engine: labels held against float64 brute force on data made to break it; the same bits in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, MappedRows
from clusterer.kmeans import State, lloyd, select_engine
from clusterer.kmeans.engine import Engine, NumpyEngine
from clusterer.kmeans.fast import FastEngine, KernelUnavailable, available, engine, kernel, open_kernel, share
from clusterer.native import library
from clusterer.native.build import LIBRARIES, BuildFailed, compile_kernel
from shoal.errors import EngineUnavailable

from tests.clusterer.kmeans.data import (
    KINDS,
    SHAPES,
    Points,
    features,
    huge,
    near_ties,
    squared,
    whole_numbers,
    with_outliers,
)

needs_kernel = pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")


@pytest.fixture(params=available())
def fast(request: pytest.FixtureRequest) -> FastEngine:
    """The engine on each kernel that runs here."""
    return FastEngine(request.param, threads=2)


def check(engine: Engine, x: Points, centroids: Points) -> None:
    """The labels are the nearest centroids in float64, the first of equals; sums and inertia belong to them."""
    found = engine.assigner(ArrayRows(x)).assign(centroids)
    exact = squared(x, centroids)
    chosen = exact[np.arange(len(x)), found.labels]
    assert (chosen <= exact.min(axis=1) * (1 + 1e-12)).all()
    firsts = exact.argmin(axis=1)
    apart = chosen != exact[np.arange(len(x)), firsts]
    assert np.array_equal(found.labels[~apart], firsts[~apart])
    sums = np.zeros(centroids.shape)
    np.add.at(sums, found.labels, x.astype(np.float64))
    assert np.allclose(found.sums, sums, rtol=1e-11, atol=1e-11 * np.abs(x).max(initial=0))
    assert found.inertia == pytest.approx(chosen.sum(), rel=1e-6, abs=1e-9 * float((x.astype(np.float64) ** 2).sum()))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_labels_are_the_nearest_centroids_in_float64(fast: FastEngine, kind: Callable[[int, int], Points]) -> None:
    for n, d, k in SHAPES[2::2]:
        x = kind(n, d)
        check(fast, x, x[np.random.default_rng(0).choice(n, min(k, n), replace=False)].copy())


@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_any_shape_will_do(fast: FastEngine, n: int, d: int, k: int) -> None:
    x = features(n, d)
    check(fast, x, np.random.default_rng(1).normal(size=(k, d)).astype(np.float32))


def test_amx_computes_what_the_other_kernels_do(emulated_amx: kernel.Kernel) -> None:
    amx = FastEngine()
    amx.kernel = emulated_amx
    for kind in (features, with_outliers, whole_numbers):
        x = kind(150, 130)
        check(amx, x, x[:33].copy())
    x = features(300, 256)
    frame = kernel.Frame.around(x.mean(axis=0))
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(256, 64)))[0]
    short = []
    for each in (emulated_amx, open_kernel("avx512")):
        sketch, projection = each.sketch(x, frame), each.projection(directions)
        brief = kernel.Sketch.empty(len(x), 64)
        each.project_into(sketch, projection, brief)
        labels = np.zeros(len(x), dtype=np.int32)
        centroids = x[:20].copy()
        packed = each.pack(centroids, frame), each.pack_brief(centroids, frame, projection)
        each.assign(x, sketch, packed[0], labels, (brief, packed[1]))
        assert np.array_equal(labels, squared(x, centroids).argmin(axis=1))
        short.append(brief)
    assert np.array_equal(short[0].q, short[1].q)
    assert np.array_equal(short[0].stats, short[1].stats)


@pytest.mark.parametrize("rounded", ["rows", "centroids"])
def test_what_rounding_takes_away_can_decide(fast: FastEngine, rounded: str) -> None:
    """All that tells the centroids apart lies in what rounding to bytes takes away, as much as the bounds allow."""
    steps = fast.kernel.largest
    pattern = np.random.default_rng(0).choice([-1.0, 1.0], size=63)
    tilt = 0.8 * 0.49 * 63 / steps  # what the bytes see speaks for the wrong centroid
    if rounded == "rows":
        row = np.concatenate([[steps], 0.49 * pattern])
        centroid = np.concatenate([[-tilt], pattern])
    else:
        row = np.concatenate([[-tilt], pattern])
        centroid = np.concatenate([[1.0], 0.49 / steps * pattern])
    frame = kernel.Frame.around(np.zeros(64, dtype=np.float32))
    rotation = fast.kernel.rotate(np.eye(64, dtype=np.float32), frame).astype(np.float64)
    x = (np.stack([row, -row]) @ rotation.T).astype(np.float32)
    centroids = (np.stack([-centroid, centroid]) @ rotation.T).astype(np.float32)
    assert squared(x, centroids).argmin(axis=1).tolist() == [1, 0]
    assigner = fast.assigner(ArrayRows(x))
    assert assigner.assign(centroids).labels.tolist() == [1, 0]
    assert fast.searcher(centroids).nearest(x, 2)[0].tolist() == [[1, 0], [0, 1]]


@needs_kernel
def test_short_sketches_change_no_label(fast: FastEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "PAYS_FROM", 0)
    x = features(3000, 512)
    rows = ArrayRows(x)
    assigner = fast.assigner(rows)
    assert isinstance(assigner, engine.FastAssigner)
    reference = NumpyEngine().assigner(rows)
    singles = []

    def compare(state: State) -> None:
        singles.append(assigner.counts.singles)

    ours = lloyd(rows, assigner, State(x[:150].copy()), iterations=6, on_iteration=compare)
    theirs = lloyd(rows, reference, State(x[:150].copy()), iterations=6)
    assert np.array_equal(ours.labels, theirs.labels)
    assert [entry.moved for entry in ours.history] == [entry.moved for entry in theirs.history]
    assert ours.inertia == pytest.approx(theirs.inertia, rel=1e-9)
    assert singles[0] == 0
    if fast.kernel.single_cost < 10:
        assert singles[-1] > 0
    # From other centroids, which the directions were not made for:
    check_again = assigner.assign(x[-150:].copy())
    assert np.array_equal(check_again.labels, squared(x, x[-150:]).argmin(axis=1))
    fewer = assigner.assign(x[:40].copy())
    assert np.array_equal(fewer.labels, squared(x, x[:40]).argmin(axis=1))


@needs_kernel
def test_threads_blocks_and_memory_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(2500, 96)
    starts = x[:30].copy()
    view = MappedRows(ArrayRows(x), lambda batch: batch.copy(), x.shape[1])
    fits = [
        lloyd(rows, FastEngine(threads=threads, keep_bytes=keep).assigner(rows), State(starts), iterations=8)
        for rows, threads, keep in ((ArrayRows(x), 1, 1 << 40), (ArrayRows(x), 3, 0), (view, 2, 0), (view, 2, 1 << 40))
    ]
    for fit in fits[1:]:
        assert np.array_equal(fit.centroids, fits[0].centroids)
        assert np.array_equal(fit.labels, fits[0].labels)


class Stopped(Exception):
    pass


@needs_kernel
def test_a_pass_that_was_interrupted_leaves_labels_and_sums_in_step() -> None:
    x = features(40_000, 16)
    view = MappedRows(ArrayRows(x), lambda batch: batch, 16)
    assigner = FastEngine().assigner(view)
    assigner.assign(x[:10].copy())

    def stop(done: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        assigner.assign(x[10:20].copy(), stop)
    found = assigner.assign(x[20:30].copy())
    for cluster in range(10):
        members = x[found.labels == cluster].astype(np.float64)
        assert np.allclose(found.sums[cluster], members.sum(axis=0), rtol=1e-11)


@needs_kernel
def test_two_nearest_are_those_of_brute_force(fast: FastEngine) -> None:
    for x in (features(300, 200), near_ties(200, 33), whole_numbers(300, 20), huge(100, 8)):
        centroids = x[:40].copy()
        labels, found = fast.searcher(centroids).nearest(x, 2)
        exact = squared(x, centroids)
        best = np.sort(exact, axis=1)[:, :2]
        assert np.allclose(np.take_along_axis(exact, labels.astype(np.int64), axis=1), best, rtol=1e-12)
        assert (labels[:, 0] != labels[:, 1]).all()
        assert np.allclose(found, best, rtol=1e-5, atol=1e-30)


@needs_kernel
def test_a_searcher_takes_one_centroid_and_more_neighbours_than_it_is_made_for() -> None:
    x = features(50, 20)
    assert not FastEngine().searcher(x[:1].copy()).nearest(x)[0].any()
    labels, _ = FastEngine().searcher(x[:9].copy()).nearest(x, 4)
    assert np.array_equal(np.sort(labels, axis=1), np.sort(squared(x, x[:9]).argsort(axis=1)[:, :4], axis=1))


def test_without_a_kernel_auto_runs_faiss_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARIES", {name: tmp_path / name for name in LIBRARIES})
    assert available() == []
    picked = select_engine("auto")
    assert picked.name == "faiss"
    assert "not compiled" in picked.reason
    with pytest.raises(EngineUnavailable, match="Use `auto` or `faiss`"):
        select_engine("fast")


def test_without_avx2_the_reason_names_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_processor_flags", frozenset)
    monkeypatch.setattr(library, "LIBRARIES", dict.fromkeys(LIBRARIES, Path(__file__)))
    with pytest.raises(KernelUnavailable, match="AVX2"):
        open_kernel()


def test_an_unreadable_library_is_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    monkeypatch.setattr(library, "LIBRARIES", dict.fromkeys(LIBRARIES, broken))
    monkeypatch.setattr(library, "_processor_flags", lambda: frozenset(library.NEEDS["avx2"]))
    with pytest.raises(KernelUnavailable, match="does not load"):
        open_kernel()


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match="no C\\+\\+ compiler"):
        compile_kernel((), tmp_path / "kernel.so")
