"""Sessions: a browser exchanges an API key for a cookie, so that no script ever holds the key.

A session names its key by id: revoking the key, or narrowing its scope, holds from the session's next request on. The
server keeps the SHA-256 of the cookie's value alone, as it does for keys.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from shoal.errors import NotAuthenticated, RateLimited
from shoal.jobs.redis_scripts import unavailable_when_unreachable
from shoal.keys import PREFIX, Caller, KeyStore, hash_secret, text_of

IDLE_S: Final = 12 * 3600
"""A session ends when it has not been used for so long."""
LONGEST_S: Final = 7 * 24 * 3600
"""A session ends after so long, used or not."""
LOGINS: Final = 20
"""Failed logins that one address may make in `LOGINS_S` seconds."""
LOGINS_S: Final = 60


@dataclass(frozen=True)
class Session:
    """Who looks at the pages.

    Attributes
    ----------
    id
        Value of the cookie: 256 random bits.
    csrf
        What a page sends with every change, in the header ``X-CSRF-Token``. Another site's page cannot read it.
    caller
        The key behind the session.
    """

    id: str
    csrf: str
    caller: Caller


class Sessions:
    """The sessions on the Redis server of the keys.

    Parameters
    ----------
    keys
        The keys that sessions stand for.
    rate
        Requests per second of a key without a rate of its own.

    Raises
    ------
    QueueUnavailable
        From every method: the server is away.
    """

    def __init__(self, keys: KeyStore, rate: float) -> None:
        self._keys = keys
        self._client = keys.client
        self._rate = rate

    def open(self, token: str, address: str) -> Session:
        """Begin a session with an API key.

        Parameters
        ----------
        token
            The API key.
        address
            Where the request comes from: too many wrong keys from there are refused.

        Raises
        ------
        NotAuthenticated
            The key is malformed, unknown or revoked.
        RateLimited
            The address sent too many wrong keys, or the key too many requests.
        """
        counter = f"{PREFIX}:logins:{address}"
        with unavailable_when_unreachable():
            failed = int(self._client.get(counter) or 0)
        if failed >= LOGINS:
            raise RateLimited(
                f"{failed} wrong keys came from this address. Try again in {LOGINS_S} s.", retry_after_s=LOGINS_S
            )
        try:
            caller = self._keys.admit(token, rate=self._rate)
        except NotAuthenticated:
            with unavailable_when_unreachable(), self._client.pipeline() as pipe:
                pipe.incr(counter)
                pipe.expire(counter, LOGINS_S)
                pipe.execute()
            raise
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), caller)
        record = {"key": caller.key_id, "csrf": session.csrf, "until": repr(time.time() + LONGEST_S)}
        with unavailable_when_unreachable(), self._client.pipeline() as pipe:
            pipe.hset(_name(session.id), mapping=record)
            pipe.expire(_name(session.id), IDLE_S)
            pipe.execute()
        return session

    def find(self, session_id: str) -> Session:
        """The session of a cookie; charges one request to its key's rate, and keeps the session alive.

        Raises
        ------
        NotAuthenticated
            The session has ended, or its key was revoked.
        RateLimited
            The key has sent too many requests.
        """
        name = _name(session_id)
        with unavailable_when_unreachable(), self._client.pipeline() as pipe:
            pipe.hmget(name, "key", "csrf", "until")
            pipe.expire(name, IDLE_S)
            (key_id, csrf, until), _ = pipe.execute()
        if key_id is None or float(until) <= time.time():
            raise NotAuthenticated("The session has ended. Log in again.")
        return Session(session_id, text_of(csrf), self._keys.admit_id(text_of(key_id), rate=self._rate))

    def close(self, session_id: str) -> None:
        """End a session; one that has ended is no error."""
        with unavailable_when_unreachable():
            self._client.delete(_name(session_id))


def _name(session_id: str) -> str:
    return f"{PREFIX}:session:{hash_secret(session_id)}"
