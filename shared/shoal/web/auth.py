"""Who may ask what: bearer API keys, checked before any route runs, and refusing to listen openly without them."""

from __future__ import annotations

import hmac
import ipaddress
from contextvars import ContextVar
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal import keys
from shoal.errors import Forbidden, NotAuthenticated, QueueUnavailable, ShoalError
from shoal.keys import ANONYMOUS, Caller, KeyStore
from shoal.settings import Settings, read_secret
from shoal.web.asgi import header_values, refuse
from shoal.web.pools import QUICK
from shoal.web.problems import problem_responses

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""The routes that answer without a key; they say nothing about jobs or data."""
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

caller: ContextVar[Caller] = ContextVar("shoal_caller", default=ANONYMOUS)
"""Who sent the request that is being answered."""


_token: ContextVar[str | None] = ContextVar("shoal_token", default=None)


def forwarded_headers() -> dict[str, str]:
    """What a service sends along when it asks another one for the caller: the caller's own key."""
    token = _token.get()
    return {} if token is None else {"Authorization": f"Bearer {token}"}


class NoKeys(ShoalError):
    """An API was to listen beyond loopback although no key exists."""

    code = "no_keys"


def keys_needed(settings: Settings) -> bool:
    """Whether requests need a key."""
    if settings.auth == "auto":
        return not _is_loopback(settings.published_host or settings.host)
    return bool(settings.auth == "required")


def check_before_listening(settings: Settings, store: KeyStore) -> None:
    """Refuse to start where keys are needed and there is none.

    When the server that holds the keys is away, the service starts: it answers nobody before that server is back.

    Raises
    ------
    NoKeys
        No key exists.
    """
    if not keys_needed(settings):
        return
    try:
        if store.any_live():
            return
    except QueueUnavailable:
        return
    raise NoKeys(
        f"This API asks for keys (it would listen on {settings.published_host or settings.host}), and there is none: "
        "nobody could use it. Make one with `shoal keys create --name NAME --scope admin`, or listen on 127.0.0.1 with "
        "SHOAL_AUTH=auto, or set SHOAL_AUTH=off to let everybody in who can reach it."
    )


def needed_scope(method: str, path: str) -> keys.Scope:
    """What a key must be allowed to do for a request."""
    if method in READING:
        return keys.Scope.READ
    if method == "POST" or (method == "DELETE" and path.startswith("/jobs/")):
        return keys.Scope.SUBMIT
    return keys.Scope.ADMIN


class Authentication:
    """Lets a request through when its key allows it; where no keys are needed, lets every request through.

    It stands before routing, so that a route cannot be forgotten: what is not in `OPEN_PATHS` needs a key, paths that
    do not exist included.

    Parameters
    ----------
    store
        The keys; None where none are needed.
    rate
        Requests a second of a key that has no rate of its own.
    metrics_token
        A token that opens ``/metrics`` and nothing else, so that metrics can be read while Redis is away.
    """

    def __init__(self, app: ASGIApp, *, store: KeyStore | None, rate: float, metrics_token: str | None = None) -> None:
        self._app = app
        self._store = store
        self._rate = rate
        self._metrics_token = metrics_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or self._store is None or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            who = await self._authenticate(scope, self._store)
        except ShoalError as error:
            await refuse(error, scope, receive, send)
            return
        scope["shoal.caller"] = who
        before = caller.set(who), _token.set(bearer_token(header_values(scope, "authorization")))
        try:
            await self._app(scope, receive, send)
        finally:
            caller.reset(before[0])
            _token.reset(before[1])

    async def _authenticate(self, scope: Scope, store: KeyStore) -> Caller:
        token = bearer_token(header_values(scope, "authorization"))
        if scope["path"] == "/metrics" and self._opens_metrics(token):
            return Caller(None, "metrics", keys.Scope.READ)
        who = await QUICK.run(store.admit, token, rate=self._rate)
        needed = needed_scope(scope["method"], scope["path"])
        if not who.scope.includes(needed):
            raise Forbidden(f"This API key may {who.scope}; the request needs one that may {needed}.", scope=needed)
        return who

    def _opens_metrics(self, token: str) -> bool:
        return self._metrics_token is not None and hmac.compare_digest(token.encode(), self._metrics_token.encode())


def bearer_token(values: list[str]) -> str:
    """The token of the one Authorization header that a request must carry.

    Raises
    ------
    NotAuthenticated
        There is none, more than one, or one of another scheme.
    """
    if len(values) != 1:
        raise NotAuthenticated("Send one header `Authorization: Bearer <API key>`; `shoal keys create` makes a key.")
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii():
        raise NotAuthenticated("Send the API key as `Authorization: Bearer <API key>`.")
    return token


def install(app: FastAPI, settings: Settings, store: KeyStore | None) -> None:
    """Put the check before every route of ``app`` and say so in its OpenAPI document."""
    token = read_secret(settings.metrics_token_file) if settings.metrics_token_file else None
    app.add_middleware(Authentication, store=store, rate=settings.rate_limit, metrics_token=token)
    original = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            describe(original())
        return original()

    app.openapi = described  # type: ignore[method-assign]


def describe(document: dict[str, Any]) -> None:
    """Add the security scheme, and the answers that any route may give, to an OpenAPI ``document``."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key; `shoal keys create` makes one.",
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = [422]  # a query parameter that no route has
            if path not in OPEN_PATHS:
                operation["security"] = [{"bearer": []}]
                # A path whose parameter no route takes, such as one with a line break, is found nowhere.
                missing = [404] if "{" in path else []
                statuses += [401, 403, 429, 503, *missing, *([400, 413, 415] if method == "post" else [])]
            for status, answer in problem_responses(*statuses).items():
                described = {key: value for key, value in answer.items() if key != "model"}
                operation["responses"].setdefault(str(status), described)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
