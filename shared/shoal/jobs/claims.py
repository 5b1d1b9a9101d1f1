"""A worker's right to work on a job, and what it learns about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.errors import JsonValue
from shoal.schemas import Job


@dataclass(frozen=True)
class Claim:
    """A worker's right to run a job, or to help with it, until its lease is lost."""

    job: Job
    owner: str
    """The worker's name and a random token: no two claims share it. Safe in file names."""
    attempt: int
    """Counts from 1; an attempt that was handed back does not count."""
    max_attempts: int = 3
    """The number of the last attempt: it grows with each attempt that got further than those before."""
    checkpoint: dict[str, JsonValue] | None = None
    """What the attempt before left behind; for a helper, what the running one has kept."""
    failed_in_a_row: int = 0
    """Attempts before this one since the last that got further."""
    helper: bool = False
    """Whether another worker has the job, and this one takes some of its units."""


@dataclass(frozen=True)
class Renewal:
    """What a worker learns when it renews its lease."""

    held: bool
    """False: the job belongs to somebody else or has ended; stop at once and write nothing more."""
    cancel_requested: bool = False
    others: Mapping[int, int] = field(default_factory=dict)
    """How much is done of each unit that other workers are at."""


@dataclass(frozen=True)
class Taken:
    """Which unit of a shared job a worker may begin."""

    unit: int | None = None
    """None when there is none."""
    held: bool = False
    """Without a unit: others are at what is missing, and one of them may die."""
    alone: bool = False
    """The queue is unreachable: nobody can say."""
