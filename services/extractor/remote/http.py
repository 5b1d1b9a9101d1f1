"""One try to fetch an image over HTTP: where a redirect may lead, how large an answer may be, which failures pass."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy

import httpx
from shoal import __version__
from shoal.errors import (
    ImageFetchFailed,
    ImageInvalid,
    ImageMissing,
    ImageNotAllowed,
    ImageTooLarge,
    ImageTruncated,
)
from shoal.outbound import ForbiddenAddress, PublicBackend, connect_by, retry_after_s

from extractor.remote.allowed import PORTS, VARIABLE, Address, AddressInvalid, Allowed, parse
from extractor.remote.patience import Patience

REDIRECTS = 5
_GONE = {404, 410}
_PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_WAITING = {429, 503}
_TOO_MANY = 429
_WAIT_S = 5.0
"""For a server that asks to wait without saying how long."""


class Passing(Exception):
    """A failure that may pass by itself.

    Attributes
    ----------
    error
        What it becomes if it does not.
    wait_s
        How long the server asks to wait; None if it does not say.
    """

    def __init__(self, error: ImageInvalid, wait_s: float | None = None) -> None:
        super().__init__(error.detail)
        self.error, self.wait_s = error, wait_s


class HttpGetter:
    """Fetches over HTTP and HTTPS. Safe in any thread.

    Nothing is decompressed. Every redirect is checked as the address itself is; names are resolved once, and
    connections go to the address that was checked. If a proxy is configured, the proxy decides which addresses names
    have.

    Parameters
    ----------
    allowed
        Addresses that may be fetched from.
    connections
        How many stay open.
    timeout_s
        For one try, redirects included.
    max_bytes
        Of an image.
    """

    def __init__(self, allowed: Allowed, *, connections: int, timeout_s: float, max_bytes: int) -> None:
        self._allowed, self._timeout_s, self._max_bytes = allowed, timeout_s, max_bytes
        self._patience = Patience()
        self._client = httpx.Client(
            headers={
                "User-Agent": f"shoal/{__version__}",
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections, keepalive_expiry=15.0),
        )
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for transport in (self._client._transport, *self._client._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                proxy = getattr(transport._pool, "_proxy_url", None)
                trusted = frozenset([proxy.host.decode()]) if proxy is not None else allowed.literal
                connect_by(transport, PublicBackend(trusted, private=allowed.within, deadline=self._patience.deadline))

    def get(self, address: Address) -> bytes:
        """The image at an address.

        Raises
        ------
        ImageInvalid
            It cannot be fetched.
        Passing
            It cannot be fetched now.
        """
        self._allowed.require(address)
        try:
            with self._patience.of(self._timeout_s):
                return self._followed(address)
        except ForbiddenAddress as error:
            raise ImageNotAllowed(f"{error} {_PRIVATE}") from error
        except httpx.RemoteProtocolError as error:
            kind = ImageTruncated if "complete message body" in str(error) else ImageFetchFailed
            raise Passing(kind(f"{address.host} breaks off its answer: {error}.")) from error
        except httpx.TimeoutException as error:
            why = f"{address.host} does not send the image within {self._timeout_s:g} s."
            raise Passing(ImageFetchFailed(why)) from error
        except (httpx.TransportError, OSError) as error:
            raise Passing(ImageFetchFailed(f"{address.host} cannot be reached: {error}.")) from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ImageFetchFailed(f"The image cannot be fetched: {error}.") from error

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _followed(self, address: Address) -> bytes:
        for _ in range(REDIRECTS + 1):
            request = self._client.build_request("GET", address.text)
            response = self._client.send(request, stream=True)
            try:
                if not response.has_redirect_location:
                    return self._body(address, response)
                address = self._redirected(address, str(response.url.join(response.headers["Location"])))
            finally:
                response.close()
        raise ImageFetchFailed(f"{address.host} redirects more than {REDIRECTS} times.")

    def _redirected(self, address: Address, location: str) -> Address:
        try:
            target = parse(location)
        except AddressInvalid as error:
            raise ImageNotAllowed(f"{address.host} redirects to an address that {error}.") from error
        if target.scheme not in PORTS:
            raise ImageNotAllowed(f"{address.host} redirects to an object of {target.scheme}, which is never followed.")
        if not self._allowed.allows(target) or (address.scheme == "https" and target.scheme != "https"):
            raise ImageNotAllowed(
                f"{address.host} redirects to {target.scheme}://{target.host}. To fetch from there, {VARIABLE} of the "
                f"worker must name {self._allowed.wanted(target)}; https never leads to http."
            )
        return target

    def _body(self, address: Address, response: httpx.Response) -> bytes:
        status = response.status_code
        if status in _GONE:
            raise ImageMissing(f"{address.host} has no such image (HTTP {status}).")
        if status in _PASSING:
            wait = retry_after_s(response.headers.get("Retry-After")) if status in _WAITING else None
            if wait is None and status == _TOO_MANY:
                wait = _WAIT_S
            raise Passing(ImageFetchFailed(f"{address.host} answers HTTP {status}."), wait)
        if status != httpx.codes.OK:
            raise ImageFetchFailed(f"{address.host} answers HTTP {status}.")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise ImageFetchFailed(f"{address.host} sends the image in {encoding[:40]!r}, though it was asked not to.")
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise too_large(f"has {int(length):,} bytes", self._max_bytes)
        parts, size = [], 0
        for part in response.iter_raw():
            size += len(part)
            if size > self._max_bytes:
                raise too_large("goes on", self._max_bytes)
            parts.append(part)
        return b"".join(parts)


def too_large(what: str, most: int) -> ImageTooLarge:
    """The error for an image of more than ``most`` bytes."""
    return ImageTooLarge(
        f"The image {what}, and the limit is {most:,} bytes: scale it down, or raise SHOAL_SOURCES_MAX_BYTES."
    )


_PRIVATE = f"To fetch from there, {VARIABLE} of the worker must name the address or its network."
