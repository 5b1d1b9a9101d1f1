"""The child's side of a job: read it from standard input, run it, send events to the worker."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import json
import os
import secrets
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import structlog

from shoal import logs
from shoal.errors import JsonValue, OutOfMemory, ShoalError, StoreFull
from shoal.jobs.asking import Asking
from shoal.jobs.claims import Taken
from shoal.jobs.protocol import (
    ANSWERS_FD,
    EVENTS_FD,
    GO_FD,
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
from shoal.jobs.rates import RateMeter
from shoal.process import die_with_parent
from shoal.schemas import Progress

PROGRESS_INTERVAL_S = 0.2
MAX_CHECKPOINT_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class Cancelled(BaseException):
    """The job was cancelled. Not an ``Exception``, so that no handler swallows it on the way up."""


class JobContext:
    """The job as its handler sees it: the request, and methods that report progress and keep state.

    Parameters
    ----------
    job
        The job.
    emit
        Receives each event.
    clock
        Seconds on a monotonic clock.
    answers
        File descriptor of what the worker says; None without a worker.

    Attributes
    ----------
    id, kind : str
    attempt : int
        Counts from 1.
    owner : str
        Unique to this attempt; safe in file names.
    request : dict
        The body that was sent.
    checkpoint : dict or None
        The last one that ``save_checkpoint`` was called with, in this or an earlier attempt.
    helper : bool
        Whether another worker has the job: this one takes some of its units, and does not end it.
    """

    def __init__(
        self,
        job: ChildJob,
        emit: Callable[[Event], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        answers: int | None = None,
    ) -> None:
        self.id = job.id
        self.kind = job.kind
        self.attempt = job.attempt
        self.owner = job.owner
        self.request = job.request
        self.checkpoint = job.checkpoint
        self.helper = job.helper
        self._emit = emit
        self._asking = Asking(emit, answers)
        self._clock = clock
        self._stop_requested = False
        self._stage: tuple[str, str] | None = None
        self._done = 0
        self._meter = RateMeter(0, 0.0)
        self._emitted_at = 0.0
        self._completed = False
        self._mark = 0
        self._counts: Counter[str] = Counter()

    @classmethod
    def local(
        cls,
        request: dict[str, JsonValue],
        *,
        kind: str = "local",
        on_progress: Callable[[Progress], None] | None = None,
        checkpoint: dict[str, JsonValue] | None = None,
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
        """Raise ``Cancelled`` if ``stop`` was called."""
        if self._stop_requested:
            raise Cancelled

    def take(self, missing: Sequence[int], most: int | None = None) -> Taken:
        """Ask which of the units ``missing``, ascending, this worker begins; see `shoal.jobs.sharing`.

        From the first call on, up to ``most`` - 1 other workers may take units of the job.

        Raises
        ------
        Cancelled
            ``stop`` was called.
        """
        return self._asking.take(missing, most, self.raise_if_cancelled)

    def others(self) -> Mapping[int, int]:
        """How much is done of each unit that other workers are at."""
        self._asking.listen()
        return self._asking.others

    def progress(
        self,
        stage: str,
        done: int = 0,
        total: int | None = None,
        unit: str = "items",
        detail: dict[str, JsonValue] | None = None,
    ) -> None:
        """Report progress. Call it often: only a few reports a second are sent.

        The first and the last report of a stage are always sent. A job that calls it less often than once per
        ``SHOAL_CHILD_SILENCE_S`` counts as hung and is killed.

        Raises
        ------
        Cancelled
            ``stop`` was called.
        """
        self.raise_if_cancelled()
        now = self._clock()
        fresh = (stage, unit) != self._stage or done < self._done
        if fresh:
            self._stage, self._meter, self._completed = (stage, unit), RateMeter(done, now), False
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
        """Add to the worker's counters, by outcome; sent with the next report of progress."""
        self._counts.update(outcomes)

    def send_counts(self) -> None:
        """Send what was counted since the last time."""
        if self._counts:
            self._emit(Counted(dict(self._counts)))
            self._counts.clear()

    def advance(self, mark: int) -> None:
        """Report how much of the job is kept for good: committed shards, kept iterations, finished points.

        An attempt that gets further than all before it does not count towards the job's attempts, so that a job of
        days survives more crashes than a job that crashes at the same place each time.

        Parameters
        ----------
        mark
            Grows with what is kept, through all attempts at the job.
        """
        if mark > self._mark:
            self._mark = mark
            self._emit(Advanced(mark))

    def save_checkpoint(self, data: dict[str, JsonValue]) -> None:
        """Keep a small JSON document for the next attempt, should this one die.

        Raises
        ------
        ValueError
            It is larger than 64 KiB or holds NaN: large state belongs in the store.
        """
        size = len(json.dumps(data, allow_nan=False))
        if size > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"a checkpoint of {size} bytes: at most {MAX_CHECKPOINT_BYTES}")
        self.checkpoint = data
        self._emit(Checkpointed(data))


Handler = Callable[[JobContext], dict[str, JsonValue]]


def run_child(handler: Handler, ahead: Callable[[], object] = lambda: None) -> int:
    """Wait for the job, run it and send its events to the worker that started this process.

    Parameters
    ----------
    handler
        Does the job and returns its result (JSON). A ``ShoalError`` that it raises becomes the job's error; an
        exception of another kind becomes ``internal_error`` with its type and message, and its traceback is logged.
    ahead
        Called before the job has come, to import what jobs need; not called when the job is there already. An
        exception of it becomes the job's error if the job has come meanwhile, and else ends this process.

    Returns
    -------
    int
        Exit status: 0 when the outcome is a result or an obeyed stop, or when no job came; 1 when it is an error.
    """
    if EVENTS_FD not in os.environ or PARENT_PID not in os.environ:
        sys.stderr.write(f"{EVENTS_FD} is not set: only a worker can start this command.\n")
        return 2
    die_with_parent(int(os.environ[PARENT_PID]))
    send = _sender(int(os.environ[EVENTS_FD]))
    answers = int(os.environ[ANSWERS_FD])
    os.set_inheritable(answers, False)
    if not structlog.is_configured():
        logs.configure("child")
    failed: Exception | None = None
    if GO_FD in os.environ:
        came, failed = _await_job(int(os.environ[GO_FD]), ahead)
        if not came:
            return 0 if failed is None else 1
    job = ChildJob.decode(sys.stdin.buffer.read())
    structlog.contextvars.bind_contextvars(job=job.id, attempt=job.attempt)
    context = JobContext(job, send, answers=answers)
    signal.signal(signal.SIGTERM, lambda *_: context.stop())
    outcome = _run(handler if failed is None else _raising(failed), context)
    send(outcome)
    return 1 if isinstance(outcome, Failed) else 0


def leave(status: int) -> NoReturn:
    """End this process after `run_child`, without taking its libraries apart: PyTorch's alone take a second of that."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _await_job(go: int, ahead: Callable[[], object]) -> tuple[bool, Exception | None]:
    """Whether the job has come, and what ``ahead`` raised. A SIGTERM ends the process: there is no job to stop yet."""
    # Helper processes must not inherit it: they would read the byte, or keep its end from being seen.
    os.set_inheritable(go, False)
    failed = None
    if not select.select([go], [], [], 0)[0]:
        try:
            ahead()
        except Exception as error:
            log.exception("the imports ahead of a job failed")
            failed = error
            if not select.select([go], [], [], 0)[0]:
                return False, failed
        # What was imported stays: the job's collections need not look at it again.
        gc.collect()
        gc.freeze()
    came = os.read(go, 1) != b""
    os.close(go)
    return came, failed


def _raising(error: Exception) -> Handler:
    def handle(_: JobContext) -> dict[str, JsonValue]:
        raise error

    return handle


def _run(handler: Handler, context: JobContext) -> Succeeded | Failed | Stopped:
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
    """``error`` as the job's owner sees it: never a traceback."""
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(
            "The job ran out of memory. Send an extraction with a smaller `batch_size`, a clustering with a smaller "
            "`memory_limit`, or run fewer workers on this machine."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            "The disk is full. Free space on it. A job that has failed goes on when it is submitted again.",
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
