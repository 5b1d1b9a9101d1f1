"""Reductions before k-means, and heads, through the code of POST /cluster, beside plain k-means and other libraries.

Sets: Tux Paint's stamps and Google's emoji (those of `shoal demo`), Debian's clip art, Fashion-MNIST's 10,000 test
images and all 70,000, embedded by EfficientNet-Lite0, and planted groups of four shapes. Each seed is a request of its
own; each method has a process of its own, whose peak memory is taken. umap-learn's 50 coordinates followed by k-means,
which is imcluster's recipe, and scikit-learn's spectral clustering (up to 20,000 rows) run where they are installed:

    python -m venv peers && peers/bin/pip install -c constraints.txt -e '.[laptop]' umap-learn==0.5.12
    peers/bin/python benchmarks/reduce.py --work FOLDER [--sets stamps emoji clipart fashion planted] [--seeds 5]
    python benchmarks/reduce.py --held-out 60000 --work FOLDER
    python benchmarks/reduce.py --scale 1000000 --dim 256 -k 1000 --reduce spectral --work FOLDER [--kill-after SECONDS]

The table comes at the end, in Markdown. Images, embeddings and figures that FOLDER has of an earlier run are used
again; figures.jsonl has the latter. `--held-out` fits on so many of Fashion-MNIST's train images and scores its test
images, through the services, and sends all of them to `/assign` too. `--scale` clusters so many rows that resemble a
network's features within 6 GiB; with `--kill-after` the job is killed then and started again, and its seconds are those
of both attempts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import _reduce_peers
import numpy as np
from _common import finish, parser, spread
from _features import Features
from _held_out import held_out
from _labelled_sets import SETS, make_sets, rows_of
from _large_job import attempt_of
from clusterer import pipeline as clusterer
from clusterer.evaluation.label_metrics import score_set
from clusterer.jobs.memory import peak_bytes
from imagenet import embeddings_of
from shoal.cli.reduce import parse_reduce
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

METHODS: Final[dict[str, dict[str, Any]]] = {
    "k-means": {},
    **{name: {"reduce": name} for name in ("smooth", "spectral", "umap")},
    **{name: {"method": name} for name in ("turtle", "temi")},
}
"""Ours, with what the request has."""
FEW_ROWS: Final = 5000
HEADS_OF_FEW: Final[dict[str, dict[str, Any]]] = {
    "turtle": {"steps": 300, "learning_rate": 0.01},
    "temi": {"steps": 300, "learning_rate": 0.001, "heads": 4, "batch_rows": 256},
}
"""For few rows; the defaults are for tens of thousands."""
FIGURES = {"acc": ("accuracy", "hungarian", "scored"), "nmi": ("nmi_arithmetic",), "ari": ("ari",)}


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="shoal-reduce-") as temporary:
        work = options.work or Path(temporary)
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        if options.held_out:
            requests = {name: sent(name, options.held_out) for name in METHODS if name in options.methods}
            agree = held_out(settings, work, options.held_out, requests)
            finish({"benchmark": "reduce held out", "train": options.held_out, "methods": agree}, as_json=options.json)
            return
        if options.scale:
            finish(scale(settings, options), as_json=options.json)
            return
        sets = make_sets(settings, work, options.sets, options.fashion)
        figures = Figures(work / "figures.jsonl")
        found = {name: compare(settings, figures, name, each, options) for name, each in sets.items()}
    show(found)
    finish({"benchmark": "reduce", "seeds": options.seeds, "sets": found}, as_json=options.json)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET")
    made.add_argument("--fashion", type=int, nargs="+", default=[10_000, 70_000], help="images of Fashion-MNIST")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--methods", nargs="+", default=[*METHODS, *_reduce_peers.PEERS], metavar="METHOD")
    made.add_argument(
        "--reduce", type=parse_reduce, action="append", help="other options of ours, as of `shoal cluster`"
    )
    made.add_argument("--work", type=Path, help="keep images, store and figures here; a temporary folder by default")
    made.add_argument("--held-out", type=int, metavar="IMAGES", help="train images of a clustering of test images")
    made.add_argument("--scale", type=int, help="rows of one large clustering in place of the table")
    made.add_argument("--dim", type=int, default=256)
    made.add_argument("-k", type=int, default=1000)
    made.add_argument("--kill-after", type=float, metavar="SECONDS", help="kill the large clustering once")
    return made.parse_args()


@dataclass(frozen=True)
class Figures:
    """What was measured before, by set, method and seed."""

    file: Path

    def of(self, embeddings: str, what: Any, seeds: int, measure: Callable[[list[int]], list[Any]]) -> list[Any]:
        """The figures of each seed; those that are missing are measured together."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        known = [json.loads(line) for line in lines]
        found = {each["seed"]: each["found"] for each in known if (each["set"], each["what"]) == (embeddings, what)}
        missing = [seed for seed in range(seeds) if seed not in found]
        found |= zip(missing, measure(missing) if missing else [], strict=True)
        with self.file.open("a", encoding="utf-8") as file:
            for seed in missing:
                row = {"set": embeddings, "what": what, "seed": seed, "found": found[seed]}
                file.write(json.dumps(row) + "\n")
        return [found[seed] for seed in range(seeds)]


def compare(
    settings: Settings, figures: Figures, name: str, embeddings: str, options: argparse.Namespace
) -> dict[str, Any]:
    """All methods on a set."""
    rows = Store(settings.store).embeddings(embeddings).rows
    runs: dict[str, tuple[Any, Any]] = {method: (cluster, sent(method, rows)) for method in METHODS}
    runs |= {str(each): (cluster, {"reduce": each}) for each in options.reduce or ()}
    runs |= {peer: (other, peer) for peer in _reduce_peers.usable(rows)}
    wanted = [*options.methods, *map(str, options.reduce or ())]
    print(f"{name}, {rows:,} rows")
    found = {}
    for method, (function, what) in runs.items():
        if method not in wanted:
            continue
        measure = partial(apart, function, settings, embeddings, what)
        each = figures.of(embeddings, what, options.seeds, measure)
        found[method] = {figure: spread([one[figure] for one in each]) for figure in FIGURES}
        found[method] |= {
            "seconds": round(statistics.median(one["seconds"] for one in each), 2),
            "peak_mib": max(one["peak_bytes"] for one in each) // 2**20,
        }
        print(line(method, found[method]), flush=True)
    return found


def sent(method: str, rows: int) -> dict[str, Any]:
    """What a request has for a method."""
    heads = HEADS_OF_FEW.get(method) if rows < FEW_ROWS else None
    return METHODS[method] | ({"heads": heads} if heads else {})


def line(method: str, row: dict[str, Any]) -> str:
    """A line while it runs."""
    figures = "  ".join(f"{name} {row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in FIGURES)
    return f"  {method:28} {figures}  {row['seconds']:7.1f} s  {row['peak_mib']:6,} MiB"


def show(sets: dict[str, Any]) -> None:
    """The tables in Markdown: figures, of which the best are bold, then seconds and memory."""
    methods = list(dict.fromkeys(method for found in sets.values() for method in found))
    head = [f"\n| | {' | '.join(methods)} |", f"| {' | '.join(['---'] * (len(methods) + 1))} |"]
    print("\n".join(head))
    for name, found in sets.items():
        best = {figure: max(round(row[figure]["mean"], 3) for row in found.values()) for figure in FIGURES}
        cells = [cell(found[method], best) if method in found else "" for method in methods]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n".join(head))
    for name, found in sets.items():
        cells = [
            f"{found[method]['seconds']:.3g} s, {found[method]['peak_mib']:,} MiB" if method in found else ""
            for method in methods
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def cell(row: dict[str, Any], best: dict[str, float]) -> str:
    """The figures of a method on a set."""
    values = {figure: round(row[figure]["mean"], 3) for figure in FIGURES}
    texts = {figure: f"{value:.3f}".lstrip("0") for figure, value in values.items()}
    return " / ".join(f"**{texts[each]}**" if values[each] == best[each] else texts[each] for each in FIGURES)


def apart(function: Any, settings: Settings, embeddings: str, what: Any, seeds: list[int]) -> list[dict[str, Any]]:
    """What a method finds with each seed, in a process of its own for its memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: list[dict[str, Any]] = pool.apply(measured, (function, settings, embeddings, what, seeds))
        return found


def measured(function: Any, settings: Settings, embeddings: str, what: Any, seeds: list[int]) -> list[dict[str, Any]]:
    """The figures, seconds and memory of each seed."""
    found = []
    for seed in seeds:
        scored, seconds = function(settings, embeddings, seed, what)
        found.append({**figures_of(scored), "seconds": seconds, "peak_bytes": peak_bytes()})
    return found


def cluster(settings: Settings, embeddings: str, seed: int, sent: dict[str, Any]) -> tuple[Any, float]:
    """One request of ours: its figures, its seconds."""
    request = {"embeddings": embeddings, "over": 1.0, "seed": seed, **sent}
    started = time.perf_counter()
    done = clusterer.run(JobContext.local(request, kind="cluster"), settings)
    seconds = time.perf_counter() - started
    store = Store(settings.store)
    scored = store.clustering(done["clustering"]).metrics()["scored"][embeddings]["mean"]
    store.delete_clustering(done["clustering"])
    return scored, seconds


def figures_of(scored: Any) -> dict[str, float]:
    """Accuracy, NMI and ARI of a set."""
    found = {}
    for figure, path in FIGURES.items():
        value = scored
        for part in path:
            value = value[part]
        found[figure] = float(value)
    return found


def other(settings: Settings, embeddings: str, seed: int, peer: str) -> tuple[Any, float]:
    """Another library, judged by the same metrics; its seconds."""
    x, of = rows_of(settings, embeddings)
    c = int(of.max()) + 1
    started = time.perf_counter()
    labels = np.asarray(_reduce_peers.PEERS[peer](x, c, seed), np.int32)
    seconds = time.perf_counter() - started
    return score_set(labels, of, k=int(labels.max()) + 1, c=c, train=None, inertia=0.0, seed=seed), seconds


def scale(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """One large clustering, killed once if that is asked for."""
    embeddings = embeddings_of(Store(settings.store), Features(options.scale, options.dim, classes=options.k))
    reduce = (options.reduce or ["smooth"])[0]
    request = {"embeddings": embeddings, "clusters": options.k, "seed": 0, "reduce": reduce, "memory_limit": "6GiB"}
    started, waits, peaks = time.perf_counter(), [options.kill_after, None], []
    done = None
    for attempt, seconds in enumerate(waits if options.kill_after else waits[1:], start=1):
        done, peak = attempt_of(settings, request, attempt, seconds)
        peaks.append(peak)
    total = time.perf_counter() - started
    if done is None:
        raise SystemExit("the last attempt ended without a clustering")
    clustering = Store(settings.store).clustering(done["clustering"])
    found = {
        **figures_of(clustering.metrics()["scored"][embeddings]["mean"]),
        "seconds": round(total, 1),
        "last_attempt_s": clustering.run()["timings_s"],
        "peak_mib": [peak // 2**20 for peak in peaks],
    }
    print(found)
    return {"benchmark": "reduce at scale", "rows": options.scale, "dim": options.dim, "k": options.k, **found}


if __name__ == "__main__":
    main()
