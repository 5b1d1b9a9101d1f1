"""``python -m clusterer``: the API, the worker, and the child process of each job."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from shoal.host import unsupported

if TYPE_CHECKING:
    from shoal.errors import JsonValue
    from shoal.jobs.child import JobContext


JOBS = {
    "cluster": "clusterer.pipeline",
    "sweep": "clusterer.jobs.sweep",
    "assign": "clusterer.jobs.assign",
    "duplicates": "clusterer.jobs.duplicates",
    "quality": "clusterer.jobs.quality",
}
"""The module whose ``run`` runs a job, by its kind."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the clusterer's processes.

    Parameters
    ----------
    arguments
        Command line without the program's name.

    Returns
    -------
    int
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m clusterer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    api = commands.add_parser("api", help="serve the REST API")
    api.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    api.add_argument("--port", type=int, default=8002, help="port to listen on (%(default)s)")
    commands.add_parser("worker", help="run clustering jobs")
    commands.add_parser("run-job", help="run the one job on standard input; workers start this")
    options = parser.parse_args(arguments)
    if (why := unsupported()) is not None:
        parser.exit(1, f"{why}\n")
    if options.command == "api":
        return _api(options.host, options.port)
    return _worker() if options.command == "worker" else _run_job()


def _api(host: str, port: int) -> int:
    from shoal.web import serve

    from clusterer.api.clusterings import build

    serve(build, "clusterer-api", host=host, port=port)
    return 0


def _worker() -> int:
    from shoal.jobs.service import run_worker

    command = [sys.executable, "-m", "clusterer", "run-job"]
    run_worker("clusterer-worker", list(JOBS), command, package="clusterer")
    return 0


def _run_job() -> NoReturn:
    from shoal.jobs.child import leave, run_child
    from shoal.process import lower_priority
    from shoal.settings import Settings

    lower_priority(Settings().job_nice)

    def handle(ctx: JobContext) -> dict[str, JsonValue]:
        # Imported here, so that an error in a library becomes the job's error.
        result: dict[str, JsonValue] = import_module(JOBS[ctx.kind]).run(ctx, Settings())
        return result

    def import_ahead() -> None:
        from clusterer import ahead

        ahead.import_all()

    leave(run_child(handle, import_ahead))


if __name__ == "__main__":
    sys.exit(main())
