"""Limits on connections: uvicorn's protocol with a maximum number of connections and a timeout for each stage.

uvicorn waits for a request's headers without limit. Here every stage has a timeout: headers, body, reading the answer.
At the maximum number of connections, the one that has been idle longest is closed, or else one whose body arrives very
slowly; a new connection is refused only if all others are being answered.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from shoal.errors import MalformedRequest, RequestTimeout, ShoalError, TooManyConnections
from shoal.settings import Settings
from shoal.web.problems import PROBLEM_JSON

log = structlog.get_logger("shoal.audit")

LINGER_S: Final = 5.0
"""Seconds that a connection stays open after its answer while the rest of its body was not read."""
STALLED_S: Final = 60.0
"""Seconds that a client may read nothing of its answer."""
DRIP_S: Final = 2.0
DRIP_RATE: Final = 10_000
"""Bytes per second; a slower body, after the first `DRIP_S` seconds, may be dropped for a new connection."""
LOG_EVERY_S: Final = 10.0
SPARE_FILES: Final = 256
"""File descriptors that a service needs besides its connections."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the number and the slowness of connections.

    Attributes
    ----------
    most
        Maximum number of open connections.
    most_per_client
        Maximum of one address; 0 for no maximum.
    header_s, body_s
        Seconds within which a request's headers, and its body, must arrive.
    """

    most: int
    most_per_client: int
    header_s: float
    body_s: float

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """The limits of ``settings``, as far as the system allows as many open files."""
        return cls(
            min(settings.max_connections, allow_files(settings.max_connections + SPARE_FILES) - SPARE_FILES),
            settings.max_connections_per_client,
            settings.header_timeout_s,
            settings.body_timeout_s,
        )


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to ``wanted`` if possible; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(2 * SPARE_FILES, wanted if soft == resource.RLIM_INFINITY else soft)


@dataclass
class Connections:
    """The open connections of a server.

    Attributes
    ----------
    limits
        Their limits.
    """

    limits: ConnectionLimits
    _open: dict[Connection, str] = field(default_factory=dict)
    _of_client: Counter[str] = field(default_factory=Counter)
    _closed: Counter[str] = field(default_factory=Counter)
    _logged: float = float("-inf")

    def protocol(self, **options: Any) -> Connection:
        """A new connection; uvicorn calls this."""
        return Connection(self, **options)

    def admit(self, connection: Connection, client: str) -> bool:
        """Count a connection, closing an idle one at the limit. False: no connection is idle."""
        if not self._make_room(client):
            return False
        self._open[connection] = client
        self._of_client[client] += 1
        return True

    def _make_room(self, client: str) -> bool:
        most = self.limits.most_per_client
        if most and self._of_client[client] >= most and not self._drop_one(lambda each: each == client):
            return False
        return len(self._open) < self.limits.most or self._drop_one(lambda _: True)

    def _drop_one(self, concerns: Callable[[str], bool]) -> bool:
        # In order of their last request: the first has been idle longest.
        droppable: tuple[Callable[[Connection], bool], ...] = (lambda each: each.waiting, lambda each: each.dripping)
        for may_drop in droppable:
            for connection, client in self._open.items():
                if concerns(client) and may_drop(connection):
                    self.forget(connection)
                    connection.drop()
                    self.note("no room", client)
                    return True
        return False

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection."""
        client = self._open.pop(connection, None)
        if client is not None:
            self._of_client[client] -= 1
            if self._of_client[client] <= 0:
                del self._of_client[client]

    def requested(self, connection: Connection) -> None:
        """Move a connection that has sent a request to the end of the order."""
        client = self._open.pop(connection, None)
        if client is not None:
            self._open[connection] = client

    def note(self, reason: str, client: str) -> None:
        """Log that a connection was closed or refused: one line for many of them."""
        self._closed[reason] += 1
        if time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            counts, self._closed = dict(self._closed), Counter()
            log.warning("audit", action="refused", target="connection", reasons=counts, client=client)


class Connection(H11Protocol):
    """One connection, with a timeout for each stage."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._address = "unknown"
        self._timer: asyncio.TimerHandle | None = None
        self._stage = ""
        self._stalled: asyncio.TimerHandle | None = None
        self._received = 0
        self._body_since = 0.0

    @property
    def waiting(self) -> bool:
        """Whether it has sent no request since it was opened or last answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    @property
    def dripping(self) -> bool:
        """Whether its request's body arrives slower than `DRIP_RATE`."""
        passed = time.monotonic() - self._body_since
        return self._stage == "body" and passed > DRIP_S and self._received < DRIP_RATE * passed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "unknown"
        if not self._all.admit(self, self._address):
            self._all.note("all busy", self._address)
            self._refuse(
                TooManyConnections(
                    "This service has reached its limit of connections. Try again later.", retry_after_s=1
                )
            )
            return
        self._enter("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self)
        self._leave()
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._received += len(data)
            super().data_received(data)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._all.requested(self)
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._enter("unread body" if self.waiting else "body")
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._enter("headers")
        elif self.conn.their_state is not h11.IDLE or self._stage != "headers":
            self._leave()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            # uvicorn would wait for as long as a byte arrives now and then.
            self._enter("unread body")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self._give_up_on, "answer not read")

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem, like every other error."""
        self._all.note("malformed", self._address)
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.drop()
                return
            # Tell the application that nobody waits for its answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refuse(MalformedRequest("The request is not valid HTTP/1.1."))

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def drop(self) -> None:
        """Close it, dropping what was still to be sent."""
        self._leave()
        self.transport.abort()

    def _enter(self, stage: str) -> None:
        if self._stage == stage:
            return
        self._leave()
        limits = self._all.limits
        seconds = {"headers": limits.header_s, "body": limits.body_s + LINGER_S, "unread body": LINGER_S}[stage]
        self._stage = stage
        self._received, self._body_since = 0, time.monotonic()
        self._timer = self.loop.call_later(seconds, self._too_late, stage)

    def _leave(self) -> None:
        self._stage = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self, stage: str) -> None:
        if stage == "headers" and not self.transport.is_closing():
            self._all.note("slow headers", self._address)
            seconds = self._all.limits.header_s
            self._refuse(RequestTimeout(f"The request's headers did not arrive within {seconds:g} s."))
        else:
            self._give_up_on(f"slow {stage}")

    def _give_up_on(self, reason: str) -> None:
        if not self.transport.is_closing():
            self._all.note(reason, self._address)
        self.drop()

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _refuse(self, error: ShoalError) -> None:
        self._leave()
        body = json.dumps(error.problem()).encode()
        phrase = error.code.replace("_", " ").title()
        retry = f"Retry-After: {error.members['retry_after_s']}\r\n" if "retry_after_s" in error.members else ""
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: {PROBLEM_JSON}\r\nContent-Length: {len(body)}\r\n"
            f"{retry}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        # A client that does not read even this is disconnected all the same.
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)
