"""Where a job's computations run: on its worker's machine, or on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import ByteSize, Field, WithJsonSchema, model_validator

from shoal.errors import InvalidRequest
from shoal.schemas.base import Request

if TYPE_CHECKING:
    from shoal.settings.jobs import JobSettings

MOST_WORKERS = 10_000

MemoryLimit = Annotated[
    ByteSize,
    Field(ge=2**28, le=2**50),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 2**28, "maximum": 2**50},
                {"type": "string", "pattern": r"^[1-9][0-9]{0,5} ?([KMGT]i?B)$", "maxLength": 10},
            ]
        }
    ),
]
"""A number of bytes, or a text with a unit such as `4GiB`."""


class WorkerResources(Request):
    """What each worker on the cluster asks for."""

    cpus: int | None = Field(None, ge=1, le=1024, description="Processor cores; by default those of one node, divided.")
    gpus: int = Field(0, ge=0, le=64, description="GPUs, for `kmeans.engine`: `faiss`.")
    memory: MemoryLimit | None = Field(
        None,
        description="Memory: bytes, or a text such as `16GiB`. Rows that do not fit are kept in a file on the node. By "
        "default the job's `memory_limit`.",
    )


class Execution(Request):
    """Where the computations of a job run."""

    engine: Literal["local", "ray"] = Field(
        "local", description="`local`: in the job's worker. `ray`: on a Ray cluster, which the job's worker drives."
    )
    address: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9._:\[\]-]+$",
        description="Address `host:port` of the Ray cluster's head: one that the services list in SHOAL_RAY_ADDRESSES. "
        "By default their RAY_ADDRESS; without one, a cluster of the worker's machine alone is started for the job.",
    )
    workers: int | None = Field(
        None, ge=1, le=MOST_WORKERS, description="Number of workers; by default one on each node of the cluster."
    )
    resources: WorkerResources | None = Field(None, description="What each worker asks for.")

    @model_validator(mode="after")
    def _local_has_no_cluster(self) -> Execution:
        if self.engine == "local" and (self.address or self.workers or self.resources):
            raise ValueError("`address`, `workers` and `resources` need `engine`: `ray`")
        return self


def on_cluster(execution: Execution | None) -> Execution | None:
    """What a request says of the cluster that runs its job; None where its worker computes."""
    return execution if execution is not None and execution.engine == "ray" else None


def cluster_address(execution: Execution | None, settings: JobSettings) -> str | None:
    """``host:port`` of the Ray cluster that runs a job; None for one of the worker's machine alone, or for no cluster.

    Raises
    ------
    InvalidRequest
        The request names a cluster that the settings do not: it would run its code in the worker.
    """
    cluster = on_cluster(execution)
    if cluster is None:
        return None
    asked = cluster.address
    if asked is not None and asked != settings.ray_address and asked not in settings.ray_addresses:
        raise InvalidRequest(
            f"`execution.address` is {asked!r}, which is neither RAY_ADDRESS of the services nor one of "
            "SHOAL_RAY_ADDRESSES. Leave it out, or set SHOAL_RAY_ADDRESSES for the API and its workers.",
            field="execution.address",
        )
    return asked or settings.ray_address


EXECUTION_TEXT: Final = (
    "Where the computations run: in the job's worker, or on a Ray cluster. The result is the same: see docs/SCALE.md."
)
