"""The queue's Lua scripts on the Redis server: connecting, running them, and the form of their arguments and replies.

Each transition is one script in ``lua/``, so it happens whole or not at all; ``lua/prelude.lua`` names every key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shoal.errors import InvalidRequest, JsonValue, QueueUnavailable
from shoal.jobs.bell import Bell, Listener
from shoal.jobs.states import JobState
from shoal.schemas import Callback, Job

_REFUSALS = ("MISCONF", "BUSY", "NOREPLICAS")
"""Starts of those error replies of a server that cannot work now for which redis-py has no class."""


class Client(Protocol):
    """What the queue uses of a synchronous redis-py client."""

    def register_script(self, script: Any, /) -> Any:
        """A callable that runs the Lua script."""

    def pubsub(self) -> Listener:
        """A connection for messages."""

    def ping(self) -> Any:
        """Check that the server answers."""

    def close(self) -> Any:
        """Close the connections."""


@cache
def source(name: str) -> str:
    """The full text of the script ``name``: prelude and body."""
    folder = resources.files("shoal.jobs") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))


@contextmanager
def unavailable_when_unreachable() -> Iterator[None]:
    """Raise ``QueueUnavailable`` for every error of a server that is unreachable or refuses to work."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise QueueUnavailable(
            f"The job queue's server does not answer: {str(error).rstrip('.')}. Check REDIS_URL."
        ) from error
    except (OutOfMemoryError, ReadOnlyError, MasterDownError) as error:
        raise QueueUnavailable(
            f"The job queue's server refuses commands ({error}). Check its memory, disk and log."
        ) from error
    except ResponseError as error:
        if not str(error).startswith(_REFUSALS):
            raise
        raise QueueUnavailable(
            f"The job queue's server refuses commands ({error}). Check its memory, disk and log."
        ) from error


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

    def bell(self, kinds: Sequence[str]) -> Bell:
        """What hears of jobs of ``kinds`` that can be claimed."""
        return Bell(self._client, [f"{self._prefix}:bell:{kind}" for kind in kinds])

    def run(self, name: str, *args: str | int) -> Any:
        """Run the script ``name``; every byte string of its reply comes back as text.

        Raises
        ------
        QueueUnavailable
            The server is unreachable or refuses to work.
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

    It never retries by itself, since a claim must not be made twice; callers retry.
    """
    client: Client = redis.Redis.from_url(
        url,
        socket_timeout=10.0,
        socket_connect_timeout=3.0,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return client


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * 1_000_000)


def from_micros(micros: str | float) -> datetime:
    """The time ``micros`` microseconds after the epoch."""
    return datetime.fromtimestamp(float(micros) / 1_000_000, UTC)


def to_json(value: Any, *, sort_keys: bool = False) -> str:
    """Compact ASCII JSON: lone surrogates, as odd file names have them, survive it. NaN is refused."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)


def from_json(text: str | None) -> Any:
    """The value; None stays None."""
    return None if text is None else json.loads(text)


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbours of a flat list, two by two."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def fields_of(flat: Sequence[str]) -> dict[str, str]:
    """A hash as the server sends it, as a mapping."""
    return dict(pairs(flat))


def to_job(flat: Sequence[str]) -> Job:
    """A job's hash as the model that the API shows."""
    fields = fields_of(flat)
    times = {name: from_micros(fields[name]) for name in ("created_at", "started_at", "finished_at") if name in fields}
    return Job(
        id=fields["id"],
        kind=fields["kind"],
        state=JobState(fields["state"]),
        created_at=times["created_at"],
        started_at=times.get("started_at"),
        finished_at=times.get("finished_at"),
        attempt=int(fields["attempt"]),
        cancel_requested="cancel_requested" in fields,
        progress=from_json(fields.get("progress")),
        workers=(fields["state"] == JobState.RUNNING) + int(fields.get("helpers", 0)),
        request=json.loads(fields["request"]),
        result=from_json(fields.get("result")),
        error=from_json(fields.get("error")),
        last_error=from_json(fields.get("last_error")),
        callback=_to_callback(fields),
    )


def _to_callback(fields: dict[str, str]) -> Callback | None:
    if "callback" not in fields:
        return None
    return Callback(
        # Not the URL: its path or its query may be a secret of whoever submitted the job.
        host=urlsplit(fields["callback"]).hostname or "",
        state=fields.get("callback_state", "waiting"),
        attempts=int(fields.get("callback_attempts", 0)),
        last_error=fields.get("callback_error"),
        next_attempt_at=from_micros(fields["callback_due"]) if "callback_due" in fields else None,
    )


def key_digest(idempotency_key: str | None, caller: str | None = None) -> str:
    """Digest of a caller's Idempotency-Key, as it stands in Redis keys; empty without one."""
    if idempotency_key is None:
        return ""
    if not 1 <= len(idempotency_key) <= 255:
        raise InvalidRequest(
            f"The `Idempotency-Key` has {len(idempotency_key)} characters; it must have between 1 and 255.",
            field="Idempotency-Key",
        )
    # Neither can hold a line break, so the keys of two callers never meet.
    text = idempotency_key if caller is None else f"{caller}\n{idempotency_key}"
    return hashlib.sha256(text.encode()).hexdigest()


def request_digest(kind: str, request: dict[str, JsonValue], callback: str | None) -> str:
    """Digest of what was sent with an Idempotency-Key: a job of ``kind``, and who hears of its end."""
    sent = [kind, request] if callback is None else [kind, request, callback]
    return hashlib.sha256(to_json(sent, sort_keys=True).encode()).hexdigest()


def encode_cursor(sequence: str) -> str:
    """A place in the order of submission as an opaque text."""
    return base64.urlsafe_b64encode(f"seq:{int(float(sequence))}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The sequence number in a cursor of `encode_cursor`.

    Raises
    ------
    InvalidRequest
        ``cursor`` did not come from `encode_cursor`.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        match = re.fullmatch(r"seq:([0-9]{1,15})", text)
    except ValueError:
        match = None
    if match is None:
        raise InvalidRequest(
            "`cursor` is not valid. Send the `next_cursor` of the previous page, or leave it out.", field="cursor"
        )
    return int(match[1])
