"""`shoal search`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.assign import STDIN
from shoal.cli.flags import AsJson, Flags, errors_in_flags
from shoal.cli.output import columns_of, print_table
from shoal.client import Client, Image, Neighbour

SEARCH: Flags = {"embeddings": "EMBEDDINGS", "row": "--row", "image": "--image", "text": "--text", "k": "-k"}


def search(
    embeddings: Annotated[str, typer.Argument(help="Id of the embeddings.")],
    row: Annotated[
        int | None, typer.Option(min=0, help="Number of the row that the others are compared with.", metavar="N")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Image file that the rows are compared with; `-` reads standard input.", metavar="FILE"),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="What the images show, in words; for embeddings of a model that embeds texts, such as "
            "`open_clip:ViT-B-32`.",
            metavar="WORDS",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of rows to show.", metavar="K")] = 10,
    as_json: AsJson = False,
) -> None:
    """Find the images that are most similar to one of them, to a new one or to a text, and print them."""
    if sum(each is not None for each in (row, image, text)) != 1:
        raise typer.BadParameter(
            "give one of them: `--row N`, `--image FILE` or `--text WORDS`.", param_hint="--row, --image, --text"
        )
    sought: Image | None = sys.stdin.buffer.read() if image == STDIN else image
    with errors_in_flags(SEARCH), Client() as client:
        found = client.search(embeddings, row=row, image=sought, text=text, k=k)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found], indent=2))
    else:
        print_table(neighbours_table(found))


def neighbours_table(found: list[Neighbour]) -> Table:
    """Rows and their similarity, one a line."""
    table = columns_of("row", "similarity", "image", "label", right={"row", "similarity"})
    for each in found:
        table.add_row(str(each.row), f"{each.similarity:.4f}", each.image_path, each.label or "")
    return table
