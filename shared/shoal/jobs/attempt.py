"""One attempt at a job: its child process, and the watch over it until the queue knows how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import structlog

from shoal.errors import ChildSilent, JsonValue, WorkerDied
from shoal.jobs.protocol import (
    EVENTS_FD,
    PARENT_PID,
    Advanced,
    Checkpointed,
    ChildJob,
    Event,
    Failed,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
    decode,
)
from shoal.jobs.queue import Claim, JobQueue
from shoal.process import exit_text, kill_group
from shoal.schemas import Progress
from shoal.settings import Settings

PROGRESS_PERIOD_S = 0.5
RENEW_PERIOD_S = 1.0
"""Renewing also tells a worker that its job was cancelled: often enough for a DELETE to work in seconds."""
STDERR_FD = 2
MAX_LINE_BYTES = 64 << 20
_READ_BYTES = 1 << 16

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class CallQueue(Protocol):
    """Calls a method of the queue."""

    def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return its answer, or None if the queue is unreachable."""


class Ending(Enum):
    """Why the worker ends its child."""

    CANCEL = "the job was cancelled"
    DRAIN = "the worker is stopping"
    SILENT = "the child sent no event for too long"
    FENCED = "another worker holds the job"


class Attempt:
    """Watches one child.

    Parameters
    ----------
    queue, claim, child
        The job's queue, the right to run the job, and the process that runs it.
    settings
        Periods and time limits.
    call_queue
        Calls a method of the queue.
    """

    def __init__(
        self, queue: JobQueue, claim: Claim, child: ChildProcess, settings: Settings, call_queue: CallQueue
    ) -> None:
        now = time.monotonic()
        self._queue = queue
        self._claim = claim
        self._child = child
        self._settings = settings
        self._call_queue = call_queue
        self._period_s = min(RENEW_PERIOD_S, settings.beat_s, queue.lease_s / 4)
        self._ending: Ending | None = None
        self._kill_at: float | None = None
        self._last_event_at = now
        self._renewed_at = now
        self._progress: Progress | None = None
        self._checkpoint: dict[str, JsonValue] | None = None
        self._mark: int | None = None
        self._outcome: Outcome | None = None

    def receive(self, events: Sequence[Event]) -> None:
        """Keep what the child sent."""
        for event in events:
            self._last_event_at = time.monotonic()
            match event:
                case Progressed(progress):
                    self._progress = progress
                case Checkpointed(data):
                    self._checkpoint = data
                case Advanced(mark):
                    self._mark = mark
                case Succeeded() | Failed() | Stopped():
                    self._outcome = event

    def step(self, stops: int) -> None:
        """Do what is due: renew the lease, send progress, stop or kill the child.

        Parameters
        ----------
        stops
            Stop signals that the worker received: one drains, two kill at once.
        """
        now = time.monotonic()
        due = PROGRESS_PERIOD_S if self._progress is not None else RENEW_PERIOD_S
        if now - self._renewed_at >= min(due, self._period_s):
            self._renew()
        if stops and self._ending is None:
            self._end(Ending.DRAIN, grace_s=self._settings.drain_s)
        if now - self._last_event_at > self._settings.child_silence_s and self._ending is None:
            self._end(Ending.SILENT)
        if stops > 1 or (self._kill_at is not None and time.monotonic() >= self._kill_at):
            self._child.kill()

    def conclude(self, status: int, stops: int) -> tuple[str, Callable[[], bool]] | None:
        """How the attempt ended, and the call that tells the queue; None when another worker holds the job.

        Parameters
        ----------
        status
            Exit status of the child; minus the signal's number when a signal ended it.
        """
        queue, claim = self._queue, self._claim
        stopped = isinstance(self._outcome, Stopped) or status == -signal.SIGTERM
        if self._ending is None and stopped and stops:
            self._ending = Ending.DRAIN
        match self._ending, self._outcome:
            case Ending.FENCED, _:
                return None
            case _, Succeeded(result):
                return "succeed", partial(queue.succeed, claim, result)
            case Ending.CANCEL, _:
                return "cancelled", partial(queue.cancelled, claim)
            case Ending.DRAIN, _:
                return "hand_back", partial(queue.hand_back, claim)
            case Ending.SILENT, _:
                problem, retry = self._silent().problem(), True
            case _, Failed(problem, retry):
                pass
            case _:
                problem, retry = self._died(status).problem(), True
        return "fail", partial(queue.fail, claim, problem, retry=retry)

    def flush(self) -> None:
        """Send the queue what the child sent since the last time.

        Raises
        ------
        QueueUnavailable
            The queue is unreachable.
        """
        if self._checkpoint is not None:
            self._queue.save_checkpoint(self._claim, self._checkpoint)
            self._checkpoint = None
        if self._mark is not None:
            self._queue.advance(self._claim, self._mark)
            self._mark = None
        if self._progress is not None:
            self._queue.renew(self._claim, self._progress)
            self._progress = None

    def _renew(self) -> None:
        self._call_queue(self.flush)
        renewal = self._call_queue(self._queue.renew, self._claim)
        self._renewed_at = time.monotonic()
        if renewal is None:
            return
        if not renewal.held:
            if self._ending is not Ending.FENCED:
                self._end(Ending.FENCED)
        elif renewal.cancel_requested and self._ending is None:
            self._end(Ending.CANCEL, grace_s=self._settings.kill_grace_s)

    def _end(self, ending: Ending, grace_s: float | None = None) -> None:
        log.info("ending the child", why=ending.value)
        self._ending = ending
        if grace_s is None:
            self._kill_at = time.monotonic()
            return
        self._kill_at = time.monotonic() + grace_s
        self._child.terminate()

    def _silent(self) -> ChildSilent:
        return ChildSilent(
            f"The job reported no progress for {self._settings.child_silence_s:g} seconds in attempt "
            f"{self._claim.attempt} of {self._claim.max_attempts} and was killed. If its steps take longer than that, "
            "raise SHOAL_CHILD_SILENCE_S.",
            attempt=self._claim.attempt,
        )

    def _died(self, status: int) -> WorkerDied:
        hint = " It may have run out of memory." if status == -signal.SIGKILL else ""
        return WorkerDied(
            f"The process that ran the job {exit_text(status)} in attempt {self._claim.attempt} of "
            f"{self._claim.max_attempts}, without a result.{hint} The worker's log has the details.",
            attempt=self._claim.attempt,
            **({"signal": signal.Signals(-status).name} if -status in set(signal.Signals) else {"exit_status": status}),
        )


class ChildProcess:
    """A fresh interpreter in a session of its own that runs one job.

    Never a fork of the worker: a job starts without the state of an earlier one. Its process group is killed as a
    whole, so that helper processes never outlive it. Create it in a thread that lives as long as the child should,
    since its death signal is tied to that thread.

    Parameters
    ----------
    command
        Program and arguments. It must call ``shoal.jobs.child.run_child``.
    job
        Goes to its standard input.

    Raises
    ------
    OSError
        The program cannot be started.
    """

    def __init__(self, command: Sequence[str], job: ChildJob) -> None:
        self._buffer = b""
        self._open = True
        self._events, write_end = os.pipe()
        os.set_blocking(self._events, False)
        try:
            # A file, not a pipe: a child that never reads must not block the worker.
            with tempfile.TemporaryFile() as document:
                document.write(job.encode())
                document.seek(0)
                self._process = subprocess.Popen(
                    list(command),
                    stdin=document,
                    stdout=STDERR_FD,
                    env={**os.environ, EVENTS_FD: str(write_end), PARENT_PID: str(os.getpid())},
                    pass_fds=(write_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._events)
            raise
        finally:
            os.close(write_end)

    @property
    def pid(self) -> int:
        """Process id; also that of its session and process group."""
        return self._process.pid

    def wait(self, timeout_s: float, wake_fd: int) -> list[Event]:
        """Events since the last call; returns at the latest after ``timeout_s`` or when ``wake_fd`` can be read."""
        watched = [self._events, wake_fd] if self._open else [wake_fd]
        select.select(watched, [], [], timeout_s)
        return self._read()

    def exited(self) -> bool:
        """Whether it has ended. It stays a zombie until ``end``, so that its process group's id stays its own."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def terminate(self) -> None:
        """Ask it to stop at its next safe point."""
        # Not Popen.send_signal: that would collect a child that has ended, and its group would no longer be killed.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and every process of its group."""
        kill_group(self.pid)

    def end(self) -> tuple[int, list[Event]]:
        """Kill what is left of it and collect it.

        Returns
        -------
        int
            Its exit status; minus the signal's number when a signal ended it.
        list of Event
            Its last events.
        """
        if self._process.returncode is None:
            self.kill()
            self._process.wait()
        events = self._read()
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
            self._open = False
        return self._process.returncode, events

    def _read(self) -> list[Event]:
        while self._open:
            try:
                data = os.read(self._events, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self._open = False
            self._buffer += data
            if len(self._buffer) > MAX_LINE_BYTES:
                log.error("dropped a line from the child that is too long", bytes=len(self._buffer))
                self._buffer = b""
        *lines, self._buffer = self._buffer.split(b"\n")
        return [event for line in lines if (event := _decode(line)) is not None]


def _decode(line: bytes) -> Event | None:
    try:
        return decode(line)
    except ValueError as error:
        log.error("ignored a line from the child that is not an event", error=str(error))
        return None
