"""Merging requests that wait at the same time into one call of the network."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class QueueFull(Exception):
    """More rows wait than may wait."""


@dataclass(frozen=True)
class BatchLimits:
    """How requests are merged.

    Attributes
    ----------
    rows
        Requests are merged up to this many rows; a larger request runs alone, as it is.
    wait_s
        How long the first request waits for others.
    waiting_rows
        A request that finds more rows waiting is refused.
    threads
        Calls of the network under way at once: a second one hides copying behind computing.
    """

    rows: int = 128
    wait_s: float = 0.002
    waiting_rows: int = 65_536
    threads: int = 2


@dataclass(frozen=True)
class _Request:
    inputs: Mapping[str, NDArray[Any]]
    rows: int
    shape: tuple[Any, ...]
    future: Future[Arrays] = field(default_factory=Future)


class Batcher:
    """Runs requests through a function of arrays whose first axis is the row.

    Parameters
    ----------
    run
        Maps inputs by name, (n, …) each, to outputs by name, (n, …) each.
    """

    def __init__(self, run: Callable[[Arrays], Arrays], limits: BatchLimits) -> None:
        self._run = run
        self._limits = limits
        self._waiting: deque[_Request] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(limits.threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs: Mapping[str, NDArray[Any]]) -> Future[Arrays]:
        """The outputs for `inputs`, all of which have the same number of rows.

        Raises
        ------
        QueueFull
            Too many rows are already waiting.
        """
        rows = len(next(iter(inputs.values())))
        shape = tuple((name, value.dtype, value.shape[1:]) for name, value in sorted(inputs.items()))
        request = _Request(inputs, rows, shape)
        with self._changed:
            if self._closed or (self._waiting and self._rows + rows > self._limits.waiting_rows):
                raise QueueFull(f"{self._rows} rows are already waiting")
            self._waiting.append(request)
            self._rows += rows
            self._changed.notify_all()
        return request.future

    def close(self) -> None:
        """Run the queued requests and stop the threads; requests still queued then fail with `QueueFull`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        while self._waiting:
            self._take().future.set_exception(QueueFull("the server is stopping"))

    def _work(self) -> None:
        while batch := self._next():
            live = [request for request in batch if request.future.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                outputs = self._run(_joined(live))
                parts = _split(outputs, [request.rows for request in live])
            except Exception as error:  # passed on to the callers
                for request in live:
                    request.future.set_exception(error)
            else:
                for request, part in zip(live, parts, strict=True):
                    request.future.set_result(part)

    def _next(self) -> list[_Request]:
        """The next batch of requests; empty when the queue is closed and drained."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            batch = [self._take()]
            total = batch[0].rows
            deadline = time.monotonic() + self._limits.wait_s
            while total < self._limits.rows:
                if self._waiting:
                    following = self._waiting[0]
                    if following.shape != batch[0].shape or total + following.rows > self._limits.rows:
                        break
                    batch.append(self._take())
                    total += following.rows
                elif self._closed or not self._changed.wait(deadline - time.monotonic()):
                    break
            return batch

    def _take(self) -> _Request:
        request = self._waiting.popleft()
        self._rows -= request.rows
        return request


def _joined(requests: list[_Request]) -> Arrays:
    if len(requests) == 1:
        return dict(requests[0].inputs)
    return {name: np.concatenate([request.inputs[name] for request in requests]) for name in requests[0].inputs}


def _split(outputs: Arrays, rows: list[int]) -> list[Arrays]:
    if len(rows) == 1:
        return [outputs]
    borders = np.cumsum(rows)[:-1]
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != sum(rows):
            raise ValueError(f"the output {name!r} has the shape {value.shape} for {sum(rows)} rows")
    pieces = {name: np.split(value, borders) for name, value in outputs.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(len(rows))]
