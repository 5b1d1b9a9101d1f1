"""The job queue on Redis 7 or Valkey.

Every transition is one atomic script on the server's own clock. A worker that claims a job holds a lease, and is
fenced by the attempt's number and a random owner token: once another worker has the job, nothing that the first one
sends changes it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from shoal.errors import (
    IdempotencyConflict,
    InvalidRequest,
    JobFinished,
    JobNotFound,
    JsonValue,
    WorkerDied,
)
from shoal.jobs.bell import Bell
from shoal.jobs.claims import Claim, Renewal, Taken
from shoal.jobs.overview import REAP_LIMIT, QueueOverview
from shoal.jobs.redis_scripts import (
    Client,
    Scripts,
    connect,
    decode_cursor,
    encode_cursor,
    fields_of,
    from_json,
    key_digest,
    micros,
    request_digest,
    to_job,
    to_json,
)
from shoal.jobs.sharing import Sharing, others_of
from shoal.jobs.states import JobState
from shoal.schemas import Job, JobPage, Progress

RETENTION_S = 30 * 24 * 3600.0
"""How long an ended job is kept."""
BACKOFF_CAP_S = 300.0
MAX_PAGE = 500

_KIND = re.compile(r"[a-z][a-z0-9_:.-]{0,63}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")


class JobQueue(QueueOverview):
    """Jobs, waiting, running and ended.

    Parameters
    ----------
    client
        A synchronous redis-py client.
    lease_s
        Seconds after which a worker that stopped renewing loses its job.
    prefix
        Start of every key.
    retention_s
        Seconds for which an ended job can be asked for.
    backoff_s
        Seconds before the second attempt after a failure that may pass; doubles with each attempt up to 5 minutes.
    clock_offset_s
        Moves the server's clock, so that tests need not wait.
    store
        Id and place of the store that the jobs are of. A queue belongs to one store at a time: whoever works on
        another one gets `OtherStore` from ``submit``, ``claim`` and ``beat``. None takes part in no such check.

    Raises
    ------
    QueueUnavailable
        From every method: the server is away.
    """

    def __init__(
        self,
        client: Client,
        *,
        lease_s: float = 30.0,
        prefix: str = "shoal",
        retention_s: float = RETENTION_S,
        backoff_s: float = 5.0,
        clock_offset_s: float = 0.0,
        store: str | None = None,
    ) -> None:
        self.lease_s = lease_s
        self._backoff_s = backoff_s
        times = micros(clock_offset_s), micros(lease_s), micros(retention_s)
        super().__init__(client, Scripts(client, prefix, times), store)
        self.sharing = Sharing(self._scripts, lease_s)

    @classmethod
    def from_url(cls, url: str, *, lease_s: float = 30.0, store: str | None = None) -> JobQueue:
        """A queue on ``redis://``, ``rediss://`` or ``unix://``; connects at the first call."""
        return cls(connect(url), lease_s=lease_s, store=store)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ---- for clients

    def submit(
        self,
        kind: str,
        request: dict[str, JsonValue],
        *,
        idempotency_key: str | None = None,
        caller: str | None = None,
        max_attempts: int = 3,
        callback: str | None = None,
    ) -> tuple[Job, bool]:
        """Put a job into the queue of its kind.

        Parameters
        ----------
        kind
            Which workers can run it, such as ``extract:torch``.
        request
            What to do: JSON.
        idempotency_key
            The same key with the same kind and request gives the same job back, for as long as that job is kept.
        caller
            Whose key it is: the same key of two callers is two keys. None where callers need no API key.
        max_attempts
            How many attempts in a row may fail without getting further than those before them.
        callback
            URL that hears of the job's end.

        Returns
        -------
        Job
        bool
            Whether it is new.

        Raises
        ------
        IdempotencyConflict
            The key came before with another kind or request.
        """
        if not _KIND.fullmatch(kind):
            raise ValueError(f"{kind!r} is not a kind of job: use lower case letters, digits and _ : . -")
        if max_attempts < 1:
            raise ValueError(f"max_attempts is {max_attempts}; it must be at least 1")
        digests = key_digest(idempotency_key, caller), request_digest(kind, request, callback)
        answer, reply = self._scripts.run(
            "submit", secrets.token_hex(8), kind, to_json(request), max_attempts, *digests, self._store, callback or ""
        )
        if answer == "conflict":
            raise _conflict(reply)
        if answer == "foreign":
            raise self._other_store(reply)
        return to_job(reply), answer == "created"

    def known(
        self,
        kind: str,
        request: dict[str, JsonValue],
        idempotency_key: str | None,
        caller: str | None = None,
        callback: str | None = None,
    ) -> Job | None:
        """The job that ``submit`` would give back for this key; None when it would make a new one.

        Raises
        ------
        IdempotencyConflict
            The key came before with another kind or request.
        """
        if idempotency_key is None:
            return None
        digest = request_digest(kind, request, callback)
        answer, *reply = self._scripts.run("known", key_digest(idempotency_key, caller), digest)
        if answer == "conflict":
            raise _conflict(reply[0])
        return to_job(reply[0]) if answer == "existing" else None

    def get(self, job_id: str) -> Job:
        """The job.

        Raises
        ------
        JobNotFound
            There is no such job, or it ended longer ago than the retention.
        """
        answer, *reply = self._scripts.run("get", job_id)
        if answer == "missing":
            raise _no_job(job_id)
        return to_job(reply[0])

    def list(
        self,
        *,
        state: JobState | str | None = None,
        kind: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """A page of jobs, newest first.

        Jobs that are submitted meanwhile never shift the pages: a cursor is a place in the order of submission.

        Raises
        ------
        InvalidRequest
            ``cursor`` did not come from this method, or ``state`` or ``limit`` is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest(f"`limit` is {limit}; it must be between 1 and {MAX_PAGE}.", field="limit")
        try:
            state_name = JobState(state).value if state is not None else "*"
        except ValueError:
            raise InvalidRequest(
                f"`state` is {state!r}; it must be one of {', '.join(JobState)}.", field="state"
            ) from None
        start = f"({decode_cursor(cursor)}" if cursor is not None else "+inf"
        last, *jobs = self._scripts.run("list", state_name, kind if kind is not None else "*", limit, start)
        return JobPage(jobs=[to_job(job) for job in jobs], next_cursor=encode_cursor(last) if last else None)

    def unfinished(self) -> Sequence[Job]:
        """Every queued or running job, all as of one moment: a job that changes its state meanwhile is never missed."""
        return [to_job(job) for job in self._scripts.run("unfinished")]

    def cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once; tell the worker of a running one to stop it.

        Raises
        ------
        JobNotFound
            There is no such job.
        JobFinished
            It has ended already.
        """
        answer, *reply = self._scripts.run("cancel", job_id)
        if answer == "missing":
            raise _no_job(job_id)
        job = to_job(reply[0])
        if answer == "ended":
            raise JobFinished(
                f"Job {job_id} has already ended ({job.state.value}) and cannot be cancelled.", job=job_id
            )
        return job

    def version(self, job_id: str) -> int:
        """A number that grows with every change of the job, for polling.

        Raises
        ------
        JobNotFound
            There is no such job.
        """
        reply = self._scripts.run("version", job_id)
        if reply is None:
            raise _no_job(job_id)
        return int(reply)

    # ---- for workers

    def claim(self, kinds: Sequence[str], owner: str) -> Claim | None:
        """Take a job of the first of ``kinds`` that has one ready, the longest waiting; None when there is none.

        ``owner`` names the worker; the claim's own ``owner`` carries a random token behind it.
        """
        if not _OWNER.fullmatch(owner):
            raise ValueError(f"{owner!r} is not a worker name: use letters, digits and _ . -")
        answer, *reply = self._scripts.run("claim", f"{owner}.{secrets.token_hex(6)}", self._store, *kinds)
        if answer == "none":
            return None
        if answer == "foreign":
            raise self._other_store(reply[0])
        fields = fields_of(reply[0])
        return Claim(
            job=to_job(reply[0]),
            owner=fields["owner"],
            attempt=int(fields["attempt"]),
            max_attempts=int(fields.get("credited", 0)) + int(fields["max_attempts"]),
            failed_in_a_row=int(fields["attempt"]) - int(fields.get("credited", 0)) - 1,
            checkpoint=from_json(fields.get("checkpoint")),
        )

    def bell(self, kinds: Sequence[str]) -> Bell:
        """What wakes a worker that waits for a job of ``kinds``."""
        return self._scripts.bell(kinds)

    def renew(self, claim: Claim, progress: Progress | None = None) -> Renewal:
        """Hold the lease for another ``lease_s`` and report progress.

        A lease that has run out is renewed too, as long as no other worker has taken the job.
        """
        text = to_json(progress.model_dump()) if progress is not None else ""
        answer, *flags = self._scripts.run("renew", *_fence(claim), text)
        return Renewal(held=answer == "held", cancel_requested=flags[:1] == ["1"], others=others_of(flags[1:]))

    def take(self, claim: Claim, missing: Sequence[int], most: int | None = None) -> Taken | None:
        """See `Sharing.take`."""
        return self.sharing.take(claim, missing, most)

    def save_checkpoint(self, claim: Claim, checkpoint: dict[str, JsonValue]) -> bool:
        """Keep a small JSON document for the next attempt; False when the lease is lost."""
        return bool(self._scripts.run("checkpoint", *_fence(claim), to_json(checkpoint)) == ["held"])

    def advance(self, claim: Claim, mark: int) -> bool:
        """Record how much of the job is kept for good; False when the lease is lost.

        An attempt whose ``mark`` is higher than that of all before it does not count towards ``max_attempts``, nor do
        those before it.
        """
        return bool(self._scripts.run("advance", *_fence(claim), mark) == ["held"])

    def succeed(self, claim: Claim, result: dict[str, JsonValue]) -> bool:
        """End the job with its result; False when the lease is lost, and then nothing has changed."""
        return bool(self._scripts.run("finish", *_fence(claim), "succeeded", to_json(result)) == ["held"])

    def cancelled(self, claim: Claim) -> bool:
        """End the job as cancelled; False when the lease is lost."""
        return bool(self._scripts.run("finish", *_fence(claim), "cancelled", "") == ["held"])

    def fail(self, claim: Claim, problem: dict[str, JsonValue], *, retry: bool) -> bool:
        """End the job with an error, or queue it again after a back-off; False when the lease is lost.

        Parameters
        ----------
        problem
            An RFC 9457 problem.
        retry
            Another attempt may succeed: retry until ``max_attempts`` attempts in a row made no progress.
        """
        delay = min(self._backoff_s * 2.0 ** min(claim.failed_in_a_row, 30), BACKOFF_CAP_S)
        reply = self._scripts.run("fail", *_fence(claim), to_json(problem), "1" if retry else "", micros(delay))
        return bool(reply == ["held"])

    def hand_back(self, claim: Claim) -> bool:
        """Queue the job again, first in line and without counting the attempt; False when the lease is lost."""
        return bool(self._scripts.run("hand_back", *_fence(claim)) == ["held"])

    def reap(self) -> Sequence[str]:
        """Queue the jobs of dead workers again, and delete jobs whose retention is over.

        A job whose lease has ended is queued again, or fails (``worker_died``) after its last attempt. If the server
        was unreachable meanwhile, all leases start again instead: their workers are most likely alive. Every worker
        calls it several times per lease.

        Returns
        -------
        list of str
            Ids of the jobs of dead workers.
        """
        problem = WorkerDied(
            "The worker of the job's last attempt stopped renewing its lease: the worker or its machine died. "
            "Look for a crash or a lack of memory in the worker's log before you send the job again."
        )
        _, *ids = self._scripts.run("reap", REAP_LIMIT, to_json(problem.problem()))
        return [str(job_id) for job_id in ids]

    def take_back(self) -> Sequence[str]:
        """Queue every running job again without waiting for the end of its lease; the attempt does not count.

        Only for a caller that knows that no worker lives, such as one that has just started a server of its own.
        """
        return [str(job_id) for job_id in self._scripts.run("take_back")]


def _conflict(job_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"This Idempotency-Key belongs to job {job_id}, which was submitted with a different body. "
        "Send the same body, or use another key.",
        job=job_id,
    )


def _fence(claim: Claim) -> tuple[str, str, int]:
    return claim.job.id, claim.owner, claim.attempt


def _no_job(job_id: str) -> JobNotFound:
    return JobNotFound(f"Job {job_id!r} does not exist. Ended jobs are kept for 30 days; `GET /jobs` lists them.")
