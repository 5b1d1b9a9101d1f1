"""`shoal assign`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.execution import (
    EXECUTION,
    Engine,
    RayAddress,
    WorkerCpus,
    WorkerGpus,
    WorkerMemory,
    Workers,
    execution_of,
)
from shoal.cli.flags import AsJson, CallbackUrl, Flags, errors_in_flags
from shoal.cli.jobs import Wait, finish, given
from shoal.cli.output import columns_of, err, print_table
from shoal.client import Assignments, Client, Image
from shoal.errors import JsonValue

ASSIGN: Flags = {
    "clustering": "CLUSTERING",
    "images": "IMAGE",
    "embeddings": "--embeddings",
    "outlier_quantile": "--outlier-quantile",
    "memory_limit": "--memory-limit",
    "spaces": "--space",
    "callback_url": "--callback-url",
    **EXECUTION,
}
STDIN = "-"


def assign(
    clustering: Annotated[str, typer.Argument(help="Id of the clustering.")],
    image: Annotated[
        list[str] | None, typer.Argument(help="Image files; `-` reads one image from standard input.")
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="In place of images: id of embeddings, of which all rows are assigned by a job.", metavar="ID"
        ),
    ] = None,
    outlier_quantile: Annotated[
        float | None,
        typer.Option(
            help="An image is an outlier if it is farther from its centroid than this share of the train set's images "
            "are from theirs; 0.99 by default."
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            metavar="ID",
            help="With --embeddings: id of embeddings of the same images by another model of the clustering; "
            "repeatable, in the clustering's order.",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="With --embeddings: maximum memory of the job, such as 1GiB.")
    ] = None,
    execution: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
    callback_url: CallbackUrl = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Print the clusters of new images; with --embeddings assign all its rows and print the id of the result."""
    if (not image) == (embeddings is None):
        raise typer.BadParameter(
            "give image files or `--embeddings ID`, one of them.", param_hint="IMAGE, --embeddings"
        )
    if callback_url is not None and embeddings is None:
        raise typer.BadParameter(
            "images are answered at once: it needs `--embeddings ID`.", param_hint="--callback-url"
        )
    if embeddings is not None:
        where = execution_of(execution, ray_address, workers, worker_cpus, worker_gpus, worker_memory)
        options = given(
            outlier_quantile=outlier_quantile,
            memory_limit=memory_limit,
            execution=where,
            callback_url=callback_url,
            spaces=space,
        )
        with errors_in_flags(ASSIGN), Client() as client:
            job = finish(client, client.assign_embeddings(clustering, embeddings, **(options or {})), wait, as_json)
        if job.result and not as_json:
            for line in drift_lines(job.result["drift"]):
                err.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    image = image or []
    images: list[Image] = [sys.stdin.buffer.read() if path == STDIN else path for path in image]
    with errors_in_flags(ASSIGN), Client() as client:
        found = client.assign(clustering, images=images, outlier_quantile=outlier_quantile)
    if as_json:
        rows = [{"image": path, **each._asdict()} for path, each in zip(image, found, strict=True)]
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_table(assignments_table(image, found))


def drift_lines(drift: dict[str, JsonValue]) -> list[str]:
    """What the drift of a job's result says, a sentence a line."""
    if drift["sizes"] is None:
        return ["The train set was not scored, so neither outliers nor drift are known."]
    outliers = drift["outliers"]
    lines = [
        f"{outliers['rows']:,} outliers: {100 * outliers['share']:.2f} % of the rows, "
        f"{100 * outliers['train_share']:.2f} % of the train set's."
    ]
    for name, what in (("sizes", "sizes of the clusters"), ("distances", "distances to the centroids")):
        found = drift[name]
        chance = "more" if found["beyond_chance"] else "not more"
        lines.append(
            f"The {what} shifted by a PSI of {found['psi']:.3f} ({found['shift']}), {chance} than chance "
            f"({found['psi_chance']:.3f})."
        )
    return lines


def assignments_table(images: list[str], found: Assignments) -> Table:
    """Images and their clusters, one a row."""
    named = any(each.name for each in found)
    names = ("image", "cluster", "distance", "outlier", "label", *(["name"] if named else []))
    table = columns_of(*names, right={"cluster", "distance"})
    for path, each in zip(images, found, strict=True):
        outlier = "" if each.is_outlier is None else "yes" if each.is_outlier else "no"
        more = [each.name or ""] if named else []
        table.add_row(path, str(each.cluster), f"{each.distance:.3f}", outlier, each.label or "", *more)
    return table
