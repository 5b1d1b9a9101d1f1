"""The one-pass PCA beside scikit-learn's IncrementalPCA in batches of 4096, as the code of arXiv 2008.10312 calls it.

    python benchmarks/pca.py [--json] [--rows 200000] [--dim 2048] [--timed-batches 4] [--repeats 5]

Ours is timed on all rows, from float32 rows in memory to the components. Of IncrementalPCA, whose batches all cost the
same once the first is done, ``--timed-batches`` (no more than the rows fill) are timed in each turn and their median
scaled to all. Both keep all components and run in turn; the ratio is the median of the turns' own. Components are
compared, up to sign, with those of a float64 singular value decomposition of the first ``--exact-rows`` rows.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import _common
import numpy as np
from _features import Features, Matrix
from clusterer.data.pca import accumulate_moments, fit_pca
from clusterer.data.rows import ArrayRows

BATCH = 4096


def ours(x: Matrix) -> float:
    """Seconds of the whole fit."""
    started = time.perf_counter()
    fit_pca(accumulate_moments(ArrayRows(x)))
    return time.perf_counter() - started


def incremental(x: Matrix, batches: int) -> list[float]:
    """Seconds of each of the first batches."""
    from sklearn.decomposition import IncrementalPCA

    model, seconds = IncrementalPCA(), []
    for first in range(0, batches * BATCH, BATCH):
        started = time.perf_counter()
        model.partial_fit(x[first : first + BATCH])
        seconds.append(time.perf_counter() - started)
    return seconds


def disagreement(x: Matrix) -> dict[str, float]:
    """Largest difference to the components of a float64 SVD, of components whose variances differ enough."""
    found = fit_pca(accumulate_moments(ArrayRows(x)))
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    _, singular, exact = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2 / (len(x) - 1)
    signs = np.sign(np.einsum("ij,ij->i", exact, found.components))
    gap = np.minimum(-np.diff(variance, prepend=np.inf), -np.diff(variance, append=-np.inf)) / variance
    apart = gap > 1e-4
    difference = np.abs(found.components - signs[:, None] * exact).max(axis=1)
    return {
        "components": float(difference[apart].max()),
        "compared": int(apart.sum()),
        "variance": float(np.abs(found.explained_variance / variance - 1).max()),
    }


def measure(rows: int, dim: int, timed_batches: int, repeats: int, exact_rows: int) -> dict[str, Any]:
    """Ours and theirs in turn."""
    timed_batches, exact_rows = min(timed_batches, rows // BATCH), min(exact_rows, rows)
    x = np.vstack([block for _, block in Features(rows, dim).batches()])
    seconds, peers = [], []
    for _ in range(repeats):
        seconds.append(ours(x))
        first, *later = incremental(x, timed_batches)
        # Later batches carry the components so far with them; the first does not.
        peers.append(first + statistics.median(later) * (-(-rows // BATCH) - 1))
    return {
        "benchmark": "pca",
        "rows": rows,
        "dim": dim,
        "seconds": round(statistics.median(seconds), 2),
        "all_seconds": [round(each, 2) for each in seconds],
        "incremental_pca_s": round(statistics.median(peers), 1),
        "all_incremental_pca_s": [round(each, 1) for each in peers],
        "times_ours": round(statistics.median(peer / own for peer, own in zip(peers, seconds, strict=True)), 1),
        "against_float64_svd": {"rows": exact_rows, **disagreement(x[:exact_rows])},
    }


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--timed-batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--exact-rows", type=int, default=8192)
    arguments = parser.parse_args()
    if arguments.rows < 2 * BATCH or arguments.timed_batches < 2:
        parser.error(f"IncrementalPCA needs two batches: give at least --rows {2 * BATCH} and --timed-batches 2.")
    result = measure(arguments.rows, arguments.dim, arguments.timed_batches, arguments.repeats, arguments.exact_rows)
    print(
        f"{result['rows']} x {result['dim']}: ours {result['seconds']} s, IncrementalPCA "
        f"{result['incremental_pca_s']} s (scaled), {result['times_ours']} times ours"
    )
    print(f"against a float64 SVD: {result['against_float64_svd']}")
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
