"""`up`, `demo`: the whole system on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.jobs import DEFAULT_MODEL
from shoal.cli.output import duration, err, metrics_table, out
from shoal.cli.paths import Data, Models, StoreRoot, expanded
from shoal.cli.run import Ask, extract_and_cluster, result_files, stopping_well
from shoal.cli.session import Session
from shoal.cli.source import Source
from shoal.cli.summary import quoted
from shoal.embedded import Process, Stack
from shoal.settings import Settings
from shoal.store import Store

# A few hundred images: so few that one k-means run says little, and that PCA's small components are mostly noise.
DEMO_OPTIONS: dict[str, Any] = {
    "pca": {"components": 32},
    "kmeans": {"restarts": 5},
    "seeds": list(range(10)),
}


def up(
    data: Data = None,
    models: Models = None,
    store: StoreRoot = None,
    extractor_port: Annotated[int, typer.Option(envvar="SHOAL_EXTRACTOR_PORT", help="0 takes a free one.")] = 8001,
    clusterer_port: Annotated[int, typer.Option(envvar="SHOAL_CLUSTERER_PORT", help="0 takes a free one.")] = 8002,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    stack = _stack(data, models, store, extractor_port, clusterer_port)
    stopping = threading.Event()
    stack.stopping = stopping.is_set

    def stop(signum: int, frame: Any) -> None:
        # Only the second time: where an exception comes from nowhere, such as in a callback, it may get lost.
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    err.print(f"Starting Shoal on {stack.data} with the store {stack.store} …", highlight=False, soft_wrap=True)
    stack.start()
    try:
        root = stack.data.resolve()
        empty = "" if any(root.iterdir()) else ", which is empty: put folders there, or name another root with --data"
        for line in (
            f"images     below {root}{empty}",
            f"store      {stack.store.resolve()}",
            f"extractor  {stack.extractor_url}/docs",
            f"clusterer  {stack.clusterer_url}/docs",
            "ready; Ctrl-C stops all",
        ):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        stack.supervise(_report_restart, stopping.is_set)
    finally:
        err.print("Stopping: workers hand their jobs back; `shoal up` on the same store goes on with them.")
        stack.stop()


def demo(
    output: Annotated[Path, typer.Option(help="Folder for images, store and contact sheet.", callback=expanded)] = Path(
        "demo"
    ),
    dataset: Annotated[str, typer.Option(help="stamps, emoji, or auto: whichever can be fetched.")] = "auto",
) -> None:
    """Cluster real images with real weights, beside raw pixels, and draw the groups."""
    from shoal.cli.demo import fetch_images

    started = time.monotonic()
    source = Source.of(fetch_images(output / "images", dataset, err.print))
    store = Store(output / "store")
    session = Session(source.root, output / "models", store.root, command="shoal demo")
    with stopping_well(session, source, store, quoted("shoal", *sys.argv[1:])):
        err.print("Starting Shoal …")
        with session:
            asks = (Ask(source, model, over=1.0, options=DEMO_OPTIONS) for model in ("raw_pixels", DEFAULT_MODEL))
            raw, learnt = (extract_and_cluster(session, ask, store) for ask in asks)
            for found, what in ((raw, "raw pixels, the baseline"), (learnt, DEFAULT_MODEL)):
                metrics = store.clustering(found.clustering).metrics()
                out.print(metrics_table(metrics, f"{source.folder.name}: {what}"))
            sheet, report = output / "contact-sheet.png", output / "report.html"
            files = result_files(store, learnt.clustering, sheet, report)
            out.print(f"contact sheet: {sheet}\nreport: {report}", highlight=False, soft_wrap=True)
            out.print(f"{duration(time.monotonic() - started)}; open {files['report']} in a browser", soft_wrap=True)


def _stack(
    data: Path | None,
    models: Path | None,
    store: Path | None,
    extractor: int,
    clusterer: int,
) -> Stack:
    settings = Settings()
    return Stack(
        data=data or settings.data,
        models=models or settings.models,
        store=store or settings.store,
        extractor_port=extractor,
        clusterer_port=clusterer,
        redis_url=os.environ.get("REDIS_URL") or None,
    )


def _report_restart(process: Process, pause_s: float) -> None:
    code = process.popen.returncode if process.popen else None
    err.print(
        f"{process.name} ended (status {code}); starting it again in {pause_s:.0f} s. Its log {process.log} ends:\n"
        f"{process.last_words(5)}",
        markup=False,
        highlight=False,
    )
