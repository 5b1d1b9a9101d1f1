"""`AsyncClient`: the clients' methods awaited in an event loop."""

from __future__ import annotations

from types import TracebackType

from shoal.client.calls import Calls
from shoal.client.transport import EventLoop


class AsyncClient(Calls):
    """Talks to the extractor and the clusterer, in an event loop of asyncio or trio.

    Parameters and methods are those of `Client`. Each method is awaited; those that return an iterator there, such as
    `follow`, `rows` and `assignments`, are iterated with ``async for``.

    >>> async with AsyncClient() as client:                                  # doctest: +SKIP
    ...     vectors = await client.embed(["a.jpg", "b.jpg"], model="tf_efficientnet_lite0")
    """

    _over = EventLoop

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
