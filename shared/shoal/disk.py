"""The disk that a store lies on."""

from __future__ import annotations

import shutil
from pathlib import Path

from shoal.settings import MIN_FREE_BYTES


def shortage(folder: Path) -> str | None:
    """What the disk of the store's ``folder`` lacks for jobs; None if it has room.

    Raises
    ------
    OSError
        The disk cannot be asked.
    """
    free = shutil.disk_usage(folder).free
    if free >= MIN_FREE_BYTES:
        return None
    return f"only {free >> 20} MiB are free for the store; it needs {MIN_FREE_BYTES >> 20} MiB"
