"""One process of the stack: started in a session of its own, ended with its parent, started again when it dies.

A session of its own, so that Ctrl-C reaches `shoal up` alone and the others are stopped in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.process import spawn

STOP_S = 20.0
RESTART_S = 1.0
RESTART_CAP_S = 60.0
LONG_LIFE_S = 60.0
"""A process that lived for so long has not failed at its start: the next pause is the shortest again."""
LAST_BYTES = 1 << 18
"""Of a log, which may be gigabytes, so many are looked at for its last lines."""


@dataclass
class Process:
    """One process of the stack and how to start it again.

    Attributes
    ----------
    death_signal
        What the kernel sends it when its parent dies.
    kept_fds
        Descriptors that it inherits.
    env
        Variables of its own, beside those of the stack.
    at_once
        Whether it is started again without a pause when it ends for the first time in a while: clients wait for it.
    failures
        How often in a row it ended soon after its start.
    """

    name: str
    command: Sequence[str]
    log: Path
    death_signal: signal.Signals = signal.SIGTERM
    kept_fds: Sequence[int] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    at_once: bool = False
    popen: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    failures: int = 0
    _started_at: float = 0.0
    _log_start: int = 0
    _restart_at: float | None = None

    def start(self, env: Mapping[str, str]) -> None:
        """Start it; its output is appended to its log."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.popen = spawn(
                self.command,
                death_signal=self.death_signal,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**env, **self.env},
                pass_fds=self.kept_fds,
            )
        self._started_at = time.monotonic()
        self._restart_at = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.popen is not None and self.popen.poll() is None

    def ended(self) -> float:
        """Note that it has ended, and plan its restart.

        Returns
        -------
        float
            Seconds until then: they double with every end soon after a start, up to a minute.
        """
        lived = time.monotonic() - self._started_at
        self.failures = 1 if lived >= LONG_LIFE_S else self.failures + 1
        fast = int(self.at_once)
        pause = min(RESTART_S * 2.0 ** (self.failures - 1 - fast), RESTART_CAP_S) if self.failures > fast else 0.0
        self._restart_at = time.monotonic() + pause
        return pause

    @property
    def planned(self) -> bool:
        """Whether its restart is planned."""
        return self._restart_at is not None

    @property
    def due(self) -> bool:
        """Whether it is to be started again now."""
        return self._restart_at is not None and time.monotonic() >= self._restart_at

    def terminate(self) -> None:
        """RunRequest it to stop."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.terminate()

    def wait(self, timeout_s: float = STOP_S) -> None:
        """Wait for its end after `terminate`; SIGKILL to what does not end in time."""
        if self.popen is None:
            return
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and collect it."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The end of what it has logged since its start."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LAST_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        return ""

    def last_error(self) -> dict[str, str]:
        """The last line of its log that names an error with a ``code`` and a ``detail``; empty if there is none."""
        for line in reversed(self.log_tail(200).splitlines()):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and {"code", "detail"} <= set(record):
                    return {key: str(record[key]) for key in ("code", "detail")}
        return {}
