"""Which addresses images may be fetched from: the operator's list, `SHOAL_SOURCES_ALLOW`.

Its entries are those of `shoal.hosts` and

==============================  =======================================================================================
entry                           allows
==============================  =======================================================================================
``images.example.org``          https to this host, at port 443
``*``                           https to every public host
``http://images.example.org``   http, too, at port 80; likewise ``http://.example.org`` and ``http://*``
``s3://bucket``                 every object of the bucket; ``s3://bucket/folder/``: those whose keys begin so
``10.20.0.0/16``                the hosts of the other entries to have such an address, though it is not public
==============================  =======================================================================================
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from shoal.errors import AddressesNotAllowed, ImageNotAllowed
from shoal.hosts import HOST, HostEntry, is_address
from shoal.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

VARIABLE = "SHOAL_SOURCES_ALLOW"
LONGEST = 4096
"""Characters of an address."""
PORTS = {"https": 443, "http": 80}
_S3 = "s3://"
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]")
_SAFE = "%/:=&?~+!$,;'@()*[]"


class Address(NamedTuple):
    """Where an image lies on another machine.

    Attributes
    ----------
    text
        The address, normalised: the image's id.
    host
        The host's name, in lower case and ASCII, or its IP address; a bucket's name.
    path
        What follows the host, without the query: its last part names the image. ``/`` and the key of an object.
    """

    text: str
    scheme: str
    host: str
    port: int
    path: str


class AddressInvalid(ValueError):
    """An address that is never fetched from, whatever is allowed."""


def parse(written: str) -> Address:
    """An address as it is listed.

    Raises
    ------
    AddressInvalid
        It is too long, holds a user or a password, or is no address; the message follows the address.
    """
    if len(written) > LONGEST:
        raise AddressInvalid(f"has more than {LONGEST:,} characters")
    if written.lower().startswith(_S3):
        return _object(written)
    text = _UNSAFE.sub(lambda mark: quote(mark[0]), written.strip())
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise AddressInvalid(f"is not a valid address ({error})") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise AddressInvalid("is not an address of http or https")
    if parts.username is not None or parts.password is not None:
        raise AddressInvalid("holds a user or a password: an address must work without")
    if not (HOST.fullmatch(host) or is_address(host)):
        raise AddressInvalid("names no host")
    port = PORTS[scheme] if port is None else port
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if port == PORTS[scheme] else f":{port}"
    path = quote(parts.path, safe=_SAFE) or "/"
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Address(f"{scheme}://{netloc}{path}{query}", scheme, host, port, path)


def _object(written: str) -> Address:
    bucket, _, key = written[len(_S3) :].partition("/")
    if not HOST.fullmatch(bucket):
        raise AddressInvalid("names no bucket")
    # What a client would make of `a/../b` might be an object that its prefix does not allow.
    if not key.isprintable() or {"", ".", ".."} & set(key.split("/")):
        raise AddressInvalid("names no object")
    return Address(f"{_S3}{bucket}/{key}", "s3", bucket, 0, f"/{key}")


@dataclass(frozen=True, slots=True)
class _Bucket:
    name: str
    prefix: str

    def allows(self, address: Address) -> bool:
        return address.scheme == "s3" and address.host == self.name and address.path[1:].startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class _Rule:
    entry: HostEntry
    http: bool

    def allows(self, address: Address) -> bool:
        if address.scheme not in PORTS or (address.scheme == "http" and not self.http):
            return False
        return address.port == (self.entry.port or PORTS[address.scheme]) and self.entry.covers(address.host)


@dataclass(frozen=True)
class Allowed:
    """What images may be fetched from.

    Attributes
    ----------
    networks
        Private networks that allowed hosts may have their addresses in.
    literal
        Addresses among the entries, which may be private.
    """

    rules: tuple[_Rule | _Bucket, ...] = ()
    networks: tuple[Network, ...] = ()
    literal: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, settings: Settings) -> Allowed:
        """What the settings allow.

        Raises
        ------
        AddressesNotAllowed
            The setting is wrong.
        """
        try:
            return cls.parse(settings.sources_allow)
        except ValueError as error:
            raise AddressesNotAllowed(f"{error}.") from error

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """What the operator's entries allow.

        Raises
        ------
        ValueError
            One is none; the message names it.
        """
        rules: list[_Rule | _Bucket] = []
        networks = []
        for entry in sorted(entries):
            if entry.startswith(_S3):
                bucket, _, prefix = entry[len(_S3) :].partition("/")
                if not HOST.fullmatch(bucket):
                    raise _wrong(entry)
                rules.append(_Bucket(bucket, prefix))
            elif "/" in entry and "://" not in entry:
                networks.append(_network(entry))
            else:
                rules.append(_rule(entry))
        literal = frozenset(each.entry.host for each in rules if isinstance(each, _Rule) and each.entry.literal)
        return cls(tuple(rules), tuple(networks), literal)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def allows(self, address: Address) -> bool:
        """Whether something may be fetched from there. Where its name leads is checked when it is."""
        return any(rule.allows(address) for rule in self.rules)

    def require(self, address: Address) -> None:
        """Raise `ImageNotAllowed` unless something may be fetched from there."""
        if not self.allows(address):
            raise ImageNotAllowed(f"{VARIABLE} of the worker does not name {self.wanted(address)}.")

    def within(self, address: str, port: int) -> bool:
        """Whether a name may have this private address."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return any(parsed in network for network in self.networks)

    @staticmethod
    def wanted(address: Address) -> str:
        """The entry that would allow an address."""
        if address.scheme == "s3":
            return f"{_S3}{address.host}"
        host = f"[{address.host}]" if ":" in address.host else address.host
        host += "" if address.port == PORTS[address.scheme] else f":{address.port}"
        return host if address.scheme == "https" else f"http://{host}"


NOTHING = Allowed()


def _rule(entry: str) -> _Rule:
    scheme, mark, rest = entry.lower().rpartition("://")
    if mark and scheme not in PORTS:
        raise _wrong(entry)
    try:
        return _Rule(HostEntry.parse(rest.rstrip("/")), scheme == "http")
    except ValueError:
        raise _wrong(entry) from None


def _network(entry: str) -> Network:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        raise _wrong(entry) from None


def _wrong(entry: str) -> ValueError:
    return ValueError(
        f"{VARIABLE} has {entry!r}: expected a host, `.example.org` for all below it, `*`, or a private network such "
        "as `10.0.0.0/8`, or `s3://BUCKET`; `http://` before a host allows http, too"
    )
