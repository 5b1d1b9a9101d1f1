"""The faults: each hits something that is chosen at random, and says what it hit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from redis.exceptions import RedisError
from shoal.errors import ShoalError
from shoal.jobs.states import JobState

from tests.faults.chaos.installation import LEASE_S, SILENCE_S, Installation
from tests.faults.chaos.load import FOLDERS, IMAGES, SIDE

Fault = Callable[[], str | None]
"""Does harm; says to what, None if there was nothing to hit."""


class Faults:
    """Faults on an installation.

    Attributes
    ----------
    cancelled
        Jobs that were cancelled.
    """

    def __init__(self, installation: Installation, rng: random.Random) -> None:
        self.installation, self.rng = installation, rng
        self.cancelled: set[str] = set()
        self._timers: list[threading.Timer] = []
        self._server_lock = threading.Lock()
        self.weighted: list[tuple[int, Fault]] = [
            (6, self.kill_child),
            (2, self.crash_child),
            (2, self.freeze_child),
            (3, self.kill_worker),
            (2, self.kill_worker_and_child),
            (2, self.freeze_worker),
            (1, self.drain_worker),
            (2, self.kill_queue),
            (2, self.freeze_queue),
            (3, self.kill_server),
            (2, self.cancel_job),
            (2, self.replace_image),
            (1, self.remove_image),
        ]

    def one(self) -> str | None:
        """One fault; what it hit."""
        weights, faults = zip(*self.weighted, strict=True)
        fault: Fault = self.rng.choices(faults, weights)[0]
        with contextlib.suppress(psutil.Error):
            return fault()
        return None

    def end(self) -> None:
        """Wait for what heals itself."""
        for each in self._timers:
            each.join()

    def _later(self, seconds: float, heal: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, heal)
        self._timers.append(timer)
        timer.start()

    def _signal_child(self, number: signal.Signals) -> tuple[str, psutil.Process] | None:
        name = self.rng.choice(self.installation.workers)
        children = self.installation.children(name)
        if not children:
            return None
        child = self.rng.choice(children)
        child.send_signal(number)
        return f"{number.name} to a process of {name}", child

    def kill_child(self) -> str | None:
        """What the kernel does when memory runs out."""
        hit = self._signal_child(signal.SIGKILL)
        return hit and hit[0]

    def crash_child(self) -> str | None:
        """A fault of a library."""
        hit = self._signal_child(signal.SIGSEGV)
        return hit and hit[0]

    def freeze_child(self) -> str | None:
        """A job that hangs: for a moment, or until its worker gives it up."""
        hit = self._signal_child(signal.SIGSTOP)
        if hit is not None:
            self._later(self.rng.choice([0.5, 2.0, SILENCE_S + 3.0]), lambda: _wake(hit[1]))
        return hit and hit[0]

    def _worker(self) -> tuple[str, psutil.Process] | None:
        name = self.rng.choice(self.installation.workers)
        process = self.installation.process(name)
        return None if process is None else (name, process)

    def kill_worker(self) -> str | None:
        """A supervisor that dies; its job's process should go with it."""
        if (found := self._worker()) is None:
            return None
        found[1].kill()
        return f"SIGKILL to {found[0]}"

    def kill_worker_and_child(self) -> str | None:
        """A machine that loses its power."""
        if (found := self._worker()) is None:
            return None
        for each in [*found[1].children(recursive=True), found[1]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        return f"SIGKILL to {found[0]} and its processes"

    def freeze_worker(self) -> str | None:
        """A supervisor that stands still, often for longer than its lease: somebody else has its job then."""
        if (found := self._worker()) is None:
            return None
        found[1].suspend()
        self._later(self.rng.choice([1.0, LEASE_S + 2.0]), lambda: _wake(found[1]))
        return f"SIGSTOP to {found[0]}"

    def drain_worker(self) -> str | None:
        """An update of the software."""
        if (found := self._worker()) is None:
            return None
        found[1].terminate()
        return f"SIGTERM to {found[0]}"

    def kill_queue(self) -> str | None:
        """A crash of Redis; it starts again on its data."""
        if not self._server_lock.acquire(blocking=False):
            return None
        self.installation.server.kill()
        self._later(self.rng.choice([0.2, 1.0, 5.0]), self._start_queue)
        return "SIGKILL to the queue"

    def _start_queue(self) -> None:
        self.installation.server.start()
        self._server_lock.release()

    def freeze_queue(self) -> str | None:
        """Redis accepts connections and answers nothing, for longer than a lease at times."""
        if not self._server_lock.acquire(blocking=False):
            return None
        self.installation.server.pause()
        self._later(self.rng.choice([0.5, LEASE_S + 1.0]), self._resume_queue)
        return "SIGSTOP to the queue"

    def _resume_queue(self) -> None:
        self.installation.server.resume()
        self._server_lock.release()

    def kill_server(self) -> str | None:
        """An API dies, perhaps in the middle of a POST, or the model host, perhaps in the middle of a batch."""
        name = self.rng.choice(self.installation.servers)
        process = self.installation.process(name)
        if process is None:
            return None
        process.kill()
        return f"SIGKILL to {name}"

    def cancel_job(self) -> str | None:
        """A person changes their mind."""
        if not self._server_lock.acquire(blocking=False):
            return None
        try:
            queue = self.installation.queue()
            with contextlib.closing(queue):
                unfinished = sorted(queue.unfinished(), key=lambda job: job.id)
                if not unfinished:
                    return None
                job = self.rng.choice(unfinished)
                self.cancelled.add(job.id)
                queue.cancel(job.id)
                return f"cancelled {job.kind}"
        except (RedisError, ShoalError):
            return None
        finally:
            self._server_lock.release()

    def _image(self) -> Path:
        return self.installation.data / f"set-{self.rng.randrange(FOLDERS)}" / f"{self.rng.randrange(IMAGES):04d}.png"

    def replace_image(self) -> str | None:
        """A file that is edited while jobs read it, or damaged, or emptied."""
        path, how = self._image(), self.rng.choice(["edited", "truncated", "empty"])
        fresh = path.with_suffix(".part")
        noise = np.random.default_rng(self.rng.getrandbits(32)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(fresh, format="png")
        if how != "edited":
            os.truncate(fresh, 0 if how == "empty" else 200)
        fresh.replace(path)
        return f"{how} {path.name}"

    def remove_image(self) -> str | None:
        """A file that goes away."""
        path = self._image()
        path.unlink(missing_ok=True)
        return f"removed {path.name}"

    def busy(self) -> bool:
        """Whether a job runs now, as far as the queue says."""
        if not self._server_lock.acquire(blocking=False):
            return True
        try:
            with contextlib.closing(self.installation.queue()) as queue:
                return any(job.state is JobState.RUNNING for job in queue.unfinished())
        except (RedisError, ShoalError):
            return True
        finally:
            self._server_lock.release()


def _wake(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGCONT)
