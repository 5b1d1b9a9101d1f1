"""`shoal up`: the whole system on this machine."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.flags import Data, Models, StoreRoot
from shoal.cli.output import err, out
from shoal.embedded import Process, Stack
from shoal.settings import Settings


def up(
    data: Data = None,
    models: Models = None,
    store: StoreRoot = None,
    extractor_port: Annotated[
        int, typer.Option(envvar="SHOAL_EXTRACTOR_PORT", help="Port of the extractor; 0 picks a free port.")
    ] = 8001,
    clusterer_port: Annotated[
        int, typer.Option(envvar="SHOAL_CLUSTERER_PORT", help="Port of the clusterer; 0 picks a free port.")
    ] = 8002,
) -> None:
    """Run all services on this machine until Ctrl-C."""
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
        empty = (
            ""
            if any(root.iterdir())
            else ", which is empty: put image folders there, or choose another folder with --data"
        )
        for line in (
            f"images     below {root}{empty}",
            f"store      {stack.store.resolve()}",
            f"extractor  {stack.extractor_url}/docs",
            f"clusterer  {stack.clusterer_url}/docs",
            "ready; Ctrl-C stops everything",
        ):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        stack.supervise(_report_restart, stopping.is_set)
    finally:
        err.print("Stopping: running jobs return to the queue; `shoal up` on the same store continues them.")
        stack.stop()


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
        hosts=True,
    )


def _report_restart(process: Process, pause_s: float) -> None:
    code = process.popen.returncode if process.popen else None
    when = f"in {pause_s:.0f} s" if pause_s else "now"
    err.print(
        f"{process.name} exited (status {code}); restarting it {when}. Its log {process.log} ends:\n"
        f"{process.log_tail(5)}",
        markup=False,
        highlight=False,
    )
