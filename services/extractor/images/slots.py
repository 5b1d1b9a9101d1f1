"""The memory through which decoded pixels come from the decode processes: one slot an image."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractor.images.child import Decoded, DecoderConfig, Outcome, slots_of
from extractor.images.located import LocatedImage


@dataclass(frozen=True, slots=True)
class Item:
    """One image's outcome. ``pixels`` is (size, size, 3) uint8, valid until `DecodePool.release`; None if
    it was not decoded. ``image`` is what was submitted if the outcome is `Stored`.
    """

    index: int
    outcome: Outcome
    pixels: NDArray[np.uint8] | None
    slot: int | None
    image: LocatedImage | bytes | None = None


class Slots:
    """Slots for `count` images, in memory that the decode processes map too.

    Attributes
    ----------
    count
        Number of slots.
    descriptor
        Of the shared memory, for the processes to inherit.
    known
        The same for the memory of `extractor.images.known`, which is empty at first.
    """

    def __init__(self, config: DecoderConfig, count: int) -> None:
        self.count = count
        self.descriptor = _shared_memory(count * config.slot_bytes)
        self.known = _shared_memory(0)
        self._pixels = slots_of(mmap.mmap(self.descriptor, 0), config.transform)
        self._free: deque[int] = deque(range(count))
        self._given: dict[int, Item] = {}
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """A free slot, which is no longer free; None when all are in use."""
        return self._free.popleft() if self._free else None

    def free(self, slot: int) -> None:
        """Free a slot that no item shows."""
        self._free.append(slot)

    def item(self, index: int, outcome: Outcome, slot: int) -> Item:
        """The outcome of the image that was decoded into ``slot``, which is freed if it holds no pixels."""
        if not isinstance(outcome, Decoded):
            self.free(slot)
            return Item(index, outcome, None, None)
        item = Item(index, outcome, self._pixels[slot], slot)
        with self._lock:
            self._given[slot] = item
        return item

    def release(self, item: Item) -> bool:
        """Free the slot of ``item``; False when it holds none, or none any more."""
        if item.slot is None:
            return False
        with self._lock:
            if self._given.get(item.slot) is not item:
                return False
            del self._given[item.slot]
        self._free.append(item.slot)
        return True

    def close(self) -> None:
        """Close the descriptors; the pixels of items stay readable."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            os.close(self.known)
            self.descriptor = self.known = -1


def _shared_memory(size: int) -> int:
    """Descriptor of memory that the processes share.

    Not ``multiprocessing.shared_memory``: containers limit /dev/shm to 64 MB, and its files outlive a killed process.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("shoal-decode")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
