"""One large clustering in processes of their own, killed on the way if that is asked for."""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from clusterer import pipeline as clusterer
from clusterer.jobs.memory import peak_bytes
from shoal.jobs.child import JobContext
from shoal.jobs.protocol import ChildJob, Progressed
from shoal.settings import Settings

_printed = [0.0]


def attempt_of(settings: Settings, request: Any, attempt: int, seconds: float | None) -> tuple[Any, int]:
    """What an attempt in a process of its own ends with, None if it was killed, and its peak resident bytes."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=large, args=(settings, request, attempt, send))
    process.start()
    send.close()
    if not receive.poll(seconds):
        peak = peak_of(process.pid)
        process.kill()
        process.join()
        return None, peak
    done: tuple[Any, int] = receive.recv()
    process.join()
    return done


def peak_of(pid: int | None) -> int:
    """Peak resident bytes of a running process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def large(settings: Settings, request: Any, attempt: int, send: Connection) -> None:
    """An attempt of one job; the next one finds its folder."""
    job = ChildJob("scale", "cluster", attempt, f"scale.{attempt}", request)
    send.send((clusterer.run(JobContext(job, progress), settings), peak_bytes()))


def progress(event: Any) -> None:
    """Print how far the job is, every ten seconds at most."""
    now = time.monotonic()
    if isinstance(event, Progressed) and now >= _printed[-1] + 10:
        _printed.append(now)
        done = event.progress
        print(f"{time.strftime('%X')} {done.stage} {done.done:,} of {done.total:,} {done.unit}", file=sys.stderr)
