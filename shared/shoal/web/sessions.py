"""`/session`: a browser exchanges an API key for a cookie, asks who it is, and logs out. Both services have it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field, SecretStr

from shoal.errors import NotAuthenticated
from shoal.keys import Scope
from shoal.schemas import Request as Schema
from shoal.sessions import LONGEST_S, Session, Sessions
from shoal.web.auth import COOKIE, check_csrf, refuse_other_sites, session_cookie
from shoal.web.middleware import CALLER
from shoal.web.pools import QUICK
from shoal.web.problems import problem_responses
from shoal.web.route import SettingsDep
from shoal.web.route import router as make_router

router = make_router(pool=QUICK, tags=["session"])


class Login(Schema):
    """What `POST /session` takes."""

    key: Annotated[SecretStr, Field(min_length=1, max_length=200, description="The API key.")]


class WhoAmI(BaseModel):
    """Who the caller is, for a page."""

    needed: bool = Field(description="Whether this service needs API keys.")
    authenticated: bool = Field(description="Whether the request came with a session that lives.")
    name: str | None = Field(None, description="Name of the session's API key.")
    scope: Literal["read", "submit", "admin"] | None = Field(None, description="What the caller may do.")
    csrf: str | None = Field(None, description="Send it with every change, in the header `X-CSRF-Token`.")


def _sessions(request: Request) -> Sessions | None:
    state = request.app.state
    return None if state.keys is None else Sessions(state.keys, state.settings.rate_limit)


def _who(session: Session | None) -> WhoAmI:
    if session is None:
        return WhoAmI(needed=True, authenticated=False)
    caller = session.caller
    return WhoAmI(needed=True, authenticated=True, name=caller.name, scope=caller.scope.value, csrf=session.csrf)


def _open(request: Request, sessions: Sessions) -> Session | None:
    cookie = session_cookie(request.scope)
    if cookie is None:
        return None
    try:
        return sessions.find(cookie)
    except NotAuthenticated:
        return None


NO_KEYS = WhoAmI(needed=False, authenticated=False, scope=Scope.ADMIN.value)


@router.get("/session", responses=problem_responses(422, 429, 503))
def who_am_i(request: Request) -> WhoAmI:
    """Say who the caller's session belongs to and what it may do."""
    sessions = _sessions(request)
    return NO_KEYS if sessions is None else _who(_open(request, sessions))


@router.post("/session", responses=problem_responses(400, 401, 403, 408, 413, 415, 422, 429, 503))
def log_in(body: Login, request: Request, response: Response, settings: SettingsDep) -> WhoAmI:
    """Begin a session with an API key. The answer sets a cookie that scripts cannot read.

    A session ends with `DELETE /session`, after 12 hours without a request, after 7 days, or with its key.
    """
    sessions = _sessions(request)
    if sessions is None:
        return NO_KEYS
    refuse_other_sites(request.scope)
    address = request.client.host if request.client else "unknown"
    before = session_cookie(request.scope)
    session = sessions.open(body.key.get_secret_value().strip(), address)
    if before is not None:
        sessions.close(before)
    request.scope["state"][CALLER] = session.caller
    secure = settings.secure_cookies or request.url.scheme == "https"
    response.set_cookie(
        COOKIE, session.id, max_age=LONGEST_S, path="/", secure=secure, httponly=True, samesite="strict"
    )
    return _who(session)


@router.delete("/session", status_code=204, responses=problem_responses(403, 422, 429, 503))
def log_out(request: Request, response: Response) -> None:
    """End the session."""
    sessions = _sessions(request)
    session = None if sessions is None else _open(request, sessions)
    if sessions is not None and session is not None:
        check_csrf(request.scope, session)
        sessions.close(session.id)
        request.scope["state"][CALLER] = session.caller
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
