"""Paths as people type them: ``~`` is the home folder, and a relative path is relative to the working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, overload

import typer


@overload
def expanded(path: Path) -> Path: ...
@overload
def expanded(path: None) -> None: ...
def expanded(path: Path | None) -> Path | None:
    """``path`` with ``~`` as the home folder: shells leave it alone within ``--option=~/x`` and within quotes."""
    return None if path is None else path.expanduser()


def split_label_file(text: str) -> tuple[str, str | None, str | None]:
    """The parts of ``FILE`` or ``FILE:PATH_COLUMN:LABEL_COLUMN``; the columns are None where they are not named.

    The name of a file may have colons in it, too.

    Raises
    ------
    ValueError
        It is neither.
    """
    file, *columns = text.rsplit(":", 2)
    if Path(text).expanduser().exists() or not columns:
        return text, None, None
    if len(columns) == 1 or not file:
        raise ValueError(text)
    return file, columns[0], columns[1]


Data = Annotated[
    Path | None, typer.Option("--data", envvar="SHOAL_DATA", help="Root of the image folders.", callback=expanded)
]
Models = Annotated[
    Path | None, typer.Option("--models", envvar="SHOAL_MODELS", help="Folder of checkpoint files.", callback=expanded)
]
StoreRoot = Annotated[
    Path | None,
    typer.Option("--store", envvar="SHOAL_STORE", help="Root of embeddings and clusterings.", callback=expanded),
]
