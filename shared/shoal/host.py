"""The machine this process runs on: operating system, cores, versions of the installed libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from shoal.errors import HostUnsupported

SWITCH_S = 0.001
"""Seconds after which a computing thread gives Python's interpreter lock to the event loop."""

_share: int | None = None


def unsupported() -> str | None:
    """Why services cannot run on this operating system; None on Linux."""
    if sys.platform == "linux":
        return None
    return (
        f"Shoal's services run on Linux only; this is {sys.platform}. Start them with `docker compose up -d --build` "
        "(docs/docker.md). `shoal.Client` and the commands that talk to services work here."
    )


def require_linux() -> None:
    """Raise an error unless this is Linux.

    Raises
    ------
    HostUnsupported
        See `unsupported`.
    """
    if (why := unsupported()) is not None:
        raise HostUnsupported(why)


def available_cores() -> int:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if _share is None else min(cores, _share)


def use_cores(most: int) -> None:
    """Let `available_cores` be at most this: others compute on the rest of the machine."""
    global _share
    _share = most


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions in ``names`` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
