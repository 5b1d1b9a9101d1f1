"""What `shoal duplicates` and `shoal quality` share: decisions about the images of a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from shoal.cli.flags import Flags, errors_in_flags, expanded
from shoal.cli.output import err
from shoal.client import Client
from shoal.client.vectors import Json

DECIDE: Flags = {"format": "--export"}
FORMATS = ("txt", "csv", "jsonl", "parquet", "arrow")
Kind = Literal["duplicates", "quality"]

Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", help="Of a result: keep these images, such as 17,18; repeatable.", metavar="ROWS"),
]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", help="Of a result: drop these images, such as 17,18; repeatable.", metavar="ROWS"),
]
Undo = Annotated[bool, typer.Option("--undo", help="Of a result: take back the last decision.")]
Export = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=expanded,
        help="Of a result: write the paths of the images to drop (.txt), or what is decided as a table (.csv, .jsonl, "
        ".parquet, .arrow).",
    ),
]


def rows_of(given: Sequence[str] | None, flag: str) -> list[int]:
    """The rows of all values of a flag."""
    found = []
    for text in given or []:
        for part in text.split(","):
            if not (part.isascii() and part.isdecimal()):
                raise typer.BadParameter(f"{text!r} is not valid: write {flag} 17,18.", param_hint=flag)
            found.append(int(part))
    return found


def relabelled(given: Sequence[str] | None) -> dict[int, str]:
    """The label by row of all values of `--relabel`."""
    found = {}
    for text in given or []:
        row, there, label = text.partition("=")
        if not there or not label or not (row.isascii() and row.isdecimal()):
            raise typer.BadParameter(f"{text!r} is not valid: write --relabel 17=boot.", param_hint="--relabel")
        found[int(row)] = label
    return found


def decisions_on(keep: list[str] | None, drop: list[str] | None, relabel: list[str] | None = None) -> dict[int, Json]:
    """What the flags decide, by row."""
    found: dict[int, Json] = {}
    for action, given in (("keep", keep), ("drop", drop)):
        for row in rows_of(given, f"--{action}"):
            if row in found:
                raise typer.BadParameter(f"row {row} is given with both --keep and --drop.", param_hint="--drop")
            found[row] = {"action": action}
    for row, label in relabelled(relabel).items():
        found[row] = {**found.get(row, {}), "label": label}
    return found


def decide(kind: Kind, which: str, rows: dict[int, Json], *, undo: bool, target: Path | None, as_json: bool) -> None:
    """Decide about images of a result, or take the last decision back; then write the list, and say what is decided."""
    if undo and rows:
        raise typer.BadParameter("it stands alone: it takes back the last decision.", param_hint="--undo")
    suffix = target.suffix[1:].lower() if target is not None else ""
    if target is not None and suffix not in FORMATS:
        raise typer.BadParameter(f"{target} is not .{', .'.join(FORMATS)}.", param_hint="--export")
    with errors_in_flags(DECIDE), Client() as client:
        if undo:
            client.undo_decision(kind, which)
        if rows:
            client.decide(kind, which, rows)
        if target is not None:
            file_format = cast("Literal['txt', 'csv', 'jsonl', 'parquet', 'arrow']", suffix)
            client.export_decisions(kind, which, target, format=file_format)
        said = client.decision_summary(kind, which)
    if as_json:
        typer.echo(json.dumps(said))
        return
    err.print(summary_line(said), highlight=False)
    if target is not None:
        err.print(f"{target}: {target.stat().st_size:,} bytes", highlight=False, markup=False)


def summary_line(said: Json) -> str:
    """How much is decided, in a sentence."""
    labels = f", {said['labels']:,} labels" if said["labels"] else ""
    return (
        f"{said['decided']:,} images are decided: keep {said['keep']:,}, drop {said['drop']:,}{labels}. "
        f"{said['drops']:,} images are to be dropped in all."
    )
