"""What clustering 10 million to a billion images takes on given nodes, from rates that this machine measures.

    python benchmarks/scale_model.py [--json] [--rates FILE] [--nodes 16 --cores 32 --memory-gb 256 --disk-gb-s 2
                                     --network-gbit 25 --workers-per-node 1 --efficiency 0.7]
    python benchmarks/scale_model.py --validate [--workers 1 2 4] [--turns 3] [--rates FILE]

Measures the rates first and writes them to ``--rates``, or reads that file if it exists. Then predicts the steps of
jobs of 10M, 100M and 1B x 1024 with k up to 100,000, on the given nodes. ``--validate`` runs k-means on this machine
instead, in its own process with one and with all threads and on a Ray cluster of this machine with each number of
workers, and compares the runs with the predictions: seconds of the wall, which other load on the machine lengthens, and
of the processor, which it hardly does. BLAS has one thread, so that only the threads that a run is given count.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
import _scale_rates
from _scale_inputs import GB, Nodes, Problem, Rates
from _scale_model import Prediction, predict
from shoal.host import available_cores

SAMPLE = 256
"""Rows of a cluster that k-means sees in a job on a sample."""
JOBS = (
    ("10M, k = 10,000", Problem(10_000_000, 1024, 10_000)),
    ("10M, k = 100,000", Problem(10_000_000, 1024, 100_000)),
    ("100M, k = 100,000", Problem(100_000_000, 1024, 100_000)),
    ("1B, k = 100,000", Problem(1_000_000_000, 1024, 100_000)),
    ("1B, k = 100,000, PCA to 256", Problem(1_000_000_000, 1024, 100_000, dim=256)),
    ("743M, k = 100,000, 50 iterations", Problem(743_000_000, 1024, 100_000, 50)),
    ("321M x 768, k = 1000", Problem(321_240_402, 768, 1000)),
    ("1B, k = 100,000, k-means on a sample", Problem(1_000_000_000, 1024, 100_000, fitted=SAMPLE * 100_000)),
)
DIMS, CLUSTERS = (256, 1024), (256, 1024, 4096)


def table(nodes: Nodes, rates: Rates) -> list[Prediction]:
    """Every job on some nodes."""
    return [predict(problem, nodes, rates) for _, problem in JOBS]


def show(nodes: Nodes, predictions: list[Prediction]) -> None:
    print(
        f"{nodes.count} nodes, each {nodes.cores} cores, {nodes.memory_gb:g} GB, disk {nodes.disk_gb_s:g} GB/s, "
        f"network {8 * nodes.network_gb_s:g} Gbit/s; hours"
    )
    names = ("read", "pca", "seeding", "passes", "assign", "metrics", "write")
    heads = "".join(f"{name:>9}" for name in names)
    print(f"{'':<38}{'rows':<8}{'total':>8}{heads}{'network':>9}{'driver, GB':>12}")
    for (name, _), each in zip(JOBS, predictions, strict=True):
        if each.memory.place == "none":
            print(f"{name:<38}does not fit: {each.memory.needed_gb:.0f} GB a node beside the rows")
            continue
        steps = "".join(f"{by_name(each)[part] / 3600:>9.2f}" for part in names)
        network = sum(step.network for step in each.steps) / each.seconds
        total, driver = each.seconds / 3600, each.memory.driver_gb
        print(f"{name:<38}{each.memory.place:<8}{total:>8.2f}{steps}{network:>9.0%}{driver:>12.0f}")


def by_name(prediction: Prediction) -> dict[str, float]:
    """Seconds by the names of the table."""
    return {
        "read": prediction.of("read", "transform"),
        "passes": prediction.of("first", "early", "settled"),
        **{name: prediction.of(name) for name in ("pca", "seeding", "assign", "metrics", "write")},
    }


def record(name: str, prediction: Prediction) -> dict[str, Any]:
    """For JSON."""
    return {
        "job": name,
        "place": prediction.memory.place,
        "seconds": round(prediction.seconds, 1),
        "steps": {step: round(value, 1) for step, value in by_name(prediction).items()},
        "network_s": round(sum(step.network for step in prediction.steps), 1),
        "settled_pass_s": round(prediction.of("settled") / max(1, prediction.problem.iterations - 2), 2),
        "memory_gb": {
            "rows": round(prediction.memory.rows_gb, 1),
            "sketches": round(prediction.memory.sketches_gb, 1),
            "other": round(prediction.memory.needed_gb, 1),
            "driver": round(prediction.memory.driver_gb, 1),
        },
    }


def rates_of(arguments: argparse.Namespace) -> Rates:
    """Those of the file, otherwise measured and written to it."""
    if arguments.rates and arguments.rates.is_file():
        return Rates.from_record(json.loads(arguments.rates.read_text(encoding="utf-8")))
    found = _scale_rates.measure(
        arguments.dims,
        arguments.clusters,
        rows=arguments.measured_rows,
        iterations=arguments.measured_iterations,
        threads=available_cores(),
        with_ray=not arguments.without_ray,
    )
    if arguments.rates:
        arguments.rates.write_text(json.dumps(found.record(), indent=1), encoding="utf-8")
    return found


def options() -> argparse.ArgumentParser:
    parser = _common.parser(__doc__)
    parser.add_argument("--rates", type=Path, help="file of measured rates; written if it does not exist")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--clusters", type=int, nargs="+", default=CLUSTERS)
    parser.add_argument("--measured-rows", type=int, default=65_536)
    parser.add_argument("--measured-iterations", type=int, default=12)
    parser.add_argument("--without-ray", action="store_true", help="measure no Ray; its rates are then assumed")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--cores", type=int, default=32)
    parser.add_argument("--memory-gb", type=float, default=256)
    parser.add_argument("--disk-gb-s", type=float, default=2)
    parser.add_argument("--network-gbit", type=float, default=25)
    parser.add_argument("--workers-per-node", type=int, default=1)
    parser.add_argument(
        "--efficiency", type=float, help="of all cores of a node; measured on this machine's by default"
    )
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--workers", type=int, nargs="*", default=(1, 2, 4), help="of the runs on Ray that validate")
    parser.add_argument("--turns", type=int, default=3, help="of all runs that validate")
    return parser


def main() -> None:
    arguments = options().parse_args()
    rates = rates_of(arguments)
    if arguments.validate:
        from _scale_validation import validate

        result = validate(rates, arguments.workers, available_cores(), arguments.turns)
    else:
        if arguments.efficiency:
            rates = replace(rates, efficiency=arguments.efficiency)
        nodes = Nodes(
            arguments.nodes,
            arguments.cores,
            arguments.memory_gb,
            arguments.disk_gb_s,
            arguments.network_gbit * 1e9 / 8 / GB,
            arguments.workers_per_node,
        )
        predictions = table(nodes, rates)
        show(nodes, predictions)
        result = {"jobs": [record(name, each) for (name, _), each in zip(JOBS, predictions, strict=True)]}
    _common.finish({"benchmark": "scale_model", "rates": rates.record(), **result}, as_json=arguments.json)


if __name__ == "__main__":
    main()
