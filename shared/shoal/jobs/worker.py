"""The worker: a small supervisor that claims jobs and runs each in a child process of its own.

It imports no numerical library, so that it stays small and alive whatever a job does to its process.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from shoal import disk
from shoal.errors import QueueUnavailable, WorkerDied
from shoal.jobs.attempt import Attempt
from shoal.jobs.childprocess import ChildProcess, NextChild
from shoal.jobs.claims import Claim
from shoal.jobs.helping import Helping
from shoal.jobs.protocol import ChildJob, Event
from shoal.jobs.queue import JobQueue
from shoal.jobs.sharing import Sharing
from shoal.jobs.workdirs import remove_workdirs
from shoal.settings import Settings

POLL_S = 0.25
CLEAN_PERIOD_S = 60.0
"""How often an idle worker removes working folders of jobs that ended without a worker: cancelled while queued."""
AFTER_JOB_S = 3.0
"""Pause between a job and the imports for the next one: what follows a job, such as a clustering of what it embedded,
has the processors first."""
TICK_S = 0.2

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Observer:
    """Receives what happens to a worker's jobs; this base class ignores it."""

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""

    def received(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child sent events."""

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over: ``succeed``, ``fail``, ``cancelled``, ``hand_back`` or ``lost``; or, with any end of
        its own, ``helped``."""


class Observers(Observer):
    """Passes everything on to several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        for observer in self._observers:
            observer.started(claim)

    def received(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child sent events."""
        for observer in self._observers:
            observer.received(claim, events)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        for observer in self._observers:
            observer.ended(claim, how)


class Worker:
    """Runs jobs of some kinds, one at a time, until it is stopped.

    When no job waits, it helps with one of another worker that can be shared (`shoal.jobs.sharing`).

    The first SIGTERM or SIGINT drains it: the child is asked to stop and the job goes back into the queue without
    counting the attempt. A second one kills the child at once. While the queue is unreachable, the child goes on.

    While it waits for a job, it keeps the child of the next one ready (`shoal.jobs.childprocess`), unless SHOAL_AHEAD
    is off.

    Parameters
    ----------
    queue
        Where jobs come from.
    kinds
        Which jobs it can run; those of an earlier kind go first.
    command
        Starts the child; see `shoal.jobs.child.run_child`.
    settings
        Periods and time limits.
    name
        Names the worker in claims and heartbeats; host and process id by default.
    stamp
        Its value stands for the code that a child imports: one started ahead at another value is replaced.
    ahead_at_start
        False starts a child ahead only once a first job has ended.
    observer
        Receives what happens to each job.
    store
        Root of the store, where the working folders of ended jobs are removed. None leaves them alone.
    """

    def __init__(
        self,
        queue: JobQueue,
        kinds: Sequence[str],
        command: Sequence[str],
        *,
        settings: Settings,
        name: str | None = None,
        stamp: Callable[[], object] = lambda: None,
        ahead_at_start: bool = True,
        observer: Observer | None = None,
        store: Path | None = None,
    ) -> None:
        self._queue = queue
        self._observer = observer or Observer()
        self._store = store
        self._cleaned_at = -CLEAN_PERIOD_S
        self._kinds = tuple(kinds)
        self._command = tuple(command)
        self._settings = settings
        self._bell = queue.bell(self._kinds)
        self._next_child = NextChild(command, stamp)
        self._ahead = settings.ahead and ahead_at_start
        self.name = name or _default_name()
        self._helping = Helping(queue, self._kinds, self.name, self._call_queue)
        self._stops = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._beat_at = 0.0
        self._reachable = True
        self._full = False
        # Several reapings a lease, or the queue takes the gap for an outage.
        self._beat_period_s = min(settings.beat_s, queue.lease_s / 5)

    def run(self) -> None:
        """Work until `stop` is called; in the main thread, SIGTERM and SIGINT call it.

        Raises
        ------
        OtherStore
            The queue belongs to another store than this worker's.
        """
        log.info("worker started", worker=self.name, kinds=self._kinds)
        with self._signals():
            try:
                while not self._stops:
                    self._step()
            finally:
                self._next_child.end()
                self._bell.close()
            self._call_queue(self._queue.leave, self.name, self._kinds)
        log.info("worker stopped", worker=self.name)

    def stop(self) -> None:
        """What a SIGTERM does: drain; the second time, kill. Safe in signal handlers and from other threads."""
        self._stops += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _step(self) -> None:
        self._housekeep()
        claim = None if self._store_is_full() else self._look_for_work()
        if claim is not None:
            while claim is not None:
                self._work(claim)
                claim = self._helping.take_waiting()
            self._ahead = self._settings.ahead
            self._next_child.rest(AFTER_JOB_S)
            return
        # Only now that no job is there: a job and the imports for the next one would need memory at the same time.
        if self._ahead:
            self._next_child.keep()
        self._remove_workdirs()
        if self._reachable:
            self._bell.wait(POLL_S, self._wake_read)
            self._drain_wakeups()
        else:
            self._sleep(1.0)

    def _look_for_work(self) -> Claim | None:
        return self._call_queue(self._queue.claim, self._kinds, self.name) or self._helping.look()

    def _store_is_full(self) -> bool:
        """Whether jobs must wait for space: claimed now, one after the other would fail."""
        shortage = None
        if self._store is not None:
            with contextlib.suppress(OSError):  # Then a job says what is wrong.
                shortage = disk.shortage(self._store)
        if bool(shortage) != self._full:
            self._full = bool(shortage)
            if shortage:
                log.warning("no job is claimed until the store's disk has room", disk=shortage)
            else:
                log.info("the store's disk has room again")
        return self._full

    def _work(self, claim: Claim) -> None:
        with structlog.contextvars.bound_contextvars(job=claim.job.id, attempt=claim.attempt):
            log.info("helping with a job" if claim.helper else "job claimed", kind=claim.job.kind)
            child = self._started(claim, ahead=True)
            if child is None:
                return
            self._observer.started(claim)
            if self._watch(claim, child):
                return
            log.warning("the child that was started ahead ended before it took the job; another one is started")
            child = self._started(claim, ahead=False)
            if child is None:
                self._observer.ended(claim, "fail")
            else:
                self._watch(claim, child)

    def _started(self, claim: Claim, *, ahead: bool) -> ChildProcess | None:
        """A child that has been given the job; None when none can be started, which fails the job."""
        of = claim.job
        job = ChildJob(of.id, of.kind, claim.attempt, claim.owner, of.request, claim.checkpoint, claim.helper)
        child = None
        try:
            child = (self._next_child.take() if ahead else None) or ChildProcess(self._command)
            child.hand_over(job)
        except OSError as error:
            if child is not None:
                child.end()
            log.exception("the child cannot be started", command=self._command)
            problem = WorkerDied(f"The process for the job cannot be started: {error}.").problem()
            self._report(claim, "fail", lambda: self._right(claim).fail(claim, problem, retry=True))
            return None
        return child

    def _watch(self, claim: Claim, child: ChildProcess) -> bool:
        """Until the child has ended and the queue knows it; False when it was started ahead and never took the job."""
        attempt = Attempt(self._right(claim), claim, child, self._settings, self._call_queue)
        try:
            while not child.exited():
                events = child.wait(TICK_S, self._wake_read)
                attempt.receive(events)
                self._observer.received(claim, events)
                self._drain_wakeups()
                attempt.step(self._stops)
                if claim.helper:
                    self._helping.yield_to_waiting(attempt)
                self._housekeep()
        finally:
            status, events = child.end()
        attempt.receive(events)
        self._observer.received(claim, events)
        if child.ahead and not child.took_job and attempt.ending is None:
            return False
        ended = attempt.conclude(status, self._stops)
        how = ended[0] if ended else "lost"
        self._observer.ended(claim, "helped" if claim.helper else how)
        if ended is None:
            log.warning("the job is no longer this worker's: nothing is reported")
            self._report(claim, how, lambda: True)
            return True
        tell_queue = ended[1]
        say = log.warning if how == "fail" else log.info
        say("help ended" if claim.helper else "job ended", how=how, status=status)

        def report() -> bool:
            attempt.flush()
            return tell_queue()

        self._report(claim, how, report)
        return True

    def _right(self, claim: Claim) -> JobQueue | Sharing:
        """What renews and ends the claim."""
        return self._queue.sharing if claim.helper else self._queue

    def _report(self, claim: Claim, how: str, call: Callable[[], bool]) -> None:
        """Tell the queue how an attempt or a help ended. A helper's place ends by itself if it is not told."""
        if claim.helper:
            self._call_queue(call)
            self._helping.ended(claim, how)
        elif how != "lost":
            self._deliver(call)

    def _deliver(self, call: Callable[[], bool]) -> None:
        """Tell the queue how the job ended, retrying while it is unreachable; a stopping worker gives up in the end."""
        deadline: float | None = None
        while (held := self._call_queue(call)) is None:
            if self._stops and deadline is None:
                deadline = time.monotonic() + self._settings.drain_s
            if self._stops > 1 or (deadline is not None and time.monotonic() >= deadline):
                log.error("the queue is unreachable: the job is queued again when its lease ends")
                return
            self._sleep(0.5)
        if not held:
            log.warning("the job was no longer this worker's: nothing was reported")
        # A job that has failed or was cancelled has no next attempt.
        self._cleaned_at = -CLEAN_PERIOD_S
        self._remove_workdirs()

    def _housekeep(self) -> None:
        now = time.monotonic()
        if now - self._beat_at < self._beat_period_s:
            return
        self._beat_at = now
        self._call_queue(self._queue.beat, self.name, self._kinds)
        if not self._reachable:
            return
        reaped = self._call_queue(self._queue.reap)
        if reaped:
            log.warning("queued the jobs of dead workers again", jobs=reaped)
            self._cleaned_at = -CLEAN_PERIOD_S

    def _remove_workdirs(self) -> None:
        now = time.monotonic()
        if self._store is not None and now - self._cleaned_at >= CLEAN_PERIOD_S:
            self._cleaned_at = now
            self._call_queue(remove_workdirs, self._store, self._queue)

    def _call_queue(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The queue's answer; None while it is unreachable, which is logged once."""
        try:
            answer = call(*args, **kwargs)
        except QueueUnavailable as error:
            if self._reachable:
                log.warning("the queue is unreachable; going on without it", error=error.detail)
            self._reachable = False
            return None
        if not self._reachable:
            log.info("the queue is reachable again")
        self._reachable = True
        return answer

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake_read], [], [], seconds)
        self._drain_wakeups()

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 1024)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        parent = os.getppid()

        def stop(*_: object) -> None:
            # When a parent of many threads is killed, the kernel sends the death signal once for each of them.
            if not self._stops or os.getppid() == parent:
                self.stop()

        before = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-") or "worker"
    return f"{host[:48]}-{os.getpid()}"
