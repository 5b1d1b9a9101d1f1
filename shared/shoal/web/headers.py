"""Headers that every answer carries, and the names under which a service without keys may be asked."""

from __future__ import annotations

import ipaddress
import uuid
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import HostNotAllowed
from shoal.web.asgi import header_values, refuse

# A page of ours may draw what is inside it and nothing else: it loads nothing, sends nothing, sits in no frame.
PAGE_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# The page of the routes runs the scripts that this service serves, asks this service, and knows no other one.
DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS: Final = "/docs"
ALWAYS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class SecurityHeaders:
    """Adds them, gives every request an id, and refuses foreign host names where no key is asked for.

    A page of any web site can make its own name point to this machine and then ask services on it (DNS rebinding).
    It needs a name with a dot for that; `localhost`, addresses and names of containers have none, or are numbers.

    Parameters
    ----------
    check_host
        Whether to refuse host names with a dot that are not in ``allowed_hosts``.
    """

    def __init__(self, app: ASGIApp, *, check_host: bool, allowed_hosts: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._check_host = check_host
        self._allowed = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope["shoal.request_id"] = request_id
        policy = DOCS_POLICY if scope["path"] == DOCS else PAGE_POLICY

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers[name] = value
                headers["x-request-id"] = request_id
                headers.setdefault("content-security-policy", policy)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            wrong = self._wrong_host(scope)
            if wrong is not None:
                await refuse(wrong, scope, receive, with_headers)
            else:
                await self._app(scope, receive, with_headers)

    def _wrong_host(self, scope: Scope) -> HostNotAllowed | None:
        if not self._check_host:
            return None
        hosts = header_values(scope, "host")
        if len(hosts) == 1 and host_is_ours(hosts[0], self._allowed):
            return None
        return HostNotAllowed(
            "This service asks for no key and so answers only under the names it knows: use localhost or an address, "
            "or set SHOAL_ALLOWED_HOSTS."
        )


def host_is_ours(host: str, allowed: frozenset[str]) -> bool:
    """Whether a Host header is an address, a name without a dot, or one of ``allowed``."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower().rstrip(".")
    if name in {each.lower() for each in allowed}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return "." not in name and name.replace("-", "").replace("_", "").isalnum()
    return True
