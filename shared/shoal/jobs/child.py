"""The child's side of a job: read it from standard input, run it, report what happens."""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog

from shoal import logs
from shoal.errors import OutOfMemory, ShoalError, StoreFull
from shoal.jobs.meter import Meter
from shoal.jobs.protocol import (
    EVENTS_FD,
    PARENT_PID,
    Advanced,
    Checkpointed,
    ChildJob,
    Counted,
    Event,
    Failed,
    Progressed,
    Stopped,
    Succeeded,
    encode,
)
from shoal.process import die_with_parent
from shoal.schemas import Progress

PROGRESS_INTERVAL_S = 0.2
MAX_CHECKPOINT_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Cancelled(BaseException):
    """The job was told to stop. Not an ``Exception``, so that no handler swallows it on the way up."""


class JobContext:
    """What a job knows about itself, and how it says how far it is.

    Parameters
    ----------
    job
        The job.
    emit
        Takes each event.
    clock
        Seconds on a monotonic clock.

    Attributes
    ----------
    id, kind : str
    attempt : int
        Counts from 1.
    owner : str
        Unlike that of any other attempt; safe in file names.
    request : dict
        What to do.
    checkpoint : dict or None
        What ``save_checkpoint`` kept last, in this or an earlier attempt.
    """

    def __init__(
        self, job: ChildJob, emit: Callable[[Event], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id = job.id
        self.kind = job.kind
        self.attempt = job.attempt
        self.owner = job.owner
        self.request = job.request
        self.checkpoint = job.checkpoint
        self._emit = emit
        self._clock = clock
        self._stop_requested = False
        self._stage: tuple[str, str] | None = None
        self._done = 0
        self._meter = Meter(0, 0.0)
        self._emitted_at = 0.0
        self._completed = False
        self._mark = 0
        self._counts: Counter[str] = Counter()

    @classmethod
    def local(
        cls,
        request: dict[str, Any],
        *,
        kind: str = "local",
        on_progress: Callable[[Progress], None] | None = None,
        checkpoint: dict[str, Any] | None = None,
        attempt: int = 1,
    ) -> JobContext:
        """A job without a queue, for tests and for those who call a pipeline as a library."""

        def emit(event: Event) -> None:
            if on_progress is not None and isinstance(event, Progressed):
                on_progress(event.progress)

        token = secrets.token_hex(6)
        return cls(ChildJob(f"local-{token}", kind, attempt, f"local.{token}", request, checkpoint), emit)

    def stop(self) -> None:
        """Make the next ``progress`` or ``raise_if_cancelled`` raise ``Cancelled``. Safe in a signal handler."""
        self._stop_requested = True

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if the job was told to stop."""
        if self._stop_requested:
            raise Cancelled

    def progress(
        self,
        stage: str,
        done: int = 0,
        total: int | None = None,
        unit: str = "items",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Say how far the job is: as often as one likes, since only a few reports a second are passed on.

        A new stage and the end of one are always passed on. It is also the sign of life: a job that calls it less
        often than once per ``SHOAL_CHILD_SILENCE_S`` is taken for hung.

        Raises
        ------
        Cancelled
            The job was told to stop.
        """
        self.raise_if_cancelled()
        now = self._clock()
        fresh = (stage, unit) != self._stage or done < self._done
        if fresh:
            self._stage, self._meter, self._completed = (stage, unit), Meter(done, now), False
        self._done = done
        completes = total is not None and done >= total and not self._completed
        if not (fresh or completes or now - self._emitted_at >= PROGRESS_INTERVAL_S):
            return
        self._meter.update(done, now)
        self._completed = self._completed or completes
        self._emitted_at = now
        self.send_counts()
        rate, eta_s = self._meter.rate, self._meter.eta_s(done, total)
        now_at = Progress(stage=stage, done=done, total=total, unit=unit, rate=rate, eta_s=eta_s, detail=detail)
        self._emit(Progressed(now_at))

    def count(self, **outcomes: int) -> None:
        """Add what was done, by outcome, to the worker's counters; passed on with the next report of progress."""
        self._counts.update(outcomes)

    def send_counts(self) -> None:
        """Pass on what was counted since the last time."""
        if self._counts:
            self._emit(Counted(dict(self._counts)))
            self._counts.clear()

    def advance(self, mark: int) -> None:
        """Say how much of the job is kept for good: committed shards, kept iterations, finished points.

        An attempt that gets further than all before it does not count towards the number of attempts that a job has,
        so that a job of days outlives more crashes than a job that crashes at the same place each time.

        Parameters
        ----------
        mark
            Grows with what is kept, through all attempts at the job.
        """
        if mark > self._mark:
            self._mark = mark
            self._emit(Advanced(mark))

    def save_checkpoint(self, data: dict[str, Any]) -> None:
        """Keep a small JSON document for the next attempt, should this one die.

        Raises
        ------
        ValueError
            It is larger than 64 KiB or holds NaN: large state belongs into the store.
        """
        size = len(json.dumps(data, allow_nan=False))
        if size > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint of {size} bytes: at most {MAX_CHECKPOINT_BYTES}")
        self.checkpoint = data
        self._emit(Checkpointed(data))


def run_child(handler: Callable[[JobContext], dict[str, Any]]) -> int:
    """Run the one job on standard input and report to the worker that started this process.

    Parameters
    ----------
    handler
        Does the job and returns its result (JSON). A ``ShoalError`` that it raises becomes the job's error; an
        exception of another kind becomes ``internal_error`` with its type and message, and its traceback is logged.

    Returns
    -------
    int
        Exit status: 0 when the outcome is a result or an obeyed stop, 1 when it is an error.
    """
    if EVENTS_FD not in os.environ or PARENT_PID not in os.environ:
        sys.stderr.write(f"{EVENTS_FD} is not set: only a worker can start this command.\n")
        return 2
    die_with_parent(int(os.environ[PARENT_PID]))
    send = _sender(int(os.environ[EVENTS_FD]))
    if not structlog.is_configured():
        logs.configure("child")
    job = ChildJob.decode(sys.stdin.buffer.read())
    structlog.contextvars.bind_contextvars(job=job.id, attempt=job.attempt)
    context = JobContext(job, send)
    signal.signal(signal.SIGTERM, lambda *_: context.stop())
    outcome = _run(handler, context)
    send(outcome)
    return 1 if isinstance(outcome, Failed) else 0


def _run(handler: Callable[[JobContext], dict[str, Any]], context: JobContext) -> Succeeded | Failed | Stopped:
    try:
        try:
            outcome = Succeeded(handler(context))
        finally:
            context.send_counts()
        encode(outcome)
    except Cancelled:
        log.info("job stopped on request")
        return Stopped()
    except Exception as error:
        log.exception("job failed")
        reported = as_shoal_error(error)
        return Failed(reported.problem(), reported.retryable)
    return outcome


def as_shoal_error(error: Exception) -> ShoalError:
    """What the job's owner is told about ``error``: never a traceback."""
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(
            "The job ran out of memory. Send an extraction with a smaller `batch_size`, a clustering with a smaller "
            "`memory_limit`, or run fewer workers on this machine."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            "The disk is full. Free some space and send the job again: what was committed is kept.",
            path=str(error.filename) if error.filename else None,
        )
    message = " ".join(str(error).split())[:500]
    return ShoalError(
        f"An unexpected error, {type(error).__name__}: {message}. The worker's log has the details.",
        exception=type(error).__name__,
    )


def _sender(fd: int) -> Callable[[Event], None]:
    # Helper processes must not inherit it: the worker sees the child's end by the end of the pipe.
    os.set_inheritable(fd, False)
    lock = threading.Lock()

    def send(event: Event) -> None:
        data = memoryview(encode(event))
        with lock:
            while data:
                data = data[os.write(fd, data) :]

    return send
