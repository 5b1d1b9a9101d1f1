"""The thread of a decode pool: it starts the processes, hands them images, receives outcomes, replaces what died."""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from shoal.errors import ImageDecoderDied, JobError, Unavailable

from extractor.images.child import DecoderConfig, Outcome, Stored, Undecodable
from extractor.images.located import FetchedImage, LocatedImage
from extractor.images.processes import DecodeProcess, Item, Slots, Work

DEPTH = 2
"""Tasks that a process holds: the current one, and the next, so that it never waits for one."""
TRIES = 2
START_S = 120.0
"""Seconds after which a process that is not ready is replaced."""
STARTS = 3
"""After so many processes in a row that die before they are ready, everything that waits fails."""


LARGE_IN_FLIGHT = 256_000_000
"""Pixels of all large images that are decoded at once: a gigabyte as RGB. A larger one is decoded alone."""


class Feeder:
    """Decodes what is submitted, in processes that live until `close`.

    The thread starts with the first image, or by `start`. A failure to start processes fails every image that waits;
    the next one tries again.

    Parameters
    ----------
    config
        The settings of all processes.
    workers
        Number of processes.
    slots
        Where pixels go; an image begins when one is free.
    timeout_s
        A process that takes longer for an image is killed.
    """

    large_in_flight = LARGE_IN_FLIGHT

    def __init__(self, config: DecoderConfig, *, workers: int, slots: Slots, timeout_s: float) -> None:
        self._config = config
        self._workers = workers
        self._slots = slots
        self._timeout_s = timeout_s
        self._inbox: deque[Work] = deque()
        self._retries: deque[Work] = deque()
        self._processes: list[DecodeProcess] = []
        self._asking: deque[DecodeProcess] = deque()
        self._failed_starts = 0
        self._busy_s = 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._wanted = False
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._awake = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the running decode processes."""
        return [process.pid for process in list(self._processes)]

    @property
    def busy_s(self) -> float:
        """Seconds that all processes together have read and decoded, what they are at included."""
        now = time.monotonic()
        under_way = (now - process.head_since for process in list(self._processes) if process.working)
        return self._busy_s + sum(under_way)

    def start(self) -> None:
        """Start the processes.

        Raises
        ------
        Unavailable
            The pool is closed.
        """
        with self._lock:
            self._want()
        self.wake()

    def submit(self, index: int, image: LocatedImage | bytes, *, anew: bool = False) -> Future[Item]:
        """Decode ``image`` when a process and a slot are free; images begin in the order of submission.

        Raises
        ------
        Unavailable
            The pool is closed.
        """
        work = Work(index, image, Future(), anew=anew)
        with self._lock:
            self._want()
            self._inbox.append(work)
        self.wake()
        return work.future

    def wake(self) -> None:
        """Have the thread look for work and slots."""
        if not self._awake:  # Otherwise it has yet to look.
            self._awake = True
            with suppress(OSError):
                self._wake.send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """End the processes; what is not decoded yet fails."""
        with self._lock:
            self._closing = True
        with suppress(OSError):
            self._wake.send(b"\0", socket.MSG_DONTWAIT)
        if self._thread is not None:
            self._thread.join()
        self._selector.close()
        for each in (self._wake, self._woken):
            each.close()

    def _want(self) -> None:
        if self._closing:
            raise Unavailable("The decode pool is closed.")
        self._wanted = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="decode-feeder", daemon=True)
            self._thread.start()

    # What follows runs in the thread. It also starts the processes: see `DecodeProcess`.

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._turn()
                except Exception as error:  # Whoever waits for an image learns of it.
                    self._fail(error)
        finally:
            self._fail(Unavailable("The decode pool was closed before the image was decoded."))

    def _turn(self) -> None:
        self._start_processes()
        self._give_work()
        self._admit_large()
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
                self._awake = False
            elif key.data in self._processes:
                self._receive(key.data)
        self._end_hanging()

    def _start_processes(self) -> None:
        while (self._wanted or self._inbox) and len(self._processes) < self._workers:
            try:
                process = DecodeProcess(self._config, self._slots.descriptor, self._slots.known)
            except OSError as error:
                raise JobError(f"A decode process cannot be started: {error.strerror}.") from error
            self._processes.append(process)
            self._selector.register(process.connection, selectors.EVENT_READ, process)

    def _give_work(self) -> None:
        while queue := self._retries or self._inbox:
            process = self._process_for(queue[0])
            if process is None:
                return
            if queue is self._inbox and not self._begin(queue[0]):
                return
            work = queue.popleft()
            if not work.future.cancelled():
                process.give(work)

    def _process_for(self, work: Work) -> DecodeProcess | None:
        """The process with the least to do; bytes need one that reads them at once, since they fill the connection."""
        free = 1 if isinstance(work.image, bytes | FetchedImage) else DEPTH
        waiting = [process for process in self._processes if process.ready and len(process.held) < free]
        return min(waiting, key=lambda process: len(process.held)) if waiting else None

    def _begin(self, work: Work) -> bool:
        """Give ``work`` a slot, unless its future was cancelled; False when no slot is free."""
        slot = self._slots.take()
        if slot is None:
            return False
        if work.future.set_running_or_notify_cancel():
            work.slot = slot
        else:
            self._slots.free(slot)
        return True

    def _admit_large(self) -> None:
        """Let processes decode large images, in the order in which they asked, while their sum stays bounded."""
        for process in list(self._asking):
            decoded = sum(each.large for each in self._processes)
            if decoded and decoded + process.asks > self.large_in_flight:
                return
            self._asking.popleft()
            process.go()

    def _receive(self, process: DecodeProcess) -> None:
        since = process.head_since
        try:
            outcome = process.receive()
        except (EOFError, OSError):
            self._died(process, "The decode process was killed, perhaps because it ran out of memory")
            return
        if process.asks:
            self._busy_s += time.monotonic() - since
            self._asking.append(process)
        elif outcome is None:
            self._failed_starts = 0
        else:
            self._busy_s += time.monotonic() - since
            self._finish(*outcome)

    def _patience(self) -> float | None:
        """Seconds until a process hangs; None while none starts or has work."""
        next_due = min(map(self._due, self._processes), default=math.inf)
        return None if next_due == math.inf else max(0.0, next_due - time.monotonic())

    def _due(self, process: DecodeProcess) -> float:
        """When ``process`` counts as hanging, on the monotonic clock; infinity while it has nothing to do."""
        if process.asks:  # It waits for the others, who have their own time.
            return math.inf
        if not process.ready:
            return process.head_since + START_S
        return process.head_since + self._timeout_s if process.held else math.inf

    def _end_hanging(self) -> None:
        now = time.monotonic()
        for process in list(self._processes):
            if now >= self._due(process):
                self._died(process, f"Decoding took longer than {self._timeout_s:g} s")

    def _died(self, process: DecodeProcess, why: str) -> None:
        """Repeat the work of ``process``. Only the first can be the cause: the others had not begun."""
        self._drop(process)
        self._retries.extendleft(reversed(list(process.held)[1:]))
        if process.held:
            work = process.held[0]
            work.deaths += 1
            if work.deaths < TRIES:
                self._retries.appendleft(work)
            else:
                message = f"{why}, {TRIES} times. The image may be damaged or very large."
                self._finish(work, Undecodable(work.index, ImageDecoderDied.code, message))
        self._failed_starts += not process.ready
        if self._failed_starts >= STARTS:
            raise JobError(f"The decode processes do not start: {STARTS} in a row died. See the worker's log for why.")

    def _drop(self, process: DecodeProcess) -> None:
        self._processes.remove(process)
        with suppress(ValueError):
            self._asking.remove(process)
        self._selector.unregister(process.connection)
        process.end()

    def _finish(self, work: Work, outcome: Outcome) -> None:
        item = self._slots.item(work.index, outcome, work.slot)
        work.future.set_result(replace(item, image=work.image) if isinstance(outcome, Stored) else item)

    def _fail(self, error: Exception) -> None:
        """End every process, and everything that waits with ``error``."""
        self._wanted = False
        self._failed_starts = 0
        begun = [*self._retries]
        self._retries.clear()
        for process in list(self._processes):
            begun.extend(process.held)
            self._drop(process)
        for work in begun:
            self._slots.free(work.slot)
            work.future.set_exception(error)
        while self._inbox:
            future = self._inbox.popleft().future
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
