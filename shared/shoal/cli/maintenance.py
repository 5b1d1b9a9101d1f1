"""`import`, `verify`, `repair` and `gc`: commands that work on the store itself, without a running service."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli.flags import StoreRoot, expanded, split_label_file
from shoal.cli.output import err
from shoal.errors import InvalidRequest, StoreCorrupt
from shoal.schemas import Job
from shoal.settings import Settings

if TYPE_CHECKING:
    from shoal.store import Plan, Store, VerifyReport
    from shoal.store.repair import RepairReport


def import_(
    path: Annotated[
        Path, typer.Argument(help="One .npy of shape (n, dim), or a clip-retrieval folder.", callback=expanded)
    ],
    name: Annotated[str, typer.Option(help="Start of the embeddings' id.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels: CSV, text, JSON Lines, Parquet or .npy, as FILE or FILE:PATH_COLUMN:LABEL_COLUMN. They are "
            "joined by the images' paths; FILE::LABEL_COLUMN joins them by order."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Name written beside every row.")] = None,
    store: StoreRoot = None,
) -> None:
    """Bring existing embeddings into the store; prints their id."""
    from shoal.importer import import_embeddings
    from shoal.labels import Columns
    from shoal.store import Store

    file, columns = None, None
    if labels is not None:
        try:
            text, *named = split_label_file(labels)
        except ValueError:
            raise InvalidRequest(
                f"`--labels` is {labels!r}: give `FILE`, or `FILE:PATH_COLUMN:LABEL_COLUMN`."
            ) from None
        file, columns = Path(text).expanduser(), Columns(*named)
    root = store or Settings().store
    embeddings_id = import_embeddings(Store(root), path, name=name, labels=file, columns=columns, split=split)
    typer.echo(embeddings_id)


def verify(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of embeddings, clusterings or sweeps; all if left out.")
    ] = None,
    store: StoreRoot = None,
) -> None:
    """Read all that is stored: every checksum, row and value. Needs no running service."""
    from shoal.store import Store
    from shoal.store.verify_results import verify_all, verify_any

    opened = Store(store or Settings().store)
    bad = 0
    for report in (verify_any(opened.layout, each) for each in ids) if ids else verify_all(opened.layout):
        bad += len(report.problems)
        for problem in report.problems:
            err.print(f"{report.id}: {problem}", highlight=False, markup=False, soft_wrap=True)
        typer.echo(f"{report.id}: {'ok' if report.ok else f'{len(report.problems)} problems'}{_unfinished(report)}")
    if bad:
        err.print("`shoal repair ID` mends embeddings; damaged clusterings and sweeps are made again.", highlight=False)
        raise typer.Exit(1)


def _unfinished(report: VerifyReport) -> str:
    return f" ({report.missing_shards} shards are not written yet)" if report.missing_shards else ""


def repair(
    ids: Annotated[list[str], typer.Argument(help="Ids of embeddings.")],
    store: StoreRoot = None,
) -> None:
    """Mend damaged embeddings: put misplaced files back, take damaged shards out. Needs no running service.

    A shard that is taken out is missing: the same extract request embeds it again, and only it.
    """
    from shoal.store import Store
    from shoal.store.verify_results import verify_any

    opened = Store(store or Settings().store)
    left = 0
    for each in ids:
        if not opened.layout.embeddings(each).folder.is_dir():
            found = verify_any(opened.layout, each)
            if not found.ok:
                raise StoreCorrupt(f"The {found.kind} {each} cannot be repaired, only made again: {found.problems[0]}.")
            typer.echo(f"{each}: ok, nothing to repair")
            continue
        report = opened.repair(each)
        left += len(report.left)
        for line in _repair_lines(opened, report):
            typer.echo(f"{each}: {line}")
        for problem in report.left:
            err.print(f"{each}: {problem}", highlight=False, markup=False, soft_wrap=True)
    if left:
        raise typer.Exit(1)


def _repair_lines(store: Store, report: RepairReport) -> Iterator[str]:
    if report.untouched:
        yield "ok, nothing to repair"
    if report.restored:
        yield f"put right: {', '.join(report.restored)}"
    if report.removed:
        numbers = ", ".join(map(str, report.removed))
        yield f"taken out: shard{'s' if len(report.removed) > 1 else ''} {numbers}. Embed what is missing again with"
        yield f"    {remake_command(store.embeddings(report.id).plan)}"
    if report.left and report.kind == "import":
        yield "imported, so nothing here can make it again: import the same file under the same name once more"
    elif report.left:
        yield "send the extract request that made it again: it writes these files anew, and embeds damaged shards"


def remake_command(plan: Plan) -> str:
    """The command line of the request that made a set, as far as its plan knows it."""
    source = plan.source
    words = ["shoal", "extract", source.path, "--model", plan.model.name, "--name", plan.name]
    words += ["--dtype", plan.dtype, "--shard-rows", str(plan.shard_rows)]
    if isinstance(source.labels, dict) and "folder_level" in source.labels:
        words += ["--labels", f"folder:{source.labels['folder_level']}"]
    elif isinstance(source.labels, dict):
        named = [source.labels.get(key) for key in ("file", "path_column", "label_column")]
        words += ["--labels", ":".join(str(each) for each in named if each)]
    elif source.labels:
        words += ["--labels", source.labels]
    if source.split:
        words += ["--split", source.split]
    return shlex.join(words)


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
    from shoal.embedded import idle_jobs
    from shoal.errors import StackError

    try:
        return list(idle_jobs(root, url))
    except StackError as error:
        if needed:
            raise
        err.print(f"Age alone decides about other jobs: {error.detail}", highlight=False, markup=False)
        return []


def _queue_url(stack: ExitStack, root: Path) -> str | None:
    """The queue of the store, started for as long as this command runs where it does not run; None if there is none."""
    from shoal.embedded import open_queue
    from shoal.errors import StackError

    try:
        return stack.enter_context(open_queue(root, "shoal gc"))
    except StackError as error:
        # On a full disk a server may not start, and that is when room must be made.
        err.print(f"Without the job queue, age alone decides: {error.detail}", highlight=False, markup=False)
        return None
