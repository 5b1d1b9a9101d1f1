"""What wakes a worker that waits for a job: the server says when one can be claimed.

Nobody depends on it: a worker asks the queue several times a second anyway, so a lost message delays a job by that.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from typing import Protocol

import redis
import structlog

ANSWER_S = 3.0
RETRY_S = 10.0
"""Pause after the server could not be listened to."""

log = structlog.get_logger(__name__)


class Listener(Protocol):
    """What is used of redis-py's ``PubSub``."""

    @property
    def connection(self) -> object:
        """The connection, which has a socket while it stands."""

    def subscribe(self, *channels: str) -> object:
        """Ask for messages of ``channels``."""

    def get_message(self, ignore_subscribe_messages: bool, timeout: float) -> object:
        """The next message that has arrived, or None."""

    def close(self) -> object:
        """Close the connection."""


class Client(Protocol):
    """What is used of redis-py's client."""

    def pubsub(self) -> Listener:
        """A connection for messages."""


class Bell:
    """Waits for the message that a job can be claimed.

    Parameters
    ----------
    client
        Of the server that has the queue.
    channels
        Those of the kinds of jobs; see ``lua/prelude.lua``.
    """

    def __init__(self, client: Client, channels: Sequence[str]) -> None:
        self._client = client
        self._channels = tuple(channels)
        self._listener: Listener | None = None
        self._retry_at = 0.0

    def wait(self, timeout_s: float, wake_fd: int) -> None:
        """Return when a job may have come or ``wake_fd`` can be read, at the latest after ``timeout_s``."""
        watched: list[int | socket.socket] = [wake_fd]
        try:
            listener = self._listen()
            if listener is not None:
                if _received(listener):
                    return
                watched += _socket(listener)
            select.select(watched, [], [], timeout_s)
            if listener is not None:
                _received(listener)
        except (redis.RedisError, OSError) as error:
            log.debug("no messages of new jobs", error=str(error))
            self.close()
            self._retry_at = time.monotonic() + RETRY_S

    def close(self) -> None:
        """Close the connection."""
        if self._listener is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                self._listener.close()
            self._listener = None

    def _listen(self) -> Listener | None:
        if self._listener is None and time.monotonic() >= self._retry_at:
            self._listener = self._client.pubsub()
            self._listener.subscribe(*self._channels)
            for _ in self._channels:  # The server's answers, which are no messages.
                self._listener.get_message(ignore_subscribe_messages=True, timeout=ANSWER_S)
        return self._listener


def _received(listener: Listener) -> bool:
    """Whether a message has arrived; takes all that have."""
    received = False
    while (message := listener.get_message(ignore_subscribe_messages=True, timeout=0.0)) is not None:
        received = received or bool(message)
    return received


def _socket(listener: Listener) -> list[socket.socket]:
    # redis-py has no public way to wait for a message and for something else.
    found = getattr(listener.connection, "_sock", None)
    return [found] if isinstance(found, socket.socket) else []
