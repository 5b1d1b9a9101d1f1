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
from typing import Any

import structlog

from shoal.errors import QueueUnavailable, WorkerDied
from shoal.jobs import leftovers
from shoal.jobs.attempt import Attempt
from shoal.jobs.observer import Observer
from shoal.jobs.process import ChildProcess
from shoal.jobs.protocol import ChildJob
from shoal.jobs.queue import Claim, JobQueue
from shoal.settings import Settings

POLL_S = 0.25
CLEAR_PERIOD_S = 60.0
"""How often an idle worker looks for what jobs left behind that ended without a worker: cancelled while they waited."""
TICK_S = 0.2

log = structlog.get_logger(__name__)


class Worker:
    """Runs jobs of some kinds, one at a time, until it is told to stop.

    The first SIGTERM or SIGINT drains it: the child is asked to stop and the job goes back into the queue without
    counting the attempt. A second one kills the child at once. While the queue cannot be reached, the child goes on.

    Parameters
    ----------
    queue
        Where jobs come from.
    kinds
        Which jobs it can run; those of an earlier kind go first.
    command
        Starts the child; see `shoal.jobs.child.run_child`.
    settings
        Periods and patience.
    name
        Names the worker in claims and heartbeats; host and process id by default.
    prepare
        Called before each child is started.
    observer
        Told what happens to each job.
    store
        Root of the store: what ended jobs kept there for a next attempt is removed. None leaves it alone.
    """

    def __init__(
        self,
        queue: JobQueue,
        kinds: Sequence[str],
        command: Sequence[str],
        *,
        settings: Settings,
        name: str | None = None,
        prepare: Callable[[], object] = lambda: None,
        observer: Observer | None = None,
        store: Path | None = None,
    ) -> None:
        self._queue = queue
        self._prepare = prepare
        self._observer = observer or Observer()
        self._store = store
        self._cleared_at = -CLEAR_PERIOD_S
        self._kinds = tuple(kinds)
        self._command = tuple(command)
        self._settings = settings
        self.name = name or _default_name()
        self._stops = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._beat_at = 0.0
        self._reached = True
        # Several reapings a lease, or the queue takes the gap for an outage.
        self._beat_period_s = min(settings.beat_s, queue.lease_s / 5)

    def run(self) -> None:
        """Work until told to stop. In the main thread, SIGTERM and SIGINT tell it so.

        Raises
        ------
        OtherStore
            The queue's jobs are of another store than this worker's.
        """
        log.info("worker started", worker=self.name, kinds=self._kinds)
        with self._signals():
            while not self._stops:
                self._housekeep()
                claim = self._reach(self._queue.claim, self._kinds, self.name)
                if claim is None:
                    self._clear_leftovers()
                    self._sleep(POLL_S if self._reached else 1.0)
                else:
                    self._work(claim)
            self._reach(self._queue.leave, self.name, self._kinds)
        log.info("worker stopped", worker=self.name)

    def stop(self) -> None:
        """What a SIGTERM does: drain; the second time, kill. Safe in signal handlers and from other threads."""
        self._stops += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _work(self, claim: Claim) -> None:
        with structlog.contextvars.bound_contextvars(job=claim.job.id, attempt=claim.attempt):
            log.info("job claimed", kind=claim.job.kind)
            job = ChildJob(
                claim.job.id, claim.job.kind, claim.attempt, claim.owner, claim.job.request, claim.checkpoint
            )
            try:
                self._prepare()
                child = ChildProcess(self._command, job)
            except OSError as error:
                log.exception("the child cannot be started", command=self._command)
                problem = WorkerDied(f"The process for the job cannot be started: {error}.").problem()
                self._deliver(lambda: self._queue.fail(claim, problem, retry=True))
                return
            self._observer.started(claim)
            self._watch(claim, child)

    def _watch(self, claim: Claim, child: ChildProcess) -> None:
        attempt = Attempt(self._queue, claim, child, self._settings, self._reach)
        try:
            while not child.exited():
                heard = child.wait(TICK_S, self._wake_read)
                attempt.take(heard)
                self._observer.heard(claim, heard)
                self._drain_wakeups()
                attempt.step(self._stops)
                self._housekeep()
        finally:
            status, events = child.end()
        attempt.take(events)
        self._observer.heard(claim, events)
        ended = attempt.settle(status, self._stops)
        self._observer.ended(claim, ended[0].__name__.strip("_") if ended else "lost")
        if ended is None:
            log.warning("job left to another worker")
            return
        call, arguments = ended
        log.info("job ended", how=call.__name__.strip("_"), status=status)

        def report() -> bool:
            attempt.flush()
            return bool(call(*arguments))

        self._deliver(report)

    def _deliver(self, call: Callable[[], bool]) -> None:
        """Tell the queue how the job ended, however long it is away; a worker that is to stop waits for a while."""
        deadline: float | None = None
        while (held := self._reach(call)) is None:
            if self._stops and deadline is None:
                deadline = time.monotonic() + self._settings.drain_s
            if self._stops > 1 or (deadline is not None and time.monotonic() >= deadline):
                log.error("the queue is away: the job comes back when its lease ends")
                return
            self._sleep(0.5)
        if not held:
            log.warning("another worker has the job: nothing was reported")
        # What the job kept for a next attempt is of no use to anybody once it has failed or was cancelled.
        self._cleared_at = -CLEAR_PERIOD_S
        self._clear_leftovers()

    def _housekeep(self) -> None:
        now = time.monotonic()
        if now - self._beat_at < self._beat_period_s:
            return
        self._beat_at = now
        if self._reach(self._queue.beat, self.name, self._kinds) is None and not self._reached:
            return
        reaped = self._reach(self._queue.reap)
        if reaped:
            log.warning("took jobs from workers that died", jobs=reaped)
            self._cleared_at = -CLEAR_PERIOD_S

    def _clear_leftovers(self) -> None:
        now = time.monotonic()
        if self._store is not None and now - self._cleared_at >= CLEAR_PERIOD_S:
            self._cleared_at = now
            self._reach(leftovers.remove_ended, self._store, self._queue)

    def _reach(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """The queue's answer; None while it is away, which is logged once."""
        try:
            answer = call(*arguments)
        except QueueUnavailable as error:
            if self._reached:
                log.warning("the queue is away; going on without it", error=error.detail)
            self._reached = False
            return None
        if not self._reached:
            log.info("the queue is back")
        self._reached = True
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
