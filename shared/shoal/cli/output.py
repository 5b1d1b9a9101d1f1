"""What the command line prints: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.client import Client
from shoal.errors import ShoalError
from shoal.figures import metrics_rows
from shoal.schemas import RESULTS, Job

# A pipe has no width: tables in it must not be cut to fit 80 columns.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True)
QUEUED_SHOWN_S = 2.0
"""A job that is queued for less time gets no bar."""
WORKER_START_S = 5.0
"""A worker that has just been started needs this long."""


def fail(error: ShoalError) -> None:
    """Print an error on one line, however long, so that it can be copied and searched."""
    err.print(f"[bold red]{error.code}[/]: {escape(error.detail)}", highlight=False, soft_wrap=True)


def columns_of(*names: str, right: Collection[str] = (), title: str | None = None) -> Table:
    """An empty table.

    Ids and paths are there to be copied: they fold on a narrow terminal, they are never cut.

    Parameters
    ----------
    right
        The columns of numbers.
    """
    table = Table(title=title, box=None, header_style="bold", title_justify="left", min_width=len(title or "") or None)
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as it is: a path may have brackets, which rich would take for styles."""
    out.print(table, highlight=False, markup=False)


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
    """Follow one job to its end, with a bar per stage.

    Parameters
    ----------
    check
        Called at every poll; raises an error to stop waiting.

    Raises
    ------
    ShoalError
        The job failed or was cancelled.
    """
    bars = _JobBars(client, progress, check)
    try:
        ended = client.wait(job, bars.show, on_outage=bars.show_outage)
        bars.complete()
        return ended
    finally:
        bars.stop()


class _JobBars:
    """The progress bars of one job, a bar per stage."""

    def __init__(self, client: Client, progress: Progress, check: Callable[[], None]) -> None:
        self._client = client
        self._progress = progress
        self._check = check
        self._bars: dict[str, TaskID] = {}
        self._started_at = time.monotonic()
        self._printed: set[str] = set()

    def show(self, job: Job) -> None:
        """Bring the bars up to date with ``job``."""
        self._check()
        waited_s = time.monotonic() - self._started_at
        if job.state == "queued" and "" not in self._bars and waited_s > QUEUED_SHOWN_S:
            self._bars[""] = self._add(f"{job.kind}: {_waits_for(self._client, job)}", None)
        if job.last_error is not None and not job.state.terminal:
            self._print_once(f"{job.id} starts over: {job.last_error.get('detail')}")
        if job.waiting_for and waited_s > WORKER_START_S:
            self._print_once(f"{job.id} is queued: {job.waiting_for}")
        if job.progress is None:
            return
        at = job.progress
        if at.stage not in self._bars:
            for bar in self._bars.values():
                finished = self._progress.tasks[bar].total or 1
                self._progress.update(bar, completed=finished, total=finished, eta="")
            self._bars[at.stage] = self._add(f"{job.kind} {at.stage}", at.total)
        rate = f"{at.rate:,.1f} {at.unit}/s" if at.rate else ""
        eta = f"{duration(at.eta_s)} left" if at.eta_s else ""
        rate = "  ".join(filter(None, (rate, busy_stages(at.detail))))
        self._progress.update(self._bars[at.stage], completed=at.done, total=at.total, rate=rate, eta=eta)

    def show_outage(self, error: ShoalError) -> None:
        """Print, once, that the service does not answer."""
        self._check()
        self._print_once(f"The service does not answer; retrying: {error.detail}")

    def complete(self) -> None:
        """Fill every bar."""
        for bar in self._bars.values():
            self._progress.update(bar, completed=self._progress.tasks[bar].total or 1)

    def stop(self) -> None:
        """Stop every bar where it is."""
        for bar in self._bars.values():
            total = self._progress.tasks[bar].total or self._progress.tasks[bar].completed or 1
            self._progress.update(bar, total=total, eta="")
            self._progress.stop_task(bar)

    def _add(self, text: str, total: int | None) -> TaskID:
        return self._progress.add_task(text, total=total, rate="", eta="")

    def _print_once(self, text: str) -> None:
        if text not in self._printed:
            self._printed.add(text)
            self._progress.console.print(text, markup=False, highlight=False)


def _waits_for(client: Client, job: Job) -> str:
    """Why a job is queued."""
    if job.attempt:
        return "waiting for its next attempt"
    with suppress(ShoalError):
        running = [each for each in client.jobs(state="running", kind=job.kind).jobs if each.id != job.id]
        if running:
            return f"waiting for job {running[0].id}"
    return "waiting for a worker"


def busy_stages(detail: dict[str, Any] | None) -> str:
    """How busy each stage of an extraction is, such as ``decode 98% network 40% write 1%``."""
    busy = (detail or {}).get("busy") or {}
    return " ".join(f"{stage} {fraction:.0%}" for stage, fraction in busy.items())


def duration(seconds: float) -> str:
    """Seconds in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def jobs_table(jobs: Iterable[Job]) -> Table:
    """Jobs, one a row."""
    table = columns_of("id", "kind", "state", "created", "progress", "result or error")
    for job in jobs:
        at = job.progress
        how_far = f"{at.stage} {at.done}/{at.total or '?'}" if at and job.state == "running" else ""
        end = (job.error or {}).get("code") or " ".join(
            str(value) for key, value in (job.result or {}).items() if key in RESULTS
        )
        table.add_row(job.id, job.kind, job.state, f"{job.created_at:%Y-%m-%d %H:%M:%S}", how_far, end)
    return table


def metrics_table(metrics: dict[str, Any], title: str | None = None) -> Table:
    """Each scored set's metrics as mean ± standard deviation over the seeds, chance beside them."""
    header, *rows = metrics_rows(metrics)
    table = columns_of(*header, right=header[1:], title=title)
    for row in rows:
        table.add_row(*row)
    return table
