"""Milliseconds of `POST /search` at a million vectors, warm and cold, beside faiss's flat index in the same run.

Makes clustered vectors in a temporary folder, imports them, starts the clusterer's API in a process of its own, and
searches the same rows by turns: over HTTP on loopback, and in faiss (`IndexFlatIP` of the unit vectors, in memory, one
query at a time, without HTTP). Recall is the share of faiss's neighbours that have at least the similarity of ours,
and the reverse. Cold is the first search of a set: it reads the set, checks its bytes and makes the sketch; once with
the files out of the page cache.

    python benchmarks/search.py [--rows 1000000] [--dim 512] [--groups 1000] [--queries 30] [--k 10] [--cache BYTES]
        [--folder FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import faiss
import httpx
import numpy as np
from _common import finish, parser
from shoal.importer import import_embeddings
from shoal.store import Store

T = TypeVar("T")
Found = dict[int, float]
"""Similarity by row."""
BLOCK = 50_000
SPREAD = 0.7
EQUAL = 1e-5
"""Similarities that differ by less are equal in float32 sums."""


def main() -> int:
    """Measure, print a table, and end with 1 when a neighbour is missed."""
    arguments = parser(__doc__)
    for name, default in (("rows", 1_000_000), ("dim", 512), ("groups", 1000), ("queries", 30), ("k", 10)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--cache", default=str(2**30), help="SHOAL_SEARCH_CACHE (%(default)s)")
    arguments.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options)
    for name, seconds in result["milliseconds"].items():
        print(f"{name:24} {seconds:>10,.1f} ms")
    print(f"recall against faiss: {result['recall']:.4f}; of faiss against ours: {result['recall_of_faiss']:.4f}")
    print(f"faiss takes {result['ratio']:.1f} times as long")
    finish(result, as_json=options.json)
    return 0 if result["recall"] == 1 else 1


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Import, start the API, and time searches by turns."""
    file = make_vectors(folder / "vectors.npy", options)
    store = Store(folder / "store")
    found = import_embeddings(store, file, name="search", labels=None, split=None)
    rows = np.random.default_rng(1).choice(options.rows, options.queries, replace=False)
    sought = np.array(np.load(file, mmap_mode="r")[np.sort(rows)])
    times: dict[str, list[float]] = {}
    drop_pages(folder)
    with running(folder, options) as http:
        timed(times, "first, files cold", lambda: ask(http, found, sought[0], options.k))
    answers = []
    with running(folder, options) as http:
        timed(times, "first, files warm", lambda: ask(http, found, sought[0], options.k))
        index = flat_index(file)
        for query in sought:
            ours = timed(times, "search", partial(ask, http, found, query, options.k))
            theirs = timed(times, "faiss flat", partial(look_up, index, query, options.k))
            answers.append((ours, theirs))
    milliseconds = {name: round(1000 * statistics.median(each), 2) for name, each in times.items()}
    return {
        **{name: getattr(options, name) for name in ("rows", "dim", "k", "queries", "cache")},
        "milliseconds": milliseconds,
        "ratio": round(milliseconds["faiss flat"] / milliseconds["search"], 2),
        "recall": statistics.fmean(recall(ours, theirs) for ours, theirs in answers),
        "recall_of_faiss": statistics.fmean(recall(theirs, ours) for ours, theirs in answers),
    }


def recall(found: Found, wanted: Found) -> float:
    """Share of the neighbours ``wanted`` that were found, or that are as similar as the last one that was."""
    least = min(found.values()) + EQUAL
    return statistics.fmean(row in found or similarity <= least for row, similarity in wanted.items())


def timed(times: dict[str, list[float]], name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns; its seconds are added to ``times``."""
    start = time.perf_counter()
    found = work()
    times.setdefault(name, []).append(time.perf_counter() - start)
    return found


def ask(http: httpx.Client, embeddings: str, query: np.ndarray[Any, Any], k: int) -> Found:
    """Our answer."""
    answer = http.post("/search", json={"embeddings": embeddings, "vector": query.tolist(), "k": k})
    return {each["row"]: each["similarity"] for each in answer.raise_for_status().json()}


def look_up(index: faiss.Index, query: np.ndarray[Any, Any], k: int) -> Found:
    """The answer of faiss."""
    similarity, rows = index.search((query / np.linalg.norm(query))[None], k)
    return dict(zip(rows[0].tolist(), similarity[0].tolist(), strict=True))


def make_vectors(file: Path, options: argparse.Namespace) -> Path:
    """An ``.npy`` file of float32 rows around ``groups`` centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((options.groups, options.dim), np.float32)
    rows = np.lib.format.open_memmap(file, "w+", np.float32, (options.rows, options.dim))
    for first in range(0, options.rows, BLOCK):
        count = min(BLOCK, options.rows - first)
        chosen = centres[rng.integers(0, options.groups, count)]
        rows[first : first + count] = chosen + SPREAD * rng.standard_normal((count, options.dim), np.float32)
    rows.flush()
    return file


def flat_index(file: Path) -> faiss.Index:
    """faiss's flat index of the unit vectors."""
    rows = np.load(file, mmap_mode="r")
    index = faiss.IndexFlatIP(rows.shape[1])
    for first in range(0, len(rows), BLOCK):
        block = np.array(rows[first : first + BLOCK])
        faiss.normalize_L2(block)
        index.add(block)
    return index


def drop_pages(folder: Path) -> None:
    """Have the system forget the pages of all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def running(folder: Path, options: argparse.Namespace) -> Iterator[httpx.Client]:
    """The clusterer's API in a process of its own, while the block runs."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    settings = {"SHOAL_STORE": str(folder / "store"), "SHOAL_LOG_LEVEL": "error", "SHOAL_SEARCH_CACHE": options.cache}
    command = [sys.executable, "-m", "clusterer", "api", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, **settings})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as http:
            while process.poll() is None:
                with suppress(httpx.TransportError):
                    if http.get("/healthz").is_success:
                        break
                time.sleep(0.1)
            yield http
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
