"""Every clustering metric at the size of ImageNet's training set, ours beside scikit-learn's.

    python benchmarks/metrics.py [--json] [--rows 1281167] [--classes 1000] [--clusters 1000 5000] [--no-peer]

Classes have ImageNet's sizes (732 to 1300 images), clusters agree with them about as well as k-means on good features
does and differ in size. Ours is all of metrics.json for one scored set, including the label maps learnt on train and
on the scored set and the chance levels; scikit-learn's functions compute the part that it has.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import _common
import numpy as np
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.label_metrics import score_set
from numpy.typing import NDArray

REPEATS = 3
Labels = NDArray[np.int64]


def labelings(rows: int, classes: int, k: int) -> tuple[Labels, Labels]:
    """Clusters and classes of ``rows`` images."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(732, 1301, classes)
    truth = np.repeat(np.arange(classes), sizes)
    truth = rng.permutation(np.resize(truth, rows))
    popularity = rng.dirichlet(np.full(k, 2.0))
    own = truth * max(k // classes, 1) % k + rng.integers(0, max(k // classes, 1), rows)
    stray = rng.choice(k, size=rows, p=popularity)
    return np.where(rng.random(rows) < 0.45, own, stray), truth


def seconds(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """Median seconds of ``work``, and its last result."""
    taken, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), result


def ours(clusters: Labels, truth: Labels, k: int, classes: int) -> dict[str, Any]:
    """All metrics of one scored set."""
    train = contingency(clusters, truth, k, classes)
    return score_set(clusters, truth, k=k, c=classes, train=train, inertia=0.0)


def peers(clusters: Labels, truth: Labels) -> dict[str, dict[str, float]]:
    """Each of scikit-learn's metrics: its value and its seconds, run once."""
    from sklearn import metrics

    functions = {
        "ari": metrics.adjusted_rand_score,
        "ami": metrics.adjusted_mutual_info_score,
        "nmi_arithmetic": metrics.normalized_mutual_info_score,
        "v_measure": metrics.v_measure_score,
        "fowlkes_mallows": metrics.fowlkes_mallows_score,
    }
    found = {}
    for name, function in functions.items():
        taken, value = seconds(lambda function=function: function(truth, clusters), 1)  # type: ignore[misc]
        found[name] = {"seconds": round(taken, 3), "value": float(value)}
    return found


def measure(rows: int, classes: int, k: int, *, with_peer: bool) -> dict[str, Any]:
    """One row of the result."""
    clusters, truth = labelings(rows, classes, k)
    taken, values = seconds(lambda: ours(clusters, truth, k, classes))
    shown = {name: values[name] for name in ("ari", "ami", "nmi_arithmetic", "v_measure", "fowlkes_mallows")}
    row: dict[str, Any] = {"k": k, "seconds_all_metrics": round(taken, 3), "values": shown}
    print(f"k = {k}: all metrics {taken:.2f} s")
    if with_peer:
        found = peers(clusters, truth)
        total = sum(each["seconds"] for each in found.values())
        row |= {"sklearn": found, "sklearn_seconds": round(total, 3), "ratio": round(total / taken, 1)}
        row["largest_difference"] = max(abs(found[name]["value"] - shown[name]) for name in shown)
        parts = ", ".join(f"{name} {each['seconds']:.2f}" for name, each in found.items())
        print(
            f"  scikit-learn: {parts} s; {total / taken:.0f} × ours; values differ by {row['largest_difference']:.1e}"
        )
    return row


def main() -> None:
    arguments = _common.parser(__doc__)
    arguments.add_argument("--rows", type=int, default=1_281_167)
    arguments.add_argument("--classes", type=int, default=1000)
    arguments.add_argument("--clusters", type=int, nargs="+", default=[1000, 5000])
    arguments.add_argument("--no-peer", action="store_true", help="skip scikit-learn, which takes minutes")
    options = arguments.parse_args()
    results = [measure(options.rows, options.classes, k, with_peer=not options.no_peer) for k in options.clusters]
    result = {"benchmark": "metrics", "rows": options.rows, "classes": options.classes, "results": results}
    _common.finish(result, as_json=options.json)


if __name__ == "__main__":
    main()
