"""The commands `import-tf` and `export-lite0` of ``python -m extractor``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from shoal.errors import ShoalError
from shoal.settings import Settings

from extractor.tf_serving.loading import quietly, tensorflow


def import_tf(options: argparse.Namespace) -> int:
    """Import a TensorFlow model and print the report; the exit status."""
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


def export_lite0(options: argparse.Namespace) -> int:
    """Write EfficientNet-Lite0 as a SavedModel; the exit status."""
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
