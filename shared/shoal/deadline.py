"""The time limit of a request: long reads check it now and then, and stop when it is over or the client is gone."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

from shoal.errors import Unavailable


@dataclass
class Deadline:
    """A time limit that starts now; leaving its ``with`` block cancels it.

    Functions that check one take ``deadline: Deadline | None``; None means no limit, as in a worker's job.

    Attributes
    ----------
    seconds
        The limit.
    cancelled
        Whether nobody waits for the result any more.
    """

    seconds: float
    cancelled: bool = False
    _since: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancelled = True

    def check(self) -> None:
        """Stop here when the time is over or nobody waits for the result.

        Raises
        ------
        Unavailable
            The deadline has passed or is cancelled.
        """
        if self.cancelled:
            raise Unavailable("The client closed the connection.")
        if time.monotonic() - self._since > self.seconds:
            raise deadline_exceeded(self.seconds)


def deadline_exceeded(seconds: float) -> Unavailable:
    """The error of a request that took longer than ``seconds``."""
    return Unavailable(
        f"The request took longer than {seconds:.0f} s and was stopped: the disk or the folder that it names is slow, "
        "or the service is busy. Send the request again later."
    )
