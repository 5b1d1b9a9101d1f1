"""`shoal search`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.assign import STDIN
from shoal.cli.flags import Flags, errors_in_flags
from shoal.cli.output import out
from shoal.client import Client, Image, Neighbour

SEARCH: Flags = {"embeddings": "EMBEDDINGS", "row": "--row", "image": "--image", "k": "-k"}


def search(
    embeddings: Annotated[str, typer.Argument(help="Id of the embeddings.")],
    row: Annotated[
        int | None, typer.Option(min=0, help="Number of the row that the others are compared with.", metavar="N")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Image file that the rows are compared with; `-` reads standard input.", metavar="FILE"),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of rows to show.", metavar="K")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images that are most similar to one of them, or to a new one, and print them."""
    if (row is None) == (image is None):
        raise typer.BadParameter("give one of them: `--row N` or `--image FILE`.", param_hint="--row, --image")
    sought: Image | None = sys.stdin.buffer.read() if image == STDIN else image
    with errors_in_flags(SEARCH), Client() as client:
        found = client.search(embeddings, row=row, image=sought, k=k)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found], indent=2))
    else:
        out.print(neighbours_table(found), highlight=False, markup=False)


def neighbours_table(found: list[Neighbour]) -> Table:
    """Rows and their similarity, one a line."""
    table = Table(box=None, header_style="bold")
    for name in ("row", "similarity"):
        table.add_column(name, justify="right")
    for name in ("image", "label"):
        table.add_column(name, overflow="fold")
    for each in found:
        table.add_row(str(each.row), f"{each.similarity:.4f}", each.image_path, each.label or "")
    return table
