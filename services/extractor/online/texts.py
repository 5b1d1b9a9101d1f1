"""Texts of many requests: one after the other, in turns, beside the batches of images.

A text takes the model as long as an image or longer, and is embedded alone. Only one is handed over at a time, so that
no batch of images waits for more than one text, and what is given up by its request is never computed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from shoal.errors import JobError, Overloaded, ShoalError

RETRY_S = 1


@dataclass(eq=False, slots=True)
class _Request:
    texts: deque[str]
    done: asyncio.Future[NDArray[np.float32]]
    rows: list[NDArray[np.float32]] = field(default_factory=list)


class TextTurns:
    """Embeds the texts of many requests with one model. For the event loop's thread.

    Parameters
    ----------
    name
        The model's name in messages.
    submit
        Embeds texts as (n, dim) float32.
    most
        Texts that may wait; a request beyond is refused.

    Attributes
    ----------
    waiting
        Texts that wait.
    """

    def __init__(self, name: str, submit: Callable[[Sequence[str]], Future[NDArray[np.float32]]], most: int) -> None:
        self._name, self._submit, self._most = name, submit, most
        self._requests: deque[_Request] = deque()
        self._running: asyncio.Task[None] | None = None
        self.waiting = 0

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed ``texts`` as (n, dim) float32; cancel the caller to give up.

        Raises
        ------
        Overloaded
            Too many texts wait already.
        InvalidRequest
            The model has no text tower.
        JobError
            The model failed.
        """
        if self.waiting and self.waiting + len(texts) > self._most:
            raise Overloaded(
                f"{self.waiting} texts wait for the model {self._name!r}; at most {self._most} may "
                f"(SHOAL_ONLINE_MAX_QUEUE). Send the request again in {RETRY_S} s.",
                retry_after_s=RETRY_S,
            )
        request = _Request(deque(texts), asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self.waiting += len(texts)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await request.done
        finally:
            self._leave(request)

    async def _run(self) -> None:
        while self._requests:
            request = self._requests.popleft()
            text = request.texts.popleft()
            self.waiting -= 1
            if request.texts:
                self._requests.append(request)
            try:
                request.rows.append(await asyncio.wrap_future(self._submit([text])))
            except Exception as error:  # It is the request's own: the next one may do better.
                self._fail(request, error)
            else:
                if not request.texts and not request.done.done():
                    request.done.set_result(np.concatenate(request.rows))

    def _fail(self, request: _Request, error: Exception) -> None:
        if not isinstance(error, ShoalError):
            error = JobError(f"The model {self._name} failed: {type(error).__name__}: {error}")
        if not request.done.done():
            request.done.set_exception(error)
        self._leave(request)

    def _leave(self, request: _Request) -> None:
        """Forget what of a request is not embedded yet."""
        if request.texts:
            self._requests.remove(request)
            self.waiting -= len(request.texts)
            request.texts.clear()
