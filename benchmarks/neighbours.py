"""The nearest rows of every row and all pairs above a similarity, exactly, beside other libraries in the same run.

Makes features that resemble a network's with planted near copies, finds the `--k` nearest rows of all rows and all
pairs of at least `--threshold` in a process of its own, whose peak memory is taken, and has faiss's flat index answer
a sample of the rows before and after; its time is extrapolated to all rows. Ratios are of elapsed seconds and, with
`_cpu`, of those of the processor: on a machine that others use, take these, with `--threads 1`, since threads that
wait for one another use the processor too. Recall is the share of what faiss finds that we find, but for similarities
that are equal in float32. The graphs of hnswlib and usearch, and scikit-learn, run on the first `--peer-rows` rows, as
we do again; those that are not installed are left out.

    python benchmarks/neighbours.py [--rows 200000] [--dim 512] [--k 10] [--threshold 0.95] [--quick] [--json]
        [--copies 0.01] [--queries 1024] [--peer-rows 20000] [--memory-limit BYTES] [--threads N]
        [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from _common import finish, parser
from _features import Features
from shoal.host import available_cores

EQUAL = 1e-5
"""Similarities that differ by less are equal in float32 sums."""
BLOCK = 8192
QUICK = {"rows": 20_000, "dim": 128, "queries": 512, "peer_rows": 5000}
OURS = """
import json, sys, time
import numpy as np
from clusterer.data.rows import ArrayRows
from clusterer.jobs.memory import peak_bytes
from clusterer.neighbours import Options, nearest_rows, pairs_above

file, rows, k, threshold, limit, threads, out = sys.argv[1:]
x = ArrayRows(np.load(file, mmap_mode="r")[: int(rows)])
options = Options(memory_limit=int(limit), threads=int(threads))
start = time.perf_counter(), time.process_time()
found = nearest_rows(x, int(k), options)
between = time.perf_counter(), time.process_time()
blocks = list(pairs_above(x, float(threshold), options))
end = time.perf_counter(), time.process_time()
nearest, nearest_cpu = (b - a for a, b in zip(start, between))
pairs, pairs_cpu = (b - a for a, b in zip(between, end))
i, j = (np.concatenate([getattr(block, name) for block in blocks] or [[]]) for name in ("i", "j"))
np.savez(out, rows=found.rows, similarity=found.similarity, i=i, j=j)
times = {"nearest_s": nearest, "pairs_s": pairs, "nearest_cpu_s": nearest_cpu, "pairs_cpu_s": pairs_cpu}
print(json.dumps({**times, "pairs": len(i), "peak_bytes": peak_bytes()}))
"""


def main() -> int:
    """Measure, print a table, and end with 1 when a neighbour is missed."""
    options = arguments()
    faiss.omp_set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options)
    for name, each in result["seconds"].items():
        print(f"{name:28} {each:>12,.1f} s")
    print(f"recall of the nearest {result['recall']:.5f}, of pairs {result['pairs_recall']:.5f}")
    for name, each in result["ratios"].items():
        print(f"faiss flat takes {each} times as long ({name})")
    print(f"peak memory {result['peak_gib']} GiB, {result['pairs']:,} pairs")
    finish(result, as_json=options.json)
    return 0 if result["recall"] == result["pairs_recall"] == 1 else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    for name, default in (("rows", 200_000), ("dim", 512), ("k", 10), ("queries", 1024), ("peer-rows", 20_000)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--threshold", type=float, default=0.95)
    made.add_argument("--copies", type=float, default=0.01, help="share of rows that are near copies (%(default)s)")
    made.add_argument("--memory-limit", type=int, default=3 * 2**30, help="bytes (%(default)s)")
    made.add_argument("--threads", type=int, default=available_cores(), help="of ours and of faiss (%(default)s)")
    made.add_argument("--folder", type=Path, help="where the temporary folder is made")
    made.add_argument("--quick", action="store_true", help="small sizes")
    options = made.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    options.peer_rows = min(options.peer_rows, options.rows)
    return options


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ours between two halves of faiss's sample, then the other libraries."""
    file = make_rows(folder / "rows.npy", options)
    queries = np.sort(np.random.default_rng(1).choice(options.rows, options.queries, replace=False))
    halves = queries[::2], queries[1::2]
    index = flat_index(file, options.rows)
    before = flat(index, file, halves[0], options)
    del index
    ours, found = run_ours(file, options.rows, folder, options)
    index = flat_index(file, options.rows)
    after = flat(index, file, halves[1], options)
    del index
    whole = options.rows / options.queries
    faiss_s = {name: whole * (before[name] + after[name]) for name in before if name != "answers"}
    seconds = {"nearest": ours["nearest_s"], "pairs": ours["pairs_s"]}
    seconds |= {f"faiss flat {name}*": faiss_s[name] for name in seconds}
    ratios = {name: round(faiss_s[name] / ours[f"{name}_s"], 2) for name in faiss_s}
    answers = before["answers"] + after["answers"]
    peers = compare_peers(file, folder, options)
    return {
        **{
            name: getattr(options, name)
            for name in ("rows", "dim", "k", "threshold", "copies", "queries", "peer_rows", "threads")
        },
        "seconds": {name: round(value, 2) for name, value in (seconds | peers.pop("seconds")).items()},
        "extrapolated": "names with * are of a sample of the rows, times all rows",
        "ratios": ratios,
        "recall": recall(answers, found),
        "pairs_recall": pairs_recall(answers, found),
        "pairs": ours["pairs"],
        "peak_gib": round(ours["peak_bytes"] / 2**30, 2),
        **peers,
    }


def make_rows(file: Path, options: argparse.Namespace) -> Path:
    """An ``.npy`` file of features, some of them near copies of others."""
    Features(options.rows, options.dim).write(file)
    rows = np.load(file, mmap_mode="r+")
    rng = np.random.default_rng(2)
    count = int(options.copies * options.rows)
    chosen = rng.permutation(options.rows)[: 2 * count]
    for first in range(0, count, BLOCK):
        source, copy = (
            chosen[first : min(first + BLOCK, count)],
            chosen[count + first : min(count + first + BLOCK, 2 * count)],
        )
        noise = rng.standard_normal((len(source), options.dim), np.float32) * rng.uniform(0, 0.35, (len(source), 1))
        rows[copy] = rows[source] * (1 + noise.astype(np.float32))
    rows.flush()
    return file


def run_ours(file: Path, rows: int, folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds and peak memory of ours, in a process of its own, and what it finds."""
    out = folder / f"found-{rows}.npz"
    command = [sys.executable, "-c", OURS, str(file), str(rows), str(options.k), str(options.threshold)]
    done = subprocess.run(
        [*command, str(options.memory_limit), str(options.threads), str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    with np.load(out) as archive:
        return json.loads(done.stdout.splitlines()[-1]), {name: archive[name] for name in archive.files}


def units(file: Path, part: Any) -> np.ndarray[Any, Any]:
    """Rows of length 1."""
    rows = np.array(np.load(file, mmap_mode="r")[part], np.float32)
    faiss.normalize_L2(rows)
    return rows


def flat_index(file: Path, rows: int) -> faiss.Index:
    """faiss's flat index of the unit rows."""
    index = faiss.IndexFlatIP(np.load(file, mmap_mode="r").shape[1])
    for first in range(0, rows, BLOCK):
        index.add(units(file, slice(first, min(first + BLOCK, rows))))
    return index


def flat(index: faiss.Index, file: Path, queries: np.ndarray[Any, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of faiss for some rows, and its answers: row, similarities, rows, rows above the threshold."""
    sought = units(file, queries)
    times: dict[str, float] = {}
    similarity, rows = timed(times, "nearest", lambda: index.search(sought, options.k + 1))
    limits, above, others = timed(times, "pairs", lambda: index.range_search(sought, options.threshold))
    answers = []
    for at, row in enumerate(queries.tolist()):
        part = slice(int(limits[at]), int(limits[at + 1]))
        near = others[part][above[part] >= options.threshold + EQUAL]
        answers.append((row, similarity[at], rows[at], near))
    return {**times, "answers": answers}


def recall(answers: list[Any], found: dict[str, Any]) -> float:
    """Share of faiss's neighbours that are ours, or no more similar than the last of ours."""
    hits = total = 0
    for row, similarity, rows, _ in answers:
        ours, least = set(found["rows"][row].tolist()), found["similarity"][row, -1] + EQUAL
        for other, value in zip(rows.tolist(), similarity.tolist(), strict=True):
            if other != row:
                total += 1
                hits += other in ours or value <= least
    return hits / max(total, 1)


def pairs_recall(answers: list[Any], found: dict[str, Any]) -> float:
    """Share of faiss's pairs that are ours."""
    ours = set(zip(found["i"].tolist(), found["j"].tolist(), strict=True))
    wanted = [(min(row, o), max(row, o)) for row, _, _, near in answers for o in near.tolist() if o != row]
    return sum(pair in ours for pair in wanted) / max(len(wanted), 1)


def compare_peers(file: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for the nearest of the first rows, and recall, of each library that is installed."""
    n = options.peer_rows
    ours, found = run_ours(file, n, folder, options)
    rows = units(file, slice(0, n))
    seconds, recalls = {f"nearest of {n}": ours["nearest_s"]}, {}
    for name, module, work in (("hnswlib", "hnswlib", hnswlib_graph), ("usearch", "usearch", usearch_graph)):
        if find_spec(module) is not None:
            theirs = timed(seconds, f"{name} of {n}", partial(work, rows, options.k))
            hits = [len(set(a) & set(b)) for a, b in zip(found["rows"].tolist(), theirs.tolist(), strict=True)]
            recalls[name] = round(sum(hits) / (n * options.k), 4)
    if find_spec("sklearn") is not None:
        part = rows[: min(n, options.queries)]
        spent: dict[str, float] = {}
        timed(spent, "brute", lambda: sklearn_brute(rows, part, options.k))
        seconds[f"scikit-learn of {n}*"] = spent["brute"] * n / len(part)
    kept = {name: value for name, value in seconds.items() if not name.endswith("_cpu")}
    return {"seconds": kept, "recall_of_peers": recalls}


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What ``work`` returns; its seconds are noted, and those of the processor, which other processes do not change."""
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    seconds[name] = time.perf_counter() - start
    seconds[f"{name}_cpu"] = time.process_time() - cpu
    return found


def hnswlib_graph(rows: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Neighbours by hnswlib's graph, with common settings."""
    index = import_module("hnswlib").Index("ip", rows.shape[1])
    index.init_index(len(rows), ef_construction=200, M=16)
    index.add_items(rows)
    index.set_ef(100)
    return without_itself(index.knn_query(rows, k + 1)[0], k)


def usearch_graph(rows: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Neighbours by usearch's graph, with its default settings."""
    index = import_module("usearch.index").Index(ndim=rows.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return without_itself(np.asarray(index.search(rows, k + 1).keys, np.int64), k)


def sklearn_brute(rows: np.ndarray[Any, Any], part: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """Neighbours of some rows by scikit-learn's brute force."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(rows)
    return np.asarray(search.kneighbors(part, return_distance=False))


def without_itself(found: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """The first ``k`` neighbours of each row that are not the row."""
    kept = []
    for row, others in enumerate(found.tolist()):
        kept.append([other for other in others if other != row][:k])
    return np.array(kept)


if __name__ == "__main__":
    sys.exit(main())
