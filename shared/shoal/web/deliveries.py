"""Delivers the webhooks of ended jobs, in threads beside an API.

An API does it because it is always there and idle, while a worker runs one job at a time and may be stopped for good
once the job is done. What is to be delivered stands on the queue's server (`shoal.jobs.callbacks`), so that it does not
matter which API delivers, nor when one is restarted.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from prometheus_client import CollectorRegistry, Counter

from shoal import __version__
from shoal.callbacks import CallbackRules, event_id, payload, signed_headers
from shoal.errors import CallbackRefused, QueueUnavailable
from shoal.jobs.callbacks import CallbackClaim, Callbacks
from shoal.outbound import PublicBackend, guarded_client, retry_after_s
from shoal.schemas import Job

MINUTE, HOUR = 60.0, 3600.0
DELAYS_S: Final = (5.0, 30.0, 5 * MINUTE, 0.5 * HOUR, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""Seconds after each failure until the next attempt; after the last one the callback is given up: 3 days in all."""
JITTER: Final = 0.1
"""Part of a delay that is random, so that the callbacks of an outage do not all come back at once."""
MAX_RETRY_AFTER_S: Final = 24 * HOUR
ANSWER_S: Final = 15.0
"""Seconds for connecting, sending and the answer's headers together."""
CONNECT_S: Final = 5.0
AT_ONCE: Final = 4
"""Deliveries of one API at a time: a slow receiver holds one of them."""
POLL_S: Final = 0.5
STOP_S: Final = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """What became of one attempt.

    Attributes
    ----------
    error
        None when the receiver has it.
    gone
        The receiver wants no more.
    retry_after_s
        How long the receiver asks to be left alone.
    """

    error: str | None = None
    gone: bool = False
    retry_after_s: float = 0.0


def send(rules: CallbackRules, url: str, job: Job) -> Answer:
    """Post the webhook of an ended job once."""
    body = payload(job)
    try:
        target = rules.check(url)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Shoal/{__version__}",
            **signed_headers(rules.secrets, event_id(job), int(time.time()), body),
        }
        backend = PublicBackend(private=rules.hosts.private, deadline=time.monotonic() + ANSWER_S)
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        # The answer's body is never read: the status says all, and a body may have no end.
        with (
            guarded_client(backend, timeout=timeout, follow_redirects=False) as client,
            client.stream("POST", target, content=body, headers=headers) as response,
        ):
            return _answer(response)
    except CallbackRefused as error:
        return Answer(error.detail)
    except httpx.TimeoutException:
        return Answer(f"No answer within {ANSWER_S:g} seconds.")
    except httpx.HTTPError as error:
        return Answer(f"{type(error).__name__}: {error}")


def _answer(response: httpx.Response) -> Answer:
    if response.is_success:
        return Answer()
    if response.has_redirect_location:
        return Answer(f"The receiver answered {response.status_code}; redirects are not followed.")
    seconds = min(retry_after_s(response.headers.get("Retry-After")) or 0.0, MAX_RETRY_AFTER_S)
    return Answer(f"The receiver answered {response.status_code}.", response.status_code == 410, seconds)


class Deliveries:
    """Delivers callbacks until it is stopped.

    Parameters
    ----------
    callbacks
        Where they are recorded.
    rules
        Where they may go, and their secrets.
    registry
        Where the metrics are registered.
    described
        The job as `GET /jobs/{id}` has it.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        rules: CallbackRules,
        registry: CollectorRegistry,
        described: Callable[[Job], Job] = lambda job: job,
    ) -> None:
        self._callbacks = callbacks
        self._rules = rules
        self._described = described
        self._attempts = Counter(
            "shoal_callback_attempts", "Attempts to deliver webhooks of jobs.", ["outcome"], registry=registry
        )
        for outcome in ("delivered", "failed", "dead"):
            self._attempts.labels(outcome)
        self._stopped = threading.Event()
        self._free = threading.Semaphore(AT_ONCE)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Deliver meanwhile. What is still on its way seconds after the end is sent again later."""
        self._stopped.clear()
        thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(STOP_S)
            self._wait_for_those_on_their_way(time.monotonic() + STOP_S)

    def deliver_next(self) -> bool:
        """Make one attempt at the callback that has waited longest; False when none is due."""
        claim = self._callbacks.claim()
        if claim is not None:
            self._deliver(claim)
        return claim is not None

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._free.acquire(timeout=POLL_S):
                continue
            claim = None
            with suppress(QueueUnavailable):  # The API says so itself.
                claim = self._callbacks.claim()
            if claim is None:
                self._free.release()
                self._stopped.wait(POLL_S)
            else:
                threading.Thread(target=self._deliver_and_release, args=(claim,), name="delivery", daemon=True).start()

    def _wait_for_those_on_their_way(self, deadline: float) -> None:
        taken = 0
        while taken < AT_ONCE and self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            taken += 1
        for _ in range(taken):
            self._free.release()

    def _deliver_and_release(self, claim: CallbackClaim) -> None:
        try:
            self._deliver(claim)
        except QueueUnavailable:
            log.warning("a webhook's outcome was not recorded; it is sent again", job=claim.job.id)
        finally:
            self._free.release()

    def _deliver(self, claim: CallbackClaim) -> None:
        answer = send(self._rules, claim.url, self._described(claim.job))
        if answer.error is None:
            outcome = "delivered"
            self._callbacks.delivered(claim)
        elif answer.gone or claim.attempt > len(DELAYS_S):
            outcome = "dead"
            self._callbacks.give_up(claim, answer.error)
        else:
            outcome = "failed"
            self._callbacks.retry(claim, answer.error, delay_s(claim.attempt, answer.retry_after_s))
        self._attempts.labels(outcome).inc()
        write = log.info if answer.error is None else log.warning
        write("webhook", job=claim.job.id, outcome=outcome, attempt=claim.attempt, error=answer.error)


def delay_s(attempt: int, retry_after_s: float) -> float:
    """Seconds until the attempt after number ``attempt``."""
    return max(DELAYS_S[attempt - 1] * random.uniform(1 - JITTER, 1 + JITTER), retry_after_s)
