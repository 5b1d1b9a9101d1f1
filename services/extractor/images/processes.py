"""A decode process as its pool sees it: started, given work, asked for outcomes, ended; and the memory it shares.

Decoded pixels come through slots, one an image.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from extractor.images.child import GO, Asks, Decoded, DecoderConfig, Outcome, Task, slots_of
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


MESSAGE_TIMEOUT_S = 5.0
"""An image's bytes go to a process that waits for them: one that does not read for so long is stuck."""


@dataclass(slots=True, eq=False)
class Work:
    """An image on its way through the pool.

    Attributes
    ----------
    index
        Comes back in the item.
    slot
        Where its pixels go, once it has begun.
    anew
        Whether it is decoded also if its content has an embedding already.
    deaths
        How many processes ended over it.
    """

    index: int
    image: LocatedImage | bytes
    future: Future[Item]
    slot: int = -1
    anew: bool = False
    deaths: int = 0


class DecodeProcess:
    """A running decode process.

    Start it in a thread that lives as long as it should: its death signal comes when its parent ends, and to Linux the
    parent is the thread that started it.

    Parameters
    ----------
    config
        Its settings.
    memory, known
        Descriptors of the shared memory: of pixels, and of `extractor.images.known`.

    Attributes
    ----------
    ready
        Whether it has finished starting.
    held
        The work it was given, the current one first.
    head_since
        When it began with the current one, on the monotonic clock.
    asks
        Pixels of a large image that it waits to decode; 0 while it waits for none.
    large
        Pixels of the large image that it decodes; 0 while it decodes none.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self, config: DecoderConfig, memory: int, known: int) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._popen = _start(theirs.fileno(), memory, known)
        except BaseException:
            ours.close()
            raise
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, _timeval(MESSAGE_TIMEOUT_S))
        self.connection = Connection(ours.detach())
        self.ready = False
        self.held: deque[Work] = deque()
        self.head_since = time.monotonic()
        self.asks = self.large = 0
        with suppress(OSError):  # It died: reading from the connection reports it.
            self.connection.send(config)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def working(self) -> bool:
        """Whether it is at an image, and does not wait for a turn."""
        return self.ready and bool(self.held) and not self.asks

    def give(self, work: Work) -> None:
        """Have it decode ``work`` after what it holds."""
        if not self.held:
            self.head_since = time.monotonic()
        self.held.append(work)
        try:
            self.connection.send(Task(work.index, work.slot, work.image, work.anew))
        except OSError:  # It died, or has half a message: reading from the connection reports its end.
            self._popen.kill()

    def go(self) -> None:
        """Let it decode the image that it asks for."""
        self.large, self.asks = self.asks, 0
        self.head_since = time.monotonic()
        try:
            self.connection.send(GO)
        except OSError:  # As above.
            self._popen.kill()

    def receive(self) -> tuple[Work, Outcome] | None:
        """The next outcome; None for the message that it is ready, or `asks`.

        Raises
        ------
        EOFError, OSError
            The process has ended.
        """
        message = self.connection.recv()
        if not self.ready:
            self.ready = True
            return None
        if isinstance(message, Asks):
            self.asks = message.pixels
            return None
        self.large = 0
        self.head_since = time.monotonic()
        return self.held.popleft(), message

    def end(self) -> None:
        """Kill it and collect it."""
        self.connection.close()
        self._popen.kill()
        self._popen.wait()


def _start(*descriptors: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "extractor.images.child", *map(str, descriptors), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        # One thread decodes; a thread pool of numpy's would only cost memory.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), round(seconds % 1 * 1e6))
