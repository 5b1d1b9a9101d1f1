"""Connections that leave to public addresses only (protection against SSRF).

A URL of the catalogue, or of a job's callback, must not lead a process to machines of the private network, whatever a
name resolves to.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ssl import SSLContext
from typing import Any

import httpcore
import httpx
from httpcore import NetworkBackend, NetworkStream, SyncBackend

Deadline = float | Callable[[], float | None] | None

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


class ForbiddenAddress(httpx.RequestError):
    """A name or a redirect leads to an address that is not allowed."""


class PublicBackend(NetworkBackend):
    """Connects to public addresses only, and to the same address that was checked.

    Parameters
    ----------
    hosts
        Hosts that may be private: those that the operator gave as an address.
    private
        Whether an address that is not public may be connected to at a port, whatever name led there.
    deadline
        Time of `time.monotonic` after which nothing is sent or received any more. A timeout of httpx begins again with
        every byte, so a server that sends one at a time would never meet it. A function gives that of the thread that
        sends or receives, for connections that threads share.
    """

    def __init__(
        self,
        hosts: frozenset[str] = frozenset(),
        *,
        private: Callable[[str, int], bool] = lambda address, port: False,
        deadline: Deadline = None,
    ) -> None:
        self._backend = SyncBackend()
        self._hosts = hosts
        self._private = private
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        """Resolve, check every address, and connect to the first that answers."""
        *others, last = [host] if host in self._hosts else public_addresses(host, port, self._private)

        def connect(address: str) -> NetworkStream:
            within = _within(timeout, self._deadline, httpcore.ConnectTimeout)
            return self._backend.connect_tcp(address, port, within, local_address, socket_options)

        for address in others:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return _Timed.over(connect(address), self._deadline)
        return _Timed.over(connect(last), self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NetworkStream:
        """Never."""
        raise ForbiddenAddress(f"{path} is not a public address.")

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._backend.sleep(seconds)


class _Timed(NetworkStream):
    """A stream that ends at a deadline."""

    def __init__(self, stream: NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    @classmethod
    def over(cls, stream: NetworkStream, deadline: Deadline) -> NetworkStream:
        """``stream`` itself where there is no deadline."""
        return stream if deadline is None else cls(stream, deadline)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive."""
        return self._stream.read(max_bytes, _within(timeout, self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, _within(timeout, self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        """The same stream, encrypted."""
        within = _within(timeout, self._deadline, httpcore.ConnectTimeout)
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, within), self._deadline)

    def get_extra_info(self, info: str) -> object:
        """What the stream says of itself."""
        return self._stream.get_extra_info(info)


def _within(timeout: float | None, deadline: Deadline, late: type[httpcore.TimeoutException]) -> float | None:
    """The shorter of ``timeout`` and what is left until ``deadline``."""
    until = deadline() if callable(deadline) else deadline
    if until is None:
        return timeout
    left = until - time.monotonic()
    if left <= 0:
        raise late("the answer took too long")
    return left if timeout is None else min(timeout, left)


def guarded_client(backend: PublicBackend, **options: Any) -> httpx.Client:
    """A client whose connections ``backend`` makes.

    If a proxy is configured, the proxy decides which addresses are reachable.
    """
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return httpx.Client(**options)
    transport = httpx.HTTPTransport()
    connect_by(transport, backend)
    return httpx.Client(transport=transport, **options)


def connect_by(transport: httpx.HTTPTransport, backend: PublicBackend) -> None:
    """Let ``backend`` make the connections of ``transport``."""
    # httpx has no public option for how a connection is made; tests check that this one works.
    transport._pool._network_backend = backend


def retry_after_s(header: str | None) -> float | None:
    """The seconds that a ``Retry-After`` header asks to wait, in seconds or by a date; None if it says none."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    with suppress(ValueError, TypeError, IndexError, OverflowError):
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return max((at - datetime.now(UTC)).total_seconds(), 0.0)
    return None


def public_addresses(
    host: str, port: int, private: Callable[[str, int], bool] = lambda address, port: False
) -> list[str]:
    """The addresses of ``host``, each public or allowed by ``private``.

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
        if not (is_public(address) or private(address, port)):
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
        # All others are local, or may embed an IPv4 address in some other way, such as `::10.1.2.3`.
        if parsed not in _GLOBAL_UNICAST:
            return False
    return parsed.is_global and not parsed.is_multicast
