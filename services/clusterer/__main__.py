"""``python -m clusterer``: the API, the worker, and what a worker starts for each job."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.jobs.child import JobContext


def main(arguments: list[str] | None = None) -> int:
    """Run one of the clusterer's processes.

    Parameters
    ----------
    arguments
        Of the command line, without the program's name.

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
    if options.command == "api":
        return _api(options.host, options.port)
    return _worker() if options.command == "worker" else _run_job()


def _api(host: str, port: int) -> int:
    import uvicorn

    from clusterer.api import build

    uvicorn.run(build(), host=host, port=port, log_level="info")
    return 0


def _worker() -> int:
    from shoal.jobs.queue import JobQueue
    from shoal.jobs.worker import Worker
    from shoal.settings import Settings

    settings = Settings()
    queue = JobQueue.from_url(settings.redis_url.get_secret_value(), lease_s=settings.lease_s)
    Worker(queue, ["cluster"], [sys.executable, "-m", "clusterer", "run-job"], settings=settings).run()
    return 0


def _run_job() -> int:
    from shoal.jobs.child import run_child
    from shoal.settings import Settings

    settings = Settings()

    def handle(ctx: JobContext) -> dict[str, Any]:
        # Imported here, so that a fault of the libraries becomes the job's error.
        from clusterer import pipeline

        return pipeline.run(ctx, settings)

    return run_child(handle)


if __name__ == "__main__":
    sys.exit(main())
