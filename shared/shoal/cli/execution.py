"""Flags that say where a job's computations run."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.errors import JsonValue

EXECUTION = {
    "execution": "--execution",
    "execution.engine": "--execution",
    "execution.address": "--ray-address",
    "execution.workers": "--workers",
    "execution.resources": "--worker-…",
    "execution.resources.cpus": "--worker-cpus",
    "execution.resources.gpus": "--worker-gpus",
    "execution.resources.memory": "--worker-memory",
    "address": "--ray-address",
    "workers": "--workers",
    "resources": "--worker-…",
    "engine": "--execution",
}
"""Field of a request to the flag of the command, as in `shoal.cli.flags`."""

Engine = Annotated[
    str | None,
    typer.Option(
        "--execution", metavar="local|ray", help="Where the job computes: in its worker, or on a Ray cluster."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="Ray cluster to use; by default the services' own."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Number of workers on the Ray cluster; by default one on each node."),
]
WorkerCpus = Annotated[int | None, typer.Option("--worker-cpus", min=1, help="Processor cores of each worker.")]
WorkerGpus = Annotated[int | None, typer.Option("--worker-gpus", min=0, help="GPUs of each worker.")]
WorkerMemory = Annotated[
    str | None,
    typer.Option("--worker-memory", metavar="SIZE", help="Memory of each worker, such as 16GiB."),
]


def execution_of(
    engine: str | None,
    address: str | None,
    workers: int | None,
    cpus: int | None,
    gpus: int | None,
    memory: str | None,
) -> dict[str, JsonValue] | None:
    """The field `execution` of a request; None without a flag. The other flags alone mean ``--execution ray``."""
    asked = {"cpus": cpus, "gpus": gpus, "memory": memory}
    resources = {name: value for name, value in asked.items() if value is not None}
    rest = {"address": address, "workers": workers, "resources": resources or None}
    found = {name: value for name, value in rest.items() if value is not None}
    if engine is None and not found:
        return None
    return {"engine": engine or "ray", **found}
