"""`import`, `verify`, `repair` and `gc`: commands that work on the store itself, without a running service."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli.flags import StoreRoot, expanded, split_label_file
from shoal.cli.output import err
from shoal.cli.uploads import import_elsewhere
from shoal.client.transport import is_local
from shoal.errors import InvalidRequest, StackError, StoreCorrupt
from shoal.schemas import Job
from shoal.settings import Settings
from shoal.store import Store

if TYPE_CHECKING:
    from shoal.store import Plan, VerifyReport
    from shoal.store.repair import RepairReport


def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="A file of embeddings (.npy, .npz, .pt, .safetensors, .h5, .parquet), a folder of such files, or a "
            "clip-retrieval folder.",
            callback=expanded,
        ),
    ],
    name: Annotated[str, typer.Option(help="Prefix of the embeddings id.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Label file (CSV, text, JSON Lines, Parquet or .npy), as FILE or FILE:PATH_COLUMN:LABEL_COLUMN. "
            "Labels are joined by image path; FILE::LABEL_COLUMN joins them by order."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to store with every row, such as val.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Name of the embeddings within the file: an array, tensor, dataset or column. Found by itself in most "
            "files; of a file with train_embs, val_embs, … every set is imported."
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            help="Name of the labels within the file; '' for none. A usual name, such as labels, is found by itself."
        ),
    ] = None,
    path_key: Annotated[
        str | None,
        typer.Option(help="Name of the image paths within the file; '' for none. A usual name is found by itself."),
    ] = None,
    store: StoreRoot = None,
    upload: Annotated[
        bool | None,
        typer.Option(
            "--upload/--no-upload",
            help="Send the files to the extractor, which imports them; by default where it runs on another machine and "
            "no --store is named.",
        ),
    ] = None,
) -> None:
    """Import existing embeddings into the store and print their id; of a file with several sets, one id a line.

    With services of another machine, the files are sent to them; the same command continues an interrupted upload.
    """
    file, columns = None, None
    if labels is not None:
        try:
            text, *named = split_label_file(labels)
        except ValueError:
            raise InvalidRequest(
                f"`--labels` is {labels!r}: give `FILE`, or `FILE:PATH_COLUMN:LABEL_COLUMN`."
            ) from None
        file, columns = Path(text).expanduser(), (named[0], named[1])
    elsewhere = store is None and not is_local(Settings().extractor_url)
    if elsewhere if upload is None else upload:
        made = import_elsewhere(
            path, name, file, columns, {"split": split, "key": key, "label_key": label_key, "path_key": path_key}
        )
    else:
        made = _import_here(store, path, name, file, columns, split, (key, label_key, path_key))
    _print_imported(made)


def _import_here(
    store: Path | None,
    path: Path,
    name: str,
    labels: Path | None,
    columns: tuple[str | None, str | None] | None,
    split: str | None,
    keys: tuple[str | None, str | None, str | None],
) -> dict[str, str]:
    from shoal.importer import Keys, import_sets
    from shoal.labels import Columns

    return import_sets(
        Store.of(Settings(), store),
        path,
        name=name,
        labels=labels,
        columns=Columns(*columns) if columns else None,
        split=split,
        keys=Keys(*keys),
    )


def _print_imported(made: Mapping[str, str]) -> None:
    for embeddings_id in made.values():
        typer.echo(embeddings_id)
    if len(made) > 1:
        first, *others = made.values()
        scored = " ".join(f"--score {each}" for each in others)
        err.print(
            f"To cluster {first} and score the others: shoal cluster {first} {scored} --over 1",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def verify(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of embeddings or results; all by default.")
    ] = None,
    store: StoreRoot = None,
) -> None:
    """Verify every checksum, row and value in the store. Needs no running service."""
    from shoal.store.verify_results import verify_all, verify_any

    opened = Store.of(Settings(), store)
    bad = 0
    for report in (verify_any(opened.layout, each) for each in ids) if ids else verify_all(opened.layout):
        bad += len(report.problems)
        for problem in report.problems:
            err.print(f"{report.id}: {problem}", highlight=False, markup=False, soft_wrap=True)
        found = "ok" if report.ok else _count(len(report.problems), "problem")
        typer.echo(f"{report.id}: {found}{_unfinished(report)}")
        if advice := _advice(report):
            err.print(f"{report.id}: {advice}", highlight=False, markup=False, soft_wrap=True)
    if bad:
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _unfinished(report: VerifyReport) -> str:
    missing = report.missing_shards
    if not missing:
        return ""
    return f" ({_count(missing, 'shard')} {'is' if missing == 1 else 'are'} not written yet)"


def _advice(report: VerifyReport) -> str:
    """What to do about the problems of a report."""
    files = {problem.file for problem in report.problems}
    if not files or report.id in files:
        return ""  # Of a stray file the problem itself says what to do.
    if all(name.startswith("annotations/") for name in files):
        return "Restore the entry from a backup, or move it and all later ones elsewhere: what was said since is lost."
    if report.kind != "embeddings":
        again = {"clustering": "Cluster", "sweep": "Sweep"}.get(report.kind, "Assign")
        return f"{again} again, and remove this {report.kind} with `shoal rm {report.id}`."
    if "plan.json" in files:
        return "Extract or import the same images under the same name again: that repairs the set."
    return f"Repair the set with `shoal repair {report.id}`."


def repair(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of embeddings.")],
    store: StoreRoot = None,
) -> None:
    """Repair damaged embeddings: restore misplaced files, remove damaged shards. Needs no running service.

    The same extract request embeds removed shards again, and only those.
    """
    from shoal.store.verify_results import verify_any

    opened = Store.of(Settings(), store)
    left = 0
    for each in ids:
        if not opened.layout.embeddings(each).is_there():
            found = verify_any(opened.layout, each)
            if not found.ok:
                raise StoreCorrupt(
                    f"The {found.kind} {each} cannot be repaired, only computed again: {found.problems[0]}."
                )
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
        yield f"restored: {', '.join(report.restored)}"
    if report.removed:
        numbers = ", ".join(map(str, report.removed))
        yield f"removed: shard{'s' if len(report.removed) > 1 else ''} {numbers}. Embed the missing rows again with"
        yield f"    {remake_command(store.embeddings(report.id).plan)}"
    if report.left and report.kind == "import":
        yield "imported embeddings cannot be computed again here: import the same file under the same name"
    elif report.left:
        yield "send the same extract request again: it rewrites these files and embeds damaged shards"


def remake_command(plan: Plan) -> str:
    """The command that repeats the extraction of a set, as far as its plan records it."""
    source = plan.source
    words = ["shoal", "extract", source.path, "--model", plan.model.name, "--name", plan.name]
    words += ["--dtype", plan.dtype, "--shard-rows", str(plan.shard_rows)]
    if plan.engine:
        words += ["--engine", plan.engine_name]
    if isinstance(source.labels, dict) and "folder_level" in source.labels:
        words += ["--labels", f"folder:{source.labels['folder_level']}"]
    elif isinstance(source.labels, dict):
        named = [source.labels.get(key) for key in ("file", "path_column", "label_column")]
        words += ["--labels", ":".join(str(each) for each in named if each)]
    elif source.labels:
        words += ["--labels", source.labels]
    if source.split:
        words += ["--split", source.split]
    words += ["--format", source.format] if source.format else []
    words += [word for pattern in source.include for word in ("--include", pattern)]
    words += [word for pattern in source.exclude for word in ("--exclude", pattern)]
    words += ["--limit", str(source.limit)] if source.limit else []
    return shlex.join(words)


def gc(
    store: StoreRoot = None,
    really: Annotated[
        bool, typer.Option("--really", help="Remove what is listed; without this flag nothing is removed.")
    ] = False,
    jobs_days: Annotated[
        float | None,
        typer.Option(
            help="Also delete jobs that ended this many days ago; jobs are kept for 30 days by default.", min=0
        ),
    ] = None,
    incomplete_days: Annotated[
        float | None,
        typer.Option(
            help="Also remove incomplete embeddings that no job uses and that were not written to for this many days.",
            min=0,
        ),
    ] = None,
    work_hours: Annotated[
        float,
        typer.Option(
            help="Only remove work files of dead processes that were not written to for this many hours.", min=1
        ),
    ] = 24.0,
) -> None:
    """List, and with --really remove: work files of dead processes, expired uploads, old jobs, abandoned embeddings."""
    from shoal.gc import DAY_S, find, remove
    from shoal.jobs.queue import JobQueue

    settings = Settings()
    opened = Store.of(settings, store)
    root = opened.root
    with ExitStack() as stack:
        url = _queue_url(stack, root)
        queue = None
        if url is not None:
            queue = JobQueue.from_url(url, lease_s=settings.lease_s)
            stack.callback(queue.close)
        age = incomplete_days * DAY_S if incomplete_days is not None else None
        beside = _jobs_beside(root, url, needed=age is not None)
        count = total = 0
        found = find(
            opened,
            queue,
            beside=beside,
            work_age_s=work_hours * 3600,
            incomplete_age_s=age,
            upload_days=settings.upload_days,
        )
        for garbage in found:
            count += 1
            total += remove(opened, garbage) if really else garbage.bytes
            typer.echo(f"{garbage.kind}\t{garbage.bytes}\t{garbage.address}")
        done = "removed" if really else "can be removed; add --really to remove them"
        err.print(f"{count} entries, {total / 2**20:,.1f} MiB {done}.", highlight=False)
        if jobs_days is not None and queue is not None:
            jobs = queue.forget(jobs_days * DAY_S, really=really)
            err.print(f"{jobs} jobs {'deleted' if really else 'can be deleted'}.", highlight=False)


def _jobs_beside(root: Path, url: str | None, *, needed: bool) -> list[Job]:
    """Unfinished jobs of the store's other queues, such as those of an interrupted `shoal run`."""
    from shoal.embedded import idle_jobs

    try:
        return list(idle_jobs(root, url))
    except StackError as error:
        if needed:
            raise
        err.print(
            f"The store's other queues cannot be read, so only age decides: {error.detail}",
            highlight=False,
            markup=False,
        )
        return []


def _queue_url(stack: ExitStack, root: Path) -> str | None:
    """URL of the store's queue, started for this command if it does not run; None if there is none."""
    from shoal.embedded import open_queue

    try:
        return stack.enter_context(open_queue(root, "shoal gc"))
    except StackError as error:
        # On a full disk a server may not start, and that is when room must be made.
        err.print(f"The job queue cannot be read, so only age decides: {error.detail}", highlight=False, markup=False)
        return None
