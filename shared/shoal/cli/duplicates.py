"""`shoal duplicates`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.table import Table

from shoal.cli.decisions import Drop, Export, Keep, Undo, decide, decisions_on
from shoal.cli.execution import (
    EXECUTION,
    Engine,
    RayAddress,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    execution_of,
)
from shoal.cli.flags import AsJson, CallbackUrl, Flags, errors_in_flags, expanded
from shoal.cli.jobs import Wait, finish
from shoal.cli.output import columns_of, err, print_table
from shoal.client import Client
from shoal.client.vectors import Json
from shoal.errors import InvalidRequest

DUPLICATES: Flags = {
    "embeddings": "EMBEDDINGS",
    "against": "--against",
    "threshold": "--threshold",
    "link": "--link",
    "memory_limit": "--memory-limit",
    "callback_url": "--callback-url",
    **EXECUTION,
}


def duplicates(
    embeddings: Annotated[
        str, typer.Argument(help="Id of the embeddings; to decide about images, that of a result (`d-…`).")
    ],
    threshold: Annotated[
        float | None, typer.Option(help="Least similarity of two duplicates, from 0 to 1; 0.95 by default.")
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="complete|single",
            help="Whether every two images of a group are duplicates, or a chain of duplicates connects them.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="EMBEDDINGS",
            help="Embeddings that stay as they are, such as a test set: find what is in both, to be dropped from the "
            "first.",
        ),
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, max=1000, help="Number of groups to show.", metavar="N")] = 10,
    list_drops: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=expanded,
            help="Write the paths of the images that are not to be kept, one a line; nothing is removed.",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Maximum memory of the job, such as 4GiB.", metavar="SIZE")
    ] = None,
    execution: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
    callback_url: CallbackUrl = None,
    keep: Keep = None,
    drop: Drop = None,
    undo: Undo = False,
    export: Export = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Find images that show the same, and say which of each group to keep; or decide about them. None is removed."""
    if keep or drop or undo or export is not None:
        decide("duplicates", embeddings, decisions_on(keep, drop), undo=undo, target=export, as_json=as_json)
        return
    if list_drops is not None and not wait:
        raise typer.BadParameter("the images are known only when the job has ended.", param_hint="--list-drops")
    with errors_in_flags(DUPLICATES), Client() as client:
        job = client.duplicates(
            embeddings,
            against=against,
            threshold=threshold,
            link=cast("Literal['single', 'complete'] | None", link),  # The service says which values there are.
            memory_limit=memory_limit,
            execution=execution_of(execution, ray_address, workers, worker_cpus, worker_gpus, worker_memory),
            callback_url=callback_url,
        )
        job = finish(client, job, wait, as_json)
        if not wait:
            return
        which = str((job.result or {})["duplicates"])
        if not as_json:
            print_table(groups_table(islice(client.duplicate_groups(which, members=20), show)))
            err.print(totals_line(job.result or {}), highlight=False)
        if list_drops is not None:
            count = write_drops(client, which, list_drops)
            err.print(f"{list_drops} lists {count:,} images.", highlight=False, markup=False)


def totals_line(totals: Json) -> str:
    """The totals in a sentence."""
    return (
        f"{totals['groups']:,} groups of {totals['members']:,} images: {totals['drops']:,} are copies, of which "
        f"{totals['same_files']:,} are the same file as the image to keep."
    )


def groups_table(groups: Iterable[Json]) -> Table:
    """Groups, one image a line."""
    table = columns_of("group", "similarity", "keep", "copy", "image", "reason", right={"group", "similarity"})
    for group in groups:
        for at, row in enumerate(group["rows"]):
            cells = (f"{row['similarity']:.4f}", "keep" if row["keep"] else "", row["copy"] or "")
            table.add_row("" if at else str(group["group"]), *cells, row["image_path"], row["reason"])
        left = group["size"] - len(group["rows"])
        if left > 0:
            table.add_row("", "", "", "", f"and {left:,} more", "")
    return table


def write_drops(client: Client, which: str, target: Path) -> int:
    """Write the paths of the images that are not to be kept; their number.

    Raises
    ------
    InvalidRequest
        A path has a line break, which a list of paths cannot hold.
    """
    lines = target.with_name(f"{target.name}.jsonl")
    try:
        client.download_analysis("duplicates", which, "members", lines, format="jsonl")
        with lines.open(encoding="utf-8") as members:
            rows = (json.loads(line) for line in members)
            paths = [row["image_path"] for row in rows if not row["keep"]]
    finally:
        lines.unlink(missing_ok=True)
    for path in paths:
        if "\n" in path or "\r" in path:
            raise InvalidRequest(
                f"The path {path!r} has a line break, so that a list of lines cannot name it. Read the table instead: "
                f"`GET /duplicates/{which}/members`."
            )
    target.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return len(paths)
