"""``python -m extractor``: the API, the worker, and what a worker starts for each job."""

from __future__ import annotations

import argparse
import sys

BACKENDS = ("torch", "tfserving")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the extractor's processes.

    Parameters
    ----------
    arguments
        Of the command line, without the program's name.

    Returns
    -------
    int
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m extractor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    api = commands.add_parser("api", help="serve the REST API")
    api.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    api.add_argument("--port", type=int, default=8001, help="port to listen on (%(default)s)")
    worker = commands.add_parser("worker", help="run extraction jobs")
    worker.add_argument("--backend", choices=BACKENDS, default="torch", help="whose jobs to run (%(default)s)")
    commands.add_parser("run-job", help="run the one job on standard input; workers start this")
    pull = commands.add_parser("pull", help="download a model's weights, resumed and checked")
    pull.add_argument("name", help="catalogue name or timm:<name>")
    options = parser.parse_args(arguments)
    if options.command == "api":
        return _api(options.host, options.port)
    if options.command == "pull":
        return _pull(options.name)
    return _worker(options.backend) if options.command == "worker" else _run_job()


def _api(host: str, port: int) -> int:
    import uvicorn

    from extractor.api import build

    uvicorn.run(build(), host=host, port=port, log_level="info")
    return 0


def _worker(backend: str) -> int:
    from shoal import logs
    from shoal.jobs.queue import JobQueue
    from shoal.jobs.worker import Worker
    from shoal.settings import Settings

    from extractor.inline import KIND_PREFIX

    logs.configure("extractor-worker")
    settings = Settings()
    queue = JobQueue.from_url(settings.redis_url.get_secret_value(), lease_s=settings.lease_s)
    # Somebody waits for the answer to a small request, so it goes first.
    kinds = [f"{KIND_PREFIX}{backend}", f"extract:{backend}"]
    Worker(queue, kinds, [sys.executable, "-m", "extractor", "run-job"], settings=settings).run()
    return 0


def _pull(name: str) -> int:
    from shoal.settings import Settings

    from extractor.pull import pull

    return pull(name, Settings())


def _run_job() -> int:
    from shoal.jobs.child import run_child
    from shoal.settings import Settings

    settings = Settings()

    def handle(ctx):  # type: ignore[no-untyped-def]
        from extractor import pipeline

        return pipeline.run(ctx, settings)

    return run_child(handle)


if __name__ == "__main__":
    sys.exit(main())
