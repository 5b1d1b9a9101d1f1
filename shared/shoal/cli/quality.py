"""`shoal quality`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

import typer
from rich.table import Table

from shoal.cli.decisions import Drop, Export, Keep, Undo, decide, decisions_on
from shoal.cli.flags import AsJson, CallbackUrl, Flags, errors_in_flags
from shoal.cli.jobs import Wait, finish
from shoal.cli.output import columns_of, err, print_table
from shoal.client import Client
from shoal.client.vectors import Json

QUALITY: Flags = {
    "embeddings": "EMBEDDINGS",
    "neighbours": "--neighbours",
    "memory_limit": "--memory-limit",
    "callback_url": "--callback-url",
}

Columns = tuple[str, ...]
SHOWN: dict[Literal["outliers", "labels", "images"], tuple[str, str, Columns]] = {
    "outliers": ("outliers", "outliers", ("distance", "p")),
    "labels": ("labels that are probably wrong", "label_errors", ("score", "label", "suggested")),
    "images": ("files that stand out", "image_issues", ("issue", "value")),
}
"""Title, field of the job's result and columns of each table."""


def quality(
    embeddings: Annotated[
        str, typer.Argument(help="Id of the embeddings; to decide about images, that of a result (`q-…`).")
    ],
    neighbours: Annotated[
        int | None,
        typer.Option(
            "--neighbours", "-k", help="Number of nearest images to compare each with; 10 by default.", metavar="K"
        ),
    ] = None,
    show: Annotated[int, typer.Option(min=0, max=1000, help="Number of rows to show of each kind.", metavar="N")] = 10,
    memory_limit: Annotated[
        str | None, typer.Option(help="Maximum memory of the job, such as 4GiB.", metavar="SIZE")
    ] = None,
    callback_url: CallbackUrl = None,
    keep: Keep = None,
    drop: Drop = None,
    relabel: Annotated[
        list[str] | None,
        typer.Option(help="Of a result: say which label is right, as in 17=boot; repeatable.", metavar="ROW=LABEL"),
    ] = None,
    undo: Undo = False,
    export: Export = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Find images that do not belong, doubtful labels, and files that stand out; or decide about them."""
    if keep or drop or relabel or undo or export is not None:
        decide("quality", embeddings, decisions_on(keep, drop, relabel), undo=undo, target=export, as_json=as_json)
        return
    with errors_in_flags(QUALITY), Client() as client:
        job = client.quality(embeddings, neighbours=neighbours, memory_limit=memory_limit, callback_url=callback_url)
        job = finish(client, job, wait, as_json)
        if not wait or as_json:
            return
        result = job.result or {}
        which = str(result["quality"])
        for table, (title, count, columns) in SHOWN.items():
            rows = islice(client.quality_rows(which, table), show)
            print_table(found_table(f"{result[count]:,} {title}", rows, columns))
        small = result.get("small_images", 0)  # Not of results of earlier versions.
        if small > result["image_issues"]:
            err.print(f"{small:,} images have fewer than 64 pixels on a side: that is usual here.", highlight=False)


def found_table(title: str, rows: Iterable[Json], columns: Columns) -> Table:
    """What was found, one image a line."""
    table = columns_of("row", *columns, "image", right={"row", "distance", "p", "score", "value"}, title=title)
    for row in rows:
        values = (row[name] for name in columns)
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value or "") for value in values)
        table.add_row(str(row["row"]), *cells, row["image_path"])
    return table
