"""Whether anybody still waits for what is being done: long reads ask now and then, and stop when nobody does.

Within a request of an API, `check_wanted` raises once the client is gone or the request has taken too long. Anywhere
else, as in a worker's job, it does nothing.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from shoal.errors import Unavailable


@dataclass
class Patience:
    """How long somebody waits.

    Attributes
    ----------
    seconds
        From now.
    gone
        Set when nobody waits any more.
    """

    seconds: float
    gone: bool = False
    _since: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise `Unavailable` when nobody waits any more."""
        if self.gone:
            raise Unavailable("The client is gone.")
        if time.monotonic() - self._since > self.seconds:
            raise too_slow(self.seconds)


waiting: ContextVar[Patience | None] = ContextVar("shoal_waiting", default=None)
"""The patience of the request that is being answered."""


def check_wanted() -> None:
    """Stop here when nobody waits any more.

    Raises
    ------
    Unavailable
        The client is gone, or has waited for too long.
    """
    patience = waiting.get()
    if patience is not None:
        patience.check()


def too_slow(seconds: float) -> Unavailable:
    """The error of a request that took longer than ``seconds``."""
    return Unavailable(
        f"The answer took longer than {seconds:.0f} s and was given up: the disk or the folder that the request names "
        "is slow, or the service is busy. Send the request again later."
    )
