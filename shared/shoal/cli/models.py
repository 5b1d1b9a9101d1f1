"""`shoal models`: list models, download weights, import TensorFlow models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.cli.output import err, out
from shoal.client import Client
from shoal.errors import Unavailable

COLUMNS = ("name", "dim", "px", "linear %", "weights", "licence")
SHORTEST_DESCRIPTION = 24

app = typer.Typer(add_completion=False, help="List models and download their weights. Without a command, lists them.")
ModelsRoot = Annotated[Path | None, typer.Option("--models", help="Folder of checkpoint files (SHOAL_MODELS).")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(models: ModelsRoot = None) -> None:
    """List the models of the catalogue and the state of their weights."""
    out.print(models_table(_local(models) if models else _known(), out.width))
    if out.is_terminal:
        err.print(
            "`shoal models pull NAME` downloads weights and imports TensorFlow models. Any other timm model is named "
            "`timm:<name>`."
        )


def models_table(rows: list[dict[str, Any]], width: int) -> Table:
    """What a user chooses a model by, the description as far as a line of ``width`` columns has room for it.

    `linear %` is the published accuracy of a linear classifier on ImageNet.
    """
    table = Table(box=None, header_style="bold")
    cells = [[_text(value) for value in _columns(row)] for row in rows]
    for column, title in enumerate(COLUMNS):
        table.add_column(title, no_wrap=True, min_width=max(len(line[column]) for line in [COLUMNS, *cells]))
    left = width - sum(column.min_width + 2 for column in table.columns if column.min_width) - 2
    described = left >= SHORTEST_DESCRIPTION
    if described:
        table.add_column("description", no_wrap=True, overflow="ellipsis", max_width=left)
    for line, row in zip(cells, rows, strict=True):
        table.add_row(*map(escape, line), *([escape(_text(row.get("description")))] if described else []))
    return table


def _columns(row: dict[str, Any]) -> tuple[Any, ...]:
    size = (row.get("transform") or {}).get("size")
    # Without its library a model cannot even be got ready.
    weights = f"needs {row['needs']}" if row.get("needs") else row["readiness"]
    return row["name"], row.get("dim"), size, row.get("linear_probe"), weights, row.get("licence")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _known() -> list[dict[str, Any]]:
    """The models of the service; of this machine where no service answers."""
    try:
        with Client(retries=0) as client:
            return client.models()
    except Unavailable:
        return _local(None)


def _local(models: Path | None) -> list[dict[str, Any]]:
    done = _run_extractor(["models"], models, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise typer.Exit(done.returncode)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["models"]
    return rows


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Name from `shoal models list`.")], models: ModelsRoot = None
) -> None:
    """Download and verify a model's weights, resuming an earlier download. Imports TensorFlow models."""
    _extractor(["pull", name], models)


@app.command("import-tf")
def import_tf(
    name: Annotated[str, typer.Argument(help="Name to serve the model under.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE_DIR", help="TF1 hub module or TF2 SavedModel folder.")],
    signature: Annotated[str | None, typer.Option(help="Signature of the source, such as `encode`.")] = None,
    output: Annotated[str | None, typer.Option(help="Output of that signature, such as `avepool_feat`.")] = None,
    models: ModelsRoot = None,
) -> None:
    """Convert a TensorFlow model into a folder for TF Serving."""
    options = [*(["--signature", signature] if signature else []), *(["--output", output] if output else [])]
    _extractor(["import-tf", name, str(source), *options], models)


def _extractor(arguments: list[str], models: Path | None) -> None:
    raise typer.Exit(_run_extractor(arguments, models).returncode)


def _run_extractor(arguments: list[str], models: Path | None, **options: Any) -> subprocess.CompletedProcess[str]:
    # A process of its own: the command line imports no service, and no torch or tensorflow with it.
    env = {**os.environ, **({"SHOAL_MODELS": str(models)} if models else {})}
    return subprocess.run([sys.executable, "-m", "extractor", *arguments], env=env, check=False, **options)
