"""API keys: created, listed and revoked by `shoal keys`, checked and rate-limited at every request.

A token is ``shoal_<id>_<secret>``. The server keeps the SHA-256 of the secret alone: 256 random bits need no slow hash.
Checking a token and charging its rate are one script, so that a request costs one round trip.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from shoal.errors import InvalidRequest, NotAuthenticated, NotFound, RateLimited
from shoal.jobs.redis_scripts import connect, unavailable_when_unreachable

PREFIX = "shoal-keys"
BURST_S = 2.0
"""A key may send as many requests at once as its rate allows in this time."""
_TOKEN = re.compile(r"shoal_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")

# KEYS: the key, its clock. ARGV: hash of the secret (empty: a session vouches for the key), default rate, burst in
# seconds.
# The clock is the time at which the key's allowance is full again (generic cell rate algorithm).
_ADMIT = """
local key = redis.call('HMGET', KEYS[1], 'hash', 'name', 'scope', 'rate', 'revoked_at')
if not key[1] or key[5] or (ARGV[1] ~= '' and key[1] ~= ARGV[1]) then return {'refused'} end
local rate = tonumber(key[4]) or tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full = math.max(tonumber(redis.call('GET', KEYS[2])) or 0, now) + 1000000 / rate
local wait = full - now - math.max(ARGV[3] * 1000000, 1000000 / rate)
if wait > 0 then return {'slow', tostring(wait)} end
redis.call('SET', KEYS[2], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
return {'admitted', key[2], key[3]}
"""


class Scope(StrEnum):
    """What a key may do; each scope includes the ones before it."""

    READ = "read"
    """Look at everything."""
    SUBMIT = "submit"
    """Submit and cancel jobs, embed and assign single images, upload images and delete them again."""
    ADMIN = "admin"
    """Delete embeddings and clusterings."""

    def includes(self, other: Scope) -> bool:
        """Whether a key of this scope may do what ``other`` allows."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    key_id: str | None
    name: str
    scope: Scope


ANONYMOUS = Caller(None, "anonymous", Scope.ADMIN)
"""The caller of an API that needs no keys."""


@dataclass(frozen=True)
class ApiKey:
    """A key as it is listed: everything but the secret."""

    id: str
    name: str
    scope: Scope
    created_at: datetime
    rate: float | None
    revoked_at: datetime | None


class KeyStore:
    """The API keys on one Redis server.

    Parameters
    ----------
    client
        A synchronous redis-py client.

    Raises
    ------
    QueueUnavailable
        From every method: the server is away.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._admit = client.register_script(_ADMIT)

    @classmethod
    def from_url(cls, url: str) -> KeyStore:
        """Keys on ``redis://``, ``rediss://`` or ``unix://``; connects at the first call."""
        return cls(connect(url))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def create(self, name: str, scope: Scope, *, rate: float | None = None) -> tuple[ApiKey, str]:
        """Create a key; its token is returned once and cannot be read again.

        Parameters
        ----------
        name
            Who uses it, for the audit log.
        rate
            Requests per second; None for the service's limit.

        Raises
        ------
        InvalidRequest
            ``name`` or ``rate`` is out of range.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,79}", name):
            raise InvalidRequest(
                "A key's name must have 1 to 80 letters, digits, spaces or . _ @ - and begin with a letter or digit.",
                field="name",
            )
        if rate is not None and not 0 < rate <= 1e6:
            raise InvalidRequest(
                "A key's rate must be above 0 and at most 1,000,000 requests per second.", field="rate"
            )
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        fields: dict[str, str] = {
            "hash": hash_secret(secret),
            "name": name,
            "scope": scope.value,
            "created_at": now.isoformat(),
            **({"rate": repr(rate)} if rate is not None else {}),
        }
        with unavailable_when_unreachable(), self.client.pipeline() as pipe:
            pipe.hset(_key(key_id), mapping=fields)
            pipe.sadd(f"{PREFIX}:ids", key_id)
            pipe.execute()
        return ApiKey(key_id, name, scope, now, rate, None), f"shoal_{key_id}_{secret}"

    def list(self) -> list[ApiKey]:
        """All keys, including revoked ones, oldest first."""
        with unavailable_when_unreachable():
            ids = sorted(text_of(member) for member in self._members())
            found = [(key_id, self._fields(key_id)) for key_id in ids]
        return sorted((_api_key(key_id, fields) for key_id, fields in found if fields), key=lambda key: key.created_at)

    def any_live(self) -> bool:
        """Whether there is a key that has not been revoked."""
        return any(key.revoked_at is None for key in self.list())

    def revoke(self, key_id: str) -> ApiKey:
        """Refuse the key from the next request on.

        Raises
        ------
        NotFound
            There is no such key.
        """
        with unavailable_when_unreachable():
            fields = self._fields(key_id)
            if not fields:
                raise NotFound(f"API key {key_id!r} does not exist; `shoal keys list` lists all keys.")
            if "revoked_at" not in fields:
                self.client.hset(_key(key_id), "revoked_at", datetime.now(UTC).isoformat())
            return _api_key(key_id, self._fields(key_id))

    def admit(self, token: str, *, rate: float) -> Caller:
        """Who sends ``token``; charges one request to the key's rate (``rate`` a second if it has none of its own).

        Raises
        ------
        NotAuthenticated
            The token is malformed, unknown or revoked.
        RateLimited
            The key has sent too many requests; ``retry_after_s`` says when to retry.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise NotAuthenticated("This is not a Shoal API key: API keys start with `shoal_`.")
        key_id, secret = match.groups()
        return self._charge(key_id, hash_secret(secret), rate)

    def admit_id(self, key_id: str, *, rate: float) -> Caller:
        """The caller behind a session of the key ``key_id``; charges one request to the key's rate.

        Raises
        ------
        NotAuthenticated
            The key was revoked.
        RateLimited
            The key has sent too many requests.
        """
        return self._charge(key_id, "", rate)

    def _charge(self, key_id: str, digest: str, rate: float) -> Caller:
        with unavailable_when_unreachable():
            reply = self._admit(keys=[_key(key_id), f"{PREFIX}:clock:{key_id}"], args=[digest, rate, BURST_S])
        answer, *values = (text_of(part) for part in reply)
        if answer == "refused":
            raise NotAuthenticated(
                "This API key is unknown or was revoked. `shoal keys list` lists all; `shoal keys create` makes one."
            )
        if answer == "slow":
            wait = max(1, round(float(values[0]) / 1e6 + 0.5))
            raise RateLimited(
                f"This API key exceeds its rate limit. Send the request again in {wait} s.", retry_after_s=wait
            )
        return Caller(key_id, values[0], Scope(values[1]))

    # ---- jobs of a key

    def track(self, key_id: str, job_id: str) -> None:
        """Record that the key submitted the job."""
        with unavailable_when_unreachable():
            self.client.sadd(f"{PREFIX}:jobs:{key_id}", job_id)

    def tracked(self, key_id: str) -> set[str]:
        """Recorded jobs of the key."""
        with unavailable_when_unreachable():
            members = self.client.smembers(f"{PREFIX}:jobs:{key_id}")
        return {text_of(member) for member in members}

    def tracked_count(self, key_id: str) -> int:
        """How many jobs `tracked` returns."""
        with unavailable_when_unreachable():
            count = self.client.scard(f"{PREFIX}:jobs:{key_id}")
        return int(count)

    def forget(self, key_id: str, job_ids: Collection[str]) -> None:
        """Delete the records of ended jobs."""
        if job_ids:
            with unavailable_when_unreachable():
                self.client.srem(f"{PREFIX}:jobs:{key_id}", *job_ids)

    def _members(self) -> Any:
        return self.client.smembers(f"{PREFIX}:ids")

    def _fields(self, key_id: str) -> dict[str, str]:
        found = self.client.hgetall(_key(key_id))
        return {text_of(name): text_of(value) for name, value in found.items()}


def _api_key(key_id: str, fields: dict[str, str]) -> ApiKey:
    return ApiKey(
        id=key_id,
        name=fields["name"],
        scope=Scope(fields["scope"]),
        created_at=datetime.fromisoformat(fields["created_at"]),
        rate=float(fields["rate"]) if "rate" in fields else None,
        revoked_at=datetime.fromisoformat(fields["revoked_at"]) if "revoked_at" in fields else None,
    )


def _key(key_id: str) -> str:
    return f"{PREFIX}:key:{key_id}"


def hash_secret(secret: str) -> str:
    """What the server keeps of a secret of 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def text_of(value: bytes | str) -> str:
    """A string of the server's answer."""
    return value.decode() if isinstance(value, bytes) else value
