"""The folder of Ray's files on the machine of a job."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY, PREFIX = "/tmp", "shoal-ray-"
"""Where it is, as sockets have short paths, and the beginning of its name."""
FRESH_S = 60.0
"""A folder of this age is locked if its process lives."""


@contextmanager
def folder_of_process() -> Iterator[Path]:
    """A folder for Ray's files; those of processes that were killed are removed first."""
    for left in Path(TEMPORARY).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > FRESH_S and (lock := _locked(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=TEMPORARY))
    lock = _locked(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a folder while this process lives and does not close the result; None if another one has it."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened
