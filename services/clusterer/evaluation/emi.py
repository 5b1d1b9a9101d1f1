"""Expected mutual information of two random partitions with given group sizes, exact and fast."""

from __future__ import annotations

import numpy as np

from clusterer.data.rows import Float64Array, IntArray

NEGLIGIBLE = 1e-22
PAIRS_AT_ONCE = 1 << 18


def expected_mutual_information(sizes_a: IntArray, sizes_b: IntArray) -> float:
    """Expectation of the mutual information, in nats, over all pairs of partitions with these group sizes.

    For groups of ``a`` and ``b`` of ``n`` rows the overlap ``x`` is hypergeometric, and the expectation is the sum over
    all pairs of groups of ``E[x/n * log(n x / (a b))]`` [1]_. Three things make it fast without giving up a digit:

    - pairs of equal sizes contribute equally, so only distinct sizes are visited;
    - the probabilities of ``x`` follow from each other by a rational factor. They are walked outwards from the most
      likely ``x`` until they fall below 1e-22 of it, and normalised by their own sum: no term that matters is left
      out, and no logarithm of a factorial (1e7 at a million rows, known to 1e-9) is needed;
    - all pairs walk at the same time.

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
        # Outside its support the factor that leads there is zero, which ends that walk too.
        alive = p > NEGLIGIBLE
        if not alive.all():
            active, a, b, x, p = active[alive], a[alive], b[alive], x[alive], p[alive]
        weight[active] += p
        value[active] += p * _information(x, a, b, n)
    return weight, value


def _information(x: Float64Array, a: Float64Array, b: Float64Array, n: float) -> Float64Array:
    safe = np.maximum(x, 1.0)
    return np.where(x > 0, x / n * np.log(n * safe / (a * b)), 0.0)
