"""`import` and `verify`: what works on the store itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.output import err
from shoal.cli.paths import StoreRoot, expanded, split_label_file
from shoal.errors import InvalidRequest
from shoal.settings import Settings


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
    ids: Annotated[list[str] | None, typer.Argument(help="Embeddings ids; all if left out.")] = None,
    store: StoreRoot = None,
) -> None:
    """Check every checksum, row and value of embeddings in the store."""
    from shoal.store import Store

    opened = Store(store or Settings().store)
    bad = 0
    for embeddings_id in ids or opened.embeddings_ids():
        report = opened.verify(embeddings_id)
        bad += len(report.problems)
        for problem in report.problems:
            err.print(f"{embeddings_id}: {problem}", highlight=False, markup=False)
        typer.echo(f"{embeddings_id}: {'ok' if not report.problems else f'{len(report.problems)} problems'}")
    if bad:
        raise typer.Exit(1)
