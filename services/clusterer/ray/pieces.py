"""Pieces of a search as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from clusterer.ray.session import OnWait, Session, Workers
from clusterer.ray.tasks import run_tasks

Given = TypeVar("Given")
Made = TypeVar("Made")


class ClusterRunner:
    """A `neighbours.runner.Runner`: each piece is a task.

    Parameters
    ----------
    session
        The connected cluster.
    workers
        How many pieces run at once, and what each asks for.
    on_wait
        Called at least once a second.
    """

    apart = True

    def __init__(self, session: Session, workers: Workers, on_wait: OnWait) -> None:
        self._session, self._workers, self._on_wait = session, workers, on_wait
        self.threads: int | None = workers.cpus

    def __call__(
        self, function: Callable[[int, Given], Made], given: Given, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Made]]:
        shared = [given] if numbers else []
        tasks = run_tasks(self._session, function, numbers, workers=self._workers, shared=shared, on_wait=self._on_wait)
        for index, made in tasks:
            yield numbers[index], made
