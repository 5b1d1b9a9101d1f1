"""A pool of decode processes that survives images that crash or hang a decoder.

Images are submitted from any thread and decoded in the background (`extractor.images.feeder`), files by their path and
images sent within a request by their bytes. The number of slots bounds the memory. An image whose decode process dies
(a crash, the kernel's out-of-memory killer) or hangs is tried once more in a new process, then becomes an
`Undecodable`; the pool continues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from shoal.host import available_cores

from extractor.images.child import DecoderConfig
from extractor.images.feeder import DEPTH, Feeder
from extractor.images.known import KnownContents, write_known
from extractor.images.located import FetchedImage, LocatedImage
from extractor.images.processes import Item, Slots

__all__ = ["DecodePool", "Item", "prefetch_slots"]

DECODE_TIMEOUT_S = 120.0
MEMORY_BYTES = 512 * 2**20
_TICK_S = 1.0


def prefetch_slots(slot_bytes: int, workers: int, batch_size: int) -> int:
    """How many images to decode ahead: two batches and some for each process, within `MEMORY_BYTES`."""
    enough = 2 * batch_size + 2 * DEPTH * workers
    return max(DEPTH * workers, min(enough, MEMORY_BYTES // slot_bytes))


class DecodePool:
    """Decodes images in processes of its own, which start with the first image or by `start`.

    Parameters
    ----------
    config
        The settings of all its processes.
    workers
        Number of processes; 0 means one per core.
    slots
        How many decoded images may wait for their reader.
    timeout_s
        A decode process that takes longer for one image is killed.
    """

    def __init__(self, config: DecoderConfig, *, workers: int, slots: int, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self.config = config
        self.workers = workers or available_cores()
        self._slots = Slots(config, slots)
        self._spare = 0
        self._feeder = Feeder(config, workers=self.workers, slots=self._slots, timeout_s=timeout_s)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the running decode processes."""
        return self._feeder.pids

    @property
    def busy_s(self) -> float:
        """Seconds that all decode processes together have worked."""
        return self._feeder.busy_s

    def start(self) -> None:
        """Start the processes before the first image needs them.

        Raises
        ------
        Unavailable
            The pool is closed.
        """
        self._feeder.start()

    def know(self, digests: NDArray[np.uint64]) -> tuple[KnownContents, NDArray[np.int64]]:
        """Do not decode files with these contents: their outcome is `Stored`. Call it once, before those images.

        Parameters
        ----------
        digests
            (n, 2) of `extractor.images.known.digests_of`; see `extractor.images.known.write_known` for what returns.
        """
        self._spare = min(1, self._slots.count - 1)
        return write_known(self._slots.known, digests)

    def submit(self, image: LocatedImage | bytes, index: int = 0, *, anew: bool = False) -> Future[Item]:
        """Decode one image. Safe in any thread; outcomes come in any order.

        Parameters
        ----------
        image
            A listed file, or the bytes of a file, whose format its content decides.
        index
            Comes back in the item.
        anew
            Decode it also if `know` has its content.

        Returns
        -------
        Future of Item
            Its image waits while no slot is free. An image whose future is cancelled before it begins is not decoded;
            `discard` gives up one that may have begun. Callbacks run in the pool's thread and must be short. The
            future raises `JobError` when the decode processes cannot be started, `Unavailable` when the pool is closed
            first.

        Raises
        ------
        Unavailable
            The pool is closed.
        """
        return self._feeder.submit(index, image, anew=anew)

    def stream(
        self, images: Iterable[LocatedImage | None], waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Item]:
        """Decode ``images`` and yield their outcomes in the same order.

        Parameters
        ----------
        images
            Consumed as far ahead as there are slots, except those that `decode_anew` needs, and as bytes fit into
            `MEMORY_BYTES`. None, which comes after a short wait: the next image is not there yet.
        waiting
            Called at least about once a second while no image is ready; may raise to end the stream.

        Raises
        ------
        JobError
            The decode processes cannot be started.
        """
        source = iter(images)
        ahead: deque[tuple[Future[Item], int]] = deque()
        number = held = 0
        more = True
        try:
            while more or ahead:
                while more and len(ahead) < self._slots.count - self._spare and (held < MEMORY_BYTES or not ahead):
                    try:
                        image = next(source)
                    except StopIteration:
                        more = False
                        break
                    if image is None:
                        break
                    size = len(image.data) if isinstance(image, FetchedImage) else 0
                    ahead.append((self.submit(image, number), size))
                    number, held = number + 1, held + size
                if not ahead:
                    waiting()
                    continue
                item = _wait(ahead[0][0], waiting)
                held -= ahead.popleft()[1]
                yield item
        finally:
            for future, _ in ahead:
                self.discard(future)

    def decode_anew(self, image: LocatedImage | bytes, waiting: Callable[[], None] = lambda: None) -> Item:
        """Decode an image whose outcome was `Stored` after all, while a `stream` waits for its reader.

        Release the item before the next one.
        """
        return _wait(self.submit(image, anew=True), waiting)

    def release(self, item: Item) -> None:
        """Free the slot of ``item``: its pixels will be overwritten. A second time does nothing."""
        if self._slots.release(item):
            self._feeder.wake()

    def discard(self, future: Future[Item]) -> None:
        """Do without a submitted image: it is not decoded, or its slot is freed when it is."""
        if not future.cancel():
            future.add_done_callback(self._release_outcome)

    def close(self) -> None:
        """End the processes and drop what is not decoded yet."""
        self._feeder.close()
        self._slots.close()

    def _release_outcome(self, future: Future[Item]) -> None:
        if future.exception() is None:
            self.release(future.result())


def _wait(future: Future[Item], waiting: Callable[[], None]) -> Item:
    while True:
        try:
            return future.result(timeout=_TICK_S)
        except TimeoutError:
            if future.done():
                return future.result()
            waiting()
