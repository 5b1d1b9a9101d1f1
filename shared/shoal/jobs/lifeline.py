"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent(number: signal.Signals, parent_pid: int) -> None:
    """Have the kernel send this process ``number`` when its parent ends.

    To be called between fork and exec, where nothing may be loaded and no thread started. Other systems than Linux
    have nothing of the kind: there it does nothing.

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

    To be called first thing in a fresh process; helper processes of a job's child call it too, since a child that is
    killed cannot end them. On Linux the signal comes when the *thread* that started this process ends: start
    processes from a thread that lives as long as they should.

    Parameters
    ----------
    parent_pid
        The expected parent. If another process is the parent already, the true one has died meanwhile, and this
        process exits. None skips that check.
    """
    parent = os.getppid() if parent_pid is None else parent_pid
    end_with_parent(signal.SIGKILL, parent)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="die-with-parent").start()


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
