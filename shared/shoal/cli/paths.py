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
