"""A whole k-means: the engine, first centroids, iterations, restarts; and levels of groups above the clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import structlog
from shoal.errors import EngineUnavailable

from clusterer.data.partitions import OnRows
from clusterer.data.rows import ArrayRows, ChosenRows, Float32Array, Float64Array, LabelArray, Rows
from clusterer.kmeans.balanced import fit_balanced
from clusterer.kmeans.engine import Assigner, Engine
from clusterer.kmeans.lloyd import UNCONSTRAINED, Fit, FitOptions, State, UnitLength, lloyd
from clusterer.kmeans.seeding import method, seed_centroids

_SAMPLE_STREAM = 0x5A3
_log = structlog.get_logger(__name__)


DEFAULTS = FitOptions()


@dataclass(frozen=True)
class Run:
    """One restart.

    Attributes
    ----------
    restart
        Its number.
    init
        How its first centroids were chosen.
    fit
        Its result; only the best restart keeps its arrays.
    resumed_at
        Iterations that an earlier, interrupted run had done.
    """

    restart: int
    init: str
    fit: Fit
    resumed_at: int = 0


@dataclass(frozen=True)
class KMeansFit:
    """All restarts of one seed.

    Attributes
    ----------
    best
        The run of lowest inertia (the first of equals). Class labels are not used.
    runs
        Every run, in order.
    """

    best: Run
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Level:
    """One level of groups.

    Attributes
    ----------
    parents
        ``(k_below,) int32``: the group of each member of the level below.
    centroids
        ``(k, d) float32``: of the groups, each the unweighted mean of its members.
    """

    parents: LabelArray
    centroids: Float32Array


def select_engine(name: str, *, keep_bytes: int | None = None) -> Engine:
    """The engine of that name; ``auto`` picks the fastest exact one for this machine.

    The result stores the engine's ``name`` and ``reason``. Engines are imported on first use, so that a process that
    never clusters does not need them.

    Parameters
    ----------
    keep_bytes
        Memory for state kept between iterations; None uses the engine's default.

    Raises
    ------
    EngineUnavailable
        The engine cannot run on this machine.
    """
    if name == "faiss":
        return _faiss("requested")
    if name == "faiss-super":
        return _faiss_super(keep_bytes)
    if name == "fast":
        return _fast(keep_bytes)
    if name == "auto":
        picked = _automatic(keep_bytes)
        _log.info("kmeans_engine_picked", engine=picked.name, reason=picked.reason)
        return picked
    raise ValueError(f"unknown k-means engine {name!r}")


def needs_faiss(name: str) -> bool:
    """Whether the engine of that name, or the one that ``auto`` picks, needs faiss."""
    from clusterer.kmeans.fast import available, narrower_than_blas

    if name != "auto":
        return name != "fast"
    kernels = available()
    return not kernels or narrower_than_blas(kernels[0])


def _automatic(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.fast import KernelUnavailable, narrower_than_blas, open_kernel

    try:
        kernel = open_kernel()
    except KernelUnavailable as error:
        return _faiss(f"the kernel of the fast engine cannot run on this machine: {error}")
    if narrower_than_blas(kernel.variant):
        return _faiss("this processor has AVX-512, which faiss uses, but no VNNI, which the fast engine needs")
    return _fast(keep_bytes)


def _fast(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.fast import KEEP_BYTES, FastEngine, KernelUnavailable

    try:
        return FastEngine(keep_bytes=KEEP_BYTES if keep_bytes is None else keep_bytes)
    except KernelUnavailable as error:
        raise EngineUnavailable(
            f"The engine `fast` cannot run on this machine: {error}. Use `auto` or `faiss`.", engine="fast"
        ) from error


def _faiss(reason: str) -> Engine:
    from clusterer.kmeans.faiss import FaissEngine

    return FaissEngine(reason)


def _faiss_super(keep_bytes: int | None) -> Engine:
    from clusterer.kmeans.faiss_super import KEEP_BYTES, SuperEngine, SuperUnavailable

    try:
        return SuperEngine(keep_bytes=KEEP_BYTES if keep_bytes is None else keep_bytes)
    except SuperUnavailable as error:
        raise EngineUnavailable(
            f"The engine `faiss-super` cannot run on this machine: {error}. Use `auto` or `faiss`.",
            engine="faiss-super",
        ) from error


def fit_kmeans(
    rows: Rows,
    k: int,
    *,
    engine: Engine,
    options: FitOptions = DEFAULTS,
    seed: int = 0,
    on_state: Callable[[int, State], None] | None = None,
    on_rows: OnRows | None = None,
    resume: Callable[[int], State | None] | None = None,
) -> KMeansFit:
    """k-means on all ``rows``, ``(n, d)`` with ``n >= k``. The same ``seed`` gives the same result.

    Parameters
    ----------
    on_state
        Called with the restart's number and its state: the first centroids, then after each iteration.
    on_rows
        Called between blocks of rows.
    resume
        Returns the last state of an interrupted restart, or None. The result is that of an uninterrupted run.
        Mini-batches start over: their step sizes are not part of `State`.

    Raises
    ------
    ValueError
        ``k`` is below 1 or above ``n``.
    """
    if not 1 <= k <= rows.n:
        raise ValueError(f"k is {k}, but it must be between 1 and the number of rows, {rows.n}")
    assigner = engine.assigner(rows)
    runs: list[Run] = []
    for restart in range(options.restarts):
        rng = np.random.default_rng([seed, restart])
        hook = None if on_state is None else partial(on_state, restart)
        start = None if resume is None or options.mini_batch else resume(restart)
        resumed_at = 0 if start is None else len(start.history)
        if start is None:
            seeds = seed_centroids(rows, k, init=options.init, rng=rng, engine=engine, on_rows=on_rows)
            start = State(seeds.centroids)
            if hook is not None:
                hook(start)
        fit = _fit_from(start, rows, engine, assigner, options, rng, hook, on_rows)
        runs.append(Run(restart, method(rows, k, options.init), fit, resumed_at))
        best = min(runs, key=lambda run: run.fit.inertia).restart
        runs = [run if run.restart == best else replace(run, fit=run.fit.without_arrays()) for run in runs]
    return KMeansFit(runs[best], tuple(runs))


def _fit_from(
    start: State,
    rows: Rows,
    engine: Engine,
    assigner: Assigner,
    options: FitOptions,
    rng: np.random.Generator,
    on_iteration: Callable[[State], None] | None,
    on_rows: OnRows | None,
) -> Fit:
    """One restart from its first centroids or from a saved state; ``assigner`` assigns ``rows`` by ``engine``."""
    if options.mini_batch:
        # Imported here because scikit-learn takes long to import.
        from clusterer.kmeans.minibatch import fit_minibatch

        return fit_minibatch(
            rows,
            assigner,
            start,
            iterations=options.iterations,
            seed=int(rng.integers(2**31)),
            on_iteration=on_iteration,
            on_rows=on_rows,
        )
    constraint = UnitLength() if options.spherical else UNCONSTRAINED
    if options.balanced is not None and len(start.centroids) > 1:
        return fit_balanced(
            rows,
            start,
            engine=engine,
            ratio=options.balanced,
            constraint=constraint,
            iterations=options.iterations,
            tolerance=options.tolerance,
            on_iteration=on_iteration,
            on_rows=on_rows,
        )
    return lloyd(
        rows,
        assigner,
        start,
        iterations=options.iterations,
        tolerance=options.tolerance,
        constraint=constraint,
        on_iteration=on_iteration,
        on_rows=on_rows,
    )


def prices_by_seed(fits: Mapping[int, KMeansFit]) -> dict[int, Float64Array]:
    """The prices of the clusters of each seed's best run; empty unless cluster sizes were bounded."""
    best = {seed: fit.best.fit.balance for seed, fit in fits.items()}
    return {seed: balance.prices for seed, balance in best.items() if balance is not None}


def sample_rows(rows: Rows, most: int | None, seed: int) -> Rows:
    """``rows`` themselves, or a seeded sample of ``most`` of them, in their order, when there are more.

    The sample reads ``rows`` anew each time it is read.
    """
    if most is None or rows.n <= most:
        return rows
    rng = np.random.default_rng([seed, _SAMPLE_STREAM])
    return ChosenRows(rows, np.sort(rng.choice(rows.n, size=most, replace=False)).astype(np.int64))


def build_levels(
    centroids: Float32Array,
    sizes: Sequence[int],
    *,
    engine: Engine,
    options: FitOptions = DEFAULTS,
    seed: int = 0,
    on_rows: OnRows | None = None,
) -> tuple[Level, ...]:
    """Group ``(k, d)`` centroids by k-means, then the groups' centroids, and so on [1]_.

    Members are not weighted by their rows, so upper levels follow the space that the data fill, not its density.

    Parameters
    ----------
    sizes
        Numbers of groups, decreasing, the first below ``k``.
    options
        Levels always run Lloyd's algorithm with unbounded group sizes.

    References
    ----------
    .. [1] Vo et al.: Automatic data curation for self-supervised learning: a clustering-based approach. arXiv
       2405.15613.
    """
    options = replace(options, algorithm="lloyd", balanced=None)
    levels: list[Level] = []
    for size in sizes:
        fit = fit_kmeans(
            ArrayRows(centroids), size, engine=engine, options=options, seed=seed, on_rows=on_rows
        ).best.fit
        levels.append(Level(fit.labels, fit.centroids))
        centroids = fit.centroids
    return tuple(levels)


def groups_of(clusters: LabelArray, levels: Sequence[Level]) -> list[LabelArray]:
    """The group of each row on each level, lowest level first, given its cluster."""
    found: list[LabelArray] = []
    for level in levels:
        clusters = level.parents[clusters]
        found.append(clusters)
    return found
