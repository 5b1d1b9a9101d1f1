"""Dynamic batches: images of many requests go through a model together, and a lone image goes at once.

While the device computes, images gather; as soon as it is free, the next batch takes what is decoded. A batch that is
not full waits for images that are being decoded, `Limits.wait_s` at most, and never when none are. A further batch is
handed over while one runs only if it is full: one that is not would grow by waiting.

Requests take turns, one image each, in the order of their arrival: first for a decoder, then for a place in a batch.
No request holds more than its share of the decoded images, so that one of 64 images delays a single image by one batch
at most.

Everything here runs on the event loop of the host, except copying pixels and the model itself.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import structlog
from numpy.typing import NDArray
from shoal.errors import JobError, ModelNotServed, NotFinite, Overloaded, ShoalError, by_code

from extractor.backends.base import Backend
from extractor.images.child import Undecodable
from extractor.images.feeder import DEPTH
from extractor.images.pool import Item
from extractor.online.metrics import ModelMetrics
from extractor.online.pending import Decoder, Limits, Ready, Request

LONGEST_RETRY_S = 60
_FORGETTING = 0.2
"""Weight of the newest batch in the measured rate."""

log = structlog.get_logger(__name__)


class Batcher:
    """Embeds the images of many requests with one model.

    Parameters
    ----------
    name
        The model's name in messages.
    backend
        The model.
    decoder
        A started pool of decode processes with at least ``limits.slots`` slots.
    limits
        See `Limits`.
    metrics
        Where batches and times are counted.

    Attributes
    ----------
    broken
        Why the model can embed no more, and must be loaded again; None while it can.
    """

    def __init__(self, name: str, backend: Backend, decoder: Decoder, limits: Limits, metrics: ModelMetrics) -> None:
        self.broken: BaseException | None = None
        self.waiting = 0
        self._name = name
        self._backend = backend
        self._decoder = decoder
        self._limits = limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        # One thread, so that batches reach the backend in their order; some backends compute in `submit`.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._active: set[Request] = set()
        self._undecoded: deque[Request] = deque()
        self._decoded: deque[Request] = deque()
        self._ready = 0
        self._held = 0
        self._decoding = 0
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rate = 0.0
        self._finished_at = 0.0

    async def embed(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Embed ``images``; cancel the caller to give up: images that are not in a batch yet are dropped.

        Returns
        -------
        (n, dim) float32
            A row for each image.

        Raises
        ------
        Overloaded
            Too many images wait already.
        ImageInvalid, NotFinite
            An image cannot be decoded, or its embedding is not finite; `input` is its index.
        JobError
            The model failed.
        """
        if self.waiting and self.waiting + len(images) > self._limits.queue:
            raise self._overloaded()
        request = Request(
            images=images,
            done=self._loop.create_future(),
            rows=np.empty((len(images), self._backend.dim), np.float32),
            waiting=len(images),
            left=len(images),
        )
        self._active.add(request)
        self._undecoded.append(request)
        self._count_waiting(len(images))
        try:
            self._decode_more()
            return await request.done
        finally:
            self._leave(request)

    async def close(self) -> None:
        """Wait for the batches that run. No request may be waiting."""
        if self._timer is not None:
            self._timer.cancel()
        while self._running:
            await asyncio.wait(self._running)
        self._thread.shutdown(wait=False)

    def _overloaded(self) -> Overloaded:
        retry_s = min(max(1, math.ceil(self.waiting / self._rate)), LONGEST_RETRY_S) if self._rate else 1
        return Overloaded(
            f"{self.waiting} images wait for the model {self._name!r}; at most {self._limits.queue} may "
            f"(SHOAL_ONLINE_MAX_QUEUE). Send the request again in {retry_s} s.",
            retry_after_s=retry_s,
        )

    def _count_waiting(self, change: int) -> None:
        self.waiting += change
        self._metrics.queue.inc(change)

    def _fail(self, request: Request, error: BaseException) -> None:
        if not request.done.done():
            request.done.set_exception(error)
        self._leave(request)

    def _leave(self, request: Request) -> None:
        """Forget ``request``, and what of it is not in a batch yet."""
        self._active.discard(request)
        if request in self._undecoded:
            self._undecoded.remove(request)
        if request.ready:
            self._decoded.remove(request)
            self._ready -= len(request.ready)
            self._let_go([each.item for each in request.ready])
            request.ready.clear()
        if request.waiting:
            self._metrics.dropped.inc(request.waiting)
            self._count_waiting(-request.waiting)
            request.waiting = 0
        self._decode_more()

    def _let_go(self, items: Sequence[Item]) -> None:
        for item in items:
            self._decoder.release(item)
        self._held -= len(items)

    # Decoding.

    def _decode_more(self) -> None:
        """Give images to the decoders: as many as keep them busy, in turns."""
        share = max(1, self._limits.slots // (len(self._active) + 1))
        most = DEPTH * self._decoder.workers
        passed_over = 0
        while self._decoding < most and self._held < self._limits.slots and passed_over < len(self._undecoded):
            request = self._undecoded.popleft()
            if request.held < share:
                passed_over = 0
                self._decode(request)
            else:
                passed_over += 1
            if request.next < len(request.images):
                self._undecoded.append(request)

    def _decode(self, request: Request) -> None:
        index, since = request.next, self._loop.time()
        request.next += 1
        request.held += 1
        self._held += 1
        self._decoding += 1
        try:
            future = self._decoder.submit(request.images[index])
        except Exception as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._take_decoded, request, index, since, done)
        )

    def _take_decoded(self, request: Request, index: int, since: float, future: Future[Item]) -> None:
        self._decoding -= 1
        now = self._loop.time()
        self._metrics.decode.observe(now - since)
        try:
            item = future.result()
        except BaseException as error:
            log.error("decode processes failed", model=self._name, error=str(error))
            self._held -= 1
            self._fail(request, error)
        else:
            self._sort_in(Ready(request, index, item, now))
        self._decode_more()
        self._run_more()

    def _sort_in(self, ready: Ready) -> None:
        request, outcome = ready.request, ready.item.outcome
        if isinstance(outcome, Undecodable):
            self._held -= 1
            self._metrics.failed.inc()
            if request in self._active:
                request.waiting -= 1
                self._count_waiting(-1)
            detail = f"Input {ready.index}: {outcome.message}"
            self._fail(request, by_code({"code": outcome.code, "detail": detail, "input": ready.index}))
        elif request not in self._active:
            self._let_go([ready.item])
        else:
            if not request.ready:
                self._decoded.append(request)
            request.ready.append(ready)
            self._ready += 1

    # Batches.

    def _run_more(self) -> None:
        """Start the next batch if the device is free for it; come back when its wait is over."""
        while self._ready and len(self._running) < max(1, self._backend.max_in_flight):
            if self._ready < self._limits.batch:
                if self._running:
                    return
                oldest = min(request.ready[0].since for request in self._decoded)
                wait_s = oldest + self._limits.wait_s - self._loop.time()
                if self._decoding and wait_s > 0:
                    self._come_back(wait_s)
                    return
            task = self._loop.create_task(self._run(self._next_batch()))
            self._running.add(task)
            task.add_done_callback(self._end_run)

    def _come_back(self, wait_s: float) -> None:
        if self._timer is None or self._timer.cancelled() or self._timer.when() <= self._loop.time():
            self._timer = self._loop.call_later(wait_s, self._run_more)

    def _end_run(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._run_more()

    def _next_batch(self) -> list[Ready]:
        """The next images, one of each request in turn."""
        batch: list[Ready] = []
        while self._decoded and len(batch) < self._limits.batch:
            request = self._decoded.popleft()
            batch.append(request.ready.popleft())
            request.waiting -= 1
            if request.ready:
                self._decoded.append(request)
        self._ready -= len(batch)
        self._count_waiting(-len(batch))
        return batch

    async def _run(self, batch: list[Ready]) -> None:
        started = self._loop.time()
        self._metrics.batch.observe(len(batch))
        for each in batch:
            self._metrics.wait.observe(started - each.since)
        try:
            pixels, future = await self._loop.run_in_executor(self._thread, self._hand_over, batch)
        except Exception as error:  # No memory for the copy, or no thread.
            failure = self._as_failure(error)
            for request in dict.fromkeys(each.request for each in batch):
                self._fail(request, failure)
            return
        finally:
            for each in batch:
                each.request.held -= 1
            self._let_go([each.item for each in batch])
            self._decode_more()
        try:
            vectors = await self._vectors(future, len(batch))
        except Exception as error:
            await self._retry_apart(batch, pixels, self._as_failure(error))
        else:
            self._measure(len(batch), started)
            self._hand_out(batch, vectors)

    def _hand_over(self, batch: Sequence[Ready]) -> tuple[NDArray[np.uint8], Future[NDArray[np.float32]]]:
        """Copy the pixels of a batch, (n, size, size, 3), and submit them."""
        pixels = np.stack([each.item.pixels for each in batch if each.item.pixels is not None])
        return pixels, self._submit(pixels)

    def _submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        try:
            return self._backend.submit(pixels)
        except Exception as error:
            future: Future[NDArray[np.float32]] = Future()
            future.set_exception(error)
            return future

    async def _vectors(self, future: Future[NDArray[np.float32]], images: int) -> NDArray[np.float32]:
        vectors = await asyncio.wrap_future(future)
        expected = (images, self._backend.dim)
        if vectors.shape != expected:
            raise JobError(f"The model {self._name} returned shape {vectors.shape}; expected {expected}.")
        return vectors

    def _as_failure(self, error: Exception) -> ShoalError:
        """``error`` as one that a client understands; notes whether the model must be loaded again."""
        if isinstance(error, ShoalError):
            if isinstance(error, ModelNotServed):
                self.broken = error
            return error
        self.broken = error
        log.error("model failed", model=self._name, exc_info=error)
        return JobError(f"The model {self._name} failed: {type(error).__name__}: {error}")

    async def _retry_apart(self, batch: list[Ready], pixels: NDArray[np.uint8], error: ShoalError) -> None:
        """Run each request's images of a failed batch alone: a picture that fails the model costs its own request."""
        log.warning("batch failed", model=self._name, images=len(batch), code=error.code, detail=error.detail)
        requests = dict.fromkeys(each.request for each in batch)
        for request in requests:
            if len(requests) == 1 or error.retryable:
                self._fail(request, error)
            if request.done.done():
                continue
            own = [number for number, each in enumerate(batch) if each.request is request]
            try:
                future = await self._loop.run_in_executor(self._thread, self._submit, pixels[own])
                vectors = await self._vectors(future, len(own))
            except Exception as own_error:
                self._fail(request, self._as_failure(own_error))
            else:
                self._hand_out([batch[number] for number in own], vectors)

    def _measure(self, images: int, started: float) -> None:
        now = self._loop.time()
        self._metrics.run.observe(now - started)
        rate = images / max(now - max(started, self._finished_at), 1e-6)
        self._rate = rate if not self._rate else self._rate + _FORGETTING * (rate - self._rate)
        self._finished_at = now

    def _hand_out(self, batch: Sequence[Ready], vectors: NDArray[np.float32]) -> None:
        for each, row in zip(batch, vectors, strict=True):
            request = each.request
            if not np.isfinite(row).all():
                self._metrics.failed.inc()
                detail = f"The model's output for input {each.index} holds NaN or infinity."
                self._fail(request, NotFinite(detail, input=each.index))
                continue
            self._metrics.embedded.inc()
            request.rows[each.index] = row
            request.left -= 1
            if not request.left and not request.done.done():
                request.done.set_result(request.rows)
