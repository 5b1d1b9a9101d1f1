"""Which worker runs which kind of job: each service lists its workers in ``workers.toml``."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SERVICES = ("extractor", "clusterer")


@dataclass(frozen=True)
class WorkerKind:
    """One kind of worker.

    Attributes
    ----------
    name
        Of its process in `shoal up`.
    kinds
        The jobs that it runs.
    command
        Starts it: the arguments of ``python -m``.
    subject
        What its jobs are about, as the subject of a sentence.
    extra
        The extra of this package that installs it.
    """

    name: str
    kinds: tuple[str, ...]
    command: tuple[str, ...]
    subject: str
    extra: str


@cache
def worker_kinds() -> tuple[WorkerKind, ...]:
    """The workers of all installed services."""
    return tuple(
        WorkerKind(**{**worker, "kinds": tuple(worker["kinds"]), "command": tuple(worker["command"])})
        for service in SERVICES
        if importlib.util.find_spec(service) is not None
        for worker in tomllib.loads(files(service).joinpath("workers.toml").read_text("utf-8"))["worker"]
    )


def waiting_for(kind: str, alive: Collection[str]) -> str | None:
    """Why a queued job of ``kind`` does not start: a sentence when no live worker runs its kind, else None."""
    if kind in alive:
        return None
    missing = f"No worker for {kind} is running."
    worker = _worker_of(kind)
    if worker is None:
        return missing
    return f"{missing} Start one with `python -m {' '.join(worker.command)}`, which needs `shoal[{worker.extra}]`."


def not_installed(kind: str) -> str:
    """Why a job of ``kind`` is refused where `shoal up` has no worker for it."""
    worker = _worker_of(kind)
    if worker is None:
        return f"No worker for {kind} is installed here."
    return (
        f"{worker.subject} need a worker that is not installed here: run `pip install 'shoal[{worker.extra}]'`, then "
        "start Shoal again."
    )


def _worker_of(kind: str) -> WorkerKind | None:
    return next((worker for worker in worker_kinds() if kind in worker.kinds), None)
