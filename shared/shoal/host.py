"""What the machine must be to run services: Linux, for its `/proc`, death signals and memory files."""

from __future__ import annotations

import sys

from shoal.errors import ShoalError


class HostUnsupported(ShoalError):
    """The services do not run on this operating system."""

    code = "host_unsupported"


def unsupported() -> str | None:
    """Why services cannot run here, and what does run; None where they can."""
    if sys.platform == "linux":
        return None
    return (
        f"Shoal's services run on Linux, and this is {sys.platform}: start them with `docker compose up -d --build` "
        "(docs/docker.md). `shoal.Client` and the commands that talk to services work here too."
    )


def require_linux() -> None:
    """Refuse to start services elsewhere than on Linux.

    Raises
    ------
    HostUnsupported
        See `unsupported`.
    """
    if (why := unsupported()) is not None:
        raise HostUnsupported(why)
