"""`gc`: remove what nobody will ask for again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.output import err
from shoal.cli.paths import StoreRoot
from shoal.schemas import Job


def gc(
    store: StoreRoot = None,
    really: Annotated[bool, typer.Option("--really", help="Remove it; without this it is only listed.")] = False,
    jobs_days: Annotated[
        float | None,
        typer.Option(help="Also forget jobs that ended so many days ago (30 days is what all get).", min=0),
    ] = None,
    incomplete_days: Annotated[
        float | None,
        typer.Option(
            help="Also remove incomplete embeddings that no job wants and nobody wrote to for so long.", min=0
        ),
    ] = None,
    work_hours: Annotated[
        float, typer.Option(help="Work files of dead processes count when untouched for so long.", min=1)
    ] = 24.0,
) -> None:
    """List what can be removed: work files of dead processes, old jobs, abandoned embeddings. Then remove it."""
    from shoal.gc import DAY_S, find, remove
    from shoal.jobs.queue import JobQueue
    from shoal.settings import Settings
    from shoal.store import Store

    settings = Settings()
    root = store or settings.store
    opened = Store(root)
    with ExitStack() as stack:
        url = _queue_url(stack, root)
        queue = None
        if url is not None:
            queue = JobQueue.from_url(url, lease_s=settings.lease_s)
            stack.callback(queue.close)
        age = incomplete_days * DAY_S if incomplete_days is not None else None
        beside = _jobs_beside(root, url, needed=age is not None)
        count = total = 0
        found = find(opened, queue, beside=beside, work_age_s=work_hours * 3600, incomplete_age_s=age)
        for garbage in found:
            count += 1
            total += remove(opened, garbage) if really else garbage.bytes
            typer.echo(f"{garbage.kind}\t{garbage.bytes}\t{garbage.path}")
        done = "removed" if really else "to remove; --really removes it"
        err.print(f"{count} entries, {total / 2**20:,.1f} MiB {done}.", highlight=False)
        if jobs_days is not None and queue is not None:
            jobs = queue.forget(jobs_days * DAY_S, really=really)
            err.print(f"{jobs} jobs {'forgotten' if really else 'to forget'}.", highlight=False)


def _jobs_beside(root: Path, url: str | None, *, needed: bool) -> list[Job]:
    """Unfinished jobs of the store's other queues, such as what an interrupted `shoal run` goes on with."""
    from shoal.embedded import StackError, idle_jobs

    try:
        return list(idle_jobs(root, url))
    except StackError as error:
        if needed:
            raise
        err.print(f"Age alone decides about other jobs: {error.detail}", highlight=False, markup=False)
        return []


def _queue_url(stack: ExitStack, root: Path) -> str | None:
    """The queue of the store, started for as long as this command runs where it does not run; None if there is none."""
    from shoal.embedded import StackError, open_queue

    try:
        return stack.enter_context(open_queue(root, "shoal gc"))
    except StackError as error:
        # On a full disk a server may not start, and that is when room must be made.
        err.print(f"Without the job queue, age alone decides: {error.detail}", highlight=False, markup=False)
        return None
