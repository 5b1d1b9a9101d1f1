"""Jobs over HTTP: submit, list, read, cancel, follow. The same routes in both services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from shoal.errors import QueueUnavailable, ShoalError
from shoal.jobs import leftovers
from shoal.jobs.kinds import waiting_for
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Id, Job, JobPage
from shoal.web.auth import caller
from shoal.web.deps import QueueDep, StoreDep
from shoal.web.limits import check_queue, count_job
from shoal.web.pools import FOLLOW, QUICK
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router
from shoal.web.streams import CountedStream, StreamLimits

POLL_S = 0.25
router = make_router(pool=QUICK, tags=["jobs"])


def with_links(job: Job) -> Job:
    """``job`` with the addresses a client goes to next."""
    links = {"self": f"/jobs/{job.id}", "events": f"/jobs/{job.id}/events"}
    result = job.result or {}
    if "embeddings" in result:
        links["result"] = f"/embeddings/{result['embeddings']}"
    elif "clustering" in result:
        links["result"] = f"/clusterings/{result['clustering']}"
        links["report"] = f"/clusterings/{result['clustering']}/report"
    elif "sweep" in result:
        links["result"] = f"/sweeps/{result['sweep']}"
    return job.model_copy(update={"links": links})


def submit(
    queue: JobQueue,
    kind: str,
    body: BaseModel,
    idempotency_key: str | None,
    check: Callable[[], object] = lambda: None,
) -> Job:
    """Queue ``body`` as a job of ``kind``; the request is kept as it was sent.

    Parameters
    ----------
    check
        Raises what speaks against a new job, such as embeddings that are not there.
    """
    request: dict[str, Any] = body.model_dump(mode="json", exclude_unset=True)
    who = caller.get().key_id
    # First: whoever repeats a request gets the job that it made, however full the queue is by now and whatever has
    # become of what it works on.
    known = queue.known(kind, request, idempotency_key, who)
    if known is not None:
        return with_notes(queue, known)
    check()
    check_queue(queue, kind)
    job, _ = queue.submit(kind, request, idempotency_key=idempotency_key, caller=who)
    count_job(job.id)
    return with_notes(queue, job)


def with_notes(queue: JobQueue, job: Job) -> Job:
    """``job``, with the reason why no worker will take it where it waits for one."""
    return all_with_notes(queue, [job])[0]


def all_with_notes(queue: JobQueue, jobs: Sequence[Job]) -> list[Job]:
    """``jobs``, each as `with_notes` gives it."""
    alive = queue.workers() if any(job.state is JobState.QUEUED for job in jobs) else {}
    return [
        job.model_copy(update={"waiting_for": waiting_for(job.kind, alive)}) if job.state is JobState.QUEUED else job
        for job in jobs
    ]


def accepted(job: Job, response: Response) -> Job:
    """Answer 202 with the job's address."""
    response.status_code = 202
    response.headers["Location"] = f"/jobs/{job.id}"
    return with_links(job)


@router.get("/jobs", responses=problem_responses(422, 503))
def list_jobs(
    queue: QueueDep,
    state: JobState | None = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> JobPage:
    """Jobs, newest first."""
    page = queue.list(state=state, kind=kind, limit=limit, cursor=cursor)
    return page.model_copy(update={"jobs": [with_links(job) for job in all_with_notes(queue, page.jobs)]})


@router.get("/jobs/{job_id}", responses=problem_responses(404, 422, 503))
def get_job(job_id: Id, queue: QueueDep) -> Job:
    """One job."""
    return with_links(with_notes(queue, queue.get(job_id)))


@router.delete("/jobs/{job_id}", status_code=202, responses=problem_responses(404, 409, 422, 503))
def cancel_job(job_id: Id, queue: QueueDep, store: StoreDep) -> Job:
    """Cancel a job: a queued one ends at once, a running one within seconds."""
    job = queue.cancel(job_id)
    if job.state.terminal:
        # No worker ends it, so none removes what an earlier attempt kept.
        with suppress(QueueUnavailable):
            leftovers.remove_of(store.root, job_id, queue)
    return with_links(job)


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problem_responses(404, 422, 429, 503)},
)
async def follow_job(job_id: Id, queue: QueueDep, request: Request) -> EventSourceResponse:
    """Server-sent events: a `job` event at every change, the last one when the job has ended."""
    limits: StreamLimits = request.app.state.streams
    await QUICK.run(queue.get, job_id)
    return CountedStream(_events(queue, job_id), limits=limits, who=limits.take(request), ping=15)


async def _events(queue: JobQueue, job_id: str) -> AsyncIterator[dict[str, str]]:
    seen: int | None = None
    while True:
        try:
            version = await FOLLOW.run(queue.version, job_id)
            if version != seen:
                job = await FOLLOW.run(queue.get, job_id)
                job = with_links(await FOLLOW.run(with_notes, queue, job))
                seen = version
                yield {"event": "job", "id": str(version), "data": job.model_dump_json()}
                if job.state.terminal:
                    return
        except QueueUnavailable:
            # An outage of the queue ends no stream: the client would only reconnect into the same outage.
            pass
        except ShoalError as error:
            yield {"event": "error", "data": error.detail}
            return
        await asyncio.sleep(POLL_S)
