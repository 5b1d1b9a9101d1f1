"""The `shoal` command line: a thin layer over `shoal.Client` and `shoal.embedded`."""

from __future__ import annotations

import sys

import typer

from shoal import __version__
from shoal.cli import data, doctor, gc, jobs, keys, models, run, stack, store, sweep
from shoal.cli.output import fail
from shoal.errors import ShoalError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Group large collections of unlabelled images by what they show, and say how good the groups are.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command("up")(stack.up)
app.command("run")(run.run)
app.command("demo")(stack.demo)
app.command("doctor")(doctor.doctor)
app.command("extract")(jobs.extract)
app.command("cluster")(jobs.cluster)
app.command("sweep")(sweep.sweep)
app.command("reproduce")(sweep.reproduce)
app.command("jobs")(jobs.list_jobs)
app.command("watch")(jobs.watch)
app.command("cancel")(jobs.cancel)
app.command("ls")(store.ls)
app.command("show")(store.show)
app.command("rm")(store.rm)
app.command("import")(data.import_)
app.command("verify")(data.verify)
app.command("repair")(data.repair)
app.command("gc")(gc.gc)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Entry point: problems are one line on stderr and exit status 1, never a traceback."""
    try:
        app()
    except ShoalError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
