"""How workers and the processes of jobs run."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field
from pydantic_settings import BaseSettings

from shoal.settings.values import Names


def _head(address: str) -> str | None:
    """The address of a Ray cluster's head; empty for none, as compose files leave variables.

    Raises
    ------
    ValueError
        It is not ``host:port``.
    """
    host, _, port = address.rpartition(":")
    if address and not (host and "/" not in host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"{address!r} is not an address host:port, such as ray-head:6379")
    return address or None


class JobSettings(BaseSettings):
    """How workers and the processes of jobs run."""

    lease_s: float = Field(
        30.0, gt=0, validation_alias="SHOAL_LEASE_S", description="Lease of a claimed job in seconds."
    )
    beat_s: float = Field(
        5.0, gt=0, validation_alias="SHOAL_BEAT_S", description="Seconds between two heartbeats of a worker."
    )
    child_silence_s: float = Field(
        1800.0,
        gt=0,
        validation_alias="SHOAL_CHILD_SILENCE_S",
        description="If a job's process sends nothing for this many seconds, it is killed.",
    )
    kill_grace_s: float = Field(
        5.0,
        gt=0,
        validation_alias="SHOAL_KILL_GRACE_S",
        description="Seconds between SIGTERM and SIGKILL when a job is cancelled.",
    )
    drain_s: float = Field(
        8.0,
        gt=0,
        validation_alias="SHOAL_DRAIN_S",
        description="Seconds that a stopping worker waits for its job to stop.",
    )
    ahead: bool = Field(
        True,
        validation_alias="SHOAL_AHEAD",
        description="Start the process of a worker's next job while the worker waits for it.",
    )
    save_s: float = Field(
        30.0,
        gt=0,
        validation_alias="SHOAL_SAVE_S",
        description="Seconds between two saves of an unfinished shard: the most work that a crash loses.",
    )
    decode_workers: int = Field(
        0,
        ge=0,
        le=256,
        validation_alias="SHOAL_DECODE_WORKERS",
        description="Number of decode processes; 0 means one per core.",
    )
    job_nice: int = Field(
        10,
        ge=0,
        le=19,
        validation_alias="SHOAL_JOB_NICE",
        description="Niceness of a job's processes; 0 gives them the priority of all others.",
    )
    max_image_pixels: int = Field(
        128_000_000,
        gt=0,
        validation_alias="SHOAL_MAX_IMAGE_PIXELS",
        description="Maximum number of pixels of an image; larger images are rejected.",
    )
    ray_address: Annotated[str, AfterValidator(_head)] | None = Field(
        None,
        validation_alias="RAY_ADDRESS",
        description="host:port of the head of the Ray cluster that jobs with `execution.engine`: `ray` run on; if "
        "unset, each starts a cluster of its worker's machine alone.",
    )
    ray_addresses: Names = Field(
        frozenset(),
        validation_alias="SHOAL_RAY_ADDRESSES",
        description="Comma-separated host:port of other Ray clusters that requests may name as `execution.address`. "
        "Whoever runs one of them can run code in the workers.",
    )
    memory_limit: Annotated[ByteSize, Field(ge=2**28)] | None = Field(
        None,
        validation_alias="SHOAL_MEMORY_LIMIT",
        description="Maximum memory of a clustering job, or of an import over HTTP, such as 4GiB; by default a quarter "
        "of the machine's.",
    )
