"""``python -m extractor pull NAME``: download a model's weights into the models root before a job needs them.

A TensorFlow model is imported, too.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from shoal.errors import ShoalError
from shoal.settings import Settings

from extractor.models import catalogue, folders, obtaining
from extractor.models.weights import sha256


def pull(name: str, settings: Settings) -> int:
    """Find or download the weights of the model `name`, and print their path and SHA-256.

    Returns
    -------
    int
        The exit status: 1, with the reason on the standard error, if the weights cannot be obtained.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        spec = catalogue.resolve(name, settings.models, settings=settings)
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(spec.name, total=None)
            path = obtaining.obtain(
                spec,
                settings.models,
                offline=settings.offline,
                mirror=settings.mirror,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
                on_stage=lambda stage: bar.update(task, description=f"{spec.name}: {stage}"),
            )
    except ShoalError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    if path is None:
        sys.stdout.write(f"{spec.name} needs no weights.\n")
    elif spec.weights.kind == "served":
        sys.stdout.write(f"{path.parent}\nsha256 {folders.fingerprint(path.parent)}\n")
    else:
        sys.stdout.write(f"{path}\nsha256 {sha256(path)}\n")
    return 0
