"""The cost of k-means by rows, clusters and dimensions, relative to the limits of the machine.

    python benchmarks/scaling.py [--json] [--rows 100000] [--clusters 1000] [--dim 1024] [--iterations 6] [--repeats 3]

Runs the engine that `auto` picks on synthetic features, at the given size, at twice the rows, twice the clusters, twice
the dimensions, and out of core. The first iteration compares sketches of all rows with all centroids; later ones reuse
state of the earlier ones, so they are timed apart. The limits of the machine are measured in the same run: products in
float32 (numpy) and in bytes (the engine's kernel), and the bandwidth of the memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import numpy as np
from _features import Features, Matrix
from clusterer.data.filerows import FileRows, write_rows
from clusterer.data.rows import ArrayRows
from clusterer.kmeans import Engine, State, lloyd, select_engine


def best_of(work: Callable[[], Any], times: int = 5) -> float:
    """Least seconds of several runs: a limit is the speed without other load."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def limits(engine: Engine) -> dict[str, float]:
    """Giga multiply-adds a second in float32 and in bytes, and gigabytes a second read from memory."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4096, 4096), dtype=np.float32)
    found = {"float32_gmac_s": 4096**3 / best_of(lambda: a @ b) / 1e9}
    large = rng.standard_normal(2**27, dtype=np.float32)
    found["memory_gb_s"] = large.nbytes / best_of(large.sum) / 1e9
    kernel = getattr(engine, "kernel", None)
    if kernel is not None:
        found["bytes_gmac_s"] = byte_products(kernel, a)
    return {name: round(value, 1) for name, value in found.items()}


def byte_products(kernel: Any, rows: Matrix) -> float:
    """Giga multiply-adds a second of the kernel, from projecting sketches on 1024 directions."""
    from clusterer.kmeans.fast.kernel import Frame, Sketch

    dims = rows.shape[1]
    frame = Frame.around(np.zeros(dims, dtype=np.float32))
    sketch = kernel.sketch(rows, frame)
    projection = kernel.projection(np.linalg.qr(rows[:, :1024])[0])
    short = Sketch.empty(len(rows), 1024)
    return float(len(rows) * dims * 1024 / best_of(lambda: kernel.project_into(sketch, projection, short)) / 1e9)


def cost(engine: Engine, rows: ArrayRows, start: Matrix, iterations: int) -> dict[str, float]:
    """Seconds of the first iteration (including one-time work), and of a later one."""
    fit = lloyd(rows, engine.assigner(rows), State(start), iterations=iterations, tolerance=-1.0)
    seconds = [each.seconds for each in fit.history]
    return {"first_s": seconds[0], "later_s": statistics.median(seconds[1:])}


def variants(rows: int, dim: int, clusters: int) -> dict[str, tuple[int, int, int]]:
    """Rows, dimensions and clusters of each measurement."""
    return {
        "base": (rows, dim, clusters),
        "2 x rows": (2 * rows, dim, clusters),
        "2 x clusters": (rows, dim, 2 * clusters),
        "2 x dimensions": (rows, 2 * dim, clusters),
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All variants in turn, several times."""
    engine = select_engine("auto")
    sizes = variants(arguments.rows, arguments.dim, arguments.clusters)
    data = {
        dim: np.vstack([block for _, block in Features(2 * arguments.rows, dim).batches()])
        for dim in (arguments.dim, 2 * arguments.dim)
    }
    file = folder / "rows"
    write_rows(file, ArrayRows(data[arguments.dim][: arguments.rows]))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in [*sizes, "out of core"]}
    for _ in range(arguments.repeats):
        for name, (n, dim, k) in sizes.items():
            x = data[dim][:n]
            runs[name].append(cost(engine, ArrayRows(x), starts(x, k), arguments.iterations))
        x = data[arguments.dim][: arguments.rows]
        mapped = FileRows.open(file, arguments.rows, arguments.dim)
        runs["out of core"].append(cost(engine, mapped, starts(x, arguments.clusters), arguments.iterations))
    bounds = limits(engine)
    table = {name: summary(found, sizes.get(name, sizes["base"]), bounds) for name, found in runs.items()}
    return {"benchmark": "scaling", "engine": engine.reason, "limits": bounds, "table": with_ratios(table)}


def starts(x: Matrix, k: int) -> Matrix:
    """Rows as first centroids."""
    return np.ascontiguousarray(x[np.sort(np.random.default_rng(1).choice(len(x), k, replace=False))])


def summary(runs: list[dict[str, float]], size: tuple[int, int, int], bounds: dict[str, float]) -> dict[str, Any]:
    """Medians, and products of all rows with all centroids per second."""
    n, dim, k = size
    products = n * dim * k / 1e9
    found: dict[str, Any] = {"rows": n, "dim": dim, "clusters": k}
    for name in ("first_s", "later_s"):
        seconds = statistics.median(run[name] for run in runs)
        found[name] = round(seconds, 3)
        found[name.replace("_s", "_gmac_s")] = round(products / seconds, 1)
        for limit in ("float32", "bytes"):
            if f"{limit}_gmac_s" in bounds:
                found[name.replace("_s", f"_of_{limit}")] = round(products / seconds / bounds[f"{limit}_gmac_s"], 2)
    return found


def with_ratios(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each figure relative to that of the base."""
    for row in table.values():
        for name in ("first_s", "later_s"):
            row[f"{name[:-2]}_x_base"] = round(row[name] / table["base"][name], 2)
    return table


def show(result: dict[str, Any]) -> None:
    print(f"{result['engine']}; limits: {result['limits']}")
    print(f"{'':<16}{'first s':>9}{'x base':>8}{'of bytes':>10}{'later s':>9}{'x base':>8}{'of bytes':>10}")
    for name, row in result["table"].items():
        print(
            f"{name:<16}{row['first_s']:>9.2f}{row['first_x_base']:>8.2f}{row.get('first_of_bytes', 0):>10.2f}"
            f"{row['later_s']:>9.2f}{row['later_x_base']:>8.2f}{row.get('later_of_bytes', 0):>10.2f}"
        )


def main() -> None:
    parser = _common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    show(result)
    _common.finish(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
