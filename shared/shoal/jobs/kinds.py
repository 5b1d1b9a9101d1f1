"""Which worker runs which kind of job, and which host embeds new images.

Each service lists both in ``workers.toml``.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from shoal.errors import JsonValue

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


@dataclass(frozen=True)
class HostKind:
    """One kind of model host: a process that keeps models loaded and answers requests with images.

    Attributes
    ----------
    name
        Of its process in `shoal up`.
    backend
        Whose models it runs; its socket is ``<backend>.sock``.
    command, extra
        As of `WorkerKind`.
    elsewhere
        Variable with the address of a server that computes in its place; where it is set, the extra's own library need
        not be installed.
    """

    name: str
    backend: str
    command: tuple[str, ...]
    extra: str
    elsewhere: str | None = None


@cache
def worker_kinds() -> tuple[WorkerKind, ...]:
    """The workers of all installed services."""
    return tuple(WorkerKind(**{**row, "kinds": tuple(row["kinds"])}) for row in _rows("worker"))


@cache
def host_kinds() -> tuple[HostKind, ...]:
    """The model hosts of all installed services."""
    return tuple(HostKind(**row) for row in _rows("host"))


def _rows(table: str) -> list[dict[str, JsonValue]]:
    return [
        {**row, "command": tuple(row["command"])}
        for service in SERVICES
        if importlib.util.find_spec(service) is not None
        for row in tomllib.loads(files(service).joinpath("workers.toml").read_text("utf-8")).get(table, ())
    ]


def waiting_for(kind: str, alive: Collection[str]) -> str | None:
    """Why a queued job of ``kind`` does not start: a sentence when no live worker runs its kind, else None."""
    if kind in alive:
        return None
    missing = f"No worker for {kind} is running."
    worker = _worker_of(kind)
    if worker is None:
        return missing
    return f"{missing} Start one with `python -m {' '.join(worker.command)}`, which needs `shoal[{worker.extra}]`."


def host_missing(backend: str) -> str:
    """Why an image cannot be embedded while no host of ``backend`` answers, and what to do."""
    missing = f"No model host for {backend} answers."
    host = next((host for host in host_kinds() if host.backend == backend), None)
    if host is None:
        return missing
    return (
        f"{missing} `shoal up` starts one, and so does `python -m {' '.join(host.command)}`, which needs "
        f"`shoal[{host.extra}]`. One that was just started needs a few seconds."
    )


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
