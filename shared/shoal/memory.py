"""The memory of this machine, and how a process gives its own back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_memory() -> int:
    """Bytes of memory that this machine, or this container, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits()])


def _container_limits() -> Iterator[int]:
    for file in CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            yield int(file.read_text())


def release_freed_memory() -> None:
    """Return freed memory to the system (glibc), which otherwise still counts it as this process's."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
