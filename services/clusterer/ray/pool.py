"""The workers of a job on a Ray cluster, as the job sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any

import structlog
from shoal import __version__
from shoal.errors import JsonValue, RayUnavailable

from clusterer.data.partitions import chunk_rows
from clusterer.kmeans import Engine, select_engine
from clusterer.kmeans.engine import use_in_process
from clusterer.ray.holder import Holder
from clusterer.ray.session import POLL_S, OnWait, Session, Workers
from clusterer.ray.tasks import value_of

FEWER_S = 60.0
"""How long a job with some workers waits for more of those it asked for."""

Reference = Any
"""Ray's reference to an actor or to a result."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Piece:
    """A partition as the driver knows it.

    Attributes
    ----------
    first, stop
        Numbers of its first row and the one after the last.
    worker, key
        The number of the worker that holds it, and its name there.
    """

    first: int
    stop: int
    worker: int
    key: str


class Pool:
    """The workers.

    Parameters
    ----------
    session
        The cluster.
    workers
        How many, and what each asks for.
    keep_bytes, rows_bytes
        Of each; see `Holder`.
    on_wait
        Called at least once a second while the job waits; an exception raised there ends it.
    """

    def __init__(
        self, session: Session, workers: Workers, *, keep_bytes: int, rows_bytes: int, on_wait: OnWait
    ) -> None:
        self._session, self._size = session, workers
        self._on_wait = on_wait
        self._names = (f"p{number}" for number in count())
        self._lost: list[dict[str, JsonValue]] = []
        actor = session.ray.remote(Holder).options(**workers.options, max_restarts=0, scheduling_strategy="SPREAD")
        self._actors: dict[int, Reference] = {
            number: actor.remote(workers.cpus, keep_bytes, rows_bytes) for number in range(workers.count)
        }
        self._started = 0

    def start(self, name: str, here: Engine, on_start: OnWait = lambda: None) -> Engine:
        """Wait for the workers and let them use an engine; returns this process's own of the same kind.

        A job that gets some of its workers goes on with these.

        Parameters
        ----------
        name
            As in a request. Where ``auto`` picks different ones, faiss runs on all machines.
        here
            What this process picks by that name.
        on_start
            Called at least once a second until the workers have started, which may take as long as others' jobs do.

        Raises
        ------
        EngineUnavailable
            A worker cannot run it, or has another version of Shoal.
        InvalidRequest, RayUnavailable
            There is no room for a worker.
        """
        picked = {here.name, *self._everywhere(on_start, "use", __version__, name)}
        self._started = len(self._actors)
        if len(picked) > 1:
            _log.info("the machines pick different engines", engines=sorted(map(str, picked)))
            self._everywhere(on_start, "use", __version__, "faiss")
            here = select_engine("faiss")
        use_in_process(here)
        return here

    def record(self) -> dict[str, JsonValue]:
        """For run.json: the cluster, the workers at the start, and those that were lost with the rows they held."""
        started = replace(self._size, count=self._started)
        return {**self._session.record(started), "lost": list(self._lost)}

    def has(self, worker: int) -> bool:
        """Whether a worker is left."""
        return worker in self._actors

    def put(self, value: object) -> Reference:
        """Send an object to the cluster once; returns a reference."""
        return self._session.ray.put(value)

    def cut(self, first: int, stop: int, total: int) -> Iterator[Piece]:
        """Divide a range of rows among the workers, at the borders of chunks.

        Raises
        ------
        RayUnavailable
            No worker is left.
        """
        step, workers = chunk_rows(total), list(self._actors)
        if not workers:
            raise RayUnavailable(
                f"The Ray cluster at {self._session.address} has lost all {self._started} workers of this job. It "
                "goes on from what is kept once there are nodes again.",
                address=self._session.address,
            )
        chunks = -(-(stop - first) // step)
        borders = [*(first + step * (chunks * number // len(workers)) for number in range(len(workers))), stop]
        for worker, (low, high) in zip(workers, pairwise(borders), strict=True):
            if low < high:
                yield Piece(low, high, worker, next(self._names))

    def call(self, piece: Piece, method: str, *arguments: object, **named: object) -> Reference:
        """Call a method of a piece's worker; returns a reference to its result."""
        return getattr(self._actors[piece.worker], method).remote(piece.key, *arguments, **named)

    def wait(self, running: Mapping[Reference, object]) -> list[Reference]:
        """Those of some references whose results are there, after a short while at most."""
        done: list[Reference]
        done, _ = self._session.ray.wait(list(running), num_returns=1, timeout=POLL_S)
        self._on_wait()
        self._session.check()
        return done

    def result(self, reference: Reference, worker: int, rows: int) -> tuple[bool, Any]:
        """The result of a call; False and nothing if its worker, which held ``rows`` rows, is lost."""
        errors = self._session.ray.exceptions
        gone = errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError, errors.NodeDiedError
        try:
            return True, self._session.ray.get(reference)
        except gone as error:
            self._lose(worker, rows, error)
            return False, None
        except errors.RayError:
            return True, value_of(self._session, reference)

    def _lose(self, worker: int, rows: int, why: BaseException) -> None:
        actor = self._actors.pop(worker, None)
        if actor is None:
            return
        _log.warning("worker lost", worker=worker, rows=rows, left=len(self._actors), error=str(why)[:500])
        self._lost.append({"worker": worker, "rows": rows})
        self._session.ray.kill(actor)  # it may only be out of reach

    def _everywhere(self, on_start: OnWait, method: str, *arguments: object) -> list[object]:
        """The results of a method of every worker that has started, in no order."""
        running = {getattr(actor, method).remote(*arguments): worker for worker, actor in self._actors.items()}
        found: list[object] = []
        since = time.monotonic()
        while running and not (found and time.monotonic() - since > FEWER_S):
            done = self.wait(running)
            on_start()
            if not found and not done:
                self._session.require_room(self._size)
            for each in done:
                del running[each]
                found.append(value_of(self._session, each))
                since = time.monotonic()
        for worker in running.values():
            self._session.ray.kill(self._actors.pop(worker))
        return found
