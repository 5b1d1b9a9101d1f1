"""The `shoal` command line: a thin layer over `shoal.Client` and `shoal.embedded`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from shoal import __version__
from shoal.errors import ShoalError

COMMANDS = {
    "up": "up.up",
    "run": "run.run",
    "demo": "demo.demo",
    "doctor": "doctor.doctor",
    "upload": "uploads.upload",
    "extract": "jobs.extract",
    "cluster": "jobs.cluster",
    "assign": "assign.assign",
    "search": "search.search",
    "compare": "compare.compare",
    "duplicates": "duplicates.duplicates",
    "names": "names.names",
    "quality": "quality.quality",
    "export": "export.export",
    "report": "report.report",
    "open": "report.open_",
    "sweep": "sweep.sweep",
    "reproduce": "sweep.reproduce",
    "jobs": "jobs.list_jobs",
    "watch": "jobs.watch",
    "cancel": "jobs.cancel",
    "ls": "store.ls",
    "show": "store.show",
    "rm": "store.rm",
    "import": "maintenance.import_",
    "verify": "maintenance.verify",
    "repair": "maintenance.repair",
    "gc": "maintenance.gc",
    "models": "models.app",
    "keys": "keys.app",
}
"""Module and name of each command: a function, or an application of subcommands."""


class Commands(TyperGroup):
    """The commands, each imported when it runs, so that none waits for the libraries of another."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them; None when there is no such command."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(".")
        found = getattr(import_module(f"shoal.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        for each in (command, *getattr(command, "commands", {}).values()):
            for param in each.get_params(ctx):
                _name_value(param)
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of `shoal` itself."""
        params = super().get_params(ctx)
        for param in params:
            _name_value(param)
        return params


def _name_value(param: object) -> None:
    """Have the help name the value of ``param`` in capitals, as in ``--over OVER`` and ``EMBEDDINGS``."""
    if isinstance(param, TyperArgument):
        param.metavar = param.metavar or param.name.upper()
        # Typer would write the type behind the name.
        param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    elif isinstance(param, TyperOption) and param.metavar is None:
        name = max(param.opts, key=len).strip("-")
        param.metavar = "" if param.is_flag else name.replace("-", "_").upper()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Group large collections of unlabelled images by what they show, and measure how good the groups are.",
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


def main() -> None:
    """Entry point: problems are one line on stderr and exit status 1, never a traceback."""
    try:
        app()
    except ShoalError as error:
        from shoal.cli.output import fail

        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
