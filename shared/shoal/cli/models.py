"""`models list|pull|import-tf`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.output import out
from shoal.client import Client

app = typer.Typer(no_args_is_help=True, help="The models that Shoal knows, and how to get their weights.")
ModelsRoot = Annotated[Path | None, typer.Option("--models", help="Folder of checkpoint files (SHOAL_MODELS).")]


@app.command("list")
def list_() -> None:
    """List the catalogue: what each model is, and whether its weights are there."""
    with Client() as client:
        rows = client.models()
    table = Table("name", "backend", "dim", "px", "linear %", "weights", "licence", box=None, header_style="bold")
    for row in rows:
        probe = row.get("linear_probe")
        size = (row.get("transform") or {}).get("size")
        cells = (row["name"], row["backend"], row.get("dim"), size, probe, row["readiness"], row.get("licence"))
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    out.print(table)


@app.command()
def pull(name: Annotated[str, typer.Argument(help="Catalogue name.")], models: ModelsRoot = None) -> None:
    """Download a model's weights, resumed and checked."""
    _extractor(["pull", name], models)


@app.command("import-tf")
def import_tf(
    name: Annotated[str, typer.Argument(help="Name that the model is served under.")],
    source: Annotated[Path, typer.Argument(help="TF1 hub module or TF2 SavedModel folder.")],
    signature: Annotated[str | None, typer.Option(help="Signature of the source, such as `encode`.")] = None,
    output: Annotated[str | None, typer.Option(help="Output of that signature, such as `avepool_feat`.")] = None,
    models: ModelsRoot = None,
) -> None:
    """Turn a TensorFlow model into a folder that TF Serving serves."""
    options = [*(["--signature", signature] if signature else []), *(["--output", output] if output else [])]
    _extractor(["import-tf", name, str(source), *options], models)


def _extractor(arguments: list[str], models: Path | None) -> None:
    # A process of its own: the command line imports no service, and no torch or tensorflow with it.
    env = {**os.environ, **({"SHOAL_MODELS": str(models)} if models else {})}
    done = subprocess.run([sys.executable, "-m", "extractor", *arguments], env=env, check=False)
    raise typer.Exit(done.returncode)
