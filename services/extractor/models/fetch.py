"""An HTTP client for downloads that connects to public addresses only (protection against SSRF).

Downloads come from URLs in the catalogue, which operators may extend. A publisher's server or DNS must not be able to
redirect a worker to machines of the private network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from shoal.outbound import ForbiddenAddress, PublicBackend, guarded_client


@dataclass(frozen=True)
class Route:
    """The URL of a download, and the hosts that it may lead to.

    Attributes
    ----------
    url
        The URL to request.
    hosts
        Hosts that a redirect may lead to, besides the one in `url`; ``.example.org`` matches all its subdomains.
        None: any public host.
    trusted
        Hosts named by the operator, which may have a private address.
    """

    url: str
    hosts: frozenset[str] | None = None
    trusted: frozenset[str] = frozenset()

    @classmethod
    def to(cls, url: str, *, mirror: str | None = None, hosts: Iterable[str] | None = None) -> Route:
        """The route to `url`, through the operator's mirror if there is one: ``<mirror>/<host>/<path>?<query>``."""
        allowed = None if hosts is None else frozenset(hosts)
        if mirror is None:
            return cls(url, allowed)
        asked = mirror.rstrip("/") + "/" + url.split("://", 1)[-1]
        return cls(asked, allowed, frozenset(filter(None, [urlsplit(mirror).hostname])))

    def allows(self, host: str) -> bool:
        """Whether a request to this host is allowed."""
        if self.hosts is None or host == urlsplit(self.url).hostname:
            return True
        return any(host == each or (each.startswith(".") and host.endswith(each)) for each in self.hosts)


def public_client(route: str | Route, **options: Any) -> httpx.Client:
    """A client for a URL and its redirects that connects to public addresses only.

    An address (not a name) in the URL itself was given by the operator, for example an internal mirror, and is allowed.
    A redirect must not change from https to http or leave the hosts of its route. If a proxy is configured, the proxy
    decides which addresses are reachable.
    """
    route = route if isinstance(route, Route) else Route(route)
    first = urlsplit(route.url)
    hooks = {"request": [lambda request: _refuse_downgrade(first.scheme, request), lambda r: _refuse_host(route, r)]}
    options = {**options, "follow_redirects": True, "max_redirects": 5, "event_hooks": hooks}
    return guarded_client(PublicBackend(route.trusted | frozenset(_literal(first.hostname))), **options)


def _literal(host: str | None) -> list[str]:
    try:
        return [host] if host and ipaddress.ip_address(host) else []
    except ValueError:
        return []


def _refuse_downgrade(scheme: str, request: httpx.Request) -> None:
    if request.url.scheme not in {"http", "https"} or (scheme == "https" and request.url.scheme != "https"):
        raise ForbiddenAddress(f"{request.url} is not an https URL.", request=request)


def _refuse_host(route: Route, request: httpx.Request) -> None:
    if not route.allows(request.url.host):
        raise ForbiddenAddress(
            f"{urlsplit(route.url).hostname} redirects to {request.url.host}, which is not a host of this publisher.",
            request=request,
        )
