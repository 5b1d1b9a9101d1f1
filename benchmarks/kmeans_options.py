"""The effect of each option of k-means, compared with plain k-means on the same rows and seeds.

    python benchmarks/kmeans_options.py [--json] [--rows 10000] [--dim 256] [--classes 100]
                                        [--iterations 20] [--seeds 3]

Rows are synthetic features of classes of unequal sizes, scaled to unit length, as the service does by default; there
are as many clusters as classes. Inertia is given twice: to the run's own centroids, and of its labels to the means of
their clusters, because centroids of unit length, and those of mini-batches, are not the means. Seconds are those of the
whole fit, seeding included (for mini-batches also the exact assignments that measure their inertia); CPU seconds are of
all threads, and less sensitive to other load. Levels group five times as many clusters, and are compared with k-means
that makes as many groups from the rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import _common
import numpy as np
from _features import Features, Matrix
from clusterer.data.rows import ArrayRows, IntArray, LabelArray, l2_normalize
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.label_metrics import agreement, size_imbalance
from clusterer.kmeans import Engine, FitOptions, build_levels, fit_kmeans, groups_of, select_engine

VARIANTS = {
    "plain": ("auto", FitOptions()),
    "spherical": ("auto", FitOptions(spherical=True)),
    "balanced 1.2": ("auto", FitOptions(balanced=1.2)),
    "balanced 1.05": ("auto", FitOptions(balanced=1.05)),
    "mini-batch": ("auto", FitOptions(algorithm="mini-batch")),
    "engine faiss": ("faiss", FitOptions()),
    "engine faiss-super": ("faiss-super", FitOptions()),
}
"""Engine and options of each variant."""
FIGURES = ("inertia", "inertia_of_means", "cosine", "imbalance", "ari", "nmi", "iterations", "seconds", "cpu_seconds")
RATIOS = ("inertia", "inertia_of_means", "seconds", "cpu_seconds")
MORE_CLUSTERS = 5
"""Clusters per class below the levels."""


@cache
def engine_named(name: str) -> Engine:
    """Selected once, so that the choice is logged once."""
    return select_engine(name)


def data(arguments: argparse.Namespace) -> tuple[Matrix, IntArray]:
    """Rows ``(n, d)`` of unit length and their classes."""
    blocks = list(Features(arguments.rows, arguments.dim, classes=arguments.classes).batches())
    return l2_normalize(np.vstack([rows for _, rows in blocks])), np.concatenate([classes for classes, _ in blocks])


def run(x: Matrix, truth: IntArray, c: int, *, seed: int, engine: Engine, options: FitOptions) -> dict[str, float]:
    """The figures of one fit."""
    started, cpu = time.perf_counter(), time.process_time()
    fit = fit_kmeans(ArrayRows(x), c, engine=engine, options=options, seed=seed).best.fit
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu
    own = l2_normalize(fit.centroids)[fit.labels]
    return {
        "inertia": fit.inertia,
        "inertia_of_means": inertia_of_means(x, fit.labels, c),
        "cosine": float(np.einsum("ij,ij->i", x, own, dtype=np.float64).mean()),
        "imbalance": size_imbalance(np.bincount(fit.labels, minlength=c)) or 0.0,
        **against_classes(fit.labels, truth, c, c),
        "iterations": len(fit.history),
        "seconds": taken,
        "cpu_seconds": cpu,
    }


def inertia_of_means(x: Matrix, labels: LabelArray, k: int) -> float:
    """Sum of the squared distances of rows of unit length to the means of their clusters."""
    sums = np.zeros((k, x.shape[1]))
    np.add.at(sums, labels, x)
    counts = np.maximum(np.bincount(labels, minlength=k), 1)
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64) - ((sums**2).sum(axis=1) / counts).sum())


def against_classes(labels: LabelArray, truth: IntArray, k: int, c: int) -> dict[str, float]:
    """Agreement with the planted classes."""
    found = agreement(contingency(labels, truth, k, c))
    return {"ari": found["ari"], "nmi": found["nmi_arithmetic"]}


def with_levels(x: Matrix, truth: IntArray, c: int, *, seed: int, iterations: int) -> list[dict[str, float]]:
    """The ARI of the clusters and of each level above them, and that of k-means with as many clusters."""
    engine, rows, options = engine_named("auto"), ArrayRows(x), FitOptions(iterations=iterations)
    sizes = [MORE_CLUSTERS * c, c, max(2, c // MORE_CLUSTERS)]
    flat = [fit_kmeans(rows, size, engine=engine, options=options, seed=seed).best.fit for size in sizes]
    levels = build_levels(flat[0].centroids, sizes[1:], engine=engine, options=options, seed=seed)
    grouped = [flat[0].labels, *groups_of(flat[0].labels, levels)]
    return [
        {
            "groups": size,
            "ari": against_classes(labels, truth, size, c)["ari"],
            "ari_flat": against_classes(fit.labels, truth, size, c)["ari"],
        }
        for size, labels, fit in zip(sizes, grouped, flat, strict=True)
    ]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All variants in turn, seed by seed, and the levels."""
    x, truth = data(arguments)
    for engine, options in VARIANTS.values():  # warm-up: libraries load and threads start outside the timings
        few = replace(options, iterations=2)
        run(x[:2000], truth[:2000], arguments.classes, seed=0, engine=engine_named(engine), options=few)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    levels = []
    for seed in range(arguments.seeds):
        for name, (engine, variant) in VARIANTS.items():
            options = replace(variant, iterations=arguments.iterations)
            runs[name].append(run(x, truth, arguments.classes, seed=seed, engine=engine_named(engine), options=options))
        levels.append(with_levels(x, truth, arguments.classes, seed=seed, iterations=arguments.iterations))
    return {
        "benchmark": "kmeans-options",
        **{name: getattr(arguments, name) for name in ("rows", "dim", "classes", "iterations", "seeds")},
        "largest_class": round(size_imbalance(np.bincount(truth)) or 0.0, 2),
        "engine": engine_named("auto").name,
        "options": {name: summary(found, runs["plain"]) for name, found in runs.items()},
        "levels": [level_summary(per_seed) for per_seed in zip(*levels, strict=True)],
    }


def summary(runs: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, Any]:
    """Each figure over the seeds, and its ratio to plain k-means of the same seed."""
    found: dict[str, Any] = {name: _common.spread([each[name] for each in runs]) for name in FIGURES}
    for name in RATIOS:
        ratios = [each[name] / base[name] for each, base in zip(runs, plain, strict=True)]
        found[f"{name}_x_plain"] = round(statistics.median(ratios), 4)
    return found


def level_summary(per_seed: Sequence[dict[str, float]]) -> dict[str, Any]:
    """One level over the seeds."""
    found: dict[str, Any] = {name: _common.spread([each[name] for each in per_seed]) for name in ("ari", "ari_flat")}
    return {"groups": per_seed[0]["groups"], **found}


def show(result: dict[str, Any]) -> None:
    print(f"engine {result['engine']}; the largest class has {result['largest_class']} times the mean of the classes")
    print(
        f"{'':<20}{'inertia x plain':>16}{'of means':>10}{'cosine':>8}{'largest':>9}{'ARI':>16}{'NMI':>7}"
        f"{'iterations':>12}{'seconds':>9}{'x plain':>9}{'CPU s':>8}{'x plain':>9}"
    )
    for name, row in result["options"].items():
        ari = f"{row['ari']['mean']:.3f} ± {row['ari']['std']:.3f}"
        print(
            f"{name:<20}{row['inertia_x_plain']:>16.4f}{row['inertia_of_means_x_plain']:>10.4f}"
            f"{row['cosine']['mean']:>8.4f}{row['imbalance']['mean']:>9.3f}{ari:>16}{row['nmi']['mean']:>7.3f}"
            f"{row['iterations']['mean']:>12.1f}{row['seconds']['mean']:>9.2f}{row['seconds_x_plain']:>9.2f}"
            f"{row['cpu_seconds']['mean']:>8.2f}{row['cpu_seconds_x_plain']:>9.2f}"
        )
    for level in result["levels"]:
        ours, flat = (f"{level[name]['mean']:.3f} ± {level[name]['std']:.3f}" for name in ("ari", "ari_flat"))
        print(f"{level['groups']:>5} groups: ARI {ours} by levels, {flat} by k-means on the rows")


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(arguments)
    show(result)
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
