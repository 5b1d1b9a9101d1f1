"""The audit log: one line for each request that changed something or was refused."""

from __future__ import annotations

from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.keys import ANONYMOUS, Caller

log = structlog.get_logger("shoal.audit")
REFUSED: Final = frozenset({400, 401, 403, 408, 413, 421, 429})
"""Answers that say not that a request is wrong, but that its sender may not, not so much, or not like this."""
MAX_PATH: Final = 300


class Audit:
    """Logs who submitted, cancelled and deleted what, and who was refused; never a body and never a token."""

    def __init__(self, app: ASGIApp, *, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: dict[str, int | str | None] = {}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                answer["location"] = _header(message, b"location")
            await send(message)

        await self._app(scope, receive, watched)
        status = answer.get("status")
        if isinstance(status, int) and (scope["method"] not in {"GET", "HEAD", "OPTIONS"} or status in REFUSED):
            self._write(scope, status, answer.get("location"))

    def _write(self, scope: Scope, status: int, location: int | str | None) -> None:
        who: Caller = scope.get("shoal.caller", ANONYMOUS)
        client = scope.get("client")
        target = str(location or scope["path"])[:MAX_PATH]
        log.info(
            "audit",
            service=self._service,
            action=_action(scope["method"], scope["path"], status),
            key=who.key_id,
            caller=who.name,
            target=target,
            job=target.split("/")[2] if target.startswith("/jobs/") else None,
            status=status,
            client=client[0] if client else None,
            request_id=scope.get("shoal.request_id"),
        )


def _action(method: str, path: str, status: int) -> str:
    if status in REFUSED:
        return "refused"
    if status >= 400:
        return "failed"
    if method == "DELETE":
        return "cancel" if path.startswith("/jobs/") else "delete"
    return "submit" if status == 202 else "compute"


def _header(message: Message, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in message["headers"] if key.lower() == name), None)
