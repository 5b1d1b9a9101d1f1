"""Jobs over HTTP: submit, list, read, cancel, follow. Both services have these routes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Annotated, Any, Final, cast

from fastapi import Depends, Header, Path, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from shoal.callbacks import CallbackRules
from shoal.errors import (
    BackendNotInstalled,
    JobNotFound,
    QueueFull,
    QueueUnavailable,
    ShoalError,
    TooManyStreams,
)
from shoal.jobs.kinds import not_installed, waiting_for
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.jobs.workdirs import remove_workdirs
from shoal.keys import Caller, KeyStore
from shoal.schemas import RESULTS, Id, Job, JobPage, JobRequest
from shoal.web.auth import CallerDep
from shoal.web.pools import FOLLOW, QUICK
from shoal.web.problems import problem_responses
from shoal.web.route import QueueDep, StoreDep
from shoal.web.route import router as make_router

POLL_S: Final = 0.25
QUEUE_RETRY_S: Final = 10
STREAM_RETRY_S: Final = 5
RECOUNT_S: Final = 5.0
"""Shortest time between two recounts of a key's unfinished jobs, each of which takes one round trip per job."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="A unique value of your choice. Sending the same request again with the same key returns the job "
        "that the first request created.",
    ),
]
JobId = Annotated[Id, Path(description="Id of the job.")]
router = make_router(pool=QUICK, tags=["jobs"])


@dataclass
class QueueLimits:
    """How many jobs may wait.

    Attributes
    ----------
    max_queued
        Queued jobs of one kind.
    max_queued_per_key
        Unfinished jobs of one API key.
    keys
        Tracks the jobs of each key; None where no keys are needed.
    absent
        Kinds whose workers are not installed on this machine.
    """

    max_queued: int
    max_queued_per_key: int
    keys: KeyStore | None
    absent: frozenset[str] = frozenset()
    _counted: dict[str, float] = field(default_factory=dict)

    def check(self, queue: JobQueue, kind: str, caller: Caller) -> None:
        """Refuse a further job of ``kind`` where the queue or the caller's key is at its limit.

        Raises
        ------
        QueueFull
            One of the limits is reached.
        BackendNotInstalled
            No worker would ever run the job.
        """
        if kind in self.absent and kind not in queue.workers():
            raise BackendNotInstalled(not_installed(kind), kind=kind)
        depth = queue.depths().get(kind, 0)
        if depth >= self.max_queued:
            raise QueueFull(
                f"The queue of {kind} is full: {depth} jobs are waiting. Send the request again later.",
                retry_after_s=QUEUE_RETRY_S,
            )
        if self.keys is None or caller.key_id is None:
            return
        if self._unfinished(self.keys, queue, caller.key_id) >= self.max_queued_per_key:
            raise QueueFull(
                f"This API key has {self.max_queued_per_key} unfinished jobs, the limit for one key. Wait until one "
                "ends, or cancel one with `DELETE /jobs/{id}`.",
                retry_after_s=QUEUE_RETRY_S,
            )

    def track(self, caller: Caller, job_id: str) -> None:
        """Count the job among those of the caller's key."""
        if self.keys is not None and caller.key_id is not None:
            self.keys.track(caller.key_id, job_id)

    def _unfinished(self, keys: KeyStore, queue: JobQueue, key_id: str) -> int:
        count = keys.tracked_count(key_id)
        if count < self.max_queued_per_key or monotonic() - self._counted.get(key_id, -RECOUNT_S) < RECOUNT_S:
            return count
        self._counted[key_id] = monotonic()
        keys.forget(key_id, [job_id for job_id in keys.tracked(key_id) if _has_ended(queue, job_id)])
        return keys.tracked_count(key_id)


def _has_ended(queue: JobQueue, job_id: str) -> bool:
    try:
        return queue.get(job_id).state.terminal
    except JobNotFound:
        return True


@dataclass(frozen=True)
class Submitter:
    """Submits jobs for the caller of one request, within the limits of the queue and of the caller's key."""

    queue: JobQueue
    limits: QueueLimits
    caller: Caller
    callbacks: CallbackRules

    def check(self, kind: str) -> None:
        """Raise `QueueFull` or `BackendNotInstalled` unless the caller may submit a job of ``kind``."""
        self.limits.check(self.queue, kind, self.caller)

    def submit(
        self, kind: str, body: JobRequest, idempotency_key: str | None, check: Callable[[], object] = lambda: None
    ) -> Job:
        """Queue ``body``, as it was sent, as a job of ``kind``.

        Parameters
        ----------
        check
            Raises if a new job could not work, for example because its embeddings do not exist.
        """
        request: dict[str, Any] = body.model_dump(mode="json", exclude_unset=True)
        key_id, callback = self.caller.key_id, body.callback_url
        # First: a repeated request gets its job, even if the queue is full by now or its embeddings are deleted.
        job = self.queue.known(kind, request, idempotency_key, key_id, callback)
        if job is None:
            if callback is not None:
                self.callbacks.check(callback)
            check()
            self.check(kind)
            job, _ = self.queue.submit(kind, request, idempotency_key=idempotency_key, caller=key_id, callback=callback)
            self.limits.track(self.caller, job.id)
        return described(self.queue, [job])[0]


async def _submitter(request: Request, queue: QueueDep, caller: CallerDep) -> Submitter:
    state = request.app.state
    return Submitter(queue, state.queue_limits, caller, state.callbacks)


SubmitterDep = Annotated[Submitter, Depends(_submitter)]


def with_links(job: Job) -> Job:
    """``job`` with the paths of its events and its result. Both services list the jobs of both."""
    links = {"self": f"/jobs/{job.id}", "events": f"/jobs/{job.id}/events"}
    result = job.result or {}
    made = next((name for name in RESULTS if name in result), None)
    if made is not None:
        links["result"] = f"{RESULTS[made]}/{result[made]}"
    if made == "clustering":
        links["report"] = f"{links['result']}/report"
    return job.model_copy(update={"links": links})


def described(queue: JobQueue, jobs: Sequence[Job]) -> list[Job]:
    """``jobs`` with links and, for queued ones that no live worker runs, the reason why they wait."""
    alive = queue.workers() if any(job.state is JobState.QUEUED for job in jobs) else {}
    return [
        with_links(
            job.model_copy(update={"waiting_for": waiting_for(job.kind, alive)})
            if job.state is JobState.QUEUED
            else job
        )
        for job in jobs
    ]


def accepted(job: Job, response: Response) -> Job:
    """Answer 202 with the job's path as `Location`."""
    response.status_code = 202
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("/jobs", responses=problem_responses(422, 503))
def list_jobs(
    queue: QueueDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    kind: Annotated[str | None, Query(max_length=100, description="Only jobs of this kind.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of jobs to return.")] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of the previous page.")] = None,
) -> JobPage:
    """List jobs, newest first."""
    page = queue.list(state=state, kind=kind, limit=limit, cursor=cursor)
    return page.model_copy(update={"jobs": described(queue, page.jobs)})


@router.get("/jobs/{job_id}", responses=problem_responses(404, 422, 503))
def get_job(job_id: JobId, queue: QueueDep) -> Job:
    """Return a job."""
    return described(queue, [queue.get(job_id)])[0]


@router.delete("/jobs/{job_id}", status_code=202, responses=problem_responses(404, 409, 422, 503))
def cancel_job(job_id: JobId, queue: QueueDep, store: StoreDep) -> Job:
    """Cancel a job. A queued job ends immediately, a running one within seconds."""
    job = queue.cancel(job_id)
    if job.state.terminal:
        # No worker ends this job, so none removes the files of an earlier attempt.
        with suppress(QueueUnavailable):
            remove_workdirs(store.root, queue, job_id)
    return with_links(job)


@dataclass
class StreamLimits:
    """How many event streams may be open.

    Attributes
    ----------
    most
        In all.
    most_per_client
        Of one API key; where no keys are needed, of one address.
    """

    most: int
    most_per_client: int
    _open: Counter[str] = field(default_factory=Counter)

    def take(self, client: str) -> None:
        """Count one more stream of ``client``.

        Raises
        ------
        TooManyStreams
            One of the limits is reached.
        """
        for count, most, of in (
            (self._open[client], self.most_per_client, "one client"),
            (self._open.total(), self.most, "this service"),
        ):
            if count >= most:
                raise TooManyStreams(
                    f"{count} event streams are open, the limit of {of}. Close one, or poll `GET /jobs/{{id}}`.",
                    retry_after_s=STREAM_RETRY_S,
                )
        self._open[client] += 1

    def release(self, client: str) -> None:
        """Count one stream less."""
        self._open[client] -= 1
        if self._open[client] <= 0:
            del self._open[client]


class CountedStream(EventSourceResponse):
    """An event stream that `StreamLimits` counts until it ends."""

    def __init__(self, events: AsyncIterator[dict[str, str]], limits: StreamLimits, client: str) -> None:
        super().__init__(events, ping=15)
        self._limits, self._client = limits, client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._limits.release(self._client)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problem_responses(404, 422, 429, 503)},
)
async def follow_job(job_id: JobId, queue: QueueDep, caller: CallerDep, request: Request) -> EventSourceResponse:
    """Follow a job as server-sent events. A `job` event is sent on every change; the stream ends with the job."""
    limits = cast(StreamLimits, request.app.state.streams)
    await QUICK.run(queue.get, job_id)
    address = request.client.host if request.client else "unknown"
    client = f"key {caller.key_id}" if caller.key_id else f"address {address}"
    limits.take(client)
    return CountedStream(_events(queue, job_id), limits, client)


async def _events(queue: JobQueue, job_id: str) -> AsyncIterator[dict[str, str]]:
    seen: int | None = None
    while True:
        try:
            version = await FOLLOW.run(queue.version, job_id)
            if version != seen:
                job = await FOLLOW.run(queue.get, job_id)
                [job] = await FOLLOW.run(described, queue, [job])
                seen = version
                yield {"event": "job", "id": str(version), "data": job.model_dump_json()}
                if job.state.terminal:
                    return
        except QueueUnavailable:
            # The stream outlasts an outage of the queue: a client that reconnects would meet the same outage.
            pass
        except ShoalError as error:
            yield {"event": "error", "data": error.detail}
            return
        await asyncio.sleep(POLL_S)
