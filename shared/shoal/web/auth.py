"""API keys: every request is authenticated before any route runs, and no service listens to others without keys."""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import Annotated, Any, Final, cast
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal import keys
from shoal.errors import CsrfFailed, Forbidden, NoKeys, NotAuthenticated, QueueUnavailable, ShoalError
from shoal.keys import ANONYMOUS, Caller, KeyStore
from shoal.sessions import Session, Sessions
from shoal.settings import Settings, read_secret
from shoal.web.middleware import CALLER, HttpMiddleware, header_values, refuse
from shoal.web.pools import QUICK
from shoal.web.problems import problem_responses

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/session"})
"""The routes that answer without a key; they reveal nothing about jobs or data."""
PROXY: Final = "/ui/extractor"
"""Below it, pages reach the extractor's routes, which need what they need there."""
COOKIE: Final = "shoal_session"
CSRF: Final = "x-csrf-token"
SESSION: Final = "session"
"""Key of the `Session` in a request's state, where the request came with one."""
ANNOTATED: Final = re.compile(r"/clusterings/[^/]+/(names|moves)|/(duplicates|quality)/[^/]+/decisions")
"""What every user writes: an entry more in a journal, which can be undone."""
SUBMITTERS: Final = frozenset({"/folders"})
"""What only those may read who may submit: the names of files that nothing in the store refers to."""
BODIES: Final = frozenset({"post", "put", "patch"})
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


async def _caller(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


CallerDep = Annotated[Caller, Depends(_caller)]


async def _forwarded_headers(request: Request) -> dict[str, str]:
    if request.state.caller is ANONYMOUS:
        return {}
    session: Session | None = getattr(request.state, SESSION, None)
    if session is not None:
        return {"Cookie": f"{COOKIE}={session.id}", "X-CSRF-Token": session.csrf}
    return {"Authorization": f"Bearer {bearer_token(header_values(request.scope, 'authorization'))}"}


ForwardedHeaders = Annotated[dict[str, str], Depends(_forwarded_headers)]
"""Headers for a request to the other service on behalf of the caller: the caller's own key or session, if needed."""


def keys_needed(settings: Settings) -> bool:
    """Whether requests need a key."""
    if settings.auth == "auto":
        return not _is_loopback(settings.published_host or settings.host)
    return bool(settings.auth == "required")


def check_before_listening(settings: Settings, store: KeyStore) -> None:
    """Refuse to start where keys are needed and none exists.

    If the server that holds the keys is unreachable, the service starts: it answers nobody until that server is back.

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
        f"This API would listen on {settings.published_host or settings.host}, which other machines can reach, but no "
        "API key exists. Create one with `shoal keys create --name NAME --scope admin`, or listen on 127.0.0.1 with "
        "SHOAL_AUTH=auto, or set SHOAL_AUTH=off to answer everybody who can reach it."
    )


def needed_scope(method: str, path: str) -> keys.Scope:
    """The scope that a key needs for a request."""
    path = path.removeprefix(PROXY)
    if method in READING:
        return keys.Scope.SUBMIT if path in SUBMITTERS else keys.Scope.READ
    own = path.startswith("/uploads/") and method in {"PUT", "DELETE"}
    own = own or (method in {"PUT", "PATCH"} and ANNOTATED.fullmatch(path) is not None)
    if method == "POST" or own or (method == "DELETE" and path.startswith("/jobs/")):
        return keys.Scope.SUBMIT
    return keys.Scope.ADMIN


class Authentication(HttpMiddleware):
    """Lets a request through if its key allows it; where no keys are needed, lets every request through.

    It runs before routing, so that no route can be forgotten: every path outside `OPEN_PATHS` needs a key, even one
    that does not exist. It sets ``request.state.caller``.

    Parameters
    ----------
    store
        The keys; None where none are needed.
    rate
        Requests per second of a key without a rate of its own.
    metrics_token
        A token that opens ``/metrics`` and nothing else, so that metrics can be read while Redis is unreachable.
    open_pages
        Paths that everybody may read: pages without data.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: KeyStore | None,
        rate: float,
        metrics_token: str | None = None,
        open_pages: re.Pattern[str] | None = None,
    ) -> None:
        super().__init__(app)
        self._open_pages = open_pages
        self._store = store
        self._rate = rate
        self._metrics_token = metrics_token

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        caller, session = ANONYMOUS, None
        if self._store is not None and not self._is_open(scope):
            try:
                caller, session = await self._authenticate(scope, self._store)
            except ShoalError as error:
                await refuse(error, scope, receive, send)
                return
        scope.setdefault("state", {})[CALLER] = caller
        if session is not None:
            scope["state"][SESSION] = session
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        if scope["path"] in OPEN_PATHS:
            return True
        page = self._open_pages is not None and self._open_pages.fullmatch(scope["path"]) is not None
        return page and scope["method"] in {"GET", "HEAD"}

    async def _authenticate(self, scope: Scope, store: KeyStore) -> tuple[Caller, Session | None]:
        cookie, session = session_cookie(scope), None
        # A key in the header counts before a cookie: a program says who it is, a browser adds its cookie by itself.
        if cookie is not None and not header_values(scope, "authorization"):
            session = await QUICK.run(Sessions(store, self._rate).find, cookie)
            check_csrf(scope, session)
            caller = session.caller
        else:
            token = bearer_token(header_values(scope, "authorization"))
            if scope["path"] == "/metrics" and self._opens_metrics(token):
                return Caller(None, "metrics", keys.Scope.READ), None
            caller = await QUICK.run(store.admit, token, rate=self._rate)
        needed = needed_scope(scope["method"], scope["path"])
        if not caller.scope.includes(needed):
            request = f"{scope['method']} {scope['path'][:300]}"
            raise Forbidden(
                f"This API key has scope `{caller.scope}`; `{request}` needs scope `{needed}`.", scope=needed
            )
        return caller, session

    def _opens_metrics(self, token: str) -> bool:
        return self._metrics_token is not None and hmac.compare_digest(token.encode(), self._metrics_token.encode())


def session_cookie(scope: Scope) -> str | None:
    """The value of the session's cookie; None if the request has none, or an unusable one."""
    found = [
        value.strip()
        for header in header_values(scope, "cookie")
        for name, _, value in (part.partition("=") for part in header.split(";"))
        if name.strip() == COOKIE
    ]
    return found[0] if len(found) == 1 and re.fullmatch(r"[A-Za-z0-9_-]{43}", found[0]) else None


def check_csrf(scope: Scope, session: Session) -> None:
    """Refuse a change that does not come from a page of this service.

    Raises
    ------
    CsrfFailed
        The header ``X-CSRF-Token`` is missing or not the session's, or ``Origin`` names another site.
    """
    if scope["method"] in READING:
        return
    refuse_other_sites(scope, CsrfFailed)
    sent = header_values(scope, CSRF)
    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode("latin-1"), session.csrf.encode()):
        raise CsrfFailed(
            "A change in a session needs the header `X-CSRF-Token` with the `csrf` of `GET /session`. Reload the page."
        )


def refuse_other_sites(scope: Scope, error: type[Forbidden] = Forbidden) -> None:
    """Refuse what a web page of another site makes a browser send.

    A browser sends JSON to another site only after asking it, but bytes and forms at once; it says where they are from.

    Raises
    ------
    Forbidden
        The header ``Origin`` names another site.
    """
    own = [host.lower() for host in header_values(scope, "host")]
    for origin in header_values(scope, "origin"):
        try:
            site = urlsplit(origin).netloc.lower()
        except ValueError:  # "http://[": no browser sends that.
            site = ""
        if not site or [site] != own:
            raise error(
                "The request comes from a page of another web site: its `Origin` header names one. Send it from a "
                "server, or through a proxy under the host of that page."
            )


def bearer_token(values: list[str]) -> str:
    """The token of the only Authorization header of a request.

    Raises
    ------
    NotAuthenticated
        The header is missing, repeated or of another scheme.
    """
    if len(values) != 1:
        sent = "No `Authorization` header" if not values else "More than one `Authorization` header"
        raise NotAuthenticated(
            f"{sent} was sent. Send one: `Authorization: Bearer <API key>`. `shoal keys create` creates a key."
        )
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii():
        raise NotAuthenticated("Send the API key as `Authorization: Bearer <API key>`.")
    return token


def install(
    app: FastAPI, settings: Settings, store: KeyStore | None, open_pages: re.Pattern[str] | None = None
) -> None:
    """Authenticate every request to ``app``, and describe that in its OpenAPI document."""
    token = read_secret(settings.metrics_token_file) if settings.metrics_token_file else None
    app.add_middleware(
        Authentication, store=store, rate=settings.rate_limit, metrics_token=token, open_pages=open_pages
    )
    original = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            describe(original())
        return original()

    app.openapi = described  # type: ignore[method-assign]


def describe(document: dict[str, Any]) -> None:
    """Add the security scheme, and the problems that any route may answer with, to an OpenAPI ``document``."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["bearer"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. Create one with `shoal keys create`.",
    }
    schemes["session"] = {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The cookie of `POST /session`. A change needs the header `X-CSRF-Token` too.",
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = [422]  # an unknown query parameter
            if path not in OPEN_PATHS:
                operation["security"] = [{"bearer": []}, {"session": []}]
                # A path parameter that matches no route, such as one with a line break.
                missing = [404] if "{" in path else []
                statuses += [
                    401,
                    403,
                    429,
                    503,
                    *missing,
                    *([400, 413, 415] if method in {"post", "put", "patch"} else []),
                ]
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
