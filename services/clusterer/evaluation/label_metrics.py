"""Metrics of the agreement of clusters with classes, all from one contingency table.

Definitions and edge cases are scikit-learn's where it has the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clusterer.data.rows import Float64Array, IntArray, LabelArray
from clusterer.evaluation.contingency import (
    UNLABELLED,
    ClassPairs,
    Contingency,
    LabelRule,
    accuracy,
    contingency,
    entropy,
    learn_map,
)

Metrics = dict[str, Any]
ClusterLabels = IntArray | LabelArray

NEGLIGIBLE = 1e-22
PAIRS_AT_ONCE = 1 << 18
PERMUTED_ROWS = 2_000_000
MAX_PERMUTATIONS = 20


def adjusted_rand_index(table: Contingency) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985): 0 is chance, 1 is perfect."""
    both, clusters, classes, n = _pairs(table)
    tp, fp, fn = both - n, clusters - both, classes - both
    tn = n * n - clusters - classes + both
    if fp == 0 and fn == 0:
        return 1.0
    return 2.0 * (tp * tn - fn * fp) / ((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))


def fowlkes_mallows(table: Contingency) -> float:
    """Geometric mean of pairwise precision and recall."""
    both, clusters, classes, n = _pairs(table)
    if both == n:
        return 0.0
    return math.sqrt((both - n) / (clusters - n)) * math.sqrt((both - n) / (classes - n))


def mutual_information(table: Contingency) -> float:
    """Mutual information of clusters and classes in nats."""
    n = table.n
    if not n:
        return 0.0
    expected = table.cluster_sizes[table.cluster].astype(np.float64) * table.class_sizes[table.class_]
    return max(0.0, float((table.count / n * np.log(n * table.count / expected)).sum()))


def information_metrics(table: Contingency) -> Metrics:
    """Homogeneity, completeness, V-measure, NMI (arithmetic mean of the entropies) and AMI (the same mean)."""
    h_class, h_cluster = entropy(table.class_sizes), entropy(table.cluster_sizes)
    information = mutual_information(table) if h_class and h_cluster else 0.0
    homogeneity = information / h_class if h_class else 1.0
    completeness = information / h_cluster if h_cluster else 1.0
    harmonic = homogeneity + completeness
    return {
        "ami": _ami(table, information, (h_class + h_cluster) / 2),
        "nmi_arithmetic": 1.0 if not h_class and not h_cluster else information / ((h_class + h_cluster) / 2),
        "v_measure": 2.0 * homogeneity * completeness / harmonic if harmonic else 0.0,
        "homogeneity": homogeneity,
        "completeness": completeness,
    }


def purity(table: Contingency) -> float | None:
    """Share of rows that belong to the most frequent class of their cluster."""
    return accuracy(table, learn_map(table, LabelRule.MAJORITY))


def size_imbalance(sizes: IntArray) -> float | None:
    """Size of the largest cluster over the mean size (empty clusters included): 1 means all are equal."""
    total = int(sizes.sum())
    return int(sizes.max()) * len(sizes) / total if total else None


def score_set(
    clusters: ClusterLabels,
    classes: IntArray,
    *,
    k: int,
    c: int,
    train: Contingency | None,
    inertia: float,
    label_map: str = "train",
    seed: int = 0,
    pairs: ClassPairs | None = None,
    unmapped: int = 0,
    noisy: bool = False,
) -> Metrics:
    """The metrics of one entry of ``metrics.json``; None where a metric does not apply.

    Parameters
    ----------
    clusters
        ``(n,)``: cluster of each row, in ``0..k-1``; ``k`` for noise.
    classes
        ``(n,)`` in ``0..c-1``, of train and scored set together or with ``pairs`` of the scored set; -1 has no label.
    train
        Table of the train set, on which the ``train`` label maps are learnt; None when it has no labels.
    label_map
        ``train`` or ``scored``: which map gives ``accuracy_one_to_one``.
    seed
        Of the permutations behind ``chance``.
    pairs
        Which train class is right for which scored class, when the two sets have different classes.
    unmapped
        Rows with class -1 whose label the class map does not name.
    noisy
        Whether rows may be noise: that is one more cluster for all metrics but the counts and ``in_groups``, which
        leave its rows out.
    """
    sizes = np.bincount(clusters, minlength=k)[:k]
    table = contingency(clusters, classes, k + noisy, c)
    accuracies = accuracy_metrics(table, train, pairs)
    return {
        "n": len(clusters),
        "n_labelled": table.n,
        "n_unlabelled": len(clusters) - table.n - unmapped,
        "n_unmapped": unmapped,
        "k": k,
        "classes": int(np.count_nonzero(table.class_sizes)),
        **agreement(table if table.n else None),
        "accuracy": accuracies,
        "accuracy_one_to_one": accuracies["hungarian"][label_map],
        "inertia": inertia,
        "empty_clusters": int(np.count_nonzero(sizes == 0)),
        "size_imbalance": size_imbalance(sizes),
        "chance": chance(clusters, classes, k=k + noisy, c=c, seed=seed) if table.n else None,
        **(_noise_metrics(clusters, classes, k, c) if noisy else {}),
    }


def _noise_metrics(clusters: ClusterLabels, classes: IntArray, k: int, c: int) -> Metrics:
    """How many rows are noise, and the agreement on the labelled rows that are not."""
    noise = np.asarray(clusters) == k
    rows = int(np.count_nonzero(noise))
    table = contingency(np.asarray(clusters)[~noise], classes[~noise], k, c)
    labelled = int(np.count_nonzero(classes != UNLABELLED))
    values = {rule: accuracy(table, learn_map(table, LabelRule(rule))) if table.n else None for rule in LabelRule}
    return {
        "noise": {"rows": rows, "share": rows / max(len(noise), 1)},
        "in_groups": {
            "n_labelled": table.n,
            "share": table.n / labelled if labelled else None,
            **agreement(table if table.n else None),
            "accuracy": {str(rule): value for rule, value in values.items()},
        },
    }


def agreement(table: Contingency | None) -> Metrics:
    """The metrics that compare two partitions without a map from clusters to classes."""
    names = ("ari", "ami", "nmi_arithmetic", "v_measure", "homogeneity", "completeness", "fowlkes_mallows", "purity")
    if table is None:
        return dict.fromkeys(names)
    values = {
        "ari": adjusted_rand_index(table),
        "fowlkes_mallows": fowlkes_mallows(table),
        "purity": purity(table),
        **information_metrics(table),
    }
    return {name: values[name] for name in names}


def accuracy_metrics(
    scored: Contingency, train: Contingency | None, pairs: ClassPairs | None = None
) -> dict[str, dict[str, float | None]]:
    """Accuracy on ``scored`` under each rule of `LabelRule`, the map learnt on the train set and on ``scored`` itself.

    A map learnt on the rows that it scores is optimistic: its accuracy is an upper bound.
    """
    found: dict[str, dict[str, float | None]] = {}
    for rule in LabelRule:
        known = train is not None and train.n
        learnt = accuracy(scored, learn_map(train, rule), pairs) if known and train is not None else None
        found[str(rule)] = {"train": learnt, "scored": accuracy(scored, learn_map(scored, rule)) if scored.n else None}
    return found


def chance(clusters: ClusterLabels, classes: IntArray, *, k: int, c: int, seed: int = 0) -> Metrics:
    """The scores of clusters of these sizes when rows are assigned at random.

    The mean over seeded permutations of the labels: as many as two million rows allow, at least 1, at most 20.

    Returns
    -------
    ``nmi``, and ``accuracy`` (Hungarian) and ``accuracy_majority`` with the map learnt on the scored rows themselves;
    ``permutations`` is their number.
    """
    known = classes != UNLABELLED
    clusters, classes = clusters[known], classes[known]
    rng = np.random.default_rng([seed, 0x5EED])
    permutations = int(np.clip(PERMUTED_ROWS // max(len(classes), 1), 1, MAX_PERMUTATIONS))
    found: list[tuple[float, ...]] = []
    for _ in range(permutations):
        table = contingency(clusters, rng.permutation(classes), k, c)
        maps = (learn_map(table, rule) for rule in (LabelRule.HUNGARIAN, LabelRule.MAJORITY))
        found.append((normalized_mutual_information(table), *(accuracy(table, each) or 0.0 for each in maps)))
    nmi, hungarian, majority = (float(value) for value in np.mean(found, axis=0))
    return {
        "nmi": nmi,
        "accuracy": hungarian,
        "accuracy_majority": majority,
        "permutations": permutations,
    }


def normalized_mutual_information(table: Contingency) -> float:
    """Mutual information over the arithmetic mean of the entropies."""
    h = (entropy(table.class_sizes) + entropy(table.cluster_sizes)) / 2
    return mutual_information(table) / h if h else 1.0


def summarize(per_seed: Sequence[Mapping[str, Any]]) -> tuple[Metrics, Metrics]:
    """Mean and sample standard deviation over seeds of every metric, with the same nesting.

    Both are None for a metric that is None for any seed; the deviation of one seed is None.
    """
    mean: Metrics = {}
    std: Metrics = {}
    for name, first in per_seed[0].items():
        values = [entry[name] for entry in per_seed]
        if isinstance(first, Mapping) and all(isinstance(value, Mapping) for value in values):
            mean[name], std[name] = summarize(values)
        elif any(value is None for value in values):
            mean[name], std[name] = None, None
        else:
            mean[name] = float(np.mean(values))
            std[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return mean, std


def expected_mutual_information(sizes_a: IntArray, sizes_b: IntArray) -> float:
    """Expectation of the mutual information, in nats, over all pairs of partitions with these group sizes.

    For groups of ``a`` and ``b`` of ``n`` rows the overlap ``x`` is hypergeometric, and the expectation is the sum over
    all pairs of groups of ``E[x/n * log(n x / (a b))]`` [1]_. Three things make it fast at full precision:

    - pairs of equal sizes contribute equally, so only distinct sizes are visited;
    - the probabilities of ``x`` follow from each other by a rational factor. They are walked outwards from the most
      likely ``x`` until they fall below 1e-22 of it, and normalised by their own sum: no term that matters is
      omitted, and no logarithm of a factorial (1e7 at a million rows, known to 1e-9) is needed;
    - all pairs are walked at the same time.

    Parameters
    ----------
    sizes_a, sizes_b
        Group sizes of the two partitions, with equal sums; groups of size zero are ignored.

    References
    ----------
    .. [1] Vinh, Epps, Bailey: Information theoretic measures for clusterings comparison. JMLR 11 (2010).
    """
    n = int(sizes_a.sum())
    distinct_a, often_a = np.unique(sizes_a[sizes_a > 0], return_counts=True)
    distinct_b, often_b = np.unique(sizes_b[sizes_b > 0], return_counts=True)
    total = 0.0
    step = max(1, PAIRS_AT_ONCE // max(len(distinct_b), 1))
    for first in range(0, len(distinct_a), step):
        part = slice(first, first + step)
        a, b = np.meshgrid(distinct_a[part].astype(np.float64), distinct_b.astype(np.float64), indexing="ij")
        often = np.multiply.outer(often_a[part], often_b).ravel()
        total += float(often @ _expected_terms(a.ravel(), b.ravel(), float(n)))
    return total


def _expected_terms(a: Float64Array, b: Float64Array, n: float) -> Float64Array:
    """``E[x/n * log(n x / (a b))]`` of the overlap ``x`` for each pair of group sizes."""
    mode = np.floor((a + 1) * (b + 1) / (n + 2))
    weight = np.ones_like(mode)
    value = _information(mode, a, b, n)
    for direction in (1, -1):
        more_weight, more_value = _walk(a, b, mode, n, direction)
        weight += more_weight
        value += more_value
    return value / weight


def _walk(
    a: Float64Array, b: Float64Array, mode: Float64Array, n: float, direction: int
) -> tuple[Float64Array, Float64Array]:
    """Sums of the probabilities (relative to the mode's) and of the information terms on one side of the mode."""
    weight, value = np.zeros_like(mode), np.zeros_like(mode)
    active = np.arange(len(mode))
    x, p = mode.copy(), np.ones_like(mode)
    while len(active):
        if direction > 0:
            p *= (a - x) * (b - x) / ((x + 1) * (n - a - b + x + 1))
        else:
            p *= x * (n - a - b + x) / ((a - x + 1) * (b - x + 1))
        x += direction
        # At the end of the support the factor is zero, which ends the walk.
        alive = p > NEGLIGIBLE
        if not alive.all():
            active, a, b, x, p = active[alive], a[alive], b[alive], x[alive], p[alive]
        weight[active] += p
        value[active] += p * _information(x, a, b, n)
    return weight, value


def _information(x: Float64Array, a: Float64Array, b: Float64Array, n: float) -> Float64Array:
    safe = np.maximum(x, 1.0)
    return np.where(x > 0, x / n * np.log(n * safe / (a * b)), 0.0)


def _ami(table: Contingency, information: float, mean_entropy: float) -> float:
    groups = min(np.count_nonzero(table.class_sizes), np.count_nonzero(table.cluster_sizes))
    if table.perfect:
        return 1.0
    if groups <= 1:
        return 0.0
    expected = expected_mutual_information(table.cluster_sizes, table.class_sizes)
    # One side all singletons: information and expectation are equal up to rounding.
    spread = max(mean_entropy - expected, float(np.finfo(np.float64).eps))
    return (information - expected) / spread


def _pairs(table: Contingency) -> tuple[int, int, int, int]:
    """Sums of squares of cells, clusters and classes, and n, as Python integers: their products pass 2**63."""
    both, clusters, classes = (
        int((counts.astype(object) ** 2).sum()) if counts.max(initial=0) > 2**31 else int((counts * counts).sum())
        for counts in (table.count, table.cluster_sizes, table.class_sizes)
    )
    return both, clusters, classes, table.n
