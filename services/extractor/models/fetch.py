"""An HTTP client for downloads that connects to public addresses only (protection against SSRF).

Downloads come from URLs in the catalogue, which operators may extend. A publisher's server or DNS must not be able to
redirect a worker to machines of the private network.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx
from httpcore import NetworkBackend, NetworkStream, SyncBackend

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


class ForbiddenAddress(httpx.RequestError):
    """A name or a redirect leads to an address that is not allowed."""


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


class PublicBackend(NetworkBackend):
    """Connects to public addresses only, and to the same address that was checked.

    Parameters
    ----------
    allowed
        Hosts that may be private: those that the operator gave as an address.
    """

    def __init__(self, allowed: frozenset[str] = frozenset()) -> None:
        self._backend = SyncBackend()
        self._allowed = allowed

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        """Resolve, check every address, and connect to the first that answers."""
        *others, last = [host] if host in self._allowed else public_addresses(host, port)
        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
        return self._backend.connect_tcp(last, port, timeout, local_address, socket_options)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NetworkStream:
        """Never."""
        raise ForbiddenAddress(f"{path} is not a public address.")

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._backend.sleep(seconds)


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of ``host``.

    Raises
    ------
    ForbiddenAddress
        One of its addresses is not public: loopback, private, link-local, shared, multicast or reserved.
    httpcore.ConnectError
        The name has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not is_public(address):
            raise ForbiddenAddress(f"{host} resolves to {address}, which is not a public address.")
    return list(dict.fromkeys(addresses))


def is_public(address: str) -> bool:
    """Whether an IP address is public."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        # An IPv6 address that embeds an IPv4 address leads where the IPv4 address leads.
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inner is None and parsed in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


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
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return httpx.Client(**options)
    transport = httpx.HTTPTransport()
    # httpx has no public option for how a connection is made; a test checks that this one works.
    transport._pool._network_backend = PublicBackend(route.trusted | frozenset(_literal(first.hostname)))
    return httpx.Client(transport=transport, **options)


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
