"""The worker's side of its child process: start it, hear it, end it with everything it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence

import structlog

from shoal.jobs.protocol import EVENTS_FD, PARENT_PID, ChildJob, Event, decode
from shoal.process import kill_group

STDERR_FD = 2
_READ_BYTES = 1 << 16
MAX_LINE_BYTES = 64 << 20

log = structlog.get_logger(__name__)


class ChildProcess:
    """A fresh interpreter in a session of its own that runs one job.

    Never a fork of the worker: a job starts with no state of others. Its process group is killed as a whole, so that
    helper processes never outlive it. To be created in a thread that lives as long as the child should, since its
    death signal is tied to that thread.

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
            What it said last.
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
                log.error("the child sent a line that is too long; dropped", bytes=len(self._buffer))
                self._buffer = b""
        *lines, self._buffer = self._buffer.split(b"\n")
        return [event for line in lines if (event := _decode(line)) is not None]


def _decode(line: bytes) -> Event | None:
    try:
        return decode(line)
    except ValueError as error:
        log.error("the child sent a line that is no event; ignored", error=str(error))
        return None
