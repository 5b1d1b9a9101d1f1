"""How many event streams may be open at once: in all, and of one client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from shoal.errors import TooManyStreams
from shoal.web.auth import caller

RETRY_AFTER_S: Final = 5
ADVICE: Final = "Close one, or poll `GET /jobs/{id}`."


@dataclass
class StreamLimits:
    """The open streams of an application.

    Parameters
    ----------
    most
        At once.
    most_per_client
        Of one API key; where no keys are needed, of one address.
    """

    most: int
    most_per_client: int
    _open: Counter[str] = field(default_factory=Counter)

    def take(self, request: Request) -> str:
        """Count one more stream; returns whose it is, for `release`.

        Raises
        ------
        TooManyStreams
            There are as many as may be.
        """
        who = _client(request)
        if self._open[who] >= self.most_per_client:
            raise TooManyStreams(
                f"{self.most_per_client} event streams of this client are open, as many as it may have. {ADVICE}",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._open.total() >= self.most:
            raise TooManyStreams(
                f"{self.most} event streams are open, as many as this service serves. {ADVICE}",
                retry_after_s=RETRY_AFTER_S,
            )
        self._open[who] += 1
        return who

    def release(self, who: str) -> None:
        """Count one stream less."""
        self._open[who] -= 1
        if self._open[who] <= 0:
            del self._open[who]


class CountedStream(EventSourceResponse):
    """A stream that is counted until it ends, however it ends.

    Parameters
    ----------
    content
        The events.
    limits, who
        Where it is counted, and as whose.
    """

    def __init__(self, content: Any, *, limits: StreamLimits, who: str, ping: int) -> None:
        super().__init__(content, ping=ping)
        self._limits = limits
        self._who = who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._limits.release(self._who)


def _client(request: Request) -> str:
    key = caller.get().key_id
    address = request.client.host if request.client else "unknown"
    return f"key {key}" if key else f"address {address}"
