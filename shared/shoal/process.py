"""Child processes: start them, tie their life to their parent's, stop them, say how they ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    new_session: bool = True,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``command`` with an empty standard input; it gets ``death_signal`` when this process ends.

    Call it in a thread that lives as long as the process should: on Linux the signal comes when that thread ends.

    Parameters
    ----------
    new_session
        Give it a session of its own, so that Ctrl-C in the terminal does not reach it.
    pass_fds
        Descriptors that it inherits.

    Raises
    ------
    OSError
        The program cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=env,
        start_new_session=new_session,
        pass_fds=tuple(pass_fds),
        preexec_fn=partial(set_death_signal, death_signal, os.getpid()),
    )


def stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Send SIGTERM, and SIGKILL if the process still runs ``timeout_s`` later; collect it."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill_group(pid: int) -> None:
    """Send SIGKILL to the process group ``pid``, if it still exists."""
    # macOS answers EPERM when only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def set_death_signal(number: signal.Signals, parent_pid: int) -> None:
    """Have the kernel send this process ``number`` when its parent ends (Linux; does nothing elsewhere).

    Runs between fork and exec, where nothing may be imported and no thread started.

    Parameters
    ----------
    parent_pid
        As of `die_with_parent`.
    """
    if _libc is None:
        return
    if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, however that happens.

    Call it first thing in a fresh process. Helper processes of a job's child call it too, since a child that is
    killed cannot end them. On Linux the signal comes when the *thread* that started this process ends: start
    processes from a thread that lives as long as they should.

    Parameters
    ----------
    parent_pid
        The expected parent. If another process is the parent already, the expected one has died, and this process
        exits. None skips that check.
    """
    parent = os.getppid() if parent_pid is None else parent_pid
    set_death_signal(signal.SIGKILL, parent)
    if sys.platform != "linux":
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True, name="die-with-parent").start()


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def lower_priority(steps: int) -> None:
    """Let other processes have the processors first: add ``steps`` to the niceness of this process and what it starts.

    Where Linux schedules each session as a group (CONFIG_SCHED_AUTOGROUP), niceness counts within the group alone: the
    session that this process leads gets the same value. Does nothing for 0 steps.
    """
    if steps <= 0:
        return
    niceness = os.nice(steps)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # There are no such groups.
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def exit_text(status: int) -> str:
    """How a process ended, as a clause: which signal killed it, or its exit status."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
