"""Functions over items as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from shoal import __version__
from shoal.errors import EngineUnavailable, JsonValue, OutOfMemory, RayUnavailable, WorkerDied
from shoal.host import use_cores

from clusterer.ray.session import POLL_S, OnWait, Session, Workers

RETRIES = 10
"""How often a task is repeated whose node or process is lost, before the job fails."""

T = TypeVar("T")


def run_tasks(
    session: Session,
    function: Callable[..., T],
    items: Sequence[object],
    *,
    workers: Workers,
    needs: Sequence[int] | None = None,
    shared: Sequence[object] = (),
    on_wait: OnWait = lambda: None,
) -> Iterator[tuple[int, T]]:
    """Call ``function(item, *shared)`` for every item, each as one task; yields (index, result) as they end.

    Tasks of a lost node are repeated on others. When the iterator is closed, what still runs is stopped.

    Parameters
    ----------
    function
        A function at the top of a module that all nodes have.
    workers
        How many tasks run at once, and what each asks for.
    needs
        Bytes of memory of each item's task, where they differ from those of ``workers``.
    shared
        Arguments of every call. They are copied once to each node, where all tasks read the same copy: arrays in them
        cannot be written.
    on_wait
        Called at least once a second.

    Raises
    ------
    RayUnavailable
        The head is lost, or no node has room for a task.
    EngineUnavailable
        A node has another version of Shoal, or none.
    OutOfMemory, WorkerDied
        A task outgrew its node's memory, or its process died, several times.
    Exception
        What ``function`` raised.
    """
    ray = session.ray
    task = ray.remote(_call)
    options = {**workers.options, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
    asks = [workers.memory] * len(items) if needs is None else needs
    arguments = [ray.put(each) for each in shared]
    left = iter(enumerate(items))
    running: dict[object, int] = {}
    try:
        while True:
            while len(running) < workers.count and (item := next(left, None)) is not None:
                one = task.options(**{**options, "memory": asks[item[0]]})
                running[one.remote(__version__, workers.cpus, function, item[1], *arguments)] = item[0]
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=POLL_S)
            on_wait()
            session.check()
            if not done:
                session.require_room(replace(workers, memory=max(asks[index] for index in running.values())))
            for each in done:
                yield running.pop(each), value_of(session, each)
    finally:
        for each in running:
            with contextlib.suppress(Exception):
                ray.cancel(each, force=True)


def value_of(session: Session, reference: object) -> JsonValue:
    """The value of a finished task, or the exception that it raised, in Shoal's words."""
    errors = session.ray.exceptions
    try:
        return session.ray.get(reference)
    except errors.OutOfMemoryError as error:
        raise OutOfMemory(
            "A worker on the Ray cluster outgrew the memory of its node. Send more as `execution.resources.memory`, "
            f"so that fewer run on a node. {_words(error)}"
        ) from error
    except errors.RayTaskError as error:
        raise _cause(error) from error
    except (errors.WorkerCrashedError, errors.ActorDiedError, errors.NodeDiedError) as error:
        raise WorkerDied(f"A worker on the Ray cluster died several times. {_words(error)}") from error
    except errors.RayError as error:
        raise RayUnavailable(f"The Ray cluster lost the result of a task. {_words(error)}") from error


def _call(version: str, cores: int, function: Callable[..., T], item: object, *shared: object) -> T:
    """Run a task where it was sent to."""
    require_version(version)
    use_cores(cores)
    return function(item, *shared)


def require_version(version: str) -> None:
    """Raise `EngineUnavailable` on a node whose Shoal is not that of the driver."""
    if version != __version__:
        raise EngineUnavailable(
            f"A node of the Ray cluster has Shoal {__version__}, this worker {version}. Install the same version on "
            "all.",
            field="execution.address",
        )


def _cause(error: BaseException) -> BaseException:
    cause: BaseException = getattr(error, "cause", error)
    missing = (cause.name or "").split(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
    if missing in {"shoal", "clusterer"}:
        return EngineUnavailable(
            "A node of the Ray cluster has no Shoal. Install the same version on all.", field="execution.address"
        )
    return cause


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
