"""The map of a clustering: how true it is beside umap-learn and openTSNE in the same run, and how long many rows take.

Every map is made in a process of its own, whose peak memory is taken; peers run in the environment of `--peers`, those
that are not installed there are left out. Trustworthiness is scikit-learn's, of a sample of the rows; `hit` is the
share of the 15 nearest on the map that have a row's own label. With `--landmarks` below `--rows`, the other rows are
placed. Then `--many` rows of `--many-dim` columns are laid out and placed by ours; making them is not counted.
`_cpu` seconds are of the processor, in all threads: on a machine that others use, take these.

    python benchmarks/map.py [--rows 20000] [--dim 128] [--classes 50] [--features FILE.npz] [--landmarks 10000]
        [--peers PYTHON] [--many 1000000] [--many-dim 256] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser
from _features import Features

NEIGHBOURS = 15
SAMPLE = 5000
CLOCK = """
import json, resource, sys, time
import numpy as np
start = time.perf_counter(), time.process_time()
def done(y, out, seconds=None):
    wall, cpu = seconds or (time.perf_counter() - start[0], time.process_time() - start[1])
    np.save(out, y)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_gib": round(peak / 2**30, 2)}))
"""
OURS = (
    CLOCK
    + """
from clusterer.map import Placer, choose_landmarks, lay_out
from clusterer.map.kernel import CompiledKernel
rows, out, landmarks, threads = np.load(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chosen = choose_landmarks(np.zeros(len(rows), np.int32), np.zeros(len(rows), np.float32), landmarks, 0)
kernel, start = CompiledKernel(threads=threads), (time.perf_counter(), time.process_time())
layout = lay_out(rows[chosen], kernel, seed=0)
places = layout.places
if len(chosen) < len(rows):
    places = Placer(rows[chosen], layout, kernel).place(rows, np.arange(len(rows)))
    places[chosen] = layout.places
done(places, out)
"""
)
MANY = (
    CLOCK
    + """
sys.path.insert(0, sys.argv[1])
from _features import Features
from clusterer.map import MOST_LANDMARKS, Placer, lay_out
from clusterer.map.kernel import CompiledKernel
n, dim, threads = map(int, sys.argv[3:6])
every = -(-n // MOST_LANDMARKS)
landmarks = np.concatenate([rows[-first % every :: every] for first, rows in (
    (at * 8192, rows) for at, (_, rows) in enumerate(Features(n, dim).batches()))])
kernel, start = CompiledKernel(threads=threads), (time.perf_counter(), time.process_time())
placer = Placer(landmarks, lay_out(landmarks, kernel, seed=0), kernel)
wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
laid = wall, cpu
for at, (_, rows) in enumerate(Features(n, dim).batches()):
    start = time.perf_counter(), time.process_time()
    placer.place(rows, np.arange(at * 8192, at * 8192 + len(rows)))
    wall, cpu = wall + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
done(np.array(laid), sys.argv[2], (wall, cpu))
"""
)
PEERS = {
    "umap-learn": CLOCK
    + """
import umap
done(umap.UMAP(n_neighbors=15, random_state=0).fit_transform(np.load(sys.argv[1])), sys.argv[2])
""",
    "openTSNE": CLOCK
    + """
import openTSNE
found = openTSNE.TSNE(n_jobs=int(sys.argv[3]), random_state=0).fit(np.load(sys.argv[1]))
done(np.asarray(found), sys.argv[2])
""",
}


def main() -> int:
    """Measure and print a table."""
    options = arguments()
    result: dict[str, Any] = {"rows": options.rows, "dim": options.dim, "landmarks": options.landmarks}
    with tempfile.TemporaryDirectory() as folder:
        if options.rows:
            result |= compare(Path(folder), options)
        if options.many:
            out = Path(folder) / "many.npy"
            sizes = map(str, (options.many, options.many_dim, options.threads))
            result["many"] = run(sys.executable, MANY, str(Path(__file__).parent), str(out), *sizes)
            wall, cpu = np.load(out).tolist()
            result["many"] |= {"rows": options.many, "layout_s": round(wall, 1), "layout_cpu_s": round(cpu, 1)}
            print(f"{options.many:,} rows of {options.many_dim}: {result['many']}")
    finish(result, as_json=options.json)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--features", type=Path, help="an .npz file with `x` (rows) and `labels`, in place of made ones")
    made.add_argument("--peers", help="the Python of an environment with umap-learn or openTSNE")
    for name, default in (("rows", 20_000), ("dim", 128), ("classes", 50), ("landmarks", 10_000)):
        made.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("many", 1_000_000), ("many-dim", 256), ("threads", 2)):
        made.add_argument(f"--{name}", type=int, default=default)
    return made.parse_args()


def compare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ours and each peer on the same rows."""
    rows, labels = features(options)
    file, found = folder / "rows.npy", {}
    np.save(file, rows)
    sizes = str(options.landmarks), str(options.threads)
    found["ours"] = run(sys.executable, OURS, str(file), str(folder / "ours.npy"), *sizes)
    for name, script in PEERS.items() if options.peers else ():
        try:
            found[name] = run(options.peers, script, str(file), str(folder / f"{name}.npy"), str(options.threads))
        except subprocess.CalledProcessError as error:
            print(f"{name} is left out: {error.stderr.splitlines()[-1]}")
    for name, each in found.items():
        each |= judge(rows, labels, np.load(folder / f"{name}.npy"))
        print(f"{name:12} {each}")
    return {"maps": found, "rows": len(rows), "dim": rows.shape[1]}


def features(options: argparse.Namespace) -> tuple[Any, Any]:
    """Rows and labels."""
    if options.features:
        with np.load(options.features) as archive:
            return archive["x"][: options.rows], archive["labels"][: options.rows]
    parts = list(Features(options.rows, options.dim, classes=options.classes).batches())
    return np.concatenate([rows for _, rows in parts]), np.concatenate([classes for classes, _ in parts])


def judge(rows: Any, labels: Any, places: Any) -> dict[str, float]:
    """Trustworthiness of a sample, and the share of the nearest with the same label."""
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(places).kneighbors(return_distance=False)
    kept = np.random.default_rng(0).choice(len(rows), min(SAMPLE, len(rows)), replace=False)
    trust = trustworthiness(rows[kept], places[kept], n_neighbors=NEIGHBOURS)
    return {"trustworthiness": round(float(trust), 4), "hit": round(float(np.mean(labels[near] == labels[:, None])), 4)}


def run(python: str, script: str, *arguments: str) -> dict[str, Any]:
    """What a script prints as its last line."""
    done = subprocess.run([python, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
