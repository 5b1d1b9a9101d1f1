"""Reductions before k-means through the code of POST /cluster, beside plain k-means and other libraries.

Sets: Tux Paint's stamps and Google's emoji (those of `shoal demo`), the first --fashion images of Fashion-MNIST's test
set (all 70,000 with --fashion 70000), embedded by EfficientNet-Lite0, and planted groups of four shapes. Each seed is a
request of its own in a process of its own, whose peak memory is taken. umap-learn on 50 coordinates followed by
k-means, which is imcluster's recipe, and scikit-learn's spectral clustering run where they are installed; the latter up
to 20,000 rows.

    python benchmarks/reduce.py [--sets stamps emoji fashion planted] [--fashion 10000] [--seeds 5] [--work FOLDER]
    python benchmarks/reduce.py --scale 1000000 --dim 256 -k 1000 --reduce spectral --work FOLDER [--kill-after SECONDS]

`--scale` clusters so many rows that resemble a network's features within 6 GiB, once. With `--kill-after` the job is
killed then and started again; its seconds are those of both attempts.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import finish, parser, spread
from _features import Features
from _planted import SHAPES, planted
from clusterer import pipeline as clusterer
from clusterer.evaluation.label_metrics import score_set
from clusterer.jobs.memory import peak_bytes
from extractor import pipeline as extractor
from fashion_mnist import WHOLE, fetch, models_of, write_images
from imagenet import embeddings_of
from numpy.typing import NDArray
from shoal.cli.demo import fetch_images
from shoal.cli.reduce import parse_reduce
from shoal.jobs.child import JobContext
from shoal.jobs.protocol import ChildJob, Progressed
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

OURS: dict[str, Any] = {"k-means": None, "smooth": "smooth", "spectral": "spectral", "umap": "umap"}
UMAP, SPECTRAL = "umap-learn 50, k-means", "scikit-learn spectral"
MOST_SPECTRAL = 20_000
_printed = [0.0]
FIGURES = {"acc": ("accuracy", "hungarian", "scored"), "nmi": ("nmi_arithmetic",), "ari": ("ari",)}


def main() -> None:
    """Run the benchmark."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="shoal-reduce-") as temporary:
        work = options.work or Path(temporary)
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        if options.scale:
            finish(scale(settings, options), as_json=options.json)
            return
        sets = dict(make_sets(settings, work, options))
        found = {name: compare(settings, name, each, options) for name, each in sets.items()}
    finish({"benchmark": "reduce", "seeds": options.seeds, "sets": found}, as_json=options.json)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--sets", nargs="+", default=["stamps", "emoji", "fashion", "planted"])
    made.add_argument("--fashion", type=int, default=10_000, help="images of Fashion-MNIST (%(default)s)")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument(
        "--reduce", type=parse_reduce, action="append", help="other options of ours, as of `shoal cluster`"
    )
    made.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    made.add_argument("--work", type=Path, help="keep images and store here; a temporary folder by default")
    made.add_argument("--scale", type=int, help="rows of one large clustering in place of the table")
    made.add_argument("--dim", type=int, default=256)
    made.add_argument("-k", type=int, default=1000)
    made.add_argument("--kill-after", type=float, metavar="SECONDS", help="kill the large clustering once")
    return made.parse_args()


def make_sets(settings: Settings, work: Path, options: argparse.Namespace) -> dict[str, str]:
    """Ids of embeddings by name."""
    found: dict[str, str] = {}
    images = [name for name in options.sets if name != "planted"]
    if images:
        settings.data.mkdir(parents=True, exist_ok=True)
        model = models_of(settings)[WHOLE]
        for name in images:
            found[name] = embed(settings, images_of(settings, work, name, options.fashion), model)
    for shape in SHAPES if "planted" in options.sets else ():
        rows, of = planted(shape)
        found[f"planted, {shape}"] = store_rows(Store(settings.store), shape, rows, of)
    return found


def images_of(settings: Settings, work: Path, name: str, fashion: int) -> str:
    """The folder of a set below the data root."""
    if name != "fashion":
        return fetch_images(settings.data, name, print).name
    package, folder = fetch(work / "package"), settings.data / f"fashion-{fashion}"
    write_images(package, folder / "test", min(fashion, 10_000))
    if fashion > 10_000:
        write_images(package, folder / "train", fashion - 10_000, "train")
    return folder.name


def embed(settings: Settings, path: str, model: Any) -> str:
    """Embed a folder of images, or find that it is embedded."""
    labels: Any = {"folder_level": 1} if path.startswith("fashion") else "folder"
    request = {"images": {"path": path, "labels": labels}, "model": model, "engine": "eager", "thumbnails": False}
    return str(extractor.run(JobContext.local(request, kind="extract:torch"), settings)["embeddings"])


def store_rows(store: Store, name: str, rows: NDArray[np.float32], of: NDArray[np.int64]) -> str:
    """Put rows with labels into a store."""
    name = f"{name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}"  # other rows are another set
    paths, labels = [f"{name}/{row:07d}" for row in range(len(rows))], [f"{each:04d}" for each in of]
    ids = [image_id(path) for path in paths]
    listing = pa.table({"image_id": ids, "image_path": paths, "label": labels})
    record = ModelRecord(name="planted", backend="import", architecture="planted", embedding="rows")
    plan = Plan(
        name=name,
        source=Source.of(listing, kind="images", path=name),
        model=record,
        dim=rows.shape[1],
        dtype="float32",
        shard_rows=65_536,
        thumbnails=False,
        transform={},
    )
    made = store.create_embeddings(plan, listing)
    for shard in range(plan.shards) if not made.complete else ():
        start, stop = plan.shard_range(shard)
        with store.shard_writer(made.id, shard, attempt=1, owner="benchmark") as writer:
            metadata = [RowMetadata(ids[row], paths[row], labels[row]) for row in range(start, stop)]
            writer.append(rows[start:stop], metadata)
            writer.commit()
    if not made.complete:
        store.finish_embeddings(made.id)
    return str(made.id)


def compare(settings: Settings, name: str, embeddings: str, options: argparse.Namespace) -> dict[str, Any]:
    """All methods on a set."""
    rows = Store(settings.store).embeddings(embeddings).rows
    runs: dict[str, tuple[Any, Any]] = {method: (cluster, reduce) for method, reduce in OURS.items()}
    runs |= {str(each): (cluster, each) for each in options.reduce or ()}
    if not options.no_peers:
        runs |= {UMAP: (peer_umap, None)} if find_spec("umap") else {}
        runs |= {SPECTRAL: (peer_spectral, None)} if rows <= MOST_SPECTRAL else {}
    print(f"{name}, {rows:,} rows")
    found = {}
    for method, (function, reduce) in runs.items():
        each = [apart(function, settings, embeddings, seed, reduce) for seed in range(options.seeds)]
        found[method] = {figure: spread([one[figure] for one in each]) for figure in FIGURES}
        found[method] |= {
            "seconds": round(statistics.median(one["seconds"] for one in each), 2),
            "peak_mib": max(one["peak_bytes"] for one in each) // 2**20,
        }
        print(line(method, found[method]), flush=True)
    return found


def line(method: str, row: dict[str, Any]) -> str:
    """A row of the table for people."""
    figures = "  ".join(f"{name} {row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in FIGURES)
    return f"  {method:28} {figures}  {row['seconds']:7.1f} s  {row['peak_mib']:6,} MiB"


def apart(function: Any, *values: Any) -> dict[str, Any]:
    """The result of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: dict[str, Any] = pool.apply(function, values)
        return found


def cluster(settings: Settings, embeddings: str, seed: int, reduce: Any) -> dict[str, Any]:
    """One request of ours."""
    request = {"embeddings": embeddings, "over": 1.0, "seed": seed, "reduce": reduce}
    started = time.perf_counter()
    done = clusterer.run(JobContext.local(request, kind="cluster"), settings)
    seconds = time.perf_counter() - started
    scored = Store(settings.store).clustering(done["clustering"]).metrics()["scored"][embeddings]["mean"]
    return {**figures_of(scored), "seconds": seconds, "peak_bytes": peak_bytes()}


def figures_of(scored: Any) -> dict[str, float]:
    """Accuracy, NMI and ARI of a set."""
    found = {}
    for figure, path in FIGURES.items():
        value = scored
        for part in path:
            value = value[part]
        found[figure] = float(value)
    return found


def peer_umap(settings: Settings, embeddings: str, seed: int, _: Any) -> dict[str, Any]:
    """umap-learn, then k-means, both with the seed."""
    import umap
    from sklearn.cluster import KMeans

    x, of = rows_of(settings, embeddings)
    started = time.perf_counter()
    reducer = umap.UMAP(n_neighbors=15, n_components=50, min_dist=0.0, metric="cosine", random_state=seed)
    labels = KMeans(int(of.max()) + 1, n_init=10, random_state=seed).fit_predict(reducer.fit_transform(x))
    return {**judged(labels, of, seed), "seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}


def peer_spectral(settings: Settings, embeddings: str, seed: int, _: Any) -> dict[str, Any]:
    """scikit-learn's spectral clustering of the graph of 10 nearest rows."""
    from sklearn.cluster import SpectralClustering

    x, of = rows_of(settings, embeddings)
    started = time.perf_counter()
    model = SpectralClustering(int(of.max()) + 1, affinity="nearest_neighbors", n_neighbors=10, random_state=seed)
    labels = model.fit_predict(x)
    return {**judged(labels, of, seed), "seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}


def rows_of(settings: Settings, embeddings: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows of a set, of length 1, and their classes."""
    opened = Store(settings.store).embeddings(embeddings)
    x = np.concatenate([block for _, block in opened.iter_batches()]).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = opened.metadata(["label"]).column("label").to_pylist()
    return x, np.unique(np.array(labels), return_inverse=True)[1]


def judged(labels: Any, of: NDArray[np.int64], seed: int) -> dict[str, float]:
    """The figures of other libraries' labels, by the same metrics."""
    k, c = int(labels.max()) + 1, int(of.max()) + 1
    return figures_of(score_set(np.asarray(labels, np.int32), of, k=k, c=c, train=None, inertia=0.0, seed=seed))


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


def attempt_of(settings: Settings, request: Any, attempt: int, seconds: float | None) -> tuple[Any, int]:
    """What an attempt in a process of its own ends with, None if it was killed, and its peak resident bytes."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=large, args=(settings, request, attempt, send))
    process.start()
    send.close()
    if not receive.poll(seconds):
        peak = peak_of(process.pid)
        process.kill()
        process.join()
        return None, peak
    done: tuple[Any, int] = receive.recv()
    process.join()
    return done


def peak_of(pid: int | None) -> int:
    """Peak resident bytes of a running process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def large(settings: Settings, request: Any, attempt: int, send: Connection) -> None:
    """An attempt of one job; the next one finds its folder."""
    job = ChildJob("scale", "cluster", attempt, f"scale.{attempt}", request)
    send.send((clusterer.run(JobContext(job, progress), settings), peak_bytes()))


def progress(event: Any) -> None:
    """Print how far the job is, every ten seconds at most."""
    now = time.monotonic()
    if isinstance(event, Progressed) and now >= _printed[-1] + 10:
        _printed.append(now)
        done = event.progress
        print(f"{time.strftime('%X')} {done.stage} {done.done:,} of {done.total:,} {done.unit}", file=sys.stderr)


if __name__ == "__main__":
    main()
