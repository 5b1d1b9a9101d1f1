"""The services of one command: started for it, restarted when they exit, stopped after it.

Unfinished jobs of earlier commands are kept or cancelled before a worker starts, so that no worker runs a job that this
command does not need.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

from shoal.cli.output import err
from shoal.client import Client
from shoal.embedded import Process, Stack
from shoal.errors import JobFinished, JobNotFound, StackError
from shoal.jobs.queue import JobQueue
from shoal.schemas import Job

MOST_RESTARTS = 3
"""After more restarts than this, the command fails."""
STOPPING = "Stopping: finished embeddings are saved. Press Ctrl-C again to exit at once."


class Interrupted(KeyboardInterrupt):
    """The command received SIGINT, SIGTERM or SIGHUP.

    Attributes
    ----------
    status
        Exit status, as shells have it: 130 after Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


class Session:
    """The services of one command, and what it needs to talk to them; a context manager.

    Parameters
    ----------
    data, models, store
        The three root folders.
    command
        As a user types it: ``shoal run``.
    keep
        Whether an unfinished job of an earlier command continues; the others are cancelled.
    """

    def __init__(
        self,
        data: Path,
        models: Path,
        store: Path,
        *,
        command: str,
        keep: Callable[[Job], bool] = lambda job: False,
    ) -> None:
        self._keep = keep
        # A queue for each data root: the same request means other images below another one.
        root = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
        self._queue_data = store / ".queue" / f"run-{root}"
        self.stack = Stack(
            data=data,
            models=models,
            store=store,
            extractor_port=0,
            clusterer_port=0,
            command=command,
            single_user=True,
            queue_data=self._queue_data,
            extra_env={"SHOAL_FOLLOW_LINKS": "1"},
            before_workers=self._settle,
        )
        self.kept: list[Job] = []
        """Unfinished jobs of earlier commands that continue now."""
        self.dropped: list[Job] = []
        """Those that were cancelled."""
        self._broken: StackError | None = None
        self._stopping = threading.Event()
        self._watch: threading.Thread | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """A client of the services."""
        if self._client is None:
            raise RuntimeError("the session has not started")
        return self._client

    def check(self) -> None:
        """Raise an error if a service cannot be kept running.

        Raises
        ------
        StackError
            A process keeps crashing; the message has the end of its log.
        """
        if self._broken is not None:
            raise self._broken

    def __enter__(self) -> Session:
        self.stack.start()
        self._client = Client(self.stack.extractor_url, self.stack.clusterer_url)
        self._watch = threading.Thread(
            target=self.stack.supervise, args=(self._restarted, self._stopping.is_set), daemon=True
        )
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            err.print(STOPPING)
        self._stopping.set()
        if self._watch is not None:
            self._watch.join()
        try:
            if self._client is not None:
                self._client.close()
        finally:
            self.stack.stop()

    def kill(self) -> None:
        """End every process at once."""
        for process in self.stack.processes:
            with suppress(OSError):
                process.kill()

    def _restarted(self, process: Process, pause_s: float) -> None:
        words = process.log_tail(5)
        if process.failures > MOST_RESTARTS:
            self._broken = StackError(f"{process.name} keeps crashing. Its log {process.log} ends:\n{words}")
        else:
            err.print(f"{process.name} exited; restarting it.", markup=False, highlight=False)

    def _settle(self, url: str) -> None:
        """Keep or cancel the unfinished jobs of earlier commands, before any worker starts."""
        queue = JobQueue.from_url(url)
        try:
            queue.take_back()  # The workers died with their command, and the store's lock is ours.
            for job in queue.unfinished():
                if self._keep(job):
                    self.kept.append(job)
                    continue
                self.dropped.append(job)
                with suppress(JobFinished, JobNotFound):
                    queue.cancel(job.id)
        finally:
            queue.close()


@contextmanager
def interruptible(session: Session) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise `Interrupted` once; the second time all processes end at once."""

    def at_once(number: int, frame: FrameType | None) -> None:
        session.kill()
        err.show_cursor()
        os.write(2, b"\nExited at once. Saved work is kept; run the same command to continue.\n")
        os._exit(128 + number)

    def first(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, at_once)
        raise Interrupted(number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
