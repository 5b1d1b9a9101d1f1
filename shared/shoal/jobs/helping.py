"""A worker that has no job of its own helps with another worker's: when it may, and when it stops."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from shoal.jobs.attempt import Attempt, CallQueue
from shoal.jobs.claims import Claim
from shoal.jobs.queue import JobQueue

LOOK_PERIOD_S = 0.5
"""How often an idle worker looks for a job to help with, and a helper for one that waits."""
BACKOFF_S = 5.0
BACKOFF_CAP_S = 300.0
"""Longest time for which a worker keeps away from a job that it failed to help with; doubles from `BACKOFF_S`."""

log = structlog.get_logger(__name__)


class Helping:
    """What one worker does for jobs of others.

    Parameters
    ----------
    queue, kinds, name
        Of the worker.
    call_queue
        Calls a method of the queue.
    """

    def __init__(self, queue: JobQueue, kinds: Sequence[str], name: str, call_queue: CallQueue) -> None:
        self._queue = queue
        self._kinds = tuple(kinds)
        self._name = name
        self._call_queue = call_queue
        self._looked_at = 0.0
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._waiting: Claim | None = None

    def look(self) -> Claim | None:
        """A place at a job of another worker, for a worker that found none for itself."""
        if not self._is_due():
            return None
        now = time.monotonic()
        avoid = [job_id for job_id, at in self._not_before.items() if at > now]
        return self._call_queue(self._queue.sharing.assist, self._kinds, self._name, avoid)

    def yield_to_waiting(self, attempt: Attempt) -> None:
        """Claim a job that waits, and then stop helping: jobs that nobody works on go first."""
        if self._waiting is not None or attempt.ending is not None or not self._is_due():
            return
        self._waiting = self._call_queue(self._queue.claim, self._kinds, self._name)
        if self._waiting is not None:
            log.info("a job waits: no more help", waiting=self._waiting.job.id)
            attempt.end_help()

    def take_waiting(self) -> Claim | None:
        """The job for which this worker stopped helping."""
        claim, self._waiting = self._waiting, None
        return claim

    def ended(self, claim: Claim, how: str) -> None:
        """Keep away for a while from a job that this worker failed to help with, ever longer."""
        job_id = claim.job.id
        if how != "fail":
            self._failures.pop(job_id, None)
            return
        failures = self._failures[job_id] = self._failures.get(job_id, 0) + 1
        pause_s = min(BACKOFF_S * 2.0 ** min(failures - 1, 30), BACKOFF_CAP_S)
        self._not_before[job_id] = time.monotonic() + pause_s
        log.warning("no help for a while", job=job_id, pause_s=pause_s)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < LOOK_PERIOD_S:
            return False
        self._looked_at = now
        return True
