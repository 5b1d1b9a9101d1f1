"""`shoal assign`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.flags import Flags, errors_in_flags
from shoal.cli.output import out
from shoal.client import Assignments, Client, Image

ASSIGN: Flags = {"images": "IMAGE", "outlier_quantile": "--outlier-quantile"}
STDIN = "-"


def assign(
    clustering: Annotated[str, typer.Argument(help="Id of the clustering.")],
    image: Annotated[list[str], typer.Argument(help="Image files; `-` reads one image from standard input.")],
    outlier_quantile: Annotated[
        float | None,
        typer.Option(
            help="An image is an outlier if it is farther from its centroid than this share of the train set's images "
            "are from theirs; 0.99 by default."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the clusters of new images and print them, with the distance to the centroid."""
    images: list[Image] = [sys.stdin.buffer.read() if path == STDIN else path for path in image]
    with errors_in_flags(ASSIGN), Client() as client:
        found = client.assign(clustering, images=images, outlier_quantile=outlier_quantile)
    if as_json:
        rows = [{"image": path, **each._asdict()} for path, each in zip(image, found, strict=True)]
        typer.echo(json.dumps(rows, indent=2))
    else:
        out.print(assignments_table(image, found), highlight=False, markup=False)


def assignments_table(images: list[str], found: Assignments) -> Table:
    """Images and their clusters, one a row."""
    table = Table(box=None, header_style="bold")
    table.add_column("image", overflow="fold")
    for name in ("cluster", "distance"):
        table.add_column(name, justify="right")
    for name in ("outlier", "label"):
        table.add_column(name, overflow="fold")
    for path, each in zip(images, found, strict=True):
        outlier = "" if each.is_outlier is None else "yes" if each.is_outlier else "no"
        table.add_row(path, str(each.cluster), f"{each.distance:.3f}", outlier, each.label or "")
    return table
