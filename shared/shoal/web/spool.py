"""Bodies that go to a file as they arrive, for routes that take more than fits in memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import anyio
from fastapi import Request

from shoal.store.files import remove_quietly, storage_errors
from shoal.web.middleware import too_large, too_slow
from shoal.web.pools import WORK

WRITE_BYTES: Final = 1 << 20
"""What is held of a body before it is written."""


@dataclass(frozen=True)
class Spooled:
    """A body in a file, which is removed when its request ends."""

    path: Path
    bytes: int
    sha256: str


@asynccontextmanager
async def spooled(request: Request, folder: Path, *, most: int, seconds: float) -> AsyncIterator[Spooled]:
    """The body of a request in a file below ``folder``.

    Parameters
    ----------
    most
        Bytes.
    seconds
        Within which it must arrive.

    Raises
    ------
    BodyTooLarge, RequestTimeout, StoreFull
    starlette.requests.ClientDisconnect
        It broke off.
    """
    path = folder / f"body-{secrets.token_hex(8)}"
    try:
        yield await _received(request, path, most, seconds)
    finally:
        remove_quietly(path)


async def _received(request: Request, path: Path, most: int, seconds: float) -> Spooled:
    digest, size, pending = hashlib.sha256(), 0, bytearray()
    file = await WORK.run(_created, path)

    def write(data: bytes) -> None:
        with storage_errors(path):
            file.write(data)
            file.flush()
        digest.update(data)

    try:
        with anyio.move_on_after(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large(most)
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await WORK.run(write, bytes(pending))
                    pending.clear()
            await WORK.run(write, bytes(pending))
            return Spooled(path, size, digest.hexdigest())
    finally:
        file.close()
    raise too_slow(seconds)


def _created(path: Path) -> BinaryIO:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
