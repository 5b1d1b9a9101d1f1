"""A child that does what its request says: what the tests of worker and queue run as a job.

Each run appends "start <attempt> <pid>" to the request's `journal`, and "end" when it comes to its end.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shoal.errors import TransientFailure, WeightsMissing
from shoal.jobs.child import Cancelled, JobContext, run_child


def note(context: JobContext, line: str) -> None:
    with Path(context.request["journal"]).open("a") as journal:
        journal.write(line + "\n")


def wait(context: JobContext) -> None:
    """Until the file `until` is there."""
    while not Path(context.request["until"]).exists():
        context.progress("wait")
        time.sleep(0.02)


def linger(context: JobContext) -> None:
    """Wait, and take a moment to stop."""
    try:
        wait(context)
    except Cancelled:
        time.sleep(0.5)
        note(context, "drained")
        raise


def spawn(context: JobContext) -> None:
    """Start a helper process that would live for long, and wait."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(context, f"helper {helper.pid}")
    wait(context)


def deaf(context: JobContext) -> None:
    """Native code that ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(context, "deaf")
    time.sleep(600)


def late(context: JobContext) -> None:
    """Hear that it is to stop when everything is done, and go on to the end once the file `until` is there."""
    signal.signal(signal.SIGTERM, lambda *_: note(context, "told"))
    note(context, "done")
    while not Path(context.request["until"]).exists():
        time.sleep(0.02)


def silent(context: JobContext) -> None:
    note(context, "silent")
    time.sleep(600)


def crash(context: JobContext) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hoard(context: JobContext) -> None:
    """Ask for more memory than the system gives to a process."""
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    bytearray(2**32)


def leave(context: JobContext) -> None:
    os._exit(3)


def resume(context: JobContext) -> None:
    """Keep a checkpoint and crash; the next attempt finds it."""
    if context.checkpoint is None:
        context.save_checkpoint({"done": 7})
        os.kill(os.getpid(), signal.SIGKILL)
    note(context, f"resumed at {(context.checkpoint or {})['done']}")


def advance(context: JobContext) -> None:
    """Get as far as the request says for this attempt, and crash."""
    context.advance(context.request["places"][context.attempt - 1])
    os.kill(os.getpid(), signal.SIGKILL)


def fail(context: JobContext) -> None:
    raise {
        "known": WeightsMissing("no weights", file="a.pth"),
        "transient": TransientFailure("come again"),
        "disk": OSError(errno.ENOSPC, "No space left on device", "/store/x"),
        "defect": KeyError("nothing"),
    }[context.request["error"]]


def handle(context: JobContext) -> dict[str, Any]:
    note(context, f"start {context.attempt} {os.getpid()}")
    action = globals().get(context.request.get("do", ""))
    if action is not None:
        action(context)
    note(context, "end")
    return {"value": context.request.get("value"), "attempt": context.attempt}


if __name__ == "__main__":
    sys.exit(run_child(handle))
