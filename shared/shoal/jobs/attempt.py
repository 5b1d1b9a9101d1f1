"""One attempt at a job: the watch over its child process until the queue knows how it ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import structlog

from shoal.errors import ChildSilent, JsonValue, WorkerDied
from shoal.jobs.childprocess import ChildProcess
from shoal.jobs.claims import Claim, Taken
from shoal.jobs.protocol import (
    Advanced,
    Checkpointed,
    Event,
    Failed,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
    Wanted,
)
from shoal.jobs.queue import JobQueue
from shoal.jobs.sharing import Sharing
from shoal.process import exit_text
from shoal.schemas import Progress
from shoal.settings import Settings

PROGRESS_PERIOD_S = 0.5
RENEW_PERIOD_S = 1.0
"""Renewing also tells a worker that its job was cancelled: often enough for a DELETE to work in seconds."""

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
    FENCED = "another worker has the job, or the queue no longer knows it"
    WAITED_FOR = "the worker has another job"


class Attempt:
    """Watches one child.

    Parameters
    ----------
    queue, claim, child
        The job's queue, the right to run the job or to help with it, and the process that does.
    settings
        Periods and time limits.
    call_queue
        Calls a method of the queue.
    """

    def __init__(
        self,
        queue: JobQueue | Sharing,
        claim: Claim,
        child: ChildProcess,
        settings: Settings,
        call_queue: CallQueue,
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
        self._wanted: Wanted | None = None
        self._ask_at = 0.0
        self._others: Mapping[int, int] = {}

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
                case Wanted():
                    self._wanted = event
                case Succeeded() | Failed() | Stopped():
                    self._outcome = event

    @property
    def ending(self) -> Ending | None:
        """Why the worker ends the child; None as long as it does not."""
        return self._ending

    def step(self, stops: int) -> None:
        """Do what is due: renew the lease, send progress, stop or kill the child.

        Parameters
        ----------
        stops
            Stop signals that the worker received: one drains, two kill at once.
        """
        now = time.monotonic()
        if self._wanted is not None and now >= self._ask_at and self._ending is None:
            self._answer(self._wanted)
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
            case Ending.DRAIN | Ending.WAITED_FOR, _:
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

    def end_help(self) -> None:
        """Stop the child of a helper: its worker has a job of its own to run."""
        self._end(Ending.WAITED_FOR, grace_s=min(self._settings.kill_grace_s, self._queue.lease_s / 3))

    def _answer(self, wanted: Wanted) -> None:
        """Tell the child which unit it may begin. Without the queue, the worker that has the job goes on alone."""
        taken = self._call_queue(lambda: (self._queue.take(self._claim, wanted.missing, wanted.most),))
        if taken is None and self._claim.helper:
            self._ask_at = time.monotonic() + RENEW_PERIOD_S
            return
        self._wanted = None
        (answer,) = taken or (Taken(alone=True),)
        if answer is not None:  # Else the lease or the place is lost, as the next renewal will show.
            self._child.tell(answer)

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
        if renewal.others != self._others:
            self._others = renewal.others
            self._child.tell(renewal.others)

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
