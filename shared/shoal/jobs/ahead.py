"""The child of a worker's next job, started ahead: its imports are done when the job comes."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from shoal.jobs.childprocess import ChildProcess
from shoal.process import exit_text

LONGEST_WAIT_S = 3600.0
"""A child that has waited for so long is replaced."""
LOOK_PERIOD_S = 10.0
"""How often an idle worker compares the code with that of its waiting child."""
PAUSE_S = 2.0
PAUSE_CAP_S = 300.0
"""Longest pause after a child that died while it waited; it doubles from `PAUSE_S` with each in a row."""

log = structlog.get_logger(__name__)


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
