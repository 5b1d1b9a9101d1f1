"""The child process of one job, as its worker holds it: started, given the job, watched, collected.

The child of the next job is started ahead, so that its imports are done when the job comes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from shoal.jobs.claims import Taken
from shoal.jobs.protocol import ANSWERS_FD, EVENTS_FD, GO_FD, PARENT_PID, ChildJob, Event, decode, encode_news
from shoal.process import exit_text, kill_group

STDERR_FD = 2
MAX_LINE_BYTES = 64 << 20
LONGEST_WAIT_S = 3600.0
"""A child that has waited for so long is replaced."""
LOOK_PERIOD_S = 10.0
"""How often an idle worker compares the code with that of its waiting child."""
PAUSE_S = 2.0
PAUSE_CAP_S = 300.0
"""Longest pause after a child that died while it waited; it doubles from `PAUSE_S` with each in a row."""
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
            answers_end, self._answers = _pipe(stack)
            os.set_blocking(self._answers, False)
            os.set_blocking(self._events, False)
            self._process = subprocess.Popen(
                list(command),
                stdin=self._document,
                stdout=STDERR_FD,
                env={
                    **os.environ,
                    EVENTS_FD: str(events_end),
                    GO_FD: str(self._go_end),
                    ANSWERS_FD: str(answers_end),
                    PARENT_PID: str(os.getpid()),
                },
                pass_fds=(events_end, self._go_end, answers_end),
                start_new_session=True,
            )
            stack.pop_all()
        os.close(events_end)
        os.close(answers_end)
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

    def tell(self, news: Taken | Mapping[int, int]) -> None:
        """Tell it which unit it may begin, or how far others are. One that does not listen hears nothing."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._answers, encode_news(news))

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
        for descriptor in (self._events, self._go_end, self._go, self._answers, self._exit):
            if descriptor >= 0:
                os.close(descriptor)
        self._events = self._go_end = self._go = self._answers = self._exit = -1
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


def code_stamp(packages: Iterable[str]) -> Callable[[], object]:
    """A function whose value changes with the files of ``packages`` and with what is installed beside them.

    It looks at names, sizes and times alone: a millisecond or two.
    """
    folders = [folder for name in packages for folder in _folders(name)]
    installed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})

    def stamp() -> object:
        files = frozenset(entry for folder in folders for entry in _files(folder))
        # Installing a distribution makes or removes a folder beside those of the others.
        return files, tuple(_time(folder) for folder in installed)

    return stamp


def _folders(package: str) -> Sequence[str]:
    spec = importlib.util.find_spec(package)
    return [] if spec is None else list(spec.submodule_search_locations or [])


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        yield from _files(entry.path)
                else:
                    facts = entry.stat()
                    yield entry.path, facts.st_mtime_ns, facts.st_size
    except OSError:  # Files that vanish while it looks, as in an upgrade: the stamp then differs from any whole one.
        yield folder, -1, -1


def _time(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return -1


class NextChild:
    """Keeps one child ready for a worker that waits for a job.

    Use it in one thread, which must live as long as the child should.

    Parameters
    ----------
    command
        Starts the child; see `shoal.jobs.child.run_child`.
    stamp
        Its value stands for the code: a child that was started at another value is replaced.
    longest_wait_s
        A child that has waited for longer is replaced.
    """

    def __init__(
        self, command: Sequence[str], stamp: Callable[[], object], *, longest_wait_s: float = LONGEST_WAIT_S
    ) -> None:
        self._command = tuple(command)
        self._stamp = stamp
        self._longest_wait_s = longest_wait_s
        self._child: ChildProcess | None = None
        self._started_as: object = None
        self._started_at = self._looked_at = self._not_before = 0.0
        self._deaths = 0

    @property
    def pid(self) -> int | None:
        """Process id of the child that waits; None while none does."""
        return None if self._child is None else self._child.pid

    def keep(self) -> None:
        """Start a child if none waits, and replace one that a job should not get. Cheap: call it often while idle."""
        now = time.monotonic()
        look = now - self._looked_at >= LOOK_PERIOD_S
        if self._child is not None and self._is_dead_or_old(look=look):
            self.end()
        if self._child is None and now >= self._not_before:
            self._start(now)

    def take(self) -> ChildProcess | None:
        """The child that waits, to be given a job; None when there is none that a job should get."""
        if self._child is not None and self._is_dead_or_old(look=True):
            self.end()
        child, self._child = self._child, None
        if child is not None:
            self._deaths = 0
        return child

    def rest(self, seconds: float) -> None:
        """Start none for so long."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def end(self) -> None:
        """End the child that waits, if one does."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _start(self, now: float) -> None:
        self._started_as, self._started_at, self._looked_at = self._current(), now, now
        try:
            self._child = ChildProcess(self._command, ahead=True)
        except OSError as error:
            self._pause(now)
            log.warning("no child can be started ahead; the next job starts its own", error=str(error))

    def _is_dead_or_old(self, *, look: bool) -> bool:
        now = time.monotonic()
        if self._child is not None and self._child.exited():
            status, _ = self._child.end()
            self._pause(now)
            log.warning("the child that waited for a job ended", how=exit_text(status), pause_s=self._not_before - now)
            return True
        if now - self._started_at > self._longest_wait_s:
            return True
        if not look:
            return False
        self._looked_at = now
        return self._current() != self._started_as

    def _current(self) -> tuple[object, dict[str, str]]:
        return self._stamp(), dict(os.environ)

    def _pause(self, now: float) -> None:
        self._not_before = now + min(PAUSE_S * 2.0**self._deaths, PAUSE_CAP_S)
        self._deaths = min(self._deaths + 1, 30)
