"""What the command line prints: results on stdout, everything about the way there on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.client import Client
from shoal.errors import ShoalError
from shoal.figures import metrics_rows
from shoal.schemas import Job

# A pipe has no width: tables in it must not be cut to fit 80 columns.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True)
QUEUED_SHOWN_S = 2.0
"""A job that waits for less is not worth a line."""
WORKER_START_S = 5.0
"""A worker that is just being started needs no mention."""


def fail(error: ShoalError) -> None:
    """Print a problem, on one line as long as it takes: whoever copies or greps it finds it whole."""
    err.print(f"[bold red]{error.code}[/]: {escape(error.detail)}", highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with rate and time left, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[eta]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield progress


def watch_job(client: Client, job: Job, progress: Progress, check: Callable[[], None] = lambda: None) -> Job:
    """Follow one job to its end, a bar a stage.

    Parameters
    ----------
    check
        Called at every poll; raises what makes further waiting useless.

    Raises
    ------
    ShoalError
        The job failed or was cancelled.
    """
    bars: dict[str, TaskID] = {}
    begun = time.monotonic()
    told: set[str] = set()

    def tell(text: str) -> None:
        """Print what a bar has no room for, once."""
        if text not in told:
            told.add(text)
            progress.console.print(text, markup=False, highlight=False)

    def show(current: Job) -> None:
        check()
        waited_s = time.monotonic() - begun
        if current.state == "queued" and "" not in bars and waited_s > QUEUED_SHOWN_S:
            bars[""] = progress.add_task(f"{current.kind}: {_waits_for(client, current)}", total=None, rate="", eta="")
        if current.waiting_for and waited_s > WORKER_START_S:
            tell(f"{current.id} is queued: {current.waiting_for}")
        if current.progress is None:
            return
        at = current.progress
        if at.stage not in bars:
            for bar in bars.values():
                finished = progress.tasks[bar].total or 1
                progress.update(bar, completed=finished, total=finished, eta="")
            bars[at.stage] = progress.add_task(f"{current.kind} {at.stage}", total=at.total, rate="", eta="")
        rate = f"{at.rate:,.1f} {at.unit}/s" if at.rate else ""
        eta = f"{duration(at.eta_s)} left" if at.eta_s else ""
        progress.update(bars[at.stage], completed=at.done, total=at.total, rate=rate, eta=eta)

    def wait_on(error: ShoalError) -> None:
        check()
        tell(f"Waiting for the service to come back: {error.detail}")

    try:
        ended = client.wait(job, show, on_outage=wait_on)
        for bar in bars.values():
            progress.update(bar, completed=progress.tasks[bar].total or 1)
        return ended
    finally:
        for bar in bars.values():
            total = progress.tasks[bar].total or progress.tasks[bar].completed or 1
            progress.update(bar, total=total, eta="")
            progress.stop_task(bar)


def _waits_for(client: Client, job: Job) -> str:
    """Why a job is queued."""
    if job.attempt:
        return "waiting for its next attempt"
    with suppress(ShoalError):
        running = [each for each in client.jobs(state="running", kind=job.kind).jobs if each.id != job.id]
        if running:
            return f"waiting for job {running[0].id}"
    return "waiting for a worker"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def jobs_table(jobs: Iterable[Job]) -> Table:
    """Jobs, one a row."""
    table = Table(box=None, header_style="bold")
    for name in ("id", "kind", "state", "created", "progress", "result or error"):
        # Ids are there to be copied: they fold on a narrow terminal, they are never cut.
        table.add_column(name, overflow="fold")
    for job in jobs:
        at = job.progress
        how_far = f"{at.stage} {at.done}/{at.total or '?'}" if at and job.state == "running" else ""
        end = (job.error or {}).get("code") or " ".join(
            str(value) for key, value in (job.result or {}).items() if key in {"embeddings", "clustering", "sweep"}
        )
        table.add_row(job.id, job.kind, job.state, f"{job.created_at:%Y-%m-%d %H:%M:%S}", how_far, end)
    return table


def metrics_table(metrics: dict[str, Any], title: str | None = None) -> Table:
    """Each scored set's metrics as mean ± standard deviation over the seeds, chance beside them."""
    header, *rows = metrics_rows(metrics)
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position else "left")
    for row in rows:
        table.add_row(*row)
    return table
