"""How often methods that choose the number of groups find the planted one, beside other libraries on the same rows.

    python benchmarks/groups.py [--json] [--seeds 5] [--rows 2000] [--sets round/8/32 …] [--no-peers]

A set is a shape of ``_planted.py``, a number of groups and of dimensions. Each seed plants other rows, on which each
method runs once with its defaults: k-means with ``clusters: "auto"``, Leiden, HDBSCAN, and HDBSCAN on rows reduced by
``umap``, all on directions as the service takes them. Peers, where they are installed, see the same directions:
leidenalg on the same graph of 15 nearest rows, scikit-learn's HDBSCAN and the package hdbscan with our defaults. A line
has how many seeds find the planted number, how many come within 10 % of it, the mean adjusted Rand index with noise as
one more cluster, the mean share of noise, and the mean seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from _common import finish, parser
from _planted import planted
from clusterer.data.rows import ArrayRows
from clusterer.evaluation.contingency import contingency
from clusterer.evaluation.label_metrics import adjusted_rand_index
from clusterer.graph import Near, communities, dense_groups, near_places
from clusterer.jobs.choose import JUDGED, choose_clusters
from clusterer.jobs.plan import MOST_TRIED
from clusterer.kmeans import FitOptions, fit_kmeans, select_engine
from clusterer.neighbours import nearest_rows
from clusterer.reduce import umap_coordinates
from numpy.typing import NDArray
from shoal.host import available_cores
from shoal.schemas import GraphOptions, ReduceOptions

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
Method = Callable[[Rows, int], Any]
SETS = ("round/5/16", "round/8/32", "round/20/32", "unequal/8/32", "elongated/8/32", "rings/3/32")
OPTIONS = GraphOptions()


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    methods = OURS if options.no_peers else {**OURS, **{name: run for name, run, at in PEERS if find_spec(at)}}
    found = {name: measured(name, methods, options) for name in options.sets}
    finish({"benchmark": "groups", "rows": options.rows, "seeds": options.seeds, "sets": found}, as_json=options.json)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--rows", type=int, default=2000)
    made.add_argument("--sets", nargs="+", default=list(SETS), metavar="SHAPE/GROUPS/DIM")
    made.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    return made.parse_args()


def measured(name: str, methods: dict[str, Method], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every method on the rows of every seed."""
    shape, groups, dim = name.split("/")
    print(f"\n{name}: {options.rows} rows", flush=True)
    print(f"{'':28}{'exact':>8}{'10 %':>8}{'groups':>8}{'ARI':>8}{'noise':>8}{'seconds':>9}")
    found = {}
    for method, run in methods.items():
        lines = list(_runs(run, shape, int(groups), int(dim), options))
        found[method] = line = {key: statistics.fmean(each[key] for each in lines) for key in lines[0]}
        shown = (f"{round(line[key] * options.seeds)}/{options.seeds}" for key in ("exact", "near"))
        figures = f"{line['groups']:8.1f}{line['ari']:8.3f}{line['noise']:8.1%}{line['seconds']:9.2f}"
        print(f"{method:28}" + "".join(f"{each:>8}" for each in shown) + figures, flush=True)
    return found


def _runs(run: Method, shape: str, groups: int, dim: int, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    for seed in range(options.seeds):
        rows, of = planted(shape, options.rows, dim, seed, groups)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        expected = len(np.unique(of))
        started = time.perf_counter()
        labels = np.asarray(run(rows, seed), np.int64)
        seconds = time.perf_counter() - started
        k = int(labels.max(initial=-1)) + 1
        noise = labels < 0
        table = contingency(np.where(noise, k, labels), of, k + 1, groups if shape != "rings" else 3)
        yield {
            "exact": float(k == expected),
            "near": float(abs(k - expected) <= 0.1 * expected),
            "groups": float(k),
            "ari": adjusted_rand_index(table),
            "noise": float(noise.mean()),
            "seconds": seconds,
        }


def k_means(rows: Rows, seed: int) -> Any:
    """k-means with the number of clusters that `clusters: "auto"` chooses."""
    engine, given = select_engine("auto"), ArrayRows(rows)
    near = nearest_rows(given, JUDGED)
    chosen = choose_clusters(given, near, 2, min(MOST_TRIED, len(rows) // 10), engine=engine)
    options = FitOptions(restarts=6)
    return fit_kmeans(given, chosen.k, engine=engine, options=options, seed=seed).best.fit.labels


def leiden(rows: Rows, seed: int) -> Any:
    """Communities of the graph of nearest rows."""
    return communities(_near(rows, "leiden"), OPTIONS.gamma, seed).labels


def hdbscan(rows: Rows, _: int) -> Any:
    """Dense groups."""
    return _dense(rows, _near(rows, "hdbscan"), places=False)


def hdbscan_umap(rows: Rows, seed: int) -> Any:
    """Dense groups of rows that `reduce`: `umap` has laid out."""
    reduce = ReduceOptions(method="umap")
    nearest = nearest_rows(ArrayRows(rows), reduce.neighbour_count)
    places = umap_coordinates(nearest, reduce.component_count or 5, seed=seed, threads=available_cores())
    near = near_places(ArrayRows(places), OPTIONS.neighbour_count("hdbscan"))
    return _dense(places, near, places=True)


def _near(rows: Rows, method: str) -> Near:
    return Near.of(nearest_rows(ArrayRows(rows), OPTIONS.neighbour_count(method)))


def _dense(rows: Rows, near: Near, *, places: bool) -> Any:
    given = ArrayRows(rows)
    return dense_groups(given, near, OPTIONS.smallest, OPTIONS.samples, places=places, threads=available_cores()).labels


def leidenalg(rows: Rows, seed: int) -> Any:
    """leidenalg's modularity on the same graph, until nothing changes."""
    import igraph
    import leidenalg as library

    near = _near(rows, "leiden")
    n, k = near.rows.shape
    pairs = np.stack([np.repeat(np.arange(n), k), near.rows.ravel()], axis=1)
    edges, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
    graph = igraph.Graph(n, edges.tolist())
    partition = library.RBConfigurationVertexPartition
    found = library.find_partition(graph, partition, weights=(counts / 2).tolist(), seed=seed, n_iterations=-1)
    return found.membership


def sklearn_hdbscan(rows: Rows, _: int) -> Any:
    """scikit-learn's HDBSCAN."""
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=OPTIONS.smallest, min_samples=OPTIONS.samples, copy=True).fit_predict(rows)


def package_hdbscan(rows: Rows, _: int) -> Any:
    """The package hdbscan; a row is none of its own samples there."""
    import hdbscan as library

    made = library.HDBSCAN(min_cluster_size=OPTIONS.smallest, min_samples=OPTIONS.samples - 1)
    return made.fit_predict(rows.astype(np.float64))


OURS: dict[str, Method] = {
    "k-means, auto": k_means,
    "leiden": leiden,
    "hdbscan": hdbscan,
    "hdbscan, reduce umap": hdbscan_umap,
}
PEERS: tuple[tuple[str, Method, str], ...] = (
    ("leidenalg", leidenalg, "leidenalg"),
    ("scikit-learn HDBSCAN", sklearn_hdbscan, "sklearn"),
    ("hdbscan (package)", package_hdbscan, "hdbscan"),
)


if __name__ == "__main__":
    main()
