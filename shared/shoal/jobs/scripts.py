"""The queue's Lua scripts and the one place that talks to the server.

Each transition is one script in ``lua/``, so it happens whole or not at all; ``lua/prelude.lua`` names every key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shoal.errors import QueueUnavailable

_REFUSALS = ("MISCONF", "BUSY", "NOREPLICAS")
"""Starts of those error replies of a server that cannot work now for which redis-py has no class."""


class Client(Protocol):
    """What the queue needs of a synchronous redis-py client."""

    def register_script(self, script: Any, /) -> Any:
        """A callable that runs the Lua script."""

    def ping(self) -> Any:
        """Ask the server for an answer."""

    def close(self) -> Any:
        """Close the connections."""


@cache
def source(name: str) -> str:
    """The full text of the script ``name``: prelude and body."""
    folder = resources.files("shoal.jobs") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))


@contextmanager
def unavailable_when_unreachable() -> Iterator[None]:
    """Turn every way in which the server can be away into ``QueueUnavailable``."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise QueueUnavailable(f"The job queue's server does not answer: {error}. Check REDIS_URL.") from error
    except (OutOfMemoryError, ReadOnlyError, MasterDownError) as error:
        raise QueueUnavailable(f"The job queue's server refuses to work: {error}") from error
    except ResponseError as error:
        if not str(error).startswith(_REFUSALS):
            raise
        raise QueueUnavailable(f"The job queue's server refuses to work: {error}") from error


class Scripts:
    """Runs the scripts on one server.

    Parameters
    ----------
    client
        A synchronous redis-py client.
    prefix
        Start of every key.
    common
        Arguments that come before every script's own: clock offset, lease and retention in microseconds.
    """

    def __init__(self, client: Client, prefix: str, common: tuple[int, int, int]) -> None:
        self._client = client
        self._prefix = prefix
        self._common = common
        self._registered: dict[str, Any] = {}

    def run(self, name: str, *args: str | int) -> Any:
        """Run the script ``name``; every byte string of its reply comes back as text.

        Raises
        ------
        QueueUnavailable
            The server is away or refuses to work.
        """
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._client.register_script(source(name))
        with unavailable_when_unreachable():
            return _text(script(keys=[self._prefix], args=[*self._common, *args]))


def _text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode("utf-8")
    if isinstance(reply, list):
        return [_text(item) for item in reply]
    return reply


def connect(url: str) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://`` that gives up after seconds instead of hanging.

    It repeats no call by itself, since a claim must not be made twice; the callers decide.
    """
    client: Client = redis.Redis.from_url(
        url,
        socket_timeout=10.0,
        socket_connect_timeout=3.0,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return client
