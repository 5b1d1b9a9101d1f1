"""``python -m extractor``: the API, the worker, the process of one job, and the commands for models."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from shoal.host import unsupported

from extractor.jobs import EXTRACT, IMPORT

BACKENDS = ("torch", "tfserving")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the extractor's processes.

    Parameters
    ----------
    arguments
        The command line without the program's name; `sys.argv` by default.

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
    worker.add_argument("--backend", choices=BACKENDS, default="torch", help="run this backend's jobs (%(default)s)")
    host = commands.add_parser("host", help="answer new images from models that stay loaded, on a unix socket")
    host.add_argument("--backend", choices=BACKENDS, default="torch", help="keep this backend's models (%(default)s)")
    job = commands.add_parser("run-job", help="run the job on standard input; workers start this")
    job.add_argument("--backend", choices=BACKENDS, help="import this backend's libraries before the job comes")
    commands.add_parser("models", help="print the catalogue as JSON, with which weights are on this machine")
    pull = commands.add_parser("pull", help="download a model's weights, resuming a partial download, and check them")
    pull.add_argument("name", metavar="NAME", help="catalogue name or timm:<name>")
    _add_tensorflow_parsers(commands)
    options = parser.parse_args(arguments)
    if (why := unsupported()) is not None:
        parser.exit(1, f"{why}\n")
    if options.command in ("import-tf", "export-lite0"):
        return _tensorflow(options)
    if options.command == "api":
        return _api(options.host, options.port)
    if options.command == "host":
        return _host(options.backend)
    if options.command == "models":
        return _models()
    if options.command == "pull":
        return _pull(options.name)
    return _worker(options.backend) if options.command == "worker" else _run_job(options.backend)


def _add_tensorflow_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("import-tf", help="turn a TensorFlow model into a folder that TF Serving serves")
    parser.add_argument("name", metavar="NAME", help="name in the catalogue, or a new one")
    parser.add_argument(
        "source", type=Path, metavar="SOURCE_DIR", help="TF1 hub module, TF1 or TF2 SavedModel directory"
    )
    parser.add_argument("--signature", help="signature of the source, such as `encode`")
    parser.add_argument("--output", help="output of that signature, such as `avepool_feat`")
    parser.add_argument(
        "--dtype", choices=("uint8", "float32"), default="uint8", help="type of the input `images` (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    own = parser.add_argument_group("preprocessing of a model that is not in the catalogue (default: SimCLR's)")
    own.add_argument("--size", type=int, help="side of the input in pixels")
    own.add_argument("--crop-fraction", type=float, help="side of the centre crop divided by the side after resizing")
    own.add_argument(
        "--interpolation", choices=("bilinear", "bicubic", "lanczos", "nearest"), help="interpolation of the resizing"
    )
    own.add_argument(
        "--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="mean per channel, of values in [0, 1]"
    )
    own.add_argument(
        "--std",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="standard deviation per channel, of values in [0, 1]",
    )

    parser = commands.add_parser("export-lite0", help="write EfficientNet-Lite0 as a SavedModel that import-tf takes")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write")


def _tensorflow(options: argparse.Namespace) -> int:
    from extractor.tf_import import commands

    return commands.import_tf(options) if options.command == "import-tf" else commands.export_lite0(options)


def _api(host: str, port: int) -> int:
    from shoal.web import serve

    from extractor.api.routes import build

    serve(build, "extractor-api", host=host, port=port)
    return 0


def _worker(backend: str) -> int:
    from shoal.jobs.service import run_worker
    from shoal.settings import Settings

    # An import takes minutes at most, an extraction may take days: the one that is waiting goes first.
    kinds = [IMPORT, f"{EXTRACT}{backend}"]
    command = [sys.executable, "-m", "extractor", "run-job", "--backend", backend]
    if backend == "tfserving" and not Settings().tf_serving_url and find_spec("tensorflow") is None:
        sys.stderr.write("TensorFlow is not installed: install `shoal[tf]`, or set TF_SERVING_URL.\n")
        return 1
    # On most machines no job for TensorFlow ever comes.
    run_worker("extractor-worker", kinds, command, package="extractor", ahead_at_start=backend == "torch")
    return 0


def _host(backend: str) -> int:
    from extractor.online import host

    status = host.run(backend)
    sys.stderr.flush()
    # A download or a load may still run in a thread, which would keep this process alive.
    os._exit(status)


def _models() -> int:
    from shoal.errors import ShoalError
    from shoal.settings import Settings

    from extractor.api.routes import describe
    from extractor.models.catalogue import all_models

    settings = Settings()
    try:
        specs = all_models(settings.models, settings=settings)
        rows = [describe(spec, settings, served_elsewhere=bool(settings.tf_serving_url)) for spec in specs]
    except ShoalError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    sys.stdout.write(json.dumps({"models": rows}))
    return 0


def _pull(name: str) -> int:
    from shoal.settings import Settings

    from extractor.models.pull import pull

    return pull(name, Settings())


def _run_job(backend: str | None) -> NoReturn:
    from shoal.errors import JsonValue
    from shoal.jobs.child import JobContext, leave, run_child
    from shoal.process import lower_priority
    from shoal.settings import Settings

    lower_priority(Settings().job_nice)

    def handle(ctx: JobContext) -> dict[str, JsonValue]:
        if ctx.kind == IMPORT:
            from extractor.jobs import importing

            return importing.run(ctx, Settings())
        from extractor import pipeline

        return pipeline.run(ctx, Settings())

    def import_ahead() -> None:
        from extractor import ahead

        if backend is not None:
            ahead.import_all(backend)

    leave(run_child(handle, import_ahead))


if __name__ == "__main__":
    sys.exit(main())
