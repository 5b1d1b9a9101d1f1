"""Hosts as operators list them, in SHOAL_CALLBACK_HOSTS and SHOAL_SOURCES_ALLOW.

==========================  ==========================================================================================
entry                       means
==========================  ==========================================================================================
``images.example.org``      this host
``.example.org``            every host below it, but not itself
``10.1.2.3``, ``[fd00::1]`` this address, though it is not public
``*``                       every host; in lists that take it
``images.example.org:8443`` this port; without one, those of the list
==========================  ==========================================================================================

Names are written in ASCII (others as `xn--…`); upper and lower case are the same. What else an entry may say, such as a
scheme, is the list's own.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass

ANY = "*"
HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9])?")
"""A name of a host."""
_ENTRY = re.compile(r"(?:\[(?P<six>[0-9a-f:.%]+)\]|(?P<host>[^\s:/@\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class HostEntry:
    """An entry.

    Attributes
    ----------
    host
        A name, one that begins with a dot, an address, or `ANY`.
    port
        The only port; None for those of the list.
    """

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> HostEntry:
        """An entry as it is written.

        Raises
        ------
        ValueError
            It is none.
        """
        match = _ENTRY.fullmatch(text.lower())
        if match is None:
            raise ValueError(text)
        host, port = match["six"] or match["host"], int(match["port"]) if match["port"] else None
        known = is_address(host) if match["six"] else host == ANY or HOST.fullmatch(host.removeprefix("."))
        if not known or (port is not None and not 0 < port < 2**16):
            raise ValueError(text)
        return cls(host, port)

    def covers(self, host: str) -> bool:
        """Whether it means ``host``, in lower case."""
        if self.host == ANY:
            return True
        return host.endswith(self.host) if self.host.startswith(".") else host == self.host

    @property
    def literal(self) -> bool:
        """Whether it is an address, which may be private."""
        return is_address(self.host)


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False
