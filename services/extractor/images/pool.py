"""A pool of decode processes that works ahead of its reader and survives images that crash or hang a decoder.

A thread sends tasks and receives outcomes, so that decoding continues while the reader waits for the network. Order
is kept; the number of slots bounds the memory. An image whose decode process dies (a crash, the kernel's out-of-memory
killer) or hangs is tried once more in a new process, then becomes an `Undecodable`; the pool continues.
"""

from __future__ import annotations

import mmap
import os
import queue
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImageDecoderDied, JobError
from shoal.host import available_cores

from extractor.images.child import Decoded, DecoderConfig, ListedImage, Task, Undecodable, slots_of

DEPTH = 2
"""Tasks that a process holds: the current one, and the next, so that it never waits for one."""
TRIES = 2
STARTS = 3
"""After so many processes in a row that die before they are ready, no more are started."""
DECODE_TIMEOUT_S = 120.0
MEMORY_BYTES = 512 * 2**20
_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class Item:
    """One image's outcome. ``pixels`` is (size, size, 3) uint8, valid until `DecodePool.release`; None on failure."""

    index: int
    outcome: Decoded | Undecodable
    pixels: NDArray[np.uint8] | None
    slot: int | None


@dataclass(slots=True, eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    tasks: deque[Task] = field(default_factory=deque)
    head_since: float = field(default_factory=time.monotonic)


def prefetch_slots(slot_bytes: int, workers: int, batch_size: int) -> int:
    """How many images to decode ahead: two batches and some for each process, within `MEMORY_BYTES`."""
    enough = 2 * batch_size + 2 * DEPTH * workers
    return max(DEPTH * workers, min(enough, MEMORY_BYTES // slot_bytes))


class DecodePool:
    """Decodes images in processes of its own.

    Parameters
    ----------
    config
        The settings of all its processes.
    workers
        Number of processes; 0 means one per core.
    slots
        How many decoded images may wait for their reader.
    """

    def __init__(self, config: DecoderConfig, *, workers: int, slots: int) -> None:
        self.config = config
        self.workers = workers or available_cores()
        self._memory_fd = _shared_memory(slots * config.slot_bytes)
        self._slots = slots_of(mmap.mmap(self._memory_fd, 0), config.transform)
        self._free: deque[int] = deque(range(slots))
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._processes: list[_Process] = []
        self._failed_starts = 0
        self._out: queue.SimpleQueue[Item | BaseException | None] = queue.SimpleQueue()
        self._closing = False
        self._feeder: threading.Thread | None = None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the running decode processes."""
        return [process.popen.pid for process in self._processes]

    def stream(self, images: Iterable[ListedImage], waiting: Callable[[], None] = lambda: None) -> Iterator[Item]:
        """Decode ``images`` and yield their outcomes in the same order. Once per pool.

        Parameters
        ----------
        images
            Consumed in the feeder's thread, as far ahead as there are slots.
        waiting
            Called about once a second while no image is ready; may raise to end the stream.

        Raises
        ------
        JobError
            The decode processes cannot be started.
        """
        if self._feeder is not None:
            raise RuntimeError("a pool decodes one stream")
        self._feeder = threading.Thread(target=self._feed, args=(iter(images),), name="decode-feeder", daemon=True)
        self._feeder.start()
        while (item := self._next(waiting)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _next(self, waiting: Callable[[], None]) -> Item | BaseException | None:
        while True:
            try:
                return self._out.get(timeout=_TICK_S)
            except queue.Empty:
                waiting()

    def release(self, item: Item) -> None:
        """Free the slot of ``item``: its pixels will be overwritten."""
        if item.slot is not None:
            self._free.append(item.slot)
            self._wake_feeder()

    def close(self) -> None:
        """End the processes and drop what is not decoded yet."""
        self._closing = True
        self._wake_feeder()
        if self._feeder is not None:
            self._feeder.join()
        self._selector.close()
        for each in (self._wake, self._woken):
            each.close()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd = -1

    def _wake_feeder(self) -> None:
        with suppress(OSError):
            self._wake.send(b"\0", socket.MSG_DONTWAIT)

    # What follows runs in the feeder's thread. It also starts the processes: their death signal comes when their parent
    # ends, and to Linux the parent is the thread that started them.

    def _feed(self, images: Iterator[ListedImage]) -> None:
        try:
            _Feed(self, enumerate(images)).run()
            self._out.put(None)
        except BaseException as error:
            self._out.put(error)
        finally:
            for process in list(self._processes):
                self._drop(process)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self._memory_fd)
            popen = subprocess.Popen(
                [sys.executable, "-m", "extractor.images.child", *map(str, fds), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                # One thread decodes; a thread pool of numpy's would only cost memory.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        process = _Process(popen, Connection(ours.detach()))
        with suppress(OSError):  # It died: reading from the connection reports it.
            process.connection.send(self.config)
        self._processes.append(process)
        self._selector.register(process.connection, selectors.EVENT_READ, process)

    def _drop(self, process: _Process) -> None:
        self._processes.remove(process)
        self._selector.unregister(process.connection)
        process.connection.close()
        process.popen.kill()
        process.popen.wait()

    def _restart(self, process: _Process) -> None:
        self._failed_starts = 0 if process.ready else self._failed_starts + 1
        self._drop(process)
        if self._failed_starts >= STARTS:
            raise JobError(f"The decode processes do not start: {STARTS} in a row died. See the worker's log for why.")
        self._start()


class _Feed:
    """One stream through the pool: images to decode, tasks to repeat, and outcomes that are ahead of their turn."""

    def __init__(self, pool: DecodePool, images: Iterator[tuple[int, ListedImage]]) -> None:
        self.pool = pool
        self.images = images
        self.next_image: tuple[int, ListedImage] | None = next(images, None)
        self.retries: deque[Task] = deque()
        self.deaths: dict[int, int] = {}
        self.done: dict[int, Item] = {}
        self.next_out = 0

    def run(self) -> None:
        pool = self.pool
        if self.next_image is not None:
            for _ in range(pool.workers):
                pool._start()
        while not pool._closing and self._unfinished():
            self._send_tasks()
            for key, _ in pool._selector.select(_TICK_S):
                if key.data is None:
                    with suppress(BlockingIOError):
                        pool._woken.recv(4096)
                elif key.data in pool._processes:
                    self._receive(key.data)
            self._end_hanging()

    def _unfinished(self) -> bool:
        return bool(self.next_image or self.retries or self.done or any(p.tasks for p in self.pool._processes))

    def _send_tasks(self) -> None:
        waiting = [p for p in self.pool._processes if p.ready and len(p.tasks) < DEPTH]
        while waiting:
            task = self._next_task()
            if task is None:
                return
            process = min(waiting, key=lambda p: len(p.tasks))
            if not process.tasks:
                process.head_since = time.monotonic()
            process.tasks.append(task)
            with suppress(OSError):  # As above.
                process.connection.send(task)
            if len(process.tasks) >= DEPTH:
                waiting.remove(process)

    def _next_task(self) -> Task | None:
        if self.retries:
            return self.retries.popleft()
        if self.next_image is None or not self.pool._free:
            return None
        index, image = self.next_image
        self.next_image = next(self.images, None)
        return Task(index, self.pool._free.popleft(), image)

    def _receive(self, process: _Process) -> None:
        try:
            message = process.connection.recv()
        except (EOFError, OSError):
            self._died(process, "The decode process was killed, perhaps because it ran out of memory")
            return
        if not process.ready:
            process.ready = True
            return
        task = process.tasks.popleft()
        process.head_since = time.monotonic()
        self._finish(task, message)

    def _end_hanging(self) -> None:
        now = time.monotonic()
        for process in list(self.pool._processes):
            if process.tasks and now - process.head_since > DECODE_TIMEOUT_S:
                self._died(process, f"Decoding took longer than {DECODE_TIMEOUT_S:.0f} s")

    def _died(self, process: _Process, why: str) -> None:
        """Repeat the tasks of ``process``. Only the first can be the cause: the others had not begun."""
        tasks = list(process.tasks)
        self.pool._restart(process)
        self.retries.extendleft(reversed(tasks[1:]))
        if not tasks:
            return
        task = tasks[0]
        self.deaths[task.ticket] = self.deaths.get(task.ticket, 0) + 1
        if self.deaths[task.ticket] < TRIES:
            self.retries.appendleft(task)
        else:
            message = f"{why}, {TRIES} times. The image may be damaged or very large."
            self._finish(task, Undecodable(task.ticket, ImageDecoderDied.code, message))

    def _finish(self, task: Task, outcome: Decoded | Undecodable) -> None:
        if isinstance(outcome, Decoded):
            item = Item(task.ticket, outcome, self.pool._slots[task.slot], task.slot)
        else:
            self.pool._free.append(task.slot)
            item = Item(task.ticket, outcome, None, None)
        self.done[task.ticket] = item
        while self.next_out in self.done:
            self.pool._out.put(self.done.pop(self.next_out))
            self.next_out += 1


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
