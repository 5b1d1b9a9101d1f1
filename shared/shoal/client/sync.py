"""`Client`: the clients' methods as plain functions."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from shoal.client.calls import Calls
from shoal.client.transport import Threads, iterate, run

P = ParamSpec("P")
T = TypeVar("T")


class _CallsInThreads(Calls):
    _over = Threads


def _blocking(
    method: Callable[Concatenate[Calls, P], Coroutine[object, None, T]],
) -> Callable[Concatenate[Client, P], T]:
    """A method of `Calls` that returns when it has ended."""

    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._calls, *args, **kwargs))

    return _described(call, method)


def _iterating(
    method: Callable[Concatenate[Calls, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """A method of `Calls` that yields, for plain loops."""

    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return iterate(method(self._calls, *args, **kwargs))

    return _described(call, method)


def _described(call: Callable[P, T], method: Callable[..., object]) -> Callable[P, T]:
    """``call`` with the signature that ``help`` shows."""
    signature = inspect.signature(method)
    returned = re.sub(r"^AsyncGenerator\[(.*), None\]$", r"Iterator[\1]", str(signature.return_annotation))
    call.__dict__["__signature__"] = signature.replace(return_annotation=returned)
    call.__annotations__ = {**call.__annotations__, "return": returned}
    del call.__dict__["__wrapped__"]
    return call


class Client:
    """Talks to the extractor and the clusterer.

    Parameters
    ----------
    extractor_url, clusterer_url, api_key
        From the environment (``SHOAL_EXTRACTOR_URL``, ``SHOAL_CLUSTERER_URL``, ``SHOAL_API_KEY``) when left out.
    timeout_s
        Of one request; jobs are not requests, they may take days.
    retries
        How often a request is repeated when the service is unreachable or overloaded. Repeating a POST is safe, since
        each that submits a job has an ``Idempotency-Key``.

    Raises
    ------
    ShoalError
        Every method: the service's problem as the exception of that code, or `Unavailable` when nothing answers.
    """

    def __init__(
        self,
        extractor_url: str | None = None,
        clusterer_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        self._calls = _CallsInThreads(extractor_url, clusterer_url, api_key, timeout_s=timeout_s, retries=retries)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    close = _blocking(Calls.close)

    extract = _blocking(Calls.extract)
    upload = _blocking(Calls.upload)
    import_embeddings = _blocking(Calls.import_embeddings)
    cluster = _blocking(Calls.cluster)
    sweep = _blocking(Calls.sweep)
    embed = _blocking(Calls.embed)
    assign = _blocking(Calls.assign)
    assign_embeddings = _blocking(Calls.assign_embeddings)
    search = _blocking(Calls.search)

    duplicates = _blocking(Calls.duplicates)
    duplicate_groups = _iterating(Calls.duplicate_groups)
    quality = _blocking(Calls.quality)
    quality_rows = _iterating(Calls.quality_rows)
    analyses = _blocking(Calls.analyses)
    analysis = _blocking(Calls.analysis)
    download_analysis = _blocking(Calls.download_analysis)
    decisions = _blocking(Calls.decisions)
    decide = _blocking(Calls.decide)
    undo_decision = _blocking(Calls.undo_decision)
    decision_summary = _blocking(Calls.decision_summary)
    export_decisions = _blocking(Calls.export_decisions)

    job = _blocking(Calls.job)
    jobs = _blocking(Calls.jobs)
    cancel = _blocking(Calls.cancel)
    follow = _iterating(Calls.follow)
    wait = _blocking(Calls.wait)

    models = _blocking(Calls.models)
    embeddings = _blocking(Calls.embeddings)
    rows = _iterating(Calls.rows)
    rows_table = _blocking(Calls.rows_table)

    clusterings = _blocking(Calls.clusterings)
    clustering = _blocking(Calls.clustering)
    metrics = _blocking(Calls.metrics)
    clusters = _blocking(Calls.clusters)
    compare = _blocking(Calls.compare)
    assignments = _iterating(Calls.assignments)
    assignments_table = _blocking(Calls.assignments_table)
    map = _blocking(Calls.map)
    contact_sheet = _blocking(Calls.contact_sheet)
    download = _blocking(Calls.download)

    assigned = _blocking(Calls.assigned)
    assigned_rows = _iterating(Calls.assigned_rows)
    assigned_table = _blocking(Calls.assigned_table)
    assigned_clusters = _blocking(Calls.assigned_clusters)

    names = _blocking(Calls.names)
    put_names = _blocking(Calls.put_names)
    name = _blocking(Calls.name)
    moves = _blocking(Calls.moves)
    move = _blocking(Calls.move)
    undo_names = _blocking(Calls.undo_names)
    suggest_names = _blocking(Calls.suggest_names)
    names_history = _blocking(Calls.names_history)
    export = _blocking(Calls.export)
    export_rows = _iterating(Calls.export_rows)

    sweeps = _blocking(Calls.sweeps)
    sweep_facts = _blocking(Calls.sweep_facts)
    download_sweep = _blocking(Calls.download_sweep)

    ready = _blocking(Calls.ready)
