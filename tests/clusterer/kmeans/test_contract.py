"""What every k-means engine must do: one suite, passed by each engine and each kernel of the fast one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from clusterer.data import rows as rows_module
from clusterer.data.partitions import OnePartition
from clusterer.data.rows import ArrayRows, Float32Array, MappedRows, Rows
from clusterer.kmeans import Assignment, Engine, FitOptions, NumpyEngine, State, fit_kmeans, lloyd, select_engine
from clusterer.kmeans.faiss_super import SuperEngine
from clusterer.kmeans.fast import FastEngine, available
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from tests.clusterer.kmeans.data import KINDS, SHAPES, Points, features, squared

ENGINES: dict[str, Callable[[], Engine]] = {
    "numpy": NumpyEngine,
    "faiss": lambda: select_engine("faiss"),
    "faiss-super": lambda: select_engine("faiss-super"),
    "faiss-super, rows not kept": lambda: SuperEngine(keep_bytes=0),
    **{f"fast, {variant}": partial(FastEngine, variant, threads=2) for variant in available()},
    **({"fast, rows not kept": lambda: FastEngine(keep_bytes=0)} if available() else {}),
}
RELATIVE = 1e-6


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


def blobs(n: int = 600, k: int = 6, d: int = 40, spread: float = 0.05, seed: int = 0) -> tuple[Points, NDArray[Any]]:
    """Points around ``k`` corners, and the corner of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    corners = rng.normal(size=(k, d))
    return (corners[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


def slack(engine: Engine, x: Points, centroids: Points, exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n, k)``: within how much of the smallest a squared distance counts as a tie."""
    if engine.proven:
        return RELATIVE * exact
    middle = centroids.mean(axis=0, dtype=np.float64)
    lengths = [np.einsum("ij,ij->i", rows - middle, rows - middle) for rows in (x.astype(np.float64), centroids)]
    slack: NDArray[np.float64] = RELATIVE * (lengths[0][:, None] + lengths[1])
    return slack


def check(engine: Engine, x: Points, centroids: Points, found: Assignment) -> None:
    """Labels are the nearest centroids up to ties; sums, counts, inertia and distances are those of the labels."""
    n, k = len(x), len(centroids)
    exact = squared(x, centroids)
    chosen = exact[np.arange(n), found.labels]
    allowed = slack(engine, x, centroids, exact)
    assert (chosen <= exact.min(axis=1) + allowed.max(axis=1)).all()
    sums = np.zeros(centroids.shape)
    np.add.at(sums, found.labels, x.astype(np.float64))
    assert np.array_equal(found.counts, np.bincount(found.labels, minlength=k))
    assert np.allclose(found.sums, sums, rtol=1e-11, atol=1e-11 * np.abs(x).max(initial=0))
    assert found.inertia == pytest.approx(chosen.sum(), rel=1e-6, abs=1e-9 * float((x.astype(np.float64) ** 2).sum()))
    assert (found.squared >= 0).all()
    # A float32 cannot hold all distances of huge rows; the largest stands for them.
    held = np.minimum(chosen, float(np.finfo(np.float32).max))
    assert np.allclose(found.squared, held, rtol=1e-3, atol=2 * float(allowed.max(initial=0)) + 1e-37)


def assigned(engine: Engine, rows: Rows, centroids: Points) -> Assignment:
    """The assignment of a fresh assigner as it would end a run."""
    assigner = engine.assigner(rows)
    return assigner.settle(centroids, assigner.assign(centroids))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_assignments_are_those_of_brute_force(engine: Engine, kind: Callable[[int, int], Points]) -> None:
    for n, d, k in ((50, 5, 7), (200, 64, 16), (150, 161, 33)):
        x = kind(n, d)
        centroids = x[np.random.default_rng(0).choice(n, min(k, n), replace=False)].copy()
        check(engine, x, centroids, assigned(engine, ArrayRows(x), centroids))


@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_any_shape_will_do(engine: Engine, n: int, d: int, k: int) -> None:
    x = features(n, d)
    centroids = np.random.default_rng(1).normal(size=(k, d)).astype(np.float32)
    check(engine, x, centroids, assigned(engine, ArrayRows(x), centroids))


def test_passes_within_a_run_are_exact_or_take_no_row_to_a_farther_centroid(engine: Engine) -> None:
    x = features(2000, 96)
    centroids = x[:60].copy()
    assigner = engine.assigner(ArrayRows(x))
    assigner.begin(None)
    last = assigner.assign(centroids)
    for _ in range(4):
        moved = np.where(last.counts[:, None] > 0, last.sums / np.maximum(last.counts, 1)[:, None], centroids)
        centroids = moved.astype(np.float32)
        found = assigner.assign(centroids)
        if engine.exact_passes:
            check(engine, x, centroids, found)
        else:
            exact = squared(x, centroids)
            stayed = exact[np.arange(len(x)), last.labels]
            taken = exact[np.arange(len(x)), found.labels]
            assert (taken <= stayed * (1 + RELATIVE)).all()
            assert np.mean(taken <= exact.min(axis=1) * (1 + RELATIVE)) > 0.98
        last = found
    check(engine, x, centroids, assigner.settle(centroids, last))


def test_equal_centroids_give_one_of_them(engine: Engine) -> None:
    x = features(100, 70)
    centroids = np.repeat(x[:3], 20, axis=0)
    found = assigned(engine, ArrayRows(x), centroids)
    check(engine, x, centroids, found)
    if engine.proven:
        assert set(found.labels) <= {0, 20, 40}


def test_half_precision_rows_are_read_as_they_are(engine: Engine) -> None:
    x = features(500, 71).astype(np.float16)
    centroids = x[:20].astype(np.float32)
    check(engine, x.astype(np.float32), centroids, assigned(engine, ArrayRows(x), centroids))


def test_a_streamed_view_gives_what_the_array_gives(engine: Engine) -> None:
    x, _ = blobs(300, spread=0.5)
    view = MappedRows(ArrayRows(x / 2), lambda batch: batch * 2, x.shape[1])
    whole, streamed = (assigned(engine, rows, x[:5].copy()) for rows in (ArrayRows(x), view))
    assert np.array_equal(whole.labels, streamed.labels)
    assert np.array_equal(whole.sums, streamed.sums)
    assert whole.inertia == streamed.inertia


class SmallBlocks(ArrayRows):
    """Rows that come a few at a time."""

    def batches(
        self, batch_rows: int | None = None, *, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Float32Array]]:
        return super().batches(137, start=start, stop=stop)


def test_the_fit_is_the_same_whatever_the_blocks(engine: Engine) -> None:
    x, _ = blobs(1000, 9, spread=0.7)
    whole, parts = (
        lloyd(rows, engine.assigner(rows), State(x[:9].copy()), iterations=20)
        for rows in (ArrayRows(x), SmallBlocks(x))
    )
    assert np.array_equal(whole.labels, parts.labels)
    assert [entry.moved for entry in whole.history] == [entry.moved for entry in parts.history]
    assert np.allclose(whole.centroids, parts.centroids, rtol=1e-6, atol=1e-6)
    if isinstance(engine, FastEngine):
        assert np.array_equal(whole.centroids, parts.centroids)


def test_the_two_nearest_come_in_order(engine: Engine) -> None:
    x, _ = blobs(200, spread=0.5)
    labels, found = engine.searcher(x[:9].copy()).nearest(x, 2)
    exact = squared(x, x[:9])
    assert np.array_equal(labels[:, 0], exact.argmin(axis=1))
    assert np.allclose(found, np.sort(exact, axis=1)[:, :2], atol=1e-3)


def test_planted_groups_are_found(engine: Engine) -> None:
    x, labels = blobs()
    fit = fit_kmeans(ArrayRows(x), 6, engine=engine, options=FitOptions(restarts=3), seed=1).best.fit
    assert adjusted_rand_score(labels, fit.labels) == 1.0
    assert fit.converged


def test_one_cluster_is_the_mean_and_as_many_as_rows_is_each_alone(engine: Engine) -> None:
    x, _ = blobs(40, spread=0.5)
    one = fit_kmeans(ArrayRows(x), 1, engine=engine).best.fit
    assert np.allclose(one.centroids[0], x.mean(axis=0), atol=1e-5)
    assert one.inertia == pytest.approx(((x - x.mean(axis=0)) ** 2).sum(), rel=1e-5)
    all_alone = fit_kmeans(ArrayRows(x), len(x), engine=engine).best.fit
    assert sorted(all_alone.labels.tolist()) == list(range(len(x)))
    assert all_alone.inertia == pytest.approx(0.0, abs=1e-3)


def test_empty_clusters_get_rows_and_copies_of_rows_end_the_search(engine: Engine) -> None:
    x, labels = blobs(300, 4, spread=0.01)
    start = np.full((4, 40), 50.0, dtype=np.float32)
    start[0] = x.mean(axis=0)
    rows = ArrayRows(x)
    fit = lloyd(rows, engine.assigner(rows), State(start), iterations=50)
    assert (fit.history[0].empty, fit.history[-1].empty) == (3, 0)
    assert adjusted_rand_score(labels, fit.labels) > 0.5
    copies = np.repeat(blobs(3)[0], 20, axis=0)
    few = fit_kmeans(ArrayRows(copies), 5, engine=engine, options=FitOptions(iterations=200)).best.fit
    assert few.inertia == pytest.approx(0.0, abs=1e-3)
    assert len(few.history) < 200


def test_the_inertia_is_scikit_learns_from_the_same_start(engine: Engine) -> None:
    x, _ = blobs(800, spread=0.7)
    start = x[:10].copy()
    theirs = KMeans(10, init=start, n_init=1, tol=0, max_iter=300).fit(x.astype(np.float64))
    ours = lloyd(ArrayRows(x), engine.assigner(ArrayRows(x)), State(start), iterations=300, tolerance=0.0)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-6 if engine.exact_passes else 1e-3)


def test_the_same_seed_gives_the_same_bits(engine: Engine) -> None:
    x, _ = blobs(spread=0.8)
    first, second = (
        fit_kmeans(ArrayRows(x), 9, engine=engine, options=FitOptions(restarts=2), seed=5).best.fit for _ in range(2)
    )
    assert np.array_equal(first.centroids, second.centroids)
    assert np.array_equal(first.labels, second.labels)
    other = fit_kmeans(ArrayRows(x), 9, engine=engine, options=FitOptions(restarts=2), seed=6).best.fit
    assert not np.array_equal(first.centroids, other.centroids)


def test_a_run_resumed_after_any_iteration_ends_with_the_same_bits(engine: Engine) -> None:
    x = features(2000, 64)
    rows = ArrayRows(x)
    states: list[State] = []
    assigner = engine.assigner(rows)
    lloyd(rows, assigner, State(x[50:75].copy()), iterations=3)  # a restart before must leave no trace
    whole = lloyd(rows, assigner, State(x[:25].copy()), iterations=9, on_iteration=states.append)
    for state in states:
        resumed = lloyd(rows, engine.assigner(rows), state, iterations=9)
        assert np.array_equal(resumed.centroids, whole.centroids)
        assert np.array_equal(resumed.labels, whole.labels)
        assert resumed.inertia == whole.inertia
        assert [entry.inertia for entry in resumed.history] == [entry.inertia for entry in whole.history]


def test_every_block_is_heard_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 64)
    x = features(300, 40)
    heard: list[int] = []
    engine.assigner(ArrayRows(x)).assign(x[:5].copy(), heard.append)
    assert heard[-1] == 300


def test_squared_norms_are_added_up_in_the_first_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs()
    passes: list[bool] = []
    run = OnePartition.run

    def noted(self: OnePartition, step: Any, *arrays: Any, **options: Any) -> Any:
        passes.append(step.norms)
        return run(self, step, *arrays, **options)

    monkeypatch.setattr(OnePartition, "run", noted)
    assigner = NumpyEngine().assigner(ArrayRows(points))
    first, second = assigner.assign(points[:6]), assigner.assign(points[:6])
    assert passes == [True, False]
    assert second.inertia == first.inertia > 0
