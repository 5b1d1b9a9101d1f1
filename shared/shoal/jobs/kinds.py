"""Which worker runs which kind of job, and what to do where none does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


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
        Starts it: words behind ``python -m``.
    models
        What its jobs are about, in a sentence.
    extra
        What installs it.
    """

    name: str
    kinds: tuple[str, ...]
    command: tuple[str, ...]
    models: str
    extra: str


WORKERS = (
    WorkerKind(
        "extractor-torch-worker",
        ("embed:torch", "extract:torch"),
        ("extractor", "worker", "--backend", "torch"),
        "Models of PyTorch",
        "torch",
    ),
    WorkerKind(
        "extractor-tfserving-worker",
        ("embed:tfserving", "extract:tfserving"),
        ("extractor", "worker", "--backend", "tfserving"),
        "Models of TensorFlow",
        "tf",
    ),
    WorkerKind("clusterer-worker", ("cluster", "sweep"), ("clusterer", "worker"), "Clusterings", "faiss"),
)


def worker_of(kind: str) -> WorkerKind | None:
    """The worker that runs jobs of ``kind``; None for a kind that is not ours."""
    return next((worker for worker in WORKERS if kind in worker.kinds), None)


def waiting_for(kind: str, alive: Collection[str]) -> str | None:
    """Why a queued job of ``kind`` does not start: a sentence when no live worker runs its kind, else None."""
    if kind in alive:
        return None
    missing = f"No worker for {kind} is running."
    worker = worker_of(kind)
    if worker is None:
        return missing
    return f"{missing} Start one with `python -m {' '.join(worker.command)}`, which needs `shoal[{worker.extra}]`."


def not_installed(kind: str) -> str:
    """Why a job of ``kind`` is refused where `shoal up` has no worker for it."""
    worker = worker_of(kind)
    if worker is None:
        return f"No worker for {kind} is installed here."
    return (
        f"{worker.models} need a worker that is not installed here: run `pip install 'shoal[{worker.extra}]'`, then "
        "start Shoal again."
    )
