"""A decode process as its pool sees it: started, given work, asked for outcomes, ended."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from extractor.images.child import DecoderConfig, Outcome, Task
from extractor.images.located import LocatedImage
from extractor.images.slots import Item

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
        with suppress(OSError):  # It died: reading from the connection reports it.
            self.connection.send(config)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def give(self, work: Work) -> None:
        """Have it decode ``work`` after what it holds."""
        if not self.held:
            self.head_since = time.monotonic()
        self.held.append(work)
        try:
            self.connection.send(Task(work.index, work.slot, work.image, work.anew))
        except OSError:  # It died, or has half a message: reading from the connection reports its end.
            self._popen.kill()

    def receive(self) -> tuple[Work, Outcome] | None:
        """The next outcome; None for the message that it is ready.

        Raises
        ------
        EOFError, OSError
            The process has ended.
        """
        message = self.connection.recv()
        if not self.ready:
            self.ready = True
            return None
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
