"""Fetching images ahead of their decoders: many at once, few from one host, again what may pass, in their order.

A thread fetches one image at a time. A host gets few requests at once, fewer when it asks for patience, and none while
it asks to wait. A failure that may pass is tried again after a pause that grows; failures in a row make the host's
pauses grow, too. A host that answers nothing else for `gone_s` is down: its images fail at once, except for one every
`PROBE_S`, whose answer makes it a host as any other.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import TracebackType
from typing import NamedTuple, Protocol

import structlog
from shoal.errors import ImageFetchFailed, ImageInvalid
from shoal.settings import Settings

from extractor.images.located import FetchedImage, LostImage
from extractor.remote.allowed import Address, Allowed
from extractor.remote.http import HttpGetter, Passing
from extractor.remote.objects import ObjectGetter

AHEAD = 4096
"""Images that may be waited for, so that slow hosts hold up no others."""
AHEAD_BYTES = 256 * 2**20
"""Fetched images that wait for a decoder."""
TRIES = 4
ASKED_TRIES = 10
"""For a host that asks to wait."""
LONGEST_WAIT_S = 120.0
PAUSE_S = 0.5
"""Before the second try; each further pause is twice as long."""
LONGEST_PAUSE_S = 8.0
FAILURES = 3
"""After so many failures in a row, a host is left alone for a while."""
PROBE_S = 30.0
_TICK_S = 0.01
"""How long the stream waits for its next image before it says that there is none yet."""

log = structlog.get_logger(__name__)


class Wanted(NamedTuple):
    """An image to fetch.

    Attributes
    ----------
    name
        For its extension.
    accept
        Raises an `ImageInvalid` for bytes that are not those that were listed.
    """

    address: Address
    name: str
    accept: Callable[[bytes], None] = lambda data: None


class Getter(Protocol):
    """One try to fetch an image. Safe in any thread."""

    def get(self, address: Address) -> bytes:
        """The image, or an `ImageInvalid`, or `Passing`."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


class Getters:
    """Fetches over HTTP or from an object store, as the address says; either is made for its first address.

    Most jobs have no address, and an HTTP client reads certificates when it is made.
    """

    def __init__(self, http: Callable[[], Getter], objects: Callable[[], Getter]) -> None:
        self._make = {"http": http, "s3": objects}
        self._made: dict[str, Getter] = {}
        self._lock = threading.Lock()

    def get(self, address: Address) -> bytes:
        """The image."""
        kind = "s3" if address.scheme == "s3" else "http"
        with self._lock:
            getter = self._made.get(kind)
            if getter is None:
                getter = self._made[kind] = self._make[kind]()
        return getter.get(address)

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            for getter in self._made.values():
                getter.close()


@dataclass(slots=True)
class _Task:
    wanted: Wanted
    first: float
    tries: int = 0
    error: ImageInvalid | None = None
    outcome: FetchedImage | LostImage | None = None
    dropped: bool = False


@dataclass(slots=True)
class _Host:
    """What is known of a host.

    Attributes
    ----------
    most
        How many requests it gets at once: halved when it asks to wait, raised by its answers.
    failing_since
        When it began to answer nothing but failures; None while it answers.
    """

    most: float
    running: int = 0
    parked: deque[_Task] = field(default_factory=deque)
    not_before: float = 0.0
    failing_since: float | None = None
    pauses: int = 0
    failures: int = 0
    answered: float = 0.0
    probe_at: float = 0.0
    why: str = ""


class Fetcher:
    """Fetches images in threads of its own, which start with the first image.

    Parameters
    ----------
    getter
        What fetches.
    connections, per_host
        How many images are fetched at once, in all and from one host.
    gone_s
        Seconds without an answer after which a host is down.

    Attributes
    ----------
    working
        Entered around each try.
    """

    def __init__(
        self,
        getter: Getter,
        *,
        connections: int,
        per_host: int,
        gone_s: float,
    ) -> None:
        self._getter, self._connections, self._per_host, self._gone_s = getter, connections, per_host, gone_s
        self.working: Callable[[], AbstractContextManager[None]] = nullcontext
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._delivered = threading.Condition(self._lock)
        self._due: list[tuple[float, int, _Task]] = []
        self._hosts: dict[tuple[str, int], _Host] = {}
        self._threads: list[threading.Thread] = []
        self._held = 0
        self._number = 0
        self._closed = False

    @classmethod
    def of(cls, settings: Settings) -> Fetcher:
        """With the settings' limits."""
        allowed = Allowed.of(settings)
        timeout_s, max_bytes = settings.sources_timeout_s, int(settings.sources_max_bytes)
        return cls(
            Getters(
                lambda: HttpGetter(
                    allowed, connections=settings.sources_connections, timeout_s=timeout_s, max_bytes=max_bytes
                ),
                lambda: ObjectGetter(allowed, timeout_s=timeout_s, max_bytes=max_bytes),
            ),
            connections=settings.sources_connections,
            per_host=settings.sources_connections_per_host,
            gone_s=settings.sources_gone_s,
        )

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop fetching; what is under way is cut off."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        self._getter.close()
        for thread in self._threads:
            thread.join(timeout=1.0)

    def stream(self, wanted: Iterable[Wanted]) -> Iterator[FetchedImage | LostImage | None]:
        """The outcome of each of ``wanted``, in their order; None whenever the next one is not there yet."""
        source = iter(wanted)
        ahead: deque[_Task] = deque()
        try:
            while self._fill(source, ahead):
                outcome = self._next(ahead)
                yield outcome
        finally:
            with self._lock:
                for task in ahead:
                    task.dropped = True
                    self._held -= _size(task.outcome)

    def _fill(self, source: Iterator[Wanted], ahead: deque[_Task]) -> bool:
        """Ask for as many images as may be waited for; False when none is left."""
        # What has begun goes on however much is held, so that the first always arrives.
        while len(ahead) < AHEAD and (self._held < AHEAD_BYTES or not ahead):
            wanted = next(source, None)
            if wanted is None:
                break
            task = _Task(wanted, time.monotonic())
            ahead.append(task)
            with self._lock:
                self._put(task, task.first)
                self._start()
        return bool(ahead)

    def _next(self, ahead: deque[_Task]) -> FetchedImage | LostImage | None:
        with self._lock:
            if ahead[0].outcome is None:
                self._delivered.wait(_TICK_S)
            outcome = ahead[0].outcome
            if outcome is not None:
                ahead.popleft()
                self._held -= _size(outcome)
            return outcome

    # With the lock held.

    def _put(self, task: _Task, when: float) -> None:
        self._number += 1
        heappush(self._due, (when, self._number, task))
        self._changed.notify()

    def _start(self) -> None:
        if len(self._threads) < self._connections:
            thread = threading.Thread(target=self._run, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _host(self, task: _Task) -> _Host:
        key = task.wanted.address.host, task.wanted.address.port
        return self._hosts.setdefault(key, _Host(self._per_host))

    def _take(self) -> _Task | None:
        """The next image to fetch, when it may be; None when the fetcher is closed."""
        while not self._closed:
            now = time.monotonic()
            if not self._due or self._due[0][0] > now:
                self._changed.wait(self._due[0][0] - now if self._due else None)
                continue
            _, _, task = heappop(self._due)
            host = self._host(task)
            if task.dropped:
                continue
            if host.running >= max(1, int(host.most)):
                host.parked.append(task)
            elif host.not_before > now:
                self._put(task, host.not_before)
            elif self._is_down(host, now) and now < host.probe_at:
                self._lose(task, self._down(task, host))
            else:
                host.probe_at = now + PROBE_S
                host.running += 1
                return task
        return None

    def _is_down(self, host: _Host, now: float) -> bool:
        return host.failing_since is not None and now - host.failing_since >= self._gone_s

    def _down(self, task: _Task, host: _Host) -> ImageInvalid:
        if task.error is not None:
            return task.error
        name = task.wanted.address.host
        return ImageFetchFailed(f"{name} has answered nothing for {self._gone_s:g} s or more. {host.why}".strip())

    def _lose(self, task: _Task, error: ImageInvalid) -> None:
        task.outcome = LostImage(error.code, error.detail)
        self._delivered.notify_all()

    def _leave(self, host: _Host) -> None:
        """A request to the host has ended: the next may begin."""
        host.running -= 1
        now = time.monotonic()
        for _ in range(max(1, int(host.most)) - host.running):
            if host.parked:
                self._put(host.parked.popleft(), now)

    def _answered(self, host: _Host) -> None:
        if host.failing_since is not None and self._is_down(host, time.monotonic()):
            log.info("host answers again")
        host.failing_since = None
        host.failures = host.pauses = 0
        host.answered = time.monotonic()
        host.most = min(self._per_host, host.most + 1 / max(host.most, 1.0))

    def _again(self, task: _Task, host: _Host, failure: Passing) -> None:
        """Put an image off, or give it up."""
        now = time.monotonic()
        task.tries += 1
        task.error = failure.error
        if failure.wait_s is not None:
            host.most = max(1.0, host.most / 2)
            host.failing_since = None
            if failure.wait_s > LONGEST_WAIT_S or task.tries >= ASKED_TRIES:
                self._lose(task, failure.error)
                return
            host.not_before = max(host.not_before, now + failure.wait_s)
            self._put(task, host.not_before)
            return
        self._note_failure(host, now, failure.error.detail)
        if self._is_down(host, now):
            log.warning("host is down", host=task.wanted.address.host, error=host.why)
            self._lose(task, failure.error)
        elif task.tries >= TRIES and host.answered > task.first:
            self._lose(task, failure.error)
        else:
            self._put(task, now + self._pause(task.tries - 1))

    def _note_failure(self, host: _Host, now: float, why: str) -> None:
        host.why = why
        host.failures += 1
        if host.failing_since is None:
            host.failing_since = now
        # Requests that were under way together fail together: they count once.
        if host.failures >= FAILURES and now >= host.not_before:
            host.not_before = now + self._pause(host.pauses)
            host.pauses += 1

    def _pause(self, before: int) -> float:
        pause: float = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(before, 10), self._gone_s / 3)
        return pause * random.uniform(0.75, 1.25)

    # In the threads.

    def _run(self) -> None:
        while True:
            with self._lock:
                task = self._take()
            if task is None:
                return
            with self.working():
                result = self._fetched(task.wanted)
            with self._lock:
                self._settle(task, result)

    def _fetched(self, wanted: Wanted) -> FetchedImage | ImageInvalid | Passing:
        try:
            data = self._getter.get(wanted.address)
            wanted.accept(data)
        except (ImageInvalid, Passing) as error:
            return error
        except Exception as error:  # It would end the thread, and the stream would wait for ever.
            if not self._closed:
                log.exception("image not fetched", host=wanted.address.host)
            return ImageFetchFailed(f"The image cannot be fetched: {type(error).__name__}: {error}.")
        return FetchedImage(wanted.name, data)

    def _settle(self, task: _Task, result: FetchedImage | ImageInvalid | Passing) -> None:
        host = self._host(task)
        if isinstance(result, Passing):
            self._again(task, host, result)
        else:
            self._answered(host)
            if isinstance(result, ImageInvalid):
                self._lose(task, result)
            else:
                task.outcome = result
                self._held += 0 if task.dropped else _size(result)
                self._delivered.notify_all()
        self._leave(host)


def _size(outcome: FetchedImage | LostImage | None) -> int:
    return len(outcome.data) if isinstance(outcome, FetchedImage) else 0
