"""`python -m shoal.healthcheck`: exit status 0 when the process of this container answers."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_S = 4.0


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def healthy(url: str) -> bool:
    """Whether ``url`` answers 200, or takes connections if it is ``tcp://HOST:PORT``.

    ``unix://PATH`` stands for ``/healthz`` on a unix socket.
    """
    if url.startswith("unix://"):
        return _socket_healthy(url.removeprefix("unix://"))
    if url.startswith("tcp://"):
        return _takes_connections(url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _takes_connections(url: str) -> bool:
    at = urllib.parse.urlsplit(url)
    try:
        with socket.create_connection((at.hostname, at.port), TIMEOUT_S):
            return True
    except OSError:
        return False


def _socket_healthy(path: str) -> bool:
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if healthy(os.environ["SHOAL_HEALTH_URL"]) else 1)
