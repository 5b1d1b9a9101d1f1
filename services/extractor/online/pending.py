"""What waits for a batch: requests, their decoded images, and how many there may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extractor.images.pool import Item


class Decoder(Protocol):
    """What a batcher needs of `extractor.images.pool.DecodePool`."""

    @property
    def workers(self) -> int: ...

    def submit(self, image: bytes) -> Future[Item]: ...

    def release(self, item: Item) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Bounds of one model's batches.

    Attributes
    ----------
    batch
        Most images of a batch.
    wait_s
        Longest wait of a decoded image for others.
    queue
        Most images that wait for a batch; a request beyond is refused.
    slots
        Most images that are decoded, or being decoded, and not in a batch yet.
    """

    batch: int
    wait_s: float
    queue: int
    slots: int


@dataclass(eq=False, slots=True)
class Ready:
    """A decoded image that waits for its batch since ``since``, seconds of the event loop."""

    request: Request
    index: int
    item: Item
    since: float


@dataclass(eq=False, slots=True)
class Request:
    """One request's images: those up to `next` have been handed to a decoder, those in `ready` are decoded."""

    images: Sequence[bytes]
    done: asyncio.Future[NDArray[np.float32]]
    rows: NDArray[np.float32]
    waiting: int
    left: int
    next: int = 0
    held: int = 0
    ready: deque[Ready] = field(default_factory=deque)
