"""The child process of one job, as its worker holds it: started, given the job, watched, collected."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Sequence

import structlog

from shoal.jobs.protocol import EVENTS_FD, GO_FD, PARENT_PID, ChildJob, Event, decode
from shoal.process import kill_group

STDERR_FD = 2
MAX_LINE_BYTES = 64 << 20
_READ_BYTES = 1 << 16

log = structlog.get_logger(__name__)


class ChildProcess:
    """A fresh interpreter in a session of its own that runs one job, the one that `hand_over` gives it.

    Never a fork of the worker: a job starts without the state of an earlier one. Its process group is killed as a
    whole, so that helper processes never outlive it. Create it in a thread that lives as long as the child should,
    since its death signal is tied to that thread.

    Parameters
    ----------
    command
        Program and arguments. It must call ``shoal.jobs.child.run_child``.
    ahead
        Whether it is started before there is a job for it.

    Attributes
    ----------
    took_job : bool
        After `end`: whether it read the job that it was given. A child that died before did nothing for it.

    Raises
    ------
    OSError
        The program cannot be started.
    """

    def __init__(self, command: Sequence[str], *, ahead: bool = False) -> None:
        self.ahead = ahead
        self._buffer = b""
        self._open = True
        self._handed_over = False
        self.took_job = False
        with contextlib.ExitStack() as stack:
            # A file, not a pipe: a child that never reads must not block the worker. Both have the same open file, so
            # what is written later is read from the start once the place is set back.
            self._document = stack.enter_context(tempfile.TemporaryFile())
            self._events, events_end = _pipe(stack)
            # The child inherits the reading end. The worker keeps it as well: a byte that is left there after the
            # child's end says that the child never took its job.
            self._go_end, self._go = _pipe(stack)
            os.set_blocking(self._events, False)
            self._process = subprocess.Popen(
                list(command),
                stdin=self._document,
                stdout=STDERR_FD,
                env={
                    **os.environ,
                    EVENTS_FD: str(events_end),
                    GO_FD: str(self._go_end),
                    PARENT_PID: str(os.getpid()),
                },
                pass_fds=(events_end, self._go_end),
                start_new_session=True,
            )
            stack.pop_all()
        os.close(events_end)
        self._exit = _pidfd(self._process.pid)

    def hand_over(self, job: ChildJob) -> None:
        """Give it its job. Returns at once, whether the child reads or not.

        Raises
        ------
        OSError
            The job cannot be written: the disk of the temporary folder is full.
        """
        with self._document:
            self._document.write(job.encode())
            self._document.seek(0)
        os.write(self._go, b".")
        self._handed_over = True

    @property
    def pid(self) -> int:
        """Process id; also that of its session and process group."""
        return self._process.pid

    def wait(self, timeout_s: float, wake_fd: int) -> list[Event]:
        """Events since the last call.

        Returns when there are some, when it exits or ``wake_fd`` can be read, at the latest after ``timeout_s``.
        """
        watched = [wake_fd]
        watched += [self._events] if self._open else []
        watched += [self._exit] if self._exit >= 0 else []
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
            self.took_job = self._handed_over and not select.select([self._go_end], [], [], 0)[0]
            self._close()
        return self._process.returncode, events

    def _close(self) -> None:
        self._document.close()
        for descriptor in (self._events, self._go_end, self._go, self._exit):
            if descriptor >= 0:
                os.close(descriptor)
        self._events = self._go_end = self._go = self._exit = -1
        self._open = False

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


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """The reading and the writing end of a pipe, closed with ``stack``."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _pidfd(pid: int) -> int:
    """A descriptor that can be read when the process exits; -1 where the kernel has none: polling then tells."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _decode(line: bytes) -> Event | None:
    try:
        return decode(line)
    except ValueError as error:
        log.error("ignored a line from the child that is not an event", error=str(error))
        return None
