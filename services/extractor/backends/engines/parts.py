"""What the engines share: images go through a network in parts of one fixed size, the last filled with black images.

A fixed shape means one algorithm for every image, so that a row does not depend on how full its batch is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from shoal.errors import JobError, OutOfMemory
from shoal.store import ModelRecord

from extractor.images.transform import Transform

Rows = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Sample = Callable[[int], NDArray[np.uint8]]
"""Gives about so many images of the job as pixels, (n, size, size, 3)."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a memory")
"""In the messages of libraries that raise no `MemoryError`."""

log = structlog.get_logger(__name__)


class Network(Protocol):
    """A network made ready for parts of one size."""

    def __call__(self, pixels: Pixels) -> Rows:
        """Embed exactly one part, (part, size, size, 3) uint8, as (part, dim) float32."""
        ...


class PartsBackend:
    """A backend that runs parts of a batch in threads of its own.

    Subclasses define `prepare`. When memory runs out, parts are halved for the rest of the job.

    Parameters
    ----------
    transform, record
        See `extractor.backends.base.Backend`.
    part
        Images that go through the network at once.
    threads
        Parts that run at once, each with a network of its own from `prepare`.
    numerics
        The engine's numerics class.
    """

    max_in_flight = 2

    def __init__(
        self, transform: Transform, record: ModelRecord, *, part: int, threads: int = 1, numerics: str = ""
    ) -> None:
        self.numerics = numerics
        self.transform = transform
        self.record = record
        self.part = part
        self._lock = Lock()
        self._free: list[tuple[int, Network]] = []
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        size = transform.size
        try:
            self.dim = int(self._executor.submit(self._rows, np.zeros((1, size, size, 3), np.uint8)).result().shape[1])
        except BaseException:
            self.close()
            raise

    def prepare(self, part: int) -> Network:
        """A network for parts of ``part`` images; one per thread at most is in use."""
        raise NotImplementedError

    def submit(self, pixels: Pixels) -> Future[Rows]:
        """Embed (n, size, size, 3) uint8 as (n, dim) float32."""
        step = self.part
        return _joined(
            [self._executor.submit(self._rows, pixels[at : at + step]) for at in range(0, len(pixels), step)], self.dim
        )

    def close(self) -> None:
        """Stop the threads and cancel the parts that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._free.clear()

    def _rows(self, pixels: Pixels) -> Rows:
        """Embed any number of images, in parts of at most `part`."""
        outputs: list[Rows] = []
        done = 0
        while done < len(pixels):
            part = self.part
            try:
                outputs.append(self._one(pixels[done : done + part], part))
                done += part
            except Exception as error:
                if not _is_memory(error):
                    raise
                self._halve(part, error)
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _one(self, pixels: Pixels, part: int) -> Rows:
        network = self._take(part)
        filled = pixels
        if len(pixels) < part:
            filled = np.zeros((part, *pixels.shape[1:]), np.uint8)
            filled[: len(pixels)] = pixels
        rows = network(filled)
        if rows.ndim != 2 or len(rows) != part:
            raise JobError(
                f"{self.record.name} does not return an (n, dim) tensor: its architecture has no pooled embedding."
            )
        with self._lock:
            self._free.append((part, network))
        return rows[: len(pixels)]

    def _take(self, part: int) -> Network:
        with self._lock:
            while self._free:
                size, network = self._free.pop()
                if size == part:
                    return network
        return self.prepare(part)

    def _halve(self, part: int, error: Exception) -> None:
        if part == 1:
            raise OutOfMemory(
                "The memory is too small for a single image of this model. Run fewer workers on this machine, or take "
                "a smaller model; for a GPU that is too small, set SHOAL_DEVICE=cpu."
            ) from error
        with self._lock:
            self.part = min(self.part, part // 2)
            self._free.clear()
        log.warning("a part does not fit into memory; parts are halved", images=part)


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    )


def _joined(parts: list[Future[Rows]], dim: int) -> Future[Rows]:
    """A future of the rows of all ``parts``, in their order."""
    whole: Future[Rows] = Future()
    if not parts:
        whole.set_result(np.empty((0, dim), np.float32))
        return whole
    left, lock = len(parts), Lock()

    def finished(_part: Future[Rows]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        if any(part.cancelled() for part in parts):
            whole.cancel()
            return
        errors = [error for part in parts if (error := part.exception()) is not None]
        if errors:
            whole.set_exception(errors[0])
        else:
            whole.set_result(np.concatenate([part.result() for part in parts]))

    for part in parts:
        part.add_done_callback(finished)
    return whole
