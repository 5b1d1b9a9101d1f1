"""`import-tf`, `export-lite0` and `serve-savedmodel` on the command line of ``python -m extractor``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from shoal.errors import ShoalError
from shoal.settings import Settings

from extractor.tf_serving.loading import quietly, tensorflow

INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")


def add_parsers(commands: Any) -> None:
    """Add the commands; the parsed options then hold what to call as ``run``."""
    parser = commands.add_parser("import-tf", help="turn a TensorFlow model into a folder that TF Serving serves")
    parser.add_argument("name", help="name in the catalogue, or a new one")
    parser.add_argument("source", type=Path, help="TF1 hub module, TF1 or TF2 SavedModel directory")
    parser.add_argument("--signature", help="signature of the source, such as `encode`")
    parser.add_argument("--output", help="output of that signature, such as `avepool_feat`")
    parser.add_argument("--dtype", choices=("uint8", "float32"), default="uint8", help="of `images` (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    own = parser.add_argument_group("preprocessing, for a name that is in no catalogue (default: SimCLR's)")
    own.add_argument("--size", type=int, help="side of the input, pixels")
    own.add_argument("--crop-fraction", type=float, help="side of the centre crop / side after resizing")
    own.add_argument("--interpolation", choices=INTERPOLATIONS)
    own.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of values in [0, 1]")
    own.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))
    parser.set_defaults(run=_import)

    parser = commands.add_parser("export-lite0", help="write EfficientNet-Lite0 as a SavedModel that import-tf takes")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    parser.set_defaults(run=_export)

    parser = commands.add_parser("serve-savedmodel", help="serve SavedModels over TensorFlow Serving's gRPC")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of <name>/<version>/saved_model.pb")
    parser.add_argument("--port", type=int, default=8500, help="gRPC port (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--max-batch", type=int, default=128, help="rows up to which requests merge (%(default)s)")
    parser.add_argument("--batch-wait-ms", type=float, default=2.0, help="how long to wait for others (%(default)s)")
    parser.set_defaults(run=_serve)


def _import(options: argparse.Namespace) -> int:
    try:
        quietly(tensorflow)
        from extractor.tf_import.importing import import_savedmodel

        report = import_savedmodel(
            options.name,
            options.source,
            Settings().models,
            options.signature,
            options.output,
            dtype=options.dtype,
            transform=_changes(options),
        )
    except (ShoalError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        return 0
    checks = report.checks
    sys.stdout.write(
        f"{report.folder}: {report.output} of {report.signature} ({report.layout}), {report.dim}-d, "
        f"{report.transform['size']} px {report.dtype}\n"
    )
    if checks.deterministic:
        sys.stdout.write(
            f"checked: finite; alone as in a batch to {checks.batch_difference:.1g}, as its source to "
            f"{checks.source_difference:.1g} (of the largest value)\n"
        )
    else:
        sys.stdout.write("warning: this output is random, two extractions of the same image differ\n")
    return 0


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    names = ("size", "crop_fraction", "interpolation", "mean", "std")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _export(options: argparse.Namespace) -> int:
    try:
        from extractor.tf_import.lite0 import save_lite0, torch_state

        # PyTorch first: its compiler, Triton, crashes the process when it is loaded after TensorFlow.
        state = torch_state(Settings())
        quietly(tensorflow)
        save_lite0(state, options.folder)
    except (ShoalError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _serve(options: argparse.Namespace) -> int:
    from extractor.tf_serving.batching import BatchLimits
    from extractor.tf_serving.server import serve

    limits = BatchLimits(rows=options.max_batch, wait_s=options.batch_wait_ms / 1000)
    try:
        quietly(tensorflow)
        return serve(options.folder, options.port, host=options.host, limits=limits)
    except (ShoalError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
