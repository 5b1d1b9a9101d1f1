"""A network between a client and a queue's server that may be slow, cut, or silent."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST and drops what was not sent."""


class Proxy:
    """Passes TCP connections on to a server's unix socket.

    Attributes
    ----------
    delay_s
        How long it takes each piece of data, either way.
    """

    def __init__(self, server: Path) -> None:
        self.delay_s = 0.0
        self._server = server
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Address of the queue behind it."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def silence(self) -> None:
        """Connections stay open, and new ones are accepted, but nothing arrives: what is sent arrives after `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass everything on again, what was sent meanwhile included."""
        self._refusing = False
        self._flowing.set()

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with ``refuse`` new ones too, until `flow`."""
        self._refusing = refuse
        with self._lock:
            for each in self._open:
                _reset(each)
            self._open.clear()

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self._flowing.set()
        self.cut(refuse=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                _reset(client)
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:  # the server is down
                _reset(client)
                continue
            with self._lock:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay_s)
                self._flowing.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RD)  # wakes whoever reads from it
    with suppress(OSError):
        connection.close()
